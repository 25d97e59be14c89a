"""Metrics and intervals as texts: the same words and digits wherever they are shown."""

from typing import Literal

from selfstudy_engine.data.metrics import ENOUGH_FOR_A_VERDICT, Interval, Metrics, near
from selfstudy_engine.data.properties import Property

Outcome = Literal["better", "worse", "same", "few"]
ONE_TRAINING = (
    "Intervals are of other test molecules, not of other trainings: another seed's adapter may "
    "differ by more."
)
"""What every comparison of two single trainings must say."""

_MANY = 0.25
"""Share of answers with one and the same value from which on it has to be said."""


def outcome_of(change: Interval) -> Outcome:
    """Return what a paired change of an error says: an interval with 0 is no change.

    Of too few molecules it says nothing: "few".

    >>> outcome_of(Interval(-5.0, -9.0, -1.0)), outcome_of(Interval(-5.0, -11.0, 1.0))
    ('better', 'same')
    """
    if change.num_molecules is not None and change.num_molecules < ENOUGH_FOR_A_VERDICT:
        return "few"
    return "better" if change.high < 0 else "worse" if change.low > 0 else "same"


def verdict_of(change: Interval) -> str:
    """Return the outcome of a change in words that don't claim too much."""
    return {
        "better": "better",
        "worse": "worse",
        "same": "no difference to be told",
        "few": "too few molecules for a verdict",
    }[outcome_of(change)]


def gathered(commonest: tuple[float, float] | None, num_answers: int, prop: Property) -> str | None:
    """Return a sentence on a model that gives many molecules the same value; None of another.

    Args:
        commonest: that value, and the share of test molecules that are given it.
        num_answers: to each molecule, of which the median is taken; 1 is a greedy one.
        prop: what is predicted.
    """
    if commonest is None or commonest[1] < _MANY:
        return None
    value, share = commonest
    text = (
        f"{share:.0%} of the last round's test answers are {minus(prop.format(value))} {prop.unit}"
    )
    if num_answers > 1:
        return f"{text}: it hardly tells molecules apart."
    return (
        f"{text}. A greedy answer is the likeliest number, digit by digit, not the best guess, and "
        "which one prevails is a training's luck: `--test-answers 8` measures by the median of "
        "eight, as `predict` answers."
    )


def columns_of(prop: Property) -> list[str]:
    """Return the headings over `cells_of`."""
    unit = prop.unit
    return [
        f"MAE, {unit}",
        f"RMSE, {unit}",
        f"median error, {unit}",
        f"bias, {unit}",
        "R²",
        "Spearman",
        "RAE",
        f"within {near(prop.tolerance):g} {unit}",
        f"within {prop.tolerance:g} {unit}",
        "answered",
    ]


def cells_of(metrics: Metrics, prop: Property) -> list[str]:
    """Return all metrics as texts, in the table's order."""
    errors = (metrics.mae, metrics.rmse, metrics.median_error, metrics.bias)
    ratios = (metrics.r2, metrics.spearman, metrics.rae)
    shares = (metrics.within_near, metrics.within_tolerance, metrics.answered)
    return [
        *(ranged(interval, prop.error_decimals) for interval in errors),
        *(ranged(interval, 2) if interval else "–" for interval in ratios),
        *map(ranged_share, shares),
    ]


def ranged(interval: Interval, digits: int, sign: Literal["-", "+"] = "-") -> str:
    """Write an estimate with its interval; an error has its property's `error_decimals`.

    One molecule has no interval; "+" is for differences in a table (`signed` is for sentences).

    >>> ranged(Interval(0.5, -0.001, 0.75), 2), ranged(Interval(0.5, 0.25, 0.75), 1, "+")
    ('0.50 [0.00, 0.75]', '+0.5 [+0.2, +0.8]')
    """
    parts = (interval.value, interval.low, interval.high)
    value, low, high = (minus(f"{part:{sign}z.{digits}f}") for part in parts)
    return value if interval.num_molecules == 1 else f"{value} [{low}, {high}]"


def ranged_share(interval: Interval) -> str:
    """Write a share with its interval, in percent.

    >>> ranged_share(Interval(0.5, 0.25, 0.75))
    '50% [25, 75]'
    """
    parts = (interval.value, interval.low, interval.high)
    value, low, high = (f"{100 * part:.0f}" for part in parts)
    return f"{value}%" if interval.num_molecules == 1 else f"{value}% [{low}, {high}]"


def signed(interval: Interval, digits: int) -> str:
    """Write a difference with its sign and interval; see `ranged`."""
    parts = (interval.value, interval.low, interval.high)
    value, low, high = (minus(f"{part:+z.{digits}f}") for part in parts)
    return value if interval.num_molecules == 1 else f"{value} [95% {low} to {high}]"


def minus(text: str) -> str:
    """Write a number's minus as one, not as a hyphen."""
    return text.replace("-", "\N{MINUS SIGN}")
