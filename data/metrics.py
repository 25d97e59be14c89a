"""Measured and predicted values in, metrics with bootstrap intervals out; knows nothing of models.

Intervals are percentile bootstraps (Efron & Tibshirani 1993, ch. 13): molecules are drawn with
replacement, and every metric is computed again from each draw.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

NUM_RESAMPLES = 2000
"""Bootstrap resamples behind an interval."""
ENOUGH_FOR_A_VERDICT = 20
"""Molecules below which an interval is too narrow to tell a change from noise: without any change
it excludes 0 in half of all cases at 2 molecules, a sixth at 5, a tenth at 10."""
CONFIDENCE = 0.95
"""Of every interval."""
_CHUNK = 2_000_000
"""Resampled values in memory at once."""
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bootstrap 95% interval."""

    value: float
    low: float
    high: float
    num_molecules: int | None = None
    """That it rests on; None where that isn't known."""

    def __neg__(self) -> "Interval":
        """Return the same change, seen from the other side."""
        return Interval(-self.value, -self.high, -self.low, self.num_molecules)


@dataclass(frozen=True, slots=True)
class Metrics:
    """How good predictions are; errors in the property's unit, shares between 0 and 1."""

    num_molecules: int
    mae: Interval
    rmse: Interval
    median_error: Interval
    """Median absolute error."""
    bias: Interval
    """Mean of predicted - measured; negative leans low."""
    r2: Interval | None
    """None where all measured values are the same, as `spearman` and `rae` then are."""
    spearman: Interval | None
    """Rank correlation; 0 for predictions that are all the same."""
    rae: Interval | None
    """MAE over that of always saying the measured values' mean; below 1 is better than that."""
    within_near: Interval
    """Share with an error of at most `near(tolerance)`."""
    within_tolerance: Interval
    answered: Interval
    """Share with a well-formed value; the others count as the training median."""

    @property
    def mse(self) -> float:
        """Mean squared error."""
        return self.rmse.value**2


def near(tolerance: float) -> float:
    """Return the narrow tolerance that is always reported, too: a third, in two digits.

    >>> near(30.0), near(0.7)
    (10.0, 0.23)
    """
    return float(f"{tolerance / 3:.2g}")


def measure(measured: Floats, predicted: Floats, fallback: float, tolerance: float) -> Metrics:
    """Return the metrics of predictions.

    Args:
        measured: shape (n,), n at least 1, in the property's unit.
        predicted: shape (n,); NaN where there is no value.
        fallback: what those count as: the training median.
        tolerance: in the property's unit.

    >>> metrics = measure(np.array([0.0, 10.0]), np.array([1.0, np.nan]), 5.0, 30.0)
    >>> metrics.mae.value, metrics.answered.value, metrics.within_near.value
    (3.0, 0.5, 1.0)
    """
    answered = ~np.isnan(predicted)
    filled = np.where(answered, predicted, fallback)
    whole = _statistics(measured[None], filled[None], answered[None], tolerance)
    drawn: dict[str, list[Floats]] = {name: [] for name in whole}
    for picks in _resamples(len(measured)):
        found = _statistics(measured[picks], filled[picks], answered[picks], tolerance)
        for name, values in found.items():
            drawn[name].append(values)
    constant = measured.min() == measured.max()

    def interval(name: str) -> Interval:
        return _interval(float(whole[name][0]), drawn[name], len(measured))

    return Metrics(
        num_molecules=len(measured),
        mae=interval("mae"),
        rmse=interval("rmse"),
        median_error=interval("median_error"),
        bias=interval("bias"),
        r2=None if constant else interval("r2"),
        spearman=None if constant else interval("spearman"),
        rae=None if constant else interval("rae"),
        within_near=interval("within_near"),
        within_tolerance=interval("within_tolerance"),
        answered=interval("answered"),
    )


@dataclass(frozen=True, slots=True)
class Change:
    """What changed between two sets of predictions for the same molecules."""

    mae: Interval
    rmse: Interval
    within_tolerance: Interval


def measure_change(before: Floats, after: Floats, tolerance: float) -> Change:
    """Return the paired change from one set of errors to another, resampled by molecule.

    An interval without 0 is a change that these molecules can tell from noise. Negative is better
    for errors, positive for the share within the tolerance.

    Args:
        before: shape (n,), predicted - measured.
        after: shape (n,), of the same molecules in the same order.
        tolerance: in the property's unit.
    """

    def changes(old: Floats, new: Floats) -> dict[str, Floats]:
        return {
            "mae": (abs(new) - abs(old)).mean(axis=1),
            "rmse": np.sqrt((new**2).mean(axis=1)) - np.sqrt((old**2).mean(axis=1)),
            "within_tolerance": (
                (abs(new) <= tolerance).astype(float) - (abs(old) <= tolerance)
            ).mean(axis=1),
        }

    whole = changes(before[None], after[None])
    drawn: dict[str, list[Floats]] = {name: [] for name in whole}
    for picks in _resamples(len(before)):
        for name, values in changes(before[picks], after[picks]).items():
            drawn[name].append(values)
    return Change(
        **{name: _interval(float(whole[name][0]), drawn[name], len(before)) for name in whole}
    )


