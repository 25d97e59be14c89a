"""Reproduce the embedded table's baselines: `python tests/measure_baselines.py [random|scaffold]`.

80% of the molecules are labelled, or the first so many of them; the rest is predicted. Minutes to
an hour; not part of `make test`.
"""

import argparse
import random
import time
from collections import defaultdict

import numpy as np
from rdkit.Chem.Scaffolds.MurckoScaffold import MurckoScaffoldSmiles

from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.metrics import measure
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.baselines import BASELINES, predict_baselines

TRAINING_SHARE = 0.8


def split_at_random(molecules: list[Molecule], seed: int) -> tuple[list[Molecule], list[Molecule]]:
    """Shuffle the skeletons; the last fifth is asked about."""
    groups: dict[str, list[Molecule]] = defaultdict(list)
    for molecule in molecules:
        groups[molecule.skeleton].append(molecule)
    order = random.Random(seed).sample(sorted(groups), len(groups))
    cut = int(len(order) * TRAINING_SHARE)
    labelled, asked = (
        [m for key in part for m in groups[key]] for part in (order[:cut], order[cut:])
    )
    return labelled, asked


def split_by_scaffold(
    molecules: list[Molecule], seed: int
) -> tuple[list[Molecule], list[Molecule]]:
    """Label the largest Bemis-Murcko groups; ask about the others."""
    groups: dict[str, list[Molecule]] = defaultdict(list)
    for molecule in molecules:
        groups[MurckoScaffoldSmiles(smiles=molecule.smiles)].append(molecule)
    labelled: list[Molecule] = []
    asked: list[Molecule] = []
    for key in sorted(groups, key=lambda key: (-len(groups[key]), key)):
        fits = len(labelled) + len(groups[key]) <= TRAINING_SHARE * len(molecules)
        (labelled if fits else asked).extend(groups[key])
    return random.Random(seed).sample(labelled, len(labelled)), asked


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("split", choices=["random", "scaffold"], nargs="?", default="random")
    parser.add_argument("--labels", type=int, nargs="*", help="numbers of labels [default: all]")
    parser.add_argument("--only", nargs="*", choices=list(BASELINES), help="baselines")
    parser.add_argument("--seeds", type=int, nargs="*", default=[0])
    arguments = parser.parse_args()
    splitting = split_at_random if arguments.split == "random" else split_by_scaffold
    for seed in arguments.seeds:
        labelled, everything_else = splitting(embedded_table().molecules, seed)
        measured = np.array([molecule.value for molecule in everything_else])
        for size in arguments.labels or [len(labelled)]:
            for name in arguments.only or list(BASELINES):
                started = time.monotonic()
                found = predict_baselines(labelled[:size], everything_else, [name])[name]
                metrics = measure(measured, found, 0.0, 30.0)
                print(  # noqa: T201
                    f"{arguments.split} {seed} {size:5} {name:32} RMSE {metrics.rmse.value:5.1f} "
                    f"MAE {metrics.mae.value:5.1f} within 30 {metrics.within_tolerance.value:4.0%} "
                    f"({time.monotonic() - started:.0f} s)",
                    flush=True,
                )


if __name__ == "__main__":
    main()
