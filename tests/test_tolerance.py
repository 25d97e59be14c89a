"""Which error a round accepts at most."""

from pathlib import Path

import pytest
from samples import make_rejected, make_sample

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.tolerance import stored_tolerance, tolerance_of_round

ANNEALED = load_config(
    None,
    {
        "verdict.tolerance_rule": "quantile",
        "verdict.tolerance_quantile": 0.5,
        "verdict.min_tolerance": 8.0,
    },
)


def store_errors(folder: Path, round_index: int, errors: list[float]) -> SampleStore:
    store = SampleStore(folder)
    with store.writer(round_index) as writer:
        samples = [make_sample(f"K{i}", round=round_index, error=e) for i, e in enumerate(errors)]
        writer.add([*samples, make_rejected("R", round=round_index)])
        writer.add([make_sample("H", round=round_index, error=0.0, hinted=True)])
    return store


def test_a_fixed_tolerance_is_the_propertys(tmp_path: Path) -> None:
    store = store_errors(tmp_path, 0, [1.0, 2.0])
    assert tolerance_of_round(store, 1, RunConfig()) == 30.0


@pytest.mark.parametrize(
    ("errors", "tolerance"),
    [([10.0, -20.0, 40.0], 20.0), ([1.0, -2.0, 3.0], 8.0), ([90.0, -80.0, 70.0], 30.0), ([], 30.0)],
)
def test_a_quantile_of_the_last_rounds_errors_within_limits(
    tmp_path: Path, errors: list[float], tolerance: float
) -> None:
    store = store_errors(tmp_path, 0, errors)
    assert tolerance_of_round(store, 0, ANNEALED) == 30.0
    assert tolerance_of_round(store, 1, ANNEALED) == tolerance
    assert tolerance_of_round(store, 2, ANNEALED) == 30.0


def test_a_round_that_has_begun_keeps_its_tolerance(tmp_path: Path) -> None:
    store = store_errors(tmp_path, 0, [10.0, 20.0, 40.0])
    with store.writer(1) as writer:
        writer.add([make_sample("K0", round=1, tolerance=13.5), make_sample("K1", round=1)])
    assert tolerance_of_round(store, 1, ANNEALED) == stored_tolerance(store, 1) == 13.5
    assert stored_tolerance(store, 0) is None
