"""The benchmark on real vLLM: it runs, counts right, and serves what it says; not how fast."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

GPU_CHECK = Path(__file__).parent / "gpu" / "gpu_check.py"
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


def run_step(step: str, out: Path, not_measured: int = 0) -> dict[str, Any]:
    """Return what a small step of the GPU check writes, which is where its table comes from.

    Args:
        step: its name.
        out: folder of the check's results.
        not_measured: figures of the table that a CPU doesn't give.
    """
    command: list[str | Path] = [sys.executable, GPU_CHECK, out, step, "--small"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    table = (out / "table.md").read_text("utf-8")
    ends, *figures = [row for row in table.splitlines() if row.startswith(f"| {step} |")]
    assert ends.endswith("| yes |")
    measured = [row for row in figures if row.endswith("| small |")]
    assert len(measured) == len(figures) - not_measured > 0, figures
    assert (out / step / "bench.svg").stat().st_size > 1000
    found: dict[str, Any] = orjson.loads((out / step / "bench.json").read_bytes())
    return found


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the small form of the step `bench` writes."""
    return run_step("bench", tmp_path_factory.mktemp("gpu"))


def test_every_contender_gives_the_tokens_that_were_asked(content: dict[str, Any]) -> None:
    assert sorted(content["contenders"]) == ["3", "4", "5", "6", "7"]
    for facts in content["contenders"].values():
        assert facts["workloads"]["fixed"]["output_tokens"] == [4 * 8]
        assert facts["workloads"]["long"]["output_tokens"] == [1]
        assert 800 < facts["workloads"]["long"]["prompt_tokens_mean"] < 1100
        assert facts["startup_seconds"] > 1
        assert facts["peak_memory_gib"] > 0.5


def test_vllm_offline_takes_the_steps_of_a_server(tiny_model: Path) -> None:
    """Left alone, on a CPU LLM computes up to 4,096 tokens in one, and a server 2,048."""
    code = (
        "from selfstudy_engine.engine.bench_reference import as_a_server; import sys; "
        "given = ['--model', sys.argv[1]]; asked = [*given, '--max_num_batched_tokens', '1k']; "
        "print(*(as_a_server(one)['max_num_batched_tokens'] for one in (given, asked)))"
    )
    command: list[str | Path] = [sys.executable, "-c", code, tiny_model]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.splitlines()[-1] == "2048 1000"


def test_the_ratios_are_those_of_the_contenders(content: dict[str, Any]) -> None:
    def rate(key: str) -> float:
        fixed = content["contenders"][key]["workloads"]["fixed"]
        return float(fixed["output_tokens_per_second"]["median"])

    ratios = content["ratios"]
    assert ratios["merged_over_offline"] == pytest.approx(rate("5") / rate("3"))
    assert ratios["fast_lora_over_stock"] == pytest.approx(rate("7") / rate("6"))


def test_swaps_lose_nothing(content: dict[str, Any]) -> None:
    swap = content["extras"]["swap"]
    assert len(swap["seconds"]) == 3
    assert swap["seconds_median"] <= swap["seconds_worst"]
    assert swap["num_asked_under_load"] == 4
    assert swap["num_lost"] == 0


def test_an_overlapped_loop_is_watched(content: dict[str, Any]) -> None:
    overlap = content["extras"]["overlap"]
    assert 0 <= overlap["idle_share"] < 1
    assert overlap["seconds"] > 1


@pytest.mark.long
def test_a_shape_with_random_weights_is_served_by_each_engine(tmp_path: Path) -> None:
    """What `bench-7b` does, with a shape of 2 layers; a CPU's peak and memory aren't known."""
    content = run_step("bench-7b", tmp_path, not_measured=2)
    assert sorted(content["contenders"]) == ["3", "5", "6"]
    for facts in content["contenders"].values():
        assert facts["workloads"]["fixed"]["output_tokens"] == [4 * 8]
        assert facts["workloads"]["long"]["output_tokens"] == [1]
    assert content["extras"]["swap"]["num_lost"] == 0
    assert content["config"]["train"]["rank"] == 32


@pytest.mark.long
def test_four_api_servers_answer_as_one(tmp_path: Path) -> None:
    content = run_step("four-api-servers", tmp_path)
    [facts] = content["contenders"].values()
    assert facts["workloads"]["fixed"]["output_tokens"] == [4 * 8]
    log = (tmp_path / "four-api-servers" / "logs" / "server-merged.log").read_text("utf-8")
    assert set(re.findall(r"ApiServer_\d", log)) == {f"ApiServer_{i}" for i in range(4)}
