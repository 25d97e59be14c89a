"""Means of repeated trainings: an interval has to hold for other seeds and other molecules."""

import numpy as np
import pytest

from selfstudy_engine.data.metrics import Floats, Interval, bootstrap
from selfstudy_engine.data.repeats import (
    change_of_means,
    mean_of_trainings,
    spread_of_trainings,
)

NUM_TRAININGS, NUM_MOLECULES = 3, 100


def method(rng: np.random.Generator, easy: Floats, mean: float = 60.0) -> Floats:
    """Return absolute errors of a method whose trainings have an SD of 4, its molecules of 20."""
    trainings = rng.normal(0, 4, size=(NUM_TRAININGS, 1))
    each = rng.normal(0, 10, size=(NUM_TRAININGS, NUM_MOLECULES))
    errors: Floats = mean + easy + trainings + each
    return errors


def share_covering(truth: float, intervals: list[Interval]) -> float:
    return float(np.mean([interval.low <= truth <= interval.high for interval in intervals]))


def test_intervals_hold_for_other_seeds_and_other_molecules() -> None:
    rng = np.random.default_rng(1)
    means, changes, of_one_pair = [], [], []
    for _ in range(400):
        easy = rng.normal(0, 20, size=NUM_MOLECULES)  # the same molecules for both
        before, after = method(rng, easy), method(rng, easy)
        means.append(mean_of_trainings(before))
        changes.append(change_of_means(before, after))
        of_one_pair.append(bootstrap(after[0] - before[0]))
    assert share_covering(60, means) >= 0.93
    assert 0.93 <= share_covering(0, changes) <= 0.99
    assert share_covering(0, of_one_pair) < 0.6, "what one training of each claims"


def test_a_difference_beyond_the_trainings_luck_is_told() -> None:
    rng = np.random.default_rng(2)
    easy = rng.normal(0, 20, size=NUM_MOLECULES)
    before, after = method(rng, easy), method(rng, easy, mean=80)
    change = change_of_means(before, after)
    assert 0 < change.low < 20 < change.high
    assert change.value == pytest.approx(after.mean() - before.mean())
    assert change_of_means(after, before) == -change


def test_more_trainings_narrow_what_is_known() -> None:
    rng = np.random.default_rng(3)
    easy = np.zeros(NUM_MOLECULES)
    few = [method(rng, easy) for _ in range(2)]
    many = [np.concatenate([method(rng, easy) for _ in range(5)]) for _ in range(2)]
    widths = [one.high - one.low for one in (change_of_means(*few), change_of_means(*many))]
    assert widths[1] < widths[0] / 2


def test_a_guess_has_no_trainings() -> None:
    """What remains is the molecules' variance: the textbook's t interval of a mean."""
    errors = np.array([[10.0, 20.0, 30.0, 40.0]])
    interval = mean_of_trainings(errors)
    half = 3.1824 * errors.std(ddof=1) / 2
    assert (interval.low, interval.high) == pytest.approx((25 - half, 25 + half), rel=1e-4)
    assert spread_of_trainings(np.array([[1.0, 3.0], [3.0, 5.0]])) == pytest.approx(2**0.5)
    one = mean_of_trainings(np.array([[5.0]]))
    assert (one.value, one.low, one.high) == (5, 5, 5)
    alike = np.full((2, 3), 7.0)
    assert change_of_means(alike, alike).high == 0
