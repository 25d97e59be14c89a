"""Metrics and intervals as texts: the same words and digits wherever they are shown."""

from typing import Any, Literal

from selfstudy_engine.data.metrics import Interval, Metrics, near

Outcome = Literal["better", "worse", "same"]


def outcome_of(change: Interval) -> Outcome:
    """Return what a paired change of an error says: an interval with 0 is no change.

    >>> outcome_of(Interval(-5.0, -9.0, -1.0)), outcome_of(Interval(-5.0, -11.0, 1.0))
    ('better', 'same')
    """
    return "better" if change.high < 0 else "worse" if change.low > 0 else "same"


def verdict_of(change: Interval) -> str:
    """Return the outcome of a change in words that don't claim too much."""
    return {"better": "better", "worse": "worse", "same": "no difference to be told"}[
        outcome_of(change)
    ]


def columns_of(unit: str, tolerance: float) -> list[str]:
    """Return the headings over `cells_of`."""
    return [
        f"MAE, {unit}",
        f"RMSE, {unit}",
        f"median error, {unit}",
        "R²",
        "Spearman",
        "RAE",
        f"within {near(tolerance):g} {unit}",
        f"within {tolerance:g} {unit}",
        "answered",
    ]


def cells_of(metrics: Metrics) -> list[str]:
    """Return all metrics as texts, in the table's order."""
    plain = [ranged(interval) for interval in (metrics.mae, metrics.rmse, metrics.median_error)]
    shares = [
        ranged(interval, percent=True)
        for interval in (metrics.within_near, metrics.within_tolerance, metrics.answered)
    ]
    ratios = [
        ranged(interval, digits=2) if interval else "–"
        for interval in (metrics.r2, metrics.spearman, metrics.rae)
    ]
    return [*plain, *ratios, *shares]


def ranged(interval: Interval, digits: int = 1, percent: bool = False) -> str:
    """Write an estimate with its interval.

    >>> ranged(Interval(0.5, 0.25, 0.75), percent=True)
    '50% [25, 75]'
    """
    parts: list[Any] = [interval.value, interval.low, interval.high]
    if percent:
        value, low, high = (f"{100 * part:.0f}" for part in parts)
        return f"{value}% [{low}, {high}]"
    value, low, high = (_minus(f"{part:.{digits}f}") for part in parts)
    return f"{value} [{low}, {high}]"


def signed(interval: Interval) -> str:
    """Write a difference with its sign and interval."""
    value, low, high = (
        _minus(f"{part:+.1f}") for part in (interval.value, interval.low, interval.high)
    )
    return f"{value} [95% {low} to {high}]"


def _minus(text: str) -> str:
    return text.replace("-", "\N{MINUS SIGN}")
