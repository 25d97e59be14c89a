"""Predictions in, rows for people out: each claim marked, and how near the training was."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.features import similarities
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import split_of_run
from selfstudy_engine.engine.claims import Claim
from selfstudy_engine.engine.false_claims import claims_check
from selfstudy_engine.engine.predict import Prediction

COLUMNS = (
    *("predicted", "spread", "num_answers", "reason", "claims", "num_false_claims"),
    *("similarity", "error"),
)
"""What a prediction adds to a row."""
_COMPARED_AT_ONCE = 1_000


def to_rows(
    predictions: Sequence[Prediction | None],
    folder: RunFolder,
    config: RunConfig,
    *,
    before_round: int,
) -> list[dict[str, Any]]:
    """Return the cells of COLUMNS for each prediction.

    Args:
        predictions: None stands for a molecule that can't be read.
        folder: of the run.
        config: the run's.
        before_round: the adapter's: it was trained on the samples of the rounds before.

    Returns:
        predicted and spread in the property's unit; claims as text, each behind its verdict;
        similarity (0 to 1) to the nearest molecule that was trained on: Tanimoto, Morgan radius 2.
    """
    exemplars = load_exemplars(folder.exemplars())
    check = claims_check(split_of_run(folder, config), exemplars, config.property)
    trained = {exemplar.molecule.smiles for exemplar in exemplars}
    trained |= {sample.smiles for sample in SampleStore(folder.samples).accepted(before_round)}
    readable = [prediction for prediction in predictions if prediction]
    nearest = iter(_nearest([p.molecule.smiles for p in readable], sorted(trained)))
    rows = []
    for prediction in predictions:
        if prediction is None:
            row = dict.fromkeys(COLUMNS) | {"num_answers": 0, "error": "unparsable SMILES"}
            rows.append(row)
            continue
        claims = check(prediction.reason, prediction.molecule)
        cells = (
            prediction.value,
            prediction.spread,
            prediction.num_answers,
            prediction.reason,
            _describe(prediction.reason, claims),
            sum(claim.truth == "false" for claim in claims),
            round(next(nearest), 3),
            "" if prediction.value is not None else "no answer had a value",
        )
        rows.append(dict(zip(COLUMNS, cells, strict=True)))
    return rows


def _describe(reason: str, claims: Iterable[Claim]) -> str:
    return "; ".join(f"{claim.truth}: {reason[claim.start : claim.end]}" for claim in claims)


def _nearest(smiles: Sequence[str], trained: Sequence[str]) -> list[float]:
    """Return each molecule's similarity to the nearest of `trained`."""
    found: list[float] = []
    for start in range(0, len(smiles), _COMPARED_AT_ONCE):
        part = similarities(smiles[start : start + _COMPARED_AT_ONCE], trained)
        found += np.max(part, axis=1).tolist()
    return found
