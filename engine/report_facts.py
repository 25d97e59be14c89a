"""A run's folder in, what its report says out: figures of each round, derived from artefacts.

Nothing here is drawn or written. Labels are what was used: the values of the exemplars and of every
molecule that was asked about, accepted or not, because each of them decided an acceptance.
"""

import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import orjson
import pyarrow.compute as pc

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.embedded import model_label
from selfstudy_engine.data.errors import RunFolderError, counted
from selfstudy_engine.data.evaluations import (
    Evaluated,
    compute_metrics,
    errors_of,
    load_evaluation,
    paired_change,
)
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.metrics import Change, Floats, Interval, Metrics, bootstrap, measure
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.schema import Exemplar, Molecule, Sample
from selfstudy_engine.data.splits import Split
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import split_of_run
from selfstudy_engine.engine.baselines import MEDIAN, predict_baselines
from selfstudy_engine.engine.rounds import RoundRecord, load_records

REASONS_PER_ROUND = 100
"""Accepted reasons that a round's diversity and false claims are counted on."""


@dataclass(frozen=True, slots=True)
class RoundFacts:
    """One finished round."""

    record: RoundRecord
    answers: list[Evaluated]
    """Without their texts, but for the first and the last round's: they would fill the memory."""
    test_mae: Interval
    train_mae: Interval | None
    num_labelled: int
    """Molecules whose values were used before this round's adapter was trained."""
    num_found: int
    """Distinct molecules with an accepted sample so far, this round's included; hinted ones don't
    count."""
    reasons: list[Sample]
    """Some accepted samples of this round, chosen at random; hinted ones among them."""
    baselines: dict[str, Floats]
    """Predictions from the same labels for `tested`; empty for rounds that are left out. The
    training median is the pool's: what an unanswered molecule counts as."""

    @property
    def index(self) -> int:
        """The round's number."""
        return self.record.round

    @property
    def tested(self) -> list[Evaluated]:
        """The answers on the test set, by molecule id."""
        return sorted(
            (answer for answer in self.answers if answer.split == "test"),
            key=lambda answer: answer.molecule_id,
        )

    @property
    def answered(self) -> float:
        """The share of the test set's questions that got a well-formed value."""
        return float(np.mean([answer.predicted is not None for answer in self.tested]))


@dataclass(frozen=True, slots=True)
class RunFacts:
    """A run as its report sees it."""

    folder: RunFolder
    config: RunConfig
    identity: dict[str, Any]
    split: Split
    """The run's own, as a loop last saw the table."""
    exemplars: list[Exemplar]
    rounds: list[RoundFacts]
    trained: list[Molecule]
    """Exemplars and the molecules with an accepted sample that the last adapter was trained on."""

    @property
    def table_changed(self) -> bool:
        """Tell whether the loop has seen another table than the run began with."""
        return bool(self.identity.get("task") != self.split.fingerprint)

    @property
    def name(self) -> str:
        """The run's name."""
        return self.config.name

    @property
    def base_model(self) -> str:
        """Name of the base model."""
        return model_label(self.config.model)

    @property
    def prop(self) -> Property:
        """What is predicted."""
        return self.config.property

    @property
    def unit(self) -> str:
        """Unit of every value."""
        return self.prop.unit

    @property
    def last(self) -> RoundFacts:
        """The last finished round."""
        return self.rounds[-1]

    @property
    def first_and_last(self) -> list[RoundFacts]:
        """The first finished round, and the last if that is another one."""
        return self.rounds[:1] + ([self.last] if len(self.rounds) > 1 else [])

    @property
    def subtitle(self) -> list[str]:
        """Which model, labels and molecules the run's figures speak of."""
        return [
            f"{self.base_model}, run {self.name}",
            f"{counted(self.last.num_labelled, 'label')}, "
            f"{counted(len(self.last.tested), 'test molecule')}",
        ]

    @property
    def change(self) -> Change:
        """From the first to the last round, on the test set."""
        first, last = self.rounds[0].answers, self.last.answers
        return paired_change(first, last, self.split.median, self.prop.tolerance)

    def metrics(self, facts: RoundFacts) -> Metrics:
        """Return a round's metrics on the test set: half a second of resampling for each."""
        found = compute_metrics(facts.answers, "test", self.split.median, self.prop.tolerance)
        assert found is not None  # a test set has at least one molecule
        return found

    def baseline_metrics(self, facts: RoundFacts) -> dict[str, Metrics]:
        """Return each baseline's metrics on the test set, from the labels of a round."""
        measured = np.array([answer.measured for answer in facts.tested])
        return {
            name: measure(measured, predicted, self.split.median, self.prop.tolerance)
            for name, predicted in facts.baselines.items()
        }

    def baseline_maes(self, facts: RoundFacts) -> dict[str, Interval]:
        """Return the MAE alone of each of `baseline_metrics`."""
        measured = np.array([answer.measured for answer in facts.tested])
        return {
            name: bootstrap(abs(predicted - measured))
            for name, predicted in facts.baselines.items()
        }


