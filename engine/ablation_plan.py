"""What is compared about how a run trained: each ablation changes one thing."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import UsageError

_REASONS = (
    ("keep", "own-reasons", "each text's own reason", False),
    ("drop", "direct-answer", "direct answer, no reason", False),
    ("drop", "direct-answer-as-many-steps", "direct answer, as many steps", True),
    ("shuffle", "shuffled-reasons", "reasons of other molecules", False),
)
_LABELS = {
    "measured": ("label-measured", "label: the measured value"),
    "predicted": ("label-predicted", "label: the model's own value"),
    "checked": ("label-checked", "label: measured if the arithmetic allows it"),
}
_WEIGHTS = {
    "equal": ("weights-equal", "all accepted samples weigh the same"),
    "balanced": ("weights-balanced", "values weigh as they were asked about"),
}
_TOLERANCE_ALONE = frozenset({"no value", "out of tolerance", "withdrawn"})
"""What the original rejects, and what always rejects."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """One way to train on a run's samples."""

    way: str
    title: str
    changes: Mapping[str, str] = field(default_factory=dict)
    """Configuration keys that differ from the run's."""
    with_samples: bool = True
    as_many_steps: bool = False
    """Train for at least as many steps as the loop's way takes: shorter texts fill fewer."""
    reject: frozenset[str] | None = None
    """Findings that keep an answer from being trained on, in place of the run's own verdicts."""

    seed: int | None = None
    """Of its training; None for its run's own."""

    @property
    def key(self) -> str:
        """Name of its adapter's folder."""
        return self.way if self.seed is None else f"{self.way}-seed-{self.seed}"

    def trainings(self, seed: int) -> "Iterator[Ablation]":
        """Yield the same way without end: from its run's seed and from those that follow it."""
        yield self
        for number in itertools.count(1):
            other = (seed + number) % 2**32
            yield replace(self, seed=other, title=f"{self.title} (seed {other})")


AS_THE_LOOP = Ablation("loop", "as the loop did")
"""What all are compared with."""


def ablations_of(config: RunConfig) -> list[Ablation]:
    """Return what is compared for a run: all that isn't how it was trained itself."""
    train = config.train
    unchecked = Ablation(
        "tolerance-alone", "all answers within the tolerance", reject=_TOLERANCE_ALONE
    )
    first = AS_THE_LOOP
    if train.start_from == "previous":  # all of them begin at the base model
        first = replace(first, title="as the loop did, but from the base model, in one training")
    return [
        first,
        Ablation("exemplars-only", "exemplars only", with_samples=False),
        *(
            Ablation(key, title, {"train.reasons": reasons}, as_many_steps=as_many_steps)
            for reasons, key, title, as_many_steps in _REASONS
            if reasons != train.reasons != "drop"  # else its answers have none
        ),
        *(
            Ablation(key, title, {"train.label": label})
            for label, (key, title) in _LABELS.items()
            if label != train.label
        ),
        *(
            Ablation(key, title, {"train.sample_weights": weights})
            for weights, (key, title) in _WEIGHTS.items()
            if weights != train.sample_weights
        ),
        *([unchecked] if {*config.verdict.reject, "withdrawn"} != _TOLERANCE_ALONE else []),
    ]


def choose(ablations: Sequence[Ablation], only: Sequence[str]) -> list[Ablation]:
    """Return those that are named, and the loop's way, with which they are compared; or all.

    Raises:
        UsageError: a name is none of theirs.
    """
    known = [ablation.way for ablation in ablations]
    if unknown := sorted({*only} - {*known}):
        raise UsageError(
            f"there is no ablation {unknown[0]!r} of this run; there are {', '.join(known)}"
        )
    named = {AS_THE_LOOP.way, *(only or known)}
    return [ablation for ablation in ablations if ablation.way in named]
