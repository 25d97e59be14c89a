"""The benchmark on real vLLM: it runs, counts right, and serves what it says; not how fast."""

import subprocess
import sys
from typing import Any

import orjson
import pytest

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    out = tmp_path_factory.mktemp("bench")
    command = [sys.executable, "-m", "selfstudy_engine.cli", "bench", "--quick", "--out", str(out)]
    command += ["--only", "3,4,5,6,7,swap,overlap", "--prompts", "4", "--tokens", "8"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr
    assert "merged_over_offline" in result.stdout
    assert (out / "bench.svg").stat().st_size > 1000
    found: dict[str, Any] = orjson.loads((out / "bench.json").read_bytes())
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
