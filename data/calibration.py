"""Several answers to each question in, out: does their spread say how far off they are?

Knows nothing of models. Where question and answers were draws of one distribution, an interval
between the r-th and the s-th of k answers would hold the truth with probability (s - r) / (k + 1)
(Wilks 1941): quantiles are placed so (Weibull's positions), and no interval can promise more than
all answers together, (k - 1) / (k + 1).
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from selfstudy_engine.data.metrics import (
    Floats,
    Interval,
    bootstrap,
    half_quartile_range,
    measure,
)

_LEVELS = (0.5, 0.8, 0.9, 0.95)
_NUM_BANDS = 3


@dataclass(frozen=True, slots=True)
class Coverage:
    """How often a central interval of the answers holds the measured value."""

    nominal: float
    """How often it would, were the answers as uncertain as they are wrong; 0 to 1."""
    num_molecules: int
    """Those with answers enough for such an interval."""
    covered: Interval
    """Below `nominal`: the answers agree more than they should."""
    mean_width: float
    """Of the interval, in the property's unit."""


@dataclass(frozen=True, slots=True)
class SpreadBand:
    """Molecules whose answers lie about as far apart."""

    smallest: float
    """Spread, in the property's unit."""
    largest: float
    num_molecules: int
    mae: Interval


@dataclass(frozen=True, slots=True)
class Calibration:
    """What the spread of several answers is worth as an uncertainty."""

    num_answers: int
    """Asked for each molecule."""
    coverage: list[Coverage]
    bands: list[SpreadBand]
    """Thirds of the molecules by spread, the smallest first: errors that rise say it is of use."""
    spearman: Interval | None
    """Of spread and absolute error; None where one of them is always the same."""


def calibrate(
    measured: Floats, values: Sequence[Sequence[float] | Floats], num_answers: int
) -> Calibration:
    """Return what the spread of answers says about their errors.

    Args:
        measured: shape (n,), in the property's unit.
        values: the well-formed ones among the answers about each molecule.
        num_answers: asked for each molecule, at least 2.
    """
    several = [index for index, found in enumerate(values) if len(found) > 1]
    truth = measured[several]
    answers = [np.sort(values[index]) for index in several]
    everything = (num_answers - 1) / (num_answers + 1)
    levels = [level for level in _LEVELS if level < everything] + [everything]
    found = [_coverage(truth, answers, level) for level in levels]
    spread = np.array([half_quartile_range(one) for one in answers], dtype=float)
    error = np.abs([np.median(one) for one in answers] - truth) if several else truth
    return Calibration(
        num_answers=num_answers,
        coverage=[one for one in found if one],
        bands=_bands(spread, error),
        spearman=_rank_correlation(spread, error),
    )


def _coverage(truth: Floats, answers: Sequence[Floats], level: float) -> Coverage | None:
    tail = (1 - level) / 2
    # A level that k answers can't give would be cut off at the smallest and the largest of them.
    usable = [index for index, one in enumerate(answers) if tail * (len(one) + 1) >= 1 - 1e-9]
    if not usable:
        return None
    bounds = np.array(
        [np.quantile(answers[index], [tail, 1 - tail], method="weibull") for index in usable]
    )
    held = (bounds[:, 0] <= truth[usable]) & (truth[usable] <= bounds[:, 1])
    return Coverage(
        nominal=level,
        num_molecules=len(usable),
        covered=bootstrap(held.astype(float)),
        mean_width=float((bounds[:, 1] - bounds[:, 0]).mean()),
    )


def _bands(spread: Floats, error: Floats) -> list[SpreadBand]:
    order = np.argsort(spread, kind="stable")
    return [
        SpreadBand(
            smallest=float(spread[part].min()),
            largest=float(spread[part].max()),
            num_molecules=len(part),
            mae=bootstrap(error[part]),
        )
        for part in np.array_split(order, _NUM_BANDS)
        if len(part)
    ]


def _rank_correlation(spread: Floats, error: Floats) -> Interval | None:
    if len(spread) < 2 or spread.min() == spread.max():
        return None
    return measure(error, spread, fallback=0.0, tolerance=0.0).spearman
