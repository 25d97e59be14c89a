"""Acceptance against chance: whatever a round asks about, a guesser gets a lift of 1 at most."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from samples import make_evaluated, make_sample

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.evaluations import save_evaluation
from selfstudy_engine.data.metrics import Floats, independent_trials
from selfstudy_engine.data.molecules import Table
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule, Sample
from selfstudy_engine.data.splits import Split
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import Task
from selfstudy_engine.engine.corrections import judge_again
from selfstudy_engine.engine.report_progress import wilson
from selfstudy_engine.engine.rounds import (
    RoundRecord,
    Timing,
    Trained,
    derive_record,
)
from selfstudy_engine.engine.sampler import Tally, chance_acceptance, plan_round, tally_round

TOLERANCE = 30.0
NUM_ROUNDS = 16
Guess = Callable[[tuple[float, ...]], float]


@cache
def best_constant(values: tuple[float, ...]) -> float:
    """Return a guess that most of the values are within the tolerance of."""
    edges = [value + TOLERANCE for value in values]
    return max(edges, key=lambda edge: sum(abs(edge - value) <= TOLERANCE for value in values))


def answers(
    molecules: Sequence[Molecule], tallies: dict[str, Tally], index: int, guess: Guess, most: float
) -> list[Sample]:
    """Return a guesser's two answers to each molecule, at most so many accepted of each."""
    asked = tuple(molecule.value for molecule in molecules)
    samples = []
    for molecule in molecules:
        have = tallies.get(molecule.molecule_id, Tally()).num_accepted
        for number in range(2):
            guessed = guess(asked)
            error = guessed - molecule.value
            wrong = ["out of tolerance"] if abs(error) > TOLERANCE + 1e-9 else []
            rejections = tuple(wrong or ["molecule has enough"] * (have >= most))
            have += not rejections
            values: dict[str, Any] = {"measured": molecule.value, "predicted": guessed}
            values |= {"error": error, "accepted": not rejections, "rejections": rejections}
            samples.append(
                make_sample(molecule.molecule_id, round=index, sample_index=number, **values)
            )
    return samples


def play(
    folder: RunFolder, config: RunConfig, guess: Guess, num_rounds: int = NUM_ROUNDS
) -> tuple[Task, list[RoundRecord]]:
    """Return the task and the records of a run whose model guesses."""
    generator = random.Random(1)
    pool = [
        Molecule(f"K{i:03d}", "", "C", float(round(generator.gauss(78.5, 95)))) for i in range(400)
    ]
    task = Task(Table([]), Split(pool, pool[:1]), [])
    store = SampleStore(folder.samples)
    tallies: dict[str, Tally] = {}
    most = config.verdict.max_accepted_per_molecule or float("inf")
    records = []
    (folder.path / "evaluations").mkdir(parents=True)
    for index in range(num_rounds):
        save_evaluation(folder.evaluation(index), [make_evaluated("K000", 1.0, 2.0)])
        chosen = plan_round(pool, tallies, set(), index, config)
        with store.writer(index) as writer:
            writer.add(answers(chosen, tallies, index, guess, most))
        for key, tally in tally_round(store, index).ordinary.items():
            tallies[key] = tallies.get(key, Tally()) + tally
        records.append(derive(folder, config, task, index))
    return task, records


def derive(folder: RunFolder, config: RunConfig, task: Task, index: int) -> RoundRecord:
    return derive_record(
        *(folder, config, task),
        trained=Trained("", "", 0, 0.0),
        round_index=index,
        timing=Timing(),
        answering=index,
    )


@pytest.mark.parametrize(
    "changes",
    [{}, {"verdict.max_accepted_per_molecule": 0}, {"sampler.strategy": "original"}],
    ids=["default", "no cap", "original"],
)
def test_a_guesser_has_a_lift_of_1_in_every_round(
    changes: dict[str, str | int], tmp_path: Path
) -> None:
    config = load_config(None, {"generation.batch": 256, **changes})
    task, records = play(RunFolder(tmp_path / "best"), config, best_constant)
    assert [record.lift for record in records] == pytest.approx([1.0] * NUM_ROUNDS)
    of_pool = chance_acceptance([molecule.value for molecule in task.split.pool], TOLERANCE)
    assert max(abs(record.num_accepted / 256 / of_pool - 1) for record in records) > 0.1


def test_a_guesser_gets_no_more_of_withdrawn_rows_than_a_model(tmp_path: Path) -> None:
    """They are never accepted, and were part of chance: each lowered the lift."""
    folder, config = RunFolder(tmp_path), load_config(None, {"generation.batch": 256})
    task, [before] = play(folder, config, best_constant, num_rounds=1)
    store = SampleStore(folder.samples)
    asked = {sample.molecule_id: sample.measured for sample in store.samples()}
    of_all_values = sorted(asked, key=asked.__getitem__)[::2]
    judge_again(store, dict.fromkeys(of_all_values), config)
    record = derive(folder, config, task, 0)
    assert record.num_completions == before.num_completions
    assert before.num_accepted / 2 == pytest.approx(record.num_accepted, abs=2)
    assert record.lift == pytest.approx(1, rel=0.1)
    judge_again(store, {molecule.molecule_id: None for molecule in task.split.pool}, config)
    assert derive(folder, config, task, 0).lift == 0


def test_a_guesser_that_doesnt_say_the_same_has_less(tmp_path: Path) -> None:
    generator = random.Random(2)
    config = load_config(None, {"generation.batch": 256, "verdict.max_accepted_per_molecule": 0})
    _, records = play(RunFolder(tmp_path), config, lambda values: generator.gauss(57, 20))
    assert all(record.lift and record.lift < 1.1 for record in records)


@pytest.mark.parametrize(("num_answers", "num_molecules"), [(2, 128), (8, 32)])
def test_the_interval_of_acceptance_knows_that_answers_to_one_molecule_are_alike(
    num_answers: int, num_molecules: int
) -> None:
    generator = np.random.default_rng(0)

    def accepted(size: int) -> Floats:
        errors = generator.normal(0, 60, (size, 1)) + generator.normal(0, 25, (size, num_answers))
        return np.asarray((abs(errors) <= TOLERANCE).sum(axis=1), dtype=np.float64)

    truth = accepted(200_000).mean() / num_answers
    covered = np.zeros(2)
    trials = np.full(num_molecules, float(num_answers))
    for _ in range(1000):
        found = accepted(num_molecules)
        counts = int(found.sum()), int(trials.sum())
        for place, independent in enumerate((independent_trials(found, trials), None)):
            interval = wilson(*counts, independent)
            covered[place] += interval.low <= truth <= interval.high
    assert covered[0] > 920
    assert covered[1] < covered[0] - 15


def test_records_of_earlier_versions_are_read(tmp_path: Path) -> None:
    _, [record] = play(RunFolder(tmp_path), load_config(None, {}), best_constant, num_rounds=1)
    line = orjson.loads(orjson.dumps(record))
    added: dict[str, Any] = {
        "num_spare": 0,
        "independent_completions": None,
        "independent_parsed": None,
    }
    for name in added:
        del line[name]
    assert RoundRecord.from_json(orjson.dumps(line)) == replace(record, **added)
