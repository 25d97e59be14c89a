"""A run that no model made, and what tests of its report need.

Answers and samples are drawn at random, texts are hostile.
"""

import random
import re
from pathlib import Path
from typing import Any

import orjson
from conftest import small_molecules
from samples import make_evaluated, make_sample, write_adapter

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.evaluations import Evaluated, save_evaluation
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.run_folder import RunFolder, open_run
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import Task, load_task
from selfstudy_engine.engine.claim_verdicts import Truth
from selfstudy_engine.engine.claims import Claim
from selfstudy_engine.engine.corrections import settle_task
from selfstudy_engine.engine.loop import fix_exemplars
from selfstudy_engine.engine.rounds import Timing, Trained, derive_record, save_record
from selfstudy_engine.engine.sampler import plan_round, tally_round

NASTY_NAME = '<img src=x onerror="window.hacked=1">\'{{7*7}}'
NASTY_REASON = "Two <b>nitro</b> groups </script><script>window.hacked=2</script><!-- ]]> & high."


def write_table(path: Path, slope: float = 1.0) -> Path:
    """Write forty molecules, values times a slope; each third one has a hostile name."""
    lines = ["smiles,name,value"]
    for index, (smiles, value) in enumerate(small_molecules()):
        name = NASTY_NAME if index % 3 == 0 else f"molecule {index}"
        quoted = name.replace('"', '""')
        lines.append(f'{smiles},"{quoted}",{value * slope}')
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


def make_run(
    root: Path,
    table: Path,
    name: str = "made",
    *,
    rounds: int = 3,
    gain: float = 0.5,
    test_size: int = 20,
    seed: int = 1,
    prop: str = "melting_point",
) -> RunFolder:
    """Make a run whose errors shrink by `gain` each round, on a table of SMILES, name and value."""
    values = {
        "name": name,
        "rounds": rounds,
        "property": prop,
        "table.path": str(table),
        "table.name_column": "name",
        "table.test_size": test_size,
        "generation.batch": 12,
    }
    config = load_config(None, values)
    tolerance = config.property.tolerance
    task = load_task(config)
    folder = open_run(root, config, task.split.fingerprint, "selfstudy-engine loop --run <made>")
    fix_exemplars(folder, task.exemplars)
    settle_task(folder, task, config)
    store = SampleStore(folder.samples)
    generator = random.Random(seed)
    for index in range(rounds + 1):
        spread = 2 * tolerance * gain**index

        def guess(molecule: Molecule, spread: float = spread) -> float:
            return round(molecule.value + generator.gauss(0, spread), config.property.decimals)

        write_adapter(folder.adapter(index))
        answers = [_answer("test", m, guess(m)) for m in task.split.test]
        answers[0] = _answer("test", task.split.test[0], None)
        trained = {sample.molecule_id: sample for sample in store.accepted(index)}
        answers += [
            _answer("train", Molecule(s.molecule_id, s.name, s.smiles, s.measured), s.measured + 1)
            for s in trained.values()
        ]
        save_evaluation(folder.evaluation(index), answers)
        if index < rounds:
            with store.writer(index) as writer:
                for molecule in _asked(task, store, index, config):
                    predicted = guess(molecule)
                    error = predicted - molecule.value
                    sample = make_sample(
                        molecule.molecule_id,
                        run=name,
                        round=index,
                        name=molecule.name,
                        smiles=molecule.smiles,
                        measured=molecule.value,
                        predicted=predicted,
                        error=error,
                        accepted=abs(error) <= tolerance,
                        rejections=() if abs(error) <= tolerance else ("out of tolerance",),
                        findings=("false claim",),
                        reason=NASTY_REASON,
                    )
                    writer.add([sample])
        timing = Timing(train=4, swap=1, evaluate=3, generate=8, num_generated=12)
        adapter = read_adapter(folder.adapter(index))
        record = derive_record(
            folder,
            config,
            task,
            trained=Trained.of(adapter),
            round_index=index,
            timing=timing,
            answering=index,
        )
        save_record(folder, record)
    assert load_exemplars(folder.exemplars())
    return folder


def _asked(task: Task, store: SampleStore, index: int, config: RunConfig) -> list[Molecule]:
    before = [tally_round(store, earlier).ordinary for earlier in range(index)]
    tallies = {key: tally for tallied in before for key, tally in tallied.items()}
    return plan_round(task.split.pool, tallies, set(), index, config)


def _answer(split: str, molecule: Molecule, predicted: float | None) -> Evaluated:
    made = make_evaluated(molecule.molecule_id, molecule.value, predicted)
    return Evaluated(
        split,
        made.molecule_id,
        molecule.name,
        molecule.smiles,
        made.measured,
        made.predicted,
        NASTY_REASON,
        made.completion,
    )


def make_claim(start: int, end: int, truth: Truth, found: str = "") -> Claim:
    return Claim("group", "", start, end, truth, found)


def check(reason: str, molecule: Molecule) -> list[Claim]:
    """Judge the word "nitro" by the molecule, and doubt "high"."""
    truths: dict[str, Truth] = {"high": "unverifiable", "nitro": "false"}
    return [
        make_claim(match.start(), match.end(), truths[match[0]], f"none in {molecule.smiles}")
        for match in re.finditer("nitro|high", reason)
    ]


def data_of(page: str) -> list[dict[str, Any]]:
    [text] = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    content: list[dict[str, Any]] = orjson.loads(text)
    return content
