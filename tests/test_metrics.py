"""Metrics against scipy's and scikit-learn's, and how often the intervals hold the truth."""

import math

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as reference

from selfstudy_engine.data.metrics import Floats, bootstrap, measure, measure_change, near

GENERATOR = np.random.default_rng(5)
MEASURED = GENERATOR.normal(80, 90, 300).round()
PREDICTED = (MEASURED + GENERATOR.normal(0, 40, 300)).round(-1)  # rounded: ties


def silent(share: float) -> Floats:
    return np.where(np.arange(len(MEASURED)) < share * len(MEASURED), np.nan, PREDICTED)


def test_metrics_are_those_of_the_reference() -> None:
    found = measure(MEASURED, PREDICTED, 75.0, 30.0)
    absolute = abs(PREDICTED - MEASURED)
    assert found.mae.value == pytest.approx(reference.mean_absolute_error(MEASURED, PREDICTED))
    assert found.mse == pytest.approx(reference.mean_squared_error(MEASURED, PREDICTED))
    assert found.median_error.value == np.median(absolute)
    assert found.bias.value == pytest.approx(PREDICTED.mean() - MEASURED.mean())
    assert found.within_near.value == np.mean(absolute <= 10)
    assert found.within_tolerance.value == np.mean(absolute <= 30)
    assert found.r2
    assert found.spearman
    assert found.rae
    assert found.r2.value == pytest.approx(reference.r2_score(MEASURED, PREDICTED))
    assert found.spearman.value == pytest.approx(stats.spearmanr(MEASURED, PREDICTED).statistic)
    assert found.rae.value == pytest.approx(
        absolute.mean() / abs(MEASURED - MEASURED.mean()).mean()
    )


@pytest.mark.parametrize(
    ("tolerance", "limit"), [(30.0, 10.0), (0.7, 0.23), (20.0, 6.7), (4000.0, 1300.0)]
)
def test_the_narrow_tolerance_is_a_third_of_the_other_in_any_unit(
    tolerance: float, limit: float
) -> None:
    assert near(tolerance) == limit
    off = np.array([limit / 2, limit, limit + 0.01, tolerance + 1])
    assert measure(np.zeros(4), off, 0.0, tolerance).within_near.value == 0.5


def test_intervals_agree_with_scipys_bootstrap() -> None:
    found = measure(MEASURED, PREDICTED, 75.0, 30.0)

    def spearman(left: Floats, right: Floats) -> float:
        return float(stats.spearmanr(left, right).statistic)

    for mine, statistic in (
        (found.spearman, spearman),
        (found.r2, reference.r2_score),
        (found.rmse, reference.root_mean_squared_error),
        (found.median_error, reference.median_absolute_error),
        (found.bias, lambda measured, predicted: (predicted - measured).mean()),
    ):
        theirs = stats.bootstrap(
            (MEASURED, PREDICTED),
            statistic,
            paired=True,
            vectorized=False,
            n_resamples=600,
            method="percentile",
            rng=np.random.default_rng(0),
        ).confidence_interval
        assert mine
        width = theirs.high - theirs.low
        assert abs(mine.low - theirs.low) < 0.2 * width
        assert abs(mine.high - theirs.high) < 0.2 * width


def test_no_value_counts_as_the_fallback_and_is_told() -> None:
    found = measure(MEASURED, silent(0.5), 75.0, 30.0)
    filled = np.where(np.isnan(silent(0.5)), 75.0, PREDICTED)
    same = measure(MEASURED, filled, 0.0, 30.0)
    assert found.answered.value == 0.5
    assert 0.43 < found.answered.low < 0.5 < found.answered.high < 0.57
    assert (found.mae, found.spearman, found.r2) == (same.mae, same.spearman, same.r2)
    nothing = measure(MEASURED, silent(1.0), float(np.median(MEASURED)), 30.0)
    assert nothing.spearman
    assert (nothing.answered.high, nothing.spearman.value) == (0.0, 0.0)


def test_every_interval_holds_its_estimate_and_comes_out_the_same() -> None:
    found = measure(MEASURED, silent(0.1), 75.0, 30.0)
    assert found == measure(MEASURED, silent(0.1), 75.0, 30.0)
    for name in ("mae", "rmse", "median_error", "bias", "r2", "spearman", "rae", "within_near"):
        interval = getattr(found, name)
        assert interval.low < interval.value < interval.high, name


def test_one_molecule_and_equal_values_have_no_correlation() -> None:
    for measured in (np.array([5.0]), np.full(4, 5.0)):
        found = measure(measured, measured + 1, 0.0, 30.0)
        assert (found.r2, found.spearman, found.rae) == (None, None, None)
        assert (found.mae.low, found.mae.value, found.mae.high) == (1.0, 1.0, 1.0)
    two = measure(np.array([0.0, 1.0]), np.array([0.0, 2.0]), 0.0, 30.0)  # many draws are constant
    assert two.spearman
    assert two.spearman.value == two.spearman.low == pytest.approx(1.0)


def test_a_change_is_paired() -> None:
    noise = GENERATOR.normal(0, 50, 100)
    before, after = np.sign(noise) * (abs(noise) + 10), np.sign(noise) * (abs(noise) + 5)
    change = measure_change(before, after, 20.0)
    assert change.mae.value == pytest.approx(-5)
    assert change.mae.high - change.mae.low < 1e-9
    assert change.rmse.high < 0
    gained = np.mean(abs(after) <= 20) - np.mean(abs(before) <= 20)
    assert change.within_tolerance.value == pytest.approx(gained)
    back = measure_change(after, before, 20.0)
    assert (back.mae.low, back.mae.high) == (-change.mae.high, -change.mae.low)


def test_the_interval_covers_the_mean_about_as_often_as_it_says() -> None:
    generator = np.random.default_rng(1)
    intervals = [bootstrap(generator.normal(3.0, 2.0, 60), seed=trial) for trial in range(150)]
    covered = np.mean([interval.low <= 3.0 <= interval.high for interval in intervals])
    assert 0.88 <= covered <= 0.99
    width = np.mean([interval.high - interval.low for interval in intervals])
    assert width == pytest.approx(2 * 1.96 * 2.0 / math.sqrt(60), rel=0.1)


def test_a_large_test_set_is_drawn_in_parts() -> None:
    values = GENERATOR.normal(0, 1, 3000)
    interval = bootstrap(values)
    assert interval.high - interval.low == pytest.approx(2 * 1.96 / math.sqrt(3000), rel=0.15)
