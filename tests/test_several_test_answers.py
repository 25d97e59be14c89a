"""A loop that asks its test set several times: the median counts, wherever the run is measured."""

import statistics
from pathlib import Path

import pytest
from conftest import MakeConfig, QuietReporter, loop
from fake_vllm import FakeVllm
from test_evaluate import LABEL, asked, compared, of_run

from selfstudy_engine.data.config import override
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.evaluations import load_evaluation
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.engine.ablation_table import describe_study
from selfstudy_engine.engine.ablations import run_ablations
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import load_records

NUM_TESTED = 6


def wander(prompt: str, adapter: str, index: int) -> str:
    """Answers whose median is the second, and one without a value."""
    return " Who knows?" if index == 3 else f" Because {index}.{LABEL} {(40, 200, 60)[index]}"


@pytest.fixture(scope="module")
def run(small_config: MakeConfig, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    runs = tmp_path_factory.mktemp("several")
    with FakeVllm() as fake:
        fake.script = wander
        loop(small_config(test_answers=4, rounds=1), runs, fake)
        tests = [r for r in asked(fake) if r.body["n"] == 4]
        assert {request.body["temperature"] for request in tests} == {0.7}
        assert len(tests) >= 2 * NUM_TESTED
        assert not [r for r in asked(fake) if r.body["temperature"] == 0]
    return RunFolder(runs / "test")


def test_the_median_counts_and_all_values_are_kept(run: RunFolder) -> None:
    answers = load_evaluation(run.evaluation(1))
    assert {(one.predicted, one.values, one.num_answers) for one in answers} == {
        (60.0, (40.0, 200.0, 60.0), 4)
    }
    assert {one.reason for one in answers} == {"Because 2."}
    assert all(one.adapter_sha256 for one in answers)
    tested = [one for one in answers if one.split == "test"]
    mae = statistics.mean(abs(one.measured - 60) for one in tested)
    assert load_records(run)[1].test_mae.value == pytest.approx(mae)


def test_evaluate_takes_what_the_run_has_kept_and_holds_greedy_answers_against_it(
    run: RunFolder, fake: FakeVllm
) -> None:
    fake.script = wander
    found = of_run(run, fake)
    assert fake.requests == []
    assert found["asked"] == "median of 4 answers"
    assert found["calibration"]["num_answers"] == 4
    greedy = of_run(run, fake, "--samples", 1)
    assert greedy["asked"] == "greedy"
    assert len(asked(fake)) == NUM_TESTED
    assert "round 1, median of 4 answers" in compared(greedy)
    of_run(run, fake, "--temperature", 0.9)  # kept ones were drawn at another
    assert len(asked(fake)) == 2 * NUM_TESTED
    assert asked(fake)[-1].body["temperature"] == 0.9


def test_reasons_are_swapped_against_what_the_own_reason_leads_to(
    run: RunFolder, fake: FakeVllm
) -> None:
    """The run's medians are of four reasons, one of which is put in."""
    fake.script = lambda prompt, adapter, index: f" {len(prompt) % 50}"
    of_run(run, fake, "--samples", 1, "--swap-reasons")
    given = [r for r in asked(fake) if r.body["prompt"].endswith(LABEL)]
    assert len(given) == 2 * NUM_TESTED
    assert {request.body["n"] for request in given} == {1}


def test_ablations_are_measured_alike(run: RunFolder, fake: FakeVllm) -> None:
    fake.script = wander
    config = override(read_config(run), {"server.url": fake.url})
    study = run_ablations(run, config, QuietReporter(), fake.api_key, only=["exemplars-only"])
    assert fake.requests == [], "both are the run's own"
    assert {row.metrics.mae.value for row in study.rows[:2]} == {
        load_records(run)[1].test_mae.value
    }
    assert "the same 6 test molecules 4 times (median)" in describe_study(study)


def test_several_answers_at_temperature_nought_are_refused(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    config = small_config(
        test_answers=2, generation__temperature=0, generation__samples_per_molecule=1
    )
    with pytest.raises(UsageError, match="2 answers at temperature 0 would be all alike"):
        run_loop(config, tmp_path, QuietReporter())
    assert not (tmp_path / "test").exists()
