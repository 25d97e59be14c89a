"""The benchmark on real vLLM: it runs, counts right, and serves what it says; not how fast."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest

GPU_CHECK = Path(__file__).parent / "gpu" / "gpu_check.py"
pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a small step of the GPU check writes, which is where its table comes from."""
    out = tmp_path_factory.mktemp("gpu")
    command = [sys.executable, GPU_CHECK, out, "bench", "--small"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "merged_over_offline" in result.stdout
    table = (out / "table.md").read_text("utf-8")
    measured = [row for row in table.splitlines() if row.startswith("| bench |")]
    assert len([row for row in measured if row.endswith("| small |")]) == len(measured) - 1 > 4
    assert (out / "bench" / "bench.svg").stat().st_size > 1000
    found: dict[str, Any] = orjson.loads((out / "bench" / "bench.json").read_bytes())
    return found


def test_every_contender_gives_the_tokens_that_were_asked(content: dict[str, Any]) -> None:
    assert sorted(content["contenders"]) == ["3", "4", "5", "6", "7"]
    for facts in content["contenders"].values():
        assert facts["workloads"]["fixed"]["output_tokens"] == [4 * 8]
        assert facts["workloads"]["long"]["output_tokens"] == [1]
        assert 800 < facts["workloads"]["long"]["prompt_tokens_mean"] < 1100
        assert facts["startup_seconds"] > 1
        assert facts["peak_memory_gib"] > 0.5


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