def bootstrap(values: Floats, seed: int = 0) -> Interval:
    """Return the mean of shape-(n,) values with its interval."""
    means = [values[picks].mean(axis=1) for picks in _resamples(len(values), seed)]
    return _interval(float(values.mean()), means, len(values))


def independent_trials(successes: Floats, trials: Floats) -> float:
    """Return how many independent trials would tell as much of a share as trials in groups do.

    All trials over the design effect (Kish 1965, ch. 5); at least one for each group.

    Args:
        successes: shape (n,), of each group.
        trials: shape (n,), of each group, each at least 1.

    >>> independent_trials(np.array([4.0, 0.0, 4.0, 0.0]), np.full(4, 4.0))
    4.0
    """
    num_groups, total = len(trials), float(trials.sum())
    share = successes.sum() / total
    if num_groups < 2 or not 0 < share < 1:
        return float(num_groups)
    off = float(((successes - share * trials) ** 2).sum())
    variance = off * num_groups / (num_groups - 1) / total**2
    return float(np.clip(share * (1 - share) / variance, num_groups, total)) if off else total


def half_quartile_range(values: Sequence[float] | Floats) -> float | None:
    """Return how far answers lie apart; None for fewer than two.

    >>> half_quartile_range([0.0, 10.0, 20.0, 30.0, 1000.0])
    10.0
    """
    if len(values) < 2:
        return None
    low, high = np.quantile(values, [0.25, 0.75])
    return float(high - low) / 2


def _resamples(size: int, seed: int = 0) -> Iterator[npt.NDArray[np.int64]]:
    """Yield all resamples' indices, shape (some, size), a part at a time."""
    generator = np.random.default_rng(seed)
    rows = max(1, _CHUNK // size)
    for start in range(0, NUM_RESAMPLES, rows):
        yield generator.integers(0, size, size=(min(rows, NUM_RESAMPLES - start), size))


def _interval(value: float, drawn: Sequence[Floats], num_molecules: int) -> Interval:
    tail = (1 - CONFIDENCE) / 2
    every = np.concatenate(drawn)
    usable = every[~np.isnan(every)]  # draws of one value only have no R2
    low, high = np.quantile(usable, [tail, 1 - tail]) if len(usable) else (np.nan, np.nan)
    return Interval(value, float(low), float(high), num_molecules)


def _statistics(
    measured: Floats, predicted: Floats, answered: npt.NDArray[np.bool_], tolerance: float
) -> dict[str, Floats]:
    """Return each statistic of every row; NaN where a row's measured values are all the same."""
    errors = predicted - measured
    absolute = abs(errors)
    deviation = measured - measured.mean(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        r2 = 1 - (absolute**2).sum(axis=1) / (deviation**2).sum(axis=1)
        rae = absolute.sum(axis=1) / abs(deviation).sum(axis=1)
    constant = measured.min(axis=1) == measured.max(axis=1)
    return {
        "mae": absolute.mean(axis=1),
        "rmse": np.sqrt((absolute**2).mean(axis=1)),
        "median_error": np.median(absolute, axis=1),
        "bias": errors.mean(axis=1),
        "r2": np.where(constant, np.nan, r2),
        "spearman": np.where(constant, np.nan, _correlation(_ranks(measured), _ranks(predicted))),
        "rae": np.where(constant, np.nan, rae),
        "within_near": (absolute <= near(tolerance)).mean(axis=1),
        "within_tolerance": (absolute <= tolerance).mean(axis=1),
        "answered": answered.mean(axis=1),
    }


def _correlation(left: Floats, right: Floats) -> Floats:
    left = left - left.mean(axis=1, keepdims=True)
    right = right - right.mean(axis=1, keepdims=True)
    scale = np.sqrt((left**2).sum(axis=1) * (right**2).sum(axis=1))
    products = (left * right).sum(axis=1)
    correlation: Floats = np.divide(products, scale, out=np.zeros_like(scale), where=scale > 0)
    return correlation


def _ranks(values: Floats) -> Floats:
    """Return each row's ranks from 0, ties sharing their mean rank."""
    rows, size = values.shape
    order = values.argsort(axis=1)
    ordered = np.take_along_axis(values, order, axis=1)
    starts = np.ones((rows, size), dtype=bool)
    starts[:, 1:] = ordered[:, 1:] != ordered[:, :-1]
    # Each run of ties, numbered through all rows; its ranks' mean is the mean of its places.
    run = starts.ravel().cumsum() - 1
    places = np.tile(np.arange(size, dtype=float), rows)
    means = np.bincount(run, places) / np.bincount(run)
    ranks = np.empty_like(values)
    np.put_along_axis(ranks, order, means[run].reshape(rows, size), axis=1)
    return ranks
