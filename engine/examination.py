"""One evaluation: how good an adapter is on a test set, against another, and what that rests on.

Questions may be asked in other manners than the adapter was trained to be asked in: with a line
hidden, with several answers, or with the answer made to begin with another molecule's reason. The
plain manner is then asked too, and compared with; what the own reason leads to is asked in the same
manner as what another's does.
"""

from dataclasses import dataclass

import orjson

from selfstudy_engine.data.calibration import Calibration
from selfstudy_engine.data.config_rounds import GenerationConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.evaluations import Evaluated
from selfstudy_engine.data.metrics import Change, Interval, Metrics
from selfstudy_engine.data.prompts import Hidden
from selfstudy_engine.engine.evaluate import sampling_params


@dataclass(frozen=True, slots=True)
class Asking:
    """In which manner a whole test set is asked."""

    num_answers: int = 1
    hidden: Hidden | None = None
    swap_reasons: bool = False

    def __str__(self) -> str:
        parts = ["greedy" if self.num_answers == 1 else f"median of {self.num_answers} answers"]
        if self.hidden:
            parts.append(f"{'SMILES' if self.hidden == 'smiles' else self.hidden} hidden")
        if self.swap_reasons:
            parts.append("reasons of other molecules put in")
        return ", ".join(parts)


def check_asking(asking: Asking, generation: GenerationConfig) -> None:
    """Refuse what would only be noticed once a server is up.

    Raises:
        UsageError: several greedy answers, or nothing is left of a prompt.
    """
    sampling_params(generation, asking.num_answers)
    if asking.hidden and generation.template == "smiles":
        raise UsageError(
            f"--hide {asking.hidden}: prompts of the template 'smiles' show the SMILES alone"
        )


@dataclass(frozen=True, slots=True)
class Comparison:
    """What changed from something else to this."""

    reference: str
    change: Change
    """This minus the reference, paired; an error's is negative where this is better."""
    num_molecules: int
    """That both answered about."""


@dataclass(frozen=True, slots=True)
class ReasonUse:
    """What values follow when the reasons are other molecules'."""

    moved: Interval
    """Share of the values that changed."""
    mean_move: Interval
    """Mean absolute change of the value, in the property's unit."""
    follows_reason: Interval | None
    """Rank correlation with what the reason's own molecule had been given."""
    follows_molecule: Interval | None
    """Rank correlation with what the molecule had been given with its own reason."""
    moved_again: Interval | None = None
    """Share of the values that changed when their own reason was put in twice: sampling alone. None
    for greedy answers."""
    mean_move_again: Interval | None = None
    """Mean absolute change then."""


@dataclass(frozen=True, slots=True)
class Examination:
    """What an evaluation found."""

    subject: str
    asked: str
    """In which manner."""
    metrics: Metrics
    num_unanswered: int
    num_left_out: int
    """Molecules that can't be asked in this manner."""
    unit: str
    tolerance: float
    fallback: float
    """The training median: what the unanswered are scored as."""
    compared: list[Comparison]
    calibration: Calibration | None
    reason_use: ReasonUse | None
    notes: list[str]
    answers: list[Evaluated]


def to_json(examination: Examination) -> bytes:
    """Return all figures, without the answers, as one JSON object."""
    names = [name for name in Examination.__dataclass_fields__ if name != "answers"]
    content = {name: getattr(examination, name) for name in names}
    return orjson.dumps(content, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
