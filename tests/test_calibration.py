"""Coverage and spread bands, on answers whose truth is known."""

import numpy as np
import pytest

from selfstudy_engine.data.calibration import Calibration, calibrate
from selfstudy_engine.data.metrics import Floats


def answers(scale_of_truth: float, k: int, size: int = 1500) -> tuple[Floats, list[Floats]]:
    """Truth and k answers of normal distributions around the same centre."""
    generator = np.random.default_rng(k)
    spread = generator.uniform(1, 20, size)
    truth = generator.normal(0, scale_of_truth * spread)
    return truth, list(generator.normal(0, spread[:, None], (size, k)))


def levels(found: Calibration) -> list[float]:
    return [round(one.nominal, 3) for one in found.coverage]


@pytest.mark.parametrize(
    ("k", "expected"),
    [
        (2, [0.333]),
        (8, [0.5, 0.778]),
        (19, [0.5, 0.8, 0.9]),
        (64, [0.5, 0.8, 0.9, 0.95, 0.969]),
    ],
)
def test_exchangeable_answers_cover_what_they_promise(k: int, expected: list[float]) -> None:
    found = calibrate(*answers(1.0, k), num_answers=k)
    assert levels(found) == expected
    for one in found.coverage:
        assert one.num_molecules == 1500
        assert one.covered.low - 0.01 <= one.nominal <= one.covered.high + 0.01


def test_answers_that_agree_too_much_cover_too_little() -> None:
    found = calibrate(*answers(3.0, 19), num_answers=19)
    assert all(one.covered.high < one.nominal - 0.1 for one in found.coverage)


def test_errors_rise_with_a_spread_that_means_something() -> None:
    found = calibrate(*answers(1.0, 8), num_answers=8)
    assert [band.num_molecules for band in found.bands] == [500] * 3
    assert found.bands[0].largest <= found.bands[1].smallest
    maes = [band.mae for band in found.bands]
    assert maes[0].high < maes[1].low < maes[1].high < maes[2].low
    assert found.spearman
    assert found.spearman.low > 0.3
    truth, several = answers(1.0, 8)
    blind = calibrate(truth[::-1], several, num_answers=8)
    assert blind.spearman
    assert blind.spearman.low < 0.05


def test_figures_by_hand() -> None:
    measured = np.array([5.0, 100.0, 3.0, 7.0])
    values = [[0.0, 10.0, 20.0], [0.0, 2.0, 4.0], [1.0, 5.0], [7.0]]
    found = calibrate(measured, values, num_answers=3)
    [half] = found.coverage  # 50% is all that three answers can promise
    assert half.nominal == 0.5
    # Two answers promise a third at most, and one promises nothing.
    assert (half.num_molecules, half.covered.value, half.mean_width) == (2, 0.5, 12.0)
    assert [(b.smallest, b.largest, b.mae.value) for b in found.bands] == [
        (1.0, 1.0, 98.0),
        (1.0, 1.0, 0.0),
        (5.0, 5.0, 5.0),
    ]


def test_where_nothing_differs_there_is_no_correlation() -> None:
    found = calibrate(np.array([1.0, 2.0]), [[1.0, 1.0], [1.0, 1.0]], num_answers=2)
    assert found.spearman is None
    assert [band.num_molecules for band in found.bands] == [1, 1]
    nothing = calibrate(np.array([1.0]), [[]], num_answers=4)
    assert (nothing.coverage, nothing.bands, nothing.spearman) == ([], [], None)
