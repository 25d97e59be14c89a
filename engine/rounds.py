"""A round's figures, derived from its artefacts: what metrics.jsonl holds and the CLI shows."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, astuple, dataclass, field
from typing import Any, NamedTuple, Self

import numpy as np
import orjson

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import damaged
from selfstudy_engine.data.evaluations import (
    commonest_value,
    compute_metrics,
    load_evaluation,
    paired_difference,
)
from selfstudy_engine.data.findings import BESIDE_EARLIER_TEXTS
from selfstudy_engine.data.metrics import Interval, independent_trials
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import Task
from selfstudy_engine.engine.reason_quality import variety
from selfstudy_engine.engine.sampler import chance_acceptance
from selfstudy_engine.engine.tolerance import stored_tolerance


@dataclass(frozen=True, slots=True)
class Timing:
    """Where the time of a round went, in seconds; of what was done again, the last time."""

    train: float = 0.0
    """Waiting for the adapter: what generating hid (--overlap) isn't in it."""
    swap: float = 0.0
    evaluate: float = 0.0
    """Evaluating and generating share a queue; its time is shared out by output tokens."""
    generate: float = 0.0
    wait: float = 0.0
    """Waiting for the server to start."""
    num_generated: int = 0
    """Completions behind `generate`."""
    num_generated_tokens: int = 0

    def __add__(self, other: "Timing") -> "Timing":
        """Add up two parts of one round."""
        pairs = zip(astuple(self), astuple(other), strict=True)
        return Timing(*(mine + theirs for mine, theirs in pairs))

    def renewed(self, since: "Timing") -> "Timing":
        """Take what was done again since, and keep the rest."""
        pairs = zip(astuple(self), astuple(since), strict=True)
        return Timing(*(later or before for before, later in pairs))


@dataclass(frozen=True, slots=True)
class RoundRecord:
    """One round: the adapter that answered, its samples, and its measurement.

    The last record of a run has no samples: its adapter is only measured. Errors are in the
    property's unit, fractions between 0 and 1.
    """

    round: int
    adapter: str
    adapter_sha256: str
    num_trained_samples: int
    train_loss: float
    sampled_from: str
    """Adapter that the samples came from: with --overlap the one before `adapter`, with --gate one
    that passed."""
    num_completions: int
    num_accepted: int
    num_distinct_accepted: int
    """Molecules with at least one accepted sample."""
    parsed: float | None
    acceptance: float | None
    chance: float
    """What the best constant guess gets on the molecules that were asked about, each as often as
    it was (withdrawn ones count as missed, as they do for the model); where none was, on the
    pool."""
    rejections: dict[str, int]
    answered: float
    test_mae: Interval
    test_rmse: Interval
    test_mse: float
    test_r2: float | None
    test_within_tolerance: float
    test_change: Interval
    """Change of the test MAE since round 0, paired by molecule; negative is better."""
    train_mae: float | None
    """On molecules that were trained on. Each of them once had an answer near its value: for that
    alone it is below the test MAE, also of a model that memorises nothing."""
    timing: Timing = field(default_factory=Timing)
    findings: dict[str, int] = field(default_factory=dict)
    """Samples with each finding, whether it rejects or not."""
    tolerance: float | None = None
    """By which the samples were judged; None where it wasn't kept."""
    false_claims: float | None = None
    """Share of the parsed completions whose reason states something false; None without any."""
    distinct_4grams: float | None = None
    """Of the accepted reasons, see `variety`; None for too few of them."""
    num_hinted: int = 0
    """Completions in sight of the value; no other figure of the samples counts them."""
    num_hinted_accepted: int = 0
    independent_completions: float | None = None
    """As many independent ones would tell as much of the share that is acceptable: answers to one
    molecule are alike."""
    independent_parsed: float | None = None
    """The same of the parsed ones and their false claims."""
    num_spare: int = 0
    """Completions that only texts accepted before kept from being accepted."""
    commonest_value: float | None = None
    """What more test molecules are given than any other value; None where none got one, and of
    few."""
    commonest_share: float | None = None
    """Share of the test molecules that are given it."""
    test_bias: float | None = None
    """Mean of predicted - measured; None where it wasn't kept."""
    passed: bool = True
    """False where --gate found the adapter worse than the one that answered before it."""

    @property
    def acceptable(self) -> float | None:
        """Share of the completions that are accepted or spare: what chance is held against.

        Else a molecule that is asked again, because it was answered well, would look a failure.
        """
        if not self.num_completions:
            return None
        return (self.num_accepted + self.num_spare) / self.num_completions

    @property
    def lift(self) -> float | None:
        """Acceptable answers over chance: 1 is the most that a guesser gets."""
        return None if self.acceptable is None else self.acceptable / self.chance

    @property
    def completions_per_second(self) -> float:
        """Completions per second of generating."""
        return self.timing.num_generated / self.timing.generate if self.timing.generate else 0.0

    @property
    def output_tokens_per_second(self) -> float:
        """Output tokens per second of generating."""
        tokens = self.timing.num_generated_tokens
        return tokens / self.timing.generate if self.timing.generate else 0.0

    @classmethod
    def from_json(cls, line: bytes) -> Self:
        """Read a line of metrics.jsonl back."""
        values: dict[str, Any] = orjson.loads(line)
        for key in ("test_mae", "test_rmse", "test_change"):
            values[key] = Interval(**values[key])
        return cls(**(values | {"timing": Timing(**values["timing"])}))


