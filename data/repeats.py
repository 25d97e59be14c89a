"""Repeated trainings' errors in, their means with intervals out: what other seeds would get, too.

A bootstrap over molecules says what other molecules would show of *these* adapters. Here a method
is judged: molecules and trainings are both taken as draws from many, as readers and cases are in
a study of diagnostic tests (Obuchowski & Rockette 1995).
"""

import math
from collections.abc import Sequence

from scipy import stats

from selfstudy_engine.data.metrics import CONFIDENCE, Floats, Interval


def spread_of_trainings(errors: Floats) -> float:
    """Return the standard deviation of the trainings' MAEs.

    Args:
        errors: absolute errors, shape (num_trainings, num_molecules), two trainings at least.
    """
    return float(errors.mean(axis=1).std(ddof=1))


def mean_of_trainings(errors: Floats) -> Interval:
    """Return the mean MAE of a method's trainings with its 95% interval.

    Args:
        errors: absolute errors, shape (num_trainings, num_molecules). A single training is taken
            as exact: a guess that no seed changes.
    """
    return _interval(errors.mean(axis=0), [errors])


def change_of_means(before: Floats, after: Floats) -> Interval:
    """Return how far a method's mean MAE is above another's, on the same molecules in their order.

    Molecules are paired, trainings aren't: the same seed draws other batches of other texts.

    Args:
        before: absolute errors, shape (num_trainings, num_molecules); see `mean_of_trainings`.
        after: the same of the other method, with a number of trainings of its own.
    """
    return _interval(after.mean(axis=0) - before.mean(axis=0), [before, after])


def _interval(of_molecules: Floats, methods: Sequence[Floats]) -> Interval:
    """Return the mean with a t interval of Satterthwaite's degrees of freedom.

    The variances of molecules and of trainings are added; what is special to one training on one
    molecule is in both, so that the interval is a little too wide rather than too narrow.
    """
    size = len(of_molecules)
    parts = [(of_molecules.var(ddof=1) / size, size - 1)] if size > 1 else []
    for errors in methods:
        num_trainings = len(errors)
        if num_trainings > 1:
            variance = spread_of_trainings(errors) ** 2 / num_trainings
            parts.append((variance, num_trainings - 1))
    variance = sum(part for part, _ in parts)
    degrees = variance**2 / sum(part**2 / freedom for part, freedom in parts) if variance else 1.0
    half = float(stats.t.ppf((1 + CONFIDENCE) / 2, degrees)) * math.sqrt(variance)
    mean = float(of_molecules.mean())
    return Interval(mean, mean - half, mean + half, size)
