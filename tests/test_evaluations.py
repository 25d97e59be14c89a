"""Metrics against values worked out by hand, and the bootstrap's intervals."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import make_evaluated

from selfstudy_engine.data.errors import StoreError
from selfstudy_engine.data.evaluations import (
    commonest_value,
    compute_metrics,
    errors_of,
    load_evaluation,
    paired_change,
    paired_difference,
    save_evaluation,
)
from selfstudy_engine.data.metrics import Metrics

ANSWERS = [
    make_evaluated("D", 30.0, 26.0),
    make_evaluated("A", 0.0, 3.0),
    make_evaluated("C", 20.0, 20.0),
    make_evaluated("B", 10.0, None),
]


def metrics_of(tolerance: float = 4.0) -> Metrics:
    metrics = compute_metrics(ANSWERS, "test", fallback=15.0, tolerance=tolerance)
    assert metrics is not None
    return metrics


def test_errors_stand_by_molecule_and_no_answer_counts_as_the_fallback() -> None:
    assert errors_of(ANSWERS, "test", 15.0).tolist() == [3.0, 5.0, 0.0, -4.0]
    assert errors_of(ANSWERS, "train", 15.0).tolist() == []


def test_metrics_by_hand() -> None:
    metrics = metrics_of()
    assert (metrics.num_molecules, metrics.answered.value) == (4, 0.75)
    assert metrics.mae.value == 3.0
    assert metrics.mse == pytest.approx(12.5)
    assert metrics.rmse.value == pytest.approx(math.sqrt(12.5))
    assert metrics.median_error.value == 3.5
    assert metrics.r2
    assert metrics.r2.value == pytest.approx(1 - 50 / 500)
    assert metrics.within_tolerance.value == 0.75
    assert metrics_of(tolerance=3.9).within_tolerance.value == 0.5


def test_intervals_hold_the_estimate_and_come_out_the_same() -> None:
    metrics = metrics_of()
    for interval in (metrics.mae, metrics.rmse):
        assert interval.low < interval.value < interval.high
    assert metrics == metrics_of()


def test_splits_are_apart_and_an_empty_one_is_none() -> None:
    trained = replace(ANSWERS[0], split="train", predicted=30.0)
    both = [*ANSWERS, trained]
    metrics = compute_metrics(both, "train", 15.0, 4.0)
    assert metrics is not None
    assert (metrics.num_molecules, metrics.mae.value) == (1, 0.0)
    assert metrics.r2 is None
    assert compute_metrics(ANSWERS, "train", 15.0, 4.0) is None
    assert compute_metrics(both, "test", 15.0, 4.0) == metrics_of()


def test_a_model_that_never_answers_has_the_medians_error() -> None:
    silent = [replace(answer, predicted=None) for answer in ANSWERS]
    metrics = compute_metrics(silent, "test", 15.0, 4.0)
    assert metrics is not None
    assert (metrics.answered.value, metrics.mae.value) == (0.0, 10.0)
    assert metrics.r2
    assert metrics.spearman
    assert (metrics.r2.value, metrics.spearman.value) == (0.0, 0.0)


def test_the_commonest_value_is_one_of_the_test_sets() -> None:
    trained = [replace(make_evaluated(key, 1.0, 3.0), split="train") for key in "XYZ"]
    answers = [*(make_evaluated("E", 5.0, 26.0),) * 4, *ANSWERS * 4, *trained * 9]
    assert commonest_value(answers) == (26.0, 0.4)
    assert commonest_value(answers[1:]) is None, "19 molecules"
    assert commonest_value([make_evaluated("A", 0.0, None)] * 20 + trained) is None
    assert commonest_value([]) is None


def test_a_paired_difference_is_negative_where_the_later_one_is_better() -> None:
    better = [replace(answer, predicted=answer.measured + 1) for answer in reversed(ANSWERS)]
    change = paired_difference(ANSWERS, better, 15.0)
    assert change.value == 1.0 - 3.0
    back = paired_difference(better, ANSWERS, 15.0)
    assert (back.value, back.low, back.high) == (2.0, -change.high, -change.low)
    none = paired_difference(ANSWERS, ANSWERS, 15.0)
    assert (none.value, none.low, none.high) == (0.0, 0.0, 0.0)


def test_pairing_is_narrower_than_two_intervals() -> None:
    generator = np.random.default_rng(0)
    noise = generator.normal(0, 50, 100)
    before = [make_evaluated(f"{i:03d}", 0.0, abs(x) + 10) for i, x in enumerate(noise)]
    after = [make_evaluated(f"{i:03d}", 0.0, abs(x) + 5) for i, x in enumerate(noise)]
    change = paired_difference(before, after, 0.0)
    assert change.value == pytest.approx(-5)
    assert change.high - change.low < 1e-6


def test_what_both_were_asked_about_is_paired() -> None:
    """A row that was withdrawn for a while is missing from the evaluations before."""
    better = [replace(answer, predicted=answer.measured + 1) for answer in ANSWERS]
    change = paired_difference(ANSWERS, better[:3], 15.0)
    assert change == paired_difference(ANSWERS[:3], better[:3], 15.0)
    assert change != paired_difference(ANSWERS, better, 15.0)
    with pytest.raises(ValueError, match="no test molecule in common"):
        paired_difference(ANSWERS[:2], ANSWERS[2:], 15.0)
    # Trained-on molecules differ from round to round and don't matter.
    trained = replace(ANSWERS[0], split="train", molecule_id="Z")
    assert paired_difference(ANSWERS, [*ANSWERS, trained], 15.0).value == 0.0


def test_a_paired_change_speaks_of_all_that_is_compared() -> None:
    better = [replace(answer, predicted=answer.measured + 1) for answer in ANSWERS]
    change = paired_change(ANSWERS, better, 15.0, tolerance=4.0)
    assert change.mae == paired_difference(ANSWERS, better, 15.0)
    assert change.rmse.value == pytest.approx(1 - math.sqrt(12.5))
    assert change.within_tolerance.value == 0.25  # the unanswered one was 5 off


def test_answers_read_back(tmp_path: Path) -> None:
    path = tmp_path / "round-0000.parquet"
    save_evaluation(path, ANSWERS)
    assert load_evaluation(path) == ANSWERS
    save_evaluation(path, [])
    assert load_evaluation(path) == []
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_several_answers_read_back_with_their_spread(tmp_path: Path) -> None:
    several = replace(ANSWERS[0], values=(20.0, 26.0, 32.0), num_answers=4, adapter_sha256="ab")
    path = tmp_path / "answers.parquet"
    save_evaluation(path, [several, ANSWERS[1]])
    assert load_evaluation(path) == [several, ANSWERS[1]]
    assert several.spread == 3.0
    assert ANSWERS[1].spread is None


@pytest.mark.parametrize("length", [0, 10, -10])
def test_a_damaged_file_is_named(tmp_path: Path, length: int) -> None:
    path = tmp_path / "round-0000.parquet"
    save_evaluation(path, ANSWERS)
    path.write_bytes(path.read_bytes()[:length])
    with pytest.raises(StoreError, match=r"round-0000.parquet is damaged \(.*\); restore it"):
        load_evaluation(path)
    pq.write_table(pa.table({"other": [1]}), path)
    with pytest.raises(StoreError, match="is damaged"):
        load_evaluation(path)
    path.unlink()
    with pytest.raises(FileNotFoundError):
        load_evaluation(path)


def test_files_of_earlier_versions_can_be_read(tmp_path: Path) -> None:
    path = tmp_path / "round-0000.parquet"
    save_evaluation(path, ANSWERS)
    old = ["split", "molecule_id", "name", "smiles", "measured", "predicted", "reason"]
    table = pq.read_table(path).select([*old, "completion"])
    pq.write_table(table, path)
    assert load_evaluation(path) == ANSWERS
