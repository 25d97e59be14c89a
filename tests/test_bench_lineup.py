"""Who takes part in a benchmark, on which device, with how much of its memory."""

from pathlib import Path
from typing import Any, Self

import pytest
from conftest import MakeConfig

from selfstudy_engine.data import devices
from selfstudy_engine.data.devices import Placement
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.engine import bench_lineup
from selfstudy_engine.engine.bench import _impossible
from selfstudy_engine.engine.bench_lineup import Lineup, share_gpu


class Started:
    """Takes the place of a contender's process: what it would get."""

    process = 0

    def __init__(self, key: str, label: str, **given: Any) -> None:
        self.key, self.label, self.given = key, label, given

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_ready(self) -> None:
        pass


def test_the_servers_device_decides_what_is_possible(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu("0", "GPU-0", "NVIDIA H100", 80 * 2**30, 9.0)
    monkeypatch.setattr(devices, "visible_gpus", lambda: (gpu,))
    assert _impossible(small_config()) == {"7"}
    assert _impossible(small_config(devices__server="cpu")) == set()


@pytest.mark.parametrize(("device", "visible"), [("cuda:1", "1"), ("cpu", ""), ("auto", "0")])
def test_references_compute_where_the_servers_do(
    small_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    device: str,
    visible: str,
) -> None:
    """And they trust the same code."""
    gpus = tuple(Gpu(key, f"GPU-{key}", "NVIDIA H100", 80 * 2**30, 9.0) for key in "01")
    monkeypatch.setattr(devices, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(bench_lineup, "ReferenceContender", Started)
    config = small_config(devices__server=device, model__trust_remote_code=True)
    with Lineup(
        config,
        str(config.model.path),
        None,
        wanted={"1", "2", "3", "3d"},
        max_prompts={},
        logs=tmp_path,
        at_once=True,
        on_phase=lambda phase: None,
    ) as lineup:
        started: Any = lineup.contenders
        assert {
            one.key: one.given["environment"]["CUDA_VISIBLE_DEVICES"] for one in started
        } == dict.fromkeys(("1", "2", "3", "3d"), visible)
        assert all(one.given["settings"].trust_remote_code for one in started)
        for one in started:
            assert one.given["environment"].get("VLLM_USE_FLASHINFER_SAMPLER", "0") == "0"


def test_vllms_own_way_on_a_gpu_is_all_there_is(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its workers know no other, and say so with an error."""
    gpu = Gpu("0", "GPU-0", "NVIDIA H100", 80 * 2**30, 9.0)
    adapter: Any = object()
    called: list[Any] = []

    class Asked:
        def swap_to(self, wanted: object) -> None:
            called.append(wanted)

        def use_fast_lora(self, enabled: bool) -> None:
            called.append(enabled)

        def reset_prefix_cache(self) -> None:
            """Nothing is cached."""

    for placement, expected in (
        (Placement((gpu,), (gpu,)), [adapter]),
        (Placement((), ()), [False, adapter]),
    ):
        monkeypatch.setattr(bench_lineup, "placement_of", lambda config, found=placement: found)
        called.clear()
        lineup = Lineup(
            small_config(),
            str(small_config().model.path),
            adapter,
            wanted={"6"},
            max_prompts={},
            logs=tmp_path,
            at_once=True,
            on_phase=lambda phase: None,
        )
        asked: Any = Asked()
        lineup._add_runtime(asked, 1, 1.0)
        lineup.contenders[0].prepare()
        assert called == expected


@pytest.mark.parametrize(
    ("wanted", "share"),
    [({"3", "4", "5", "6"}, 0.283), ({"4", "5"}, 0.85), ({"1", "2", "3", "5"}, 0.399)],
)
def test_engines_share_a_gpu(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, wanted: set[str], share: float
) -> None:
    """Each gets its KV cache in bytes, so that all can start at once."""
    gpu = Gpu("0", "GPU-0", "NVIDIA H100", 80 * 2**30, 9.0)
    monkeypatch.setattr(bench_lineup, "placement_of", lambda config: Placement((gpu,), (gpu,)))
    config = small_config(server__extra_args=["--seed", "1"])
    shared, arguments = share_gpu(config, str(config.model.path), wanted)
    assert shared.server.gpu_memory_utilization == arguments["gpu_memory_utilization"] == share
    flag, cache, *others = shared.server.extra_args
    assert (flag, others) == ("--kv-cache-memory-bytes", ["--seed", "1"])
    assert int(cache) == arguments["kv_cache_memory_bytes"]
    assert 0 < share * 80 - int(cache) / 2**30 - 2 < 0.1, "2 GiB and a tiny model"


def test_engines_that_dont_fit_a_gpu_are_refused(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu("0", "GPU-0", "NVIDIA T4", 4 * 2**30, 9.0)
    monkeypatch.setattr(bench_lineup, "placement_of", lambda config: Placement((gpu,), (gpu,)))
    config = small_config()
    with pytest.raises(UsageError, match=r"4 engines of 2\.\d GiB .* GPU of 4\.0 GiB.*--only"):
        share_gpu(config, str(config.model.path), {"3", "3d", "4", "6"})
    with pytest.raises(UsageError, match=r"1 engines .* beside transformers' 2\.\d GiB"):
        share_gpu(config, str(config.model.path), {"2", "4"})