class Trained(NamedTuple):
    """What a round's record says of the adapter that it trained."""

    name: str
    sha256: str
    num_samples: int
    loss: float

    @classmethod
    def of(cls, adapter: Adapter) -> Self:
        """Take it from the adapter's manifest."""
        training = adapter.training
        return cls(adapter.name, adapter.sha256, training["num_samples"], training["loss"])

    @classmethod
    def recorded(cls, record: RoundRecord) -> Self:
        """Take it from an earlier record: the adapter may be gone, to save disk space."""
        return cls(
            record.adapter, record.adapter_sha256, record.num_trained_samples, record.train_loss
        )


def derive_record(
    folder: RunFolder,
    config: RunConfig,
    task: Task,
    *,
    trained: Trained,
    round_index: int,
    timing: Timing,
    answering: int,
) -> RoundRecord:
    """Compute a round's record from its samples and its evaluation.

    Args:
        folder: of the run.
        config: the run's.
        task: the run's.
        trained: by the round.
        round_index: which round.
        timing: where its time went.
        answering: the round whose adapter answered next; see `Gate`.
    """
    store = SampleStore(folder.samples)
    rejections: Counter[str] = Counter()
    findings: Counter[str] = Counter()
    accepted: Counter[str] = Counter()
    num_completions = num_hinted = num_hinted_accepted = num_spare = 0
    asked: list[float] = []
    of_molecule: dict[str, list[int]] = {}
    sampled_from: set[str] = set()
    accepted_reasons: list[str] = []
    columns = ["molecule_id", "measured", "adapter", "accepted", "rejections", "findings"]
    columns += ["reason", "hinted"]
    for batch in store.batches(round_index, columns):
        for row in batch.to_pylist():
            if row["hinted"]:
                num_hinted += 1
                num_hinted_accepted += row["accepted"]
                continue
            num_completions += 1
            if "withdrawn" not in row["rejections"]:
                asked.append(row["measured"])
            is_spare = not row["accepted"] and BESIDE_EARLIER_TEXTS.issuperset(row["rejections"])
            num_spare += is_spare
            counts = of_molecule.setdefault(row["molecule_id"], [0, 0, 0, 0])
            counts[0] += 1
            counts[1] += row["accepted"] or is_spare
            counts[2] += "no value" not in row["rejections"]
            counts[3] += "false claim" in row["findings"]
            sampled_from.add(row["adapter"])
            rejections.update(row["rejections"])
            findings.update(row["findings"])
            if row["accepted"]:
                accepted[row["molecule_id"]] += 1
                accepted_reasons.append(row["reason"])
    answers = load_evaluation(folder.evaluation(round_index))
    first = load_evaluation(folder.evaluation(0))
    tolerance = config.property.tolerance
    test = compute_metrics(answers, "test", task.split.median, tolerance)
    train = compute_metrics(answers, "train", task.split.median, tolerance)
    assert test is not None  # a test set has at least one molecule
    commonest = commonest_value(answers)
    num_accepted = sum(accepted.values())
    num_parsed = num_completions - rejections["no value"]
    sample_tolerance = stored_tolerance(store, round_index)
    values = asked or [molecule.value for molecule in task.split.pool]
    chance = chance_acceptance(values, tolerance if sample_tolerance is None else sample_tolerance)
    if asked:  # of a withdrawn row nothing is accepted, whoever answers
        chance *= len(asked) / num_completions
    return RoundRecord(
        round=round_index,
        adapter=trained.name,
        adapter_sha256=trained.sha256,
        num_trained_samples=trained.num_samples,
        train_loss=trained.loss,
        sampled_from=", ".join(sorted(sampled_from)),
        num_completions=num_completions,
        num_accepted=num_accepted,
        num_distinct_accepted=len(accepted),
        parsed=num_parsed / num_completions if num_completions else None,
        acceptance=num_accepted / num_completions if num_completions else None,
        chance=chance,
        rejections=dict(sorted(rejections.items())),
        answered=test.answered.value,
        test_mae=test.mae,
        test_rmse=test.rmse,
        test_mse=test.mse,
        test_r2=test.r2.value if test.r2 else None,
        test_within_tolerance=test.within_tolerance.value,
        test_change=paired_difference(first, answers, task.split.median),
        train_mae=train.mae.value if train else None,
        timing=timing,
        findings=dict(sorted(findings.items())),
        tolerance=sample_tolerance,
        false_claims=findings["false claim"] / num_parsed if num_parsed else None,
        distinct_4grams=variety(accepted_reasons),
        num_hinted=num_hinted,
        num_hinted_accepted=num_hinted_accepted,
        num_spare=num_spare,
        independent_completions=_independent(of_molecule, 0, 1),
        independent_parsed=_independent(of_molecule, 2, 3),
        commonest_value=commonest[0] if commonest else None,
        commonest_share=commonest[1] if commonest else None,
        test_bias=test.bias.value,
        passed=answering == round_index,
    )


def _independent(counts: Mapping[str, list[int]], trials: int, successes: int) -> float | None:
    """Return `independent_trials` of two of each molecule's counts; None without a trial."""
    rows = np.array([row for row in counts.values() if row[trials]], dtype=np.float64)
    return independent_trials(rows[:, successes], rows[:, trials]) if len(rows) else None


def load_records(folder: RunFolder) -> list[RoundRecord]:
    """Return the finished rounds' records, ascending.

    Raises:
        StoreError: they are damaged.
    """
    if not folder.metrics.exists():
        return []
    lines = folder.metrics.read_bytes().splitlines()
    try:
        return [RoundRecord.from_json(line) for line in lines if line.strip()]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        remedy = "remove it: `loop` derives it again from the samples and evaluations"
        raise damaged(folder.metrics, error, remedy) from error


def save_record(folder: RunFolder, record: RoundRecord) -> None:
    """Put a round's record into metrics.jsonl, in place of an earlier one of the same round."""
    records = {known.round: known for known in load_records(folder)} | {record.round: record}
    lines = [orjson.dumps(asdict(records[index])) for index in sorted(records)]
    folder.files.replace(folder.metrics, b"\n".join(lines) + b"\n")
