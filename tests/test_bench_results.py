"""What a benchmark writes: every turn, and ratios within one."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import MakeConfig

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.engine.bench_chart import save_chart
from selfstudy_engine.engine.bench_lineup import LABELS
from selfstudy_engine.engine.bench_results import Results, save_results
from selfstudy_engine.engine.bench_workloads import Measurement


def measurement(seconds: float, num_tokens: int = 100) -> Measurement:
    return Measurement(
        seconds=seconds,
        num_prompts=10,
        num_completions=10,
        num_output_tokens=num_tokens,
        num_prompt_tokens=100,
        num_accepted_distinct=3,
        idle_share=None,
        prefix_hit_share=None,
    )


@pytest.fixture
def results(small_config: MakeConfig) -> Results:
    found = Results({"host": {"processor": "test", "num_cpus": 2}}, small_config())
    for key, factor in (("1", 100.0), ("3", 1.0), ("5", 1.25)):
        found.contenders[key] = {"label": LABELS[key], "startup_seconds": 1.0}
        for turn in (1.0, 2.0, 8.0):  # the machine slows down: the ratio within a turn stays
            for workload in ("fixed", "real"):
                found.measurements[workload][key].append(measurement(turn * factor))
    return found


def test_ratios_are_medians_of_those_within_a_turn(results: Results) -> None:
    ratios = results.ratios()
    assert ratios["merged_over_offline"] == pytest.approx(0.8)
    assert ratios["engine_over_original"] == pytest.approx(80)
    assert "fast_lora_over_stock" not in ratios, "what wasn't measured isn't there"
    results.extras["swap"] = {"seconds_median": 0.5, "seconds_worst": 0.7}
    assert results.ratios()["swap_seconds_worst"] == 0.7


def test_a_benchmark_that_is_not_over_can_be_saved(results: Results, tmp_path: Path) -> None:
    results.measurements["fixed"]["3"].append(measurement(8.0))  # the others' turn is to come
    save_results(results, tmp_path / "bench.json")
    content: dict[str, Any] = orjson.loads((tmp_path / "bench.json").read_bytes())
    assert content["ratios"]["merged_over_offline"] == pytest.approx(0.8)
    turns = content["contenders"]["3"]["workloads"]["fixed"]["output_tokens_per_second"]["turns"]
    assert len(turns) == 4


def test_the_document_has_every_turn(results: Results, tmp_path: Path) -> None:
    save_results(results, tmp_path / "out" / "bench.json")
    content: dict[str, Any] = orjson.loads((tmp_path / "out" / "bench.json").read_bytes())
    fixed = content["contenders"]["3"]["workloads"]["fixed"]["output_tokens_per_second"]
    assert fixed == {"median": 50, "low": 12.5, "high": 100, "turns": [100, 50, 12.5]}
    assert content["ratios"] == pytest.approx(results.ratios())
    assert content["command"].startswith("selfstudy-engine")
    assert RunConfig.model_validate(content["config"]) == results.config


def test_the_chart_names_host_and_contenders(results: Results, tmp_path: Path) -> None:
    save_chart(results, tmp_path / "bench")
    svg = (tmp_path / "bench.svg").read_text("utf-8")
    assert "our server, merged adapter" in svg
    assert "test, 2 CPUs" in svg
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")
