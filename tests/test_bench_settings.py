"""A benchmark's contenders compute with the settings that they are compared by."""

from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig

from selfstudy_engine.data import devices
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.engine import bench, bench_lineup
from selfstudy_engine.engine.bench import QUICK, run_benchmark
from selfstudy_engine.engine.bench_lineup import Lineup
from selfstudy_engine.engine.bench_reference import ReferenceSettings
from selfstudy_engine.engine.server_command import engine_arguments, server_command

_GPUS = tuple(Gpu(key, f"GPU-{key}", "NVIDIA H100", 80 * 2**30, 9.0) for key in "01")


class Begun(Exception):
    """A reference would be started."""


def settings_of(key: str, config: Any, monkeypatch: pytest.MonkeyPatch) -> ReferenceSettings:
    """Return what a reference would be started with."""
    begun: list[ReferenceSettings] = []

    def reference(*args: object, settings: ReferenceSettings, **others: object) -> None:
        begun.append(settings)
        raise Begun

    monkeypatch.setattr(bench_lineup, "ReferenceContender", reference)
    lineup = Lineup(
        config,
        str(config.model.path),
        None,
        wanted={key, "4"},
        max_prompts={},
        logs=Path(),
        at_once=True,
        on_phase=lambda phase: None,
    )
    with pytest.raises(Begun), lineup:
        pass
    return begun[0]


def test_vllm_offline_gets_every_argument_of_the_server_that_it_is_compared_with(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = small_config(server__extra_args=["--kv-cache-dtype", "fp8"])
    given = settings_of("3", config, monkeypatch).engine_arguments
    assert given == engine_arguments(config, str(config.model.path))
    assert given[-2:] == ["--kv-cache-dtype", "fp8"]
    assert server_command(config, str(config.model.path), 1)[-len(given) :] == given


def test_vllm_offline_shares_the_weights_as_the_server_does(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(devices, "visible_gpus", lambda: _GPUS)
    config = small_config(devices__server="cuda:0,1")
    given = settings_of("3", config, monkeypatch).engine_arguments
    assert given[given.index("--tensor-parallel-size") + 1] == "2"
    assert settings_of("3d", config, monkeypatch).llm_arguments["tensor_parallel_size"] == 2


def test_several_copies_arent_one_llm(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM refuses them: LLM(data_parallel_size=2)."""
    monkeypatch.setattr(devices, "visible_gpus", lambda: _GPUS)
    several = small_config(server__extra_args=["--data-parallel-size", "2"])
    assert bench._impossible(several) == {"3", "7"}


def test_a_runs_servers_are_left_out_of_a_benchmark(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    """Else the places of servers that nobody starts would be asked for."""
    config = small_config(server__replicas=3, server__ray="auto", server__url=["http://h:1"])
    found = run_benchmark(
        config,
        QUICK,
        frozenset(),
        adapter_folder=None,
        dummy=False,
        logs=tmp_path,
        on_phase=lambda phase: None,
    )
    measured = found.config.server
    assert (measured.replicas, measured.ray, measured.url) == (1, "off", [])