def gather_facts(folder: RunFolder) -> RunFacts:
    """Read all that a report needs; baselines are computed, or come from the cache.

    Raises:
        RunFolderError: no round is finished yet.
        UsageError: the run's configuration can't be read, or an earlier version kept no split of it
            and its table is gone.
    """
    config = read_config(folder)
    records = load_records(folder)
    if not records:
        raise RunFolderError(
            f"run {folder.path} has no finished round to report yet; continue it with "
            "`selfstudy-engine loop`"
        )
    split, shown = split_of_run(folder, config), load_exemplars(folder.exemplars())
    identity = orjson.loads(folder.identity.read_bytes())
    store = SampleStore(folder.samples)
    labelled = {exemplar.molecule.molecule_id: exemplar.molecule for exemplar in shown}
    trained, found = dict(labelled), set[str]()
    chosen = rounds_with_baselines([record.round for record in records])
    rounds: list[RoundFacts] = []
    for record in records:
        answers = load_evaluation(folder.evaluation(record.round))
        test_mae = _mae(answers, "test", split.median)
        assert test_mae is not None  # a test set has at least one molecule
        labelled_before, trained_before = list(labelled.values()), list(trained.values())
        for molecule, accepted, hinted in _asked(store, record.round):
            labelled.setdefault(molecule.molecule_id, molecule)
            if accepted:
                trained.setdefault(molecule.molecule_id, molecule)
                if not hinted:
                    found.add(molecule.molecule_id)
        facts = RoundFacts(
            record=record,
            answers=answers if record in (records[0], records[-1]) else _without_texts(answers),
            test_mae=test_mae,
            train_mae=_mae(answers, "train", split.median),
            num_labelled=len(labelled_before),
            num_found=len(found),
            reasons=_some_accepted(store, record.round, config.seed),
            baselines={},
        )
        if record.round in chosen:
            asked = [Molecule(a.molecule_id, a.name, a.smiles, a.measured) for a in facts.tested]
            facts.baselines.update(predict_baselines(labelled_before, asked))
            facts.baselines[MEDIAN] = np.full(len(asked), split.median)
        rounds.append(facts)
    return RunFacts(folder, config, identity, split, shown, rounds, trained_before)


def rounds_with_baselines(rounds: Sequence[int]) -> set[int]:
    """Return the rounds that get baselines: 0, 1, 2, 4, 8, ... and the last one.

    So a report that is made again after each round computes one set, and finds the others cached.

    >>> sorted(rounds_with_baselines(range(7)))
    [0, 1, 2, 4, 6]
    """
    return {index for index in rounds if index & (index - 1) == 0} | {max(rounds)}


def _mae(answers: Sequence[Evaluated], split: str, fallback: float) -> Interval | None:
    errors = errors_of(answers, split, fallback)
    return bootstrap(abs(errors)) if len(errors) else None


def _without_texts(answers: Sequence[Evaluated]) -> list[Evaluated]:
    """Return answers that take 0.2 kB each, not 1.5; a molecule's are one object in all rounds."""
    return [
        replace(
            answer,
            molecule_id=sys.intern(answer.molecule_id),
            name=sys.intern(answer.name),
            smiles=sys.intern(answer.smiles),
            reason="",
            completion="",
            adapter_sha256="",
        )
        for answer in answers
    ]


def _asked(store: SampleStore, round_index: int) -> Iterator[tuple[Molecule, bool, bool]]:
    """Yield each sample's molecule, whether the sample was accepted, and whether it was hinted.

    Those about rows that were withdrawn have a value that is a label no more.
    """
    columns = ("accepted", "hinted", "findings", "molecule_id", "name", "smiles", "measured")
    for accepted, hinted, findings, *row in store.rows(round_index, *columns):
        if "withdrawn" not in findings:
            yield Molecule(*row), accepted, hinted


def _some_accepted(store: SampleStore, round_index: int, seed: int) -> list[Sample]:
    """Return at most `REASONS_PER_ROUND` accepted samples, each as likely (reservoir sampling)."""
    generator = random.Random(f"{seed}:{round_index}")
    kept: list[Sample] = []
    for index, found in enumerate(store.samples(round_index, pc.field("accepted"))):
        sample = found._replace(prompt="", completion="")  # which nobody reads
        if index < REASONS_PER_ROUND:
            kept.append(sample)
        elif (place := generator.randrange(index + 1)) < REASONS_PER_ROUND:
            kept[place] = sample
    return kept
