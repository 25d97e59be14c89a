"""What is compared about how a run trained: each ablation changes one thing."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from selfstudy_engine.data.config import RunConfig

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
_TOLERANCE_ALONE = frozenset({"no value", "out of tolerance", "withdrawn"})
"""What the original rejects, and what always rejects."""


@dataclass(frozen=True, slots=True)
class Ablation:
    """One way to train on a run's samples."""

    key: str
    """Name of its adapter's folder."""
    title: str
    changes: Mapping[str, str] = field(default_factory=dict)
    """Configuration keys that differ from the run's."""
    with_samples: bool = True
    as_many_steps: bool = False
    """Train for at least as many steps as the loop's way takes: shorter texts fill fewer."""
    reject: frozenset[str] | None = None
    """Findings that keep an answer from being trained on, in place of the run's own verdicts."""


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
        *([unchecked] if {*config.verdict.reject, "withdrawn"} != _TOLERANCE_ALONE else []),
    ]
