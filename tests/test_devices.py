"""Where server and training compute: GPUs found, chosen, refused, and shown to the children."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfstudy_engine.data import devices as devices_module
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.devices import place, placement_of
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import Gpu, parse_gpus, select_visible
from selfstudy_engine.data.parallel import Parallel

TABLE = """\
0, GPU-3f11, 81559, 9.0, NVIDIA H100 80GB HBM3
1, GPU-3f22, 81559, 9.0, NVIDIA H100 80GB HBM3
2, GPU-77aa, 16384, 7.5, Tesla T4, refurbished
"""
GPUS = parse_gpus(TABLE, host_bytes=7)


def keys(gpus: tuple[Gpu, ...] | list[Gpu]) -> list[str]:
    return [gpu.key for gpu in gpus]


def test_nvidia_smis_table() -> None:
    assert keys(GPUS) == ["0", "1", "2"]
    assert GPUS[0] == Gpu("0", "GPU-3f11", "NVIDIA H100 80GB HBM3", 81559 * 1024**2, 9.0)
    assert GPUS[2].name == "Tesla T4, refurbished"
    [unified] = parse_gpus("0, GPU-1, [N/A], 12.1, NVIDIA GB10", host_bytes=7)
    assert unified.memory_bytes == 7


@pytest.mark.parametrize(
    ("visible", "chosen"),
    [
        (None, ["0", "1", "2"]),
        ("", []),
        ("2,0", ["2", "0"]),
        ("1,5,0", ["1"]),  # what fits nothing hides what follows
        ("-1", []),
        ("GPU-77aa", ["2"]),
        ("GPU-7, 1", ["2", "1"]),
        ("GPU-3f", []),  # two begin like that
        ("MIG-1c", ["MIG-1c"]),
    ],
)
def test_visible_gpus_are_cudas(visible: str | None, chosen: list[str]) -> None:
    environment = {} if visible is None else {"CUDA_VISIBLE_DEVICES": visible}
    assert keys(select_visible(GPUS, environment)) == chosen


def test_a_part_of_a_gpu_has_no_known_memory() -> None:
    [part] = select_visible(GPUS, {"CUDA_VISIBLE_DEVICES": "MIG-1c"})
    assert (part.memory_bytes, part.compute_capability) == (None, 9.0)


@pytest.mark.parametrize(
    ("server", "train", "num_gpus", "served", "trained", "shared"),
    [
        ("auto", "auto", 0, [], [], False),
        ("auto", "auto", 1, ["0"], ["0"], True),
        ("auto", "auto", 2, ["0"], ["1"], False),
        ("auto", "auto", 3, ["0"], ["2"], False),
        ("cuda", "cuda", 3, ["0"], ["2"], False),
        ("cuda:1", "auto", 3, ["1"], ["2"], False),
        ("cuda:0,1", "cuda:1", 3, ["0", "1"], ["1"], True),
        ("cuda:2", "cpu", 3, ["2"], [], False),
        ("cpu", "auto", 1, [], ["0"], False),
        ("cpu", "cpu", 3, [], [], False),
    ],
)
def test_places(
    server: str, train: str, num_gpus: int, served: list[str], trained: list[str], shared: bool
) -> None:
    placement = place(server, train, GPUS[:num_gpus])
    assert (keys(placement.server), keys(placement.train)) == (served, trained)
    assert placement.shared == shared
    assert (placement.server_kind == "cuda") == bool(served)
    assert (placement.train_kind == "cuda") == bool(trained)


@pytest.mark.parametrize(
    ("train", "num_gpus", "num_processes", "trained", "number"),
    [
        ("auto", 3, None, ["1", "2"], 2),  # all but the server's
        ("auto", 1, None, ["0"], 1),
        ("auto", 3, 2, ["1", "2"], 2),
        ("auto", 3, 3, ["0", "1", "2"], 3),
        ("cuda:2,1", 3, None, ["2", "1"], 2),
        ("cuda:0,2", 3, 2, ["0", "2"], 2),
        ("cpu", 3, 4, [], 4),
        ("auto", 0, 2, [], 2),
        ("auto", 0, 1, [], 1),
    ],
)
def test_places_of_several_processes(
    train: str, num_gpus: int, num_processes: int | None, trained: list[str], number: int
) -> None:
    placement = place("auto", train, GPUS[:num_gpus], num_processes=num_processes)
    assert keys(placement.train) == trained
    assert placement.num_train_processes == number
    assert placement.shared == ("0" in trained)


@pytest.mark.parametrize(
    ("train", "num_gpus", "num_processes", "message"),
    [
        ("cuda:0,1", 3, 1, r"cuda:0,1 is 2 of cuda:0.*, for 1 processes.*--train-launcher acc"),
        ("auto", 2, 3, r"auto is 2 of cuda:0 .*, for 3 processes; name a GPU for each"),
        ("cpu", 3, None, r"how many processes .* on the CPU\? Give --num-processes"),
    ],
)
def test_a_number_that_doesnt_fit_is_refused(
    train: str, num_gpus: int, num_processes: int | None, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        place("auto", train, GPUS[:num_gpus], num_processes=num_processes)


@pytest.mark.parametrize(
    ("arguments", "served", "num_shards"),
    [
        (["--tensor-parallel-size", "3"], ["0", "1", "2"], 3),
        (["-tp=2"], ["0", "1"], 2),
        (["--data_parallel_size=2"], ["0", "1"], 1),
        (["-dp", "3", "-dp", "1"], ["0"], 1),
    ],
)
def test_a_server_takes_as_many_as_vllms_arguments_ask_for(
    arguments: list[str], served: list[str], num_shards: int
) -> None:
    placement = place("auto", "auto", GPUS, arguments)
    assert keys(placement.server) == served
    assert placement.parallel.num_shards == num_shards
    assert keys(placement.train) == ["2"]
    assert place("cpu", "cpu", [], arguments).parallel == Parallel.of(arguments)


def test_named_gpus_share_the_weights_unless_vllms_arguments_say_otherwise() -> None:
    assert place("cuda:0,2", "cpu", GPUS).parallel == Parallel(tensor=2)
    split = place("cuda:0,2", "cpu", GPUS, ["-dp", "2"])
    assert split.parallel == Parallel(data=2)


@pytest.mark.parametrize(
    ("server", "arguments", "message"),
    [
        (
            "auto",
            ["-tp", "4"],
            r"ask for 4 GPUs, and --server-device auto is 3; .*cuda:2",
        ),
        (
            "cuda:1",
            ["-tp", "2", "-dp=2"],
            r"ask for 4 GPUs, and --server-device cuda:1 is 1",
        ),
        ("auto", ["--tensor-parallel-size", "two"], r"--tensor-parallel-size 'two': give"),
        ("auto", ["-dp"], r"-dp '': give"),
        ("auto", ["--pipeline-parallel-size=0"], r"--pipeline-parallel-size '0': give"),
    ],
)
def test_another_number_of_gpus_than_asked_for_is_refused(
    server: str, arguments: list[str], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        place(server, "auto", GPUS, arguments)


@pytest.mark.parametrize(
    ("server", "arguments", "num_servers", "message"),
    [
        ("cpu", [], 2, r"--replicas 2 needs as many GPUs.*cuda:2.*a server on a CPU uses all"),
        ("auto", [], 4, "--replicas 4 needs as many GPUs, or a multiple"),
        ("cuda:0,1,2", [], 2, "--replicas 2 needs as many GPUs, or a multiple"),
        ("cuda:0,1", ["-tp", "2"], 2, "ask for 2 GPUs for each of 2 servers, and .* cuda:0,1 is 2"),
    ],
)
def test_servers_that_there_are_no_gpus_for_are_refused(
    server: str, arguments: list[str], num_servers: int, message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        place(server, "auto", GPUS, arguments, num_servers=num_servers)


@pytest.mark.parametrize(
    ("server", "train", "num_gpus", "message"),
    [
        ("cuda:3", "auto", 3, r"--server-device cuda:3 isn't there.*cuda:0 \(NVIDIA.*cuda:2 .*cpu"),
        ("auto", "cuda:1", 1, r"--train-device cuda:1 isn't there.*has cuda:0 \(.*\), cpu$"),
        ("auto", "cuda", 0, r"--train-device cuda isn't there; this machine has cpu$"),
        ("cuda:0,0", "auto", 1, "names a GPU twice"),
    ],
)
def test_what_isnt_there_is_refused(server: str, train: str, num_gpus: int, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        place(server, train, GPUS[:num_gpus])


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("devices.server", "gpu"),
        ("devices.server", "cuda:"),
        ("devices.server", "cuda:-1"),
        ("devices.train", "cuda:0;1"),
    ],
)
def test_what_is_no_device_is_refused(key: str, value: str) -> None:
    with pytest.raises(UsageError, match=key):
        load_config(None, {key: value})


@pytest.mark.parametrize(
    ("key", "value"), [("num_processes", 2), ("accelerate_config", "fsdp.yaml")]
)
def test_accelerates_settings_need_accelerate(key: str, value: object) -> None:
    with pytest.raises(UsageError, match=rf"{key} \({value}\) is for accelerate: add --train-l"):
        load_config(None, {f"devices.{key}": value})


def test_training_on_all_gpus_but_those_of_a_server_that_was_started_elsewhere_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(devices_module, "visible_gpus", lambda: GPUS)
    values = {"devices.train_launcher": "accelerate", "server.url": "http://127.0.0.1:8000"}
    with pytest.raises(UsageError, match=r"at http://127.0.0.1:8000 computes on isn't known"):
        placement_of(load_config(None, values))
    chosen = placement_of(load_config(None, values | {"devices.train": "cuda:1,2"}))
    assert chosen.train == tuple(GPUS[1:3])


def test_devices_may_change_between_two_calls_of_a_run() -> None:
    moved = load_config(None, {"devices.train": "cpu", "devices.server": "cuda:1"})
    assert moved.differences(RunConfig()) == []


def with_gpus(num: int, folder: Path) -> dict[str, str]:
    """Return an environment in which nvidia-smi lists that many GPUs."""
    lines = "".join(f"{i}, GPU-{i}, 81559, 9.0, NVIDIA H100 80GB HBM3\n" for i in range(num))
    command = folder / "nvidia-smi"
    command.write_text(f"#!/bin/sh\ncat <<'EOF'\n{lines}EOF\n")
    command.chmod(0o755)
    here = {name: value for name, value in os.environ.items() if name != "CUDA_VISIBLE_DEVICES"}
    return here | {"PATH": f"{folder}:{os.environ['PATH']}"}


@pytest.fixture
def two_gpus(tmp_path: Path) -> dict[str, str]:
    return with_gpus(2, tmp_path)


def run(code: str, environment: dict[str, str]) -> list[str]:
    """Run code in a process of its own: what there is, is asked for once a process."""
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines()


SHOW = """
import sys
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.engine.server_command import server_command, server_environment
from selfstudy_engine.engine.launching import training_environment

config = load_config(None, dict(pair.split("=") for pair in {pairs!r}))
command = server_command(config, "model", 1)
for key in "--gpu-memory-utilization", "--tensor-parallel-size", "--dtype", "--enforce-eager":
    print(key, command[command.index(key) + 1] if key in command else None)
for environment in (
    server_environment(config, "model", "key"), training_environment(placement_of(config).train)
):
    print(environment.get("CUDA_VISIBLE_DEVICES"), environment.get("CUDA_DEVICE_ORDER"))
"""


@pytest.mark.parametrize(
    ("pairs", "share", "tensor_parallel", "served", "trained"),
    [
        ([], "0.9", "None", "0", "1"),
        (["devices.server=cuda:1", "devices.train=cuda:0"], "0.9", "None", "1", "0"),
        (["devices.server=cuda:1,0", "devices.train=cpu"], "0.9", "2", "1,0", ""),
        (["server.gpu_memory_utilization=0.4"], "0.4", "None", "0", "1"),
    ],
)
def test_each_process_sees_its_own(
    pairs: list[str],
    share: str,
    tensor_parallel: str,
    served: str,
    trained: str,
    two_gpus: dict[str, str],
) -> None:
    lines = run(SHOW.format(pairs=pairs), two_gpus)
    assert lines[0] == f"--gpu-memory-utilization {share}"
    assert lines[1] == f"--tensor-parallel-size {tensor_parallel}"
    assert lines[2:4] == ["--dtype bfloat16", "--enforce-eager None"]
    assert lines[4:] == [f"{served} PCI_BUS_ID", f"{trained} PCI_BUS_ID"]


REPLICAS = """
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.devices import placement_of, replica_configs
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.launching import launch_of

class Server:
    endpoint, public, stop = Endpoint("http://127.0.0.1:1", ""), None, lambda self: None
    def start(self):
        print("started beside the training")

config = load_config(None, {values!r})
print("trains on", launch_of(config).environment["CUDA_VISIBLE_DEVICES"])
for each in replica_configs(config):
    placement = placement_of(each)
    for gpus in placement.server, placement.train:
        print(*(gpu.key for gpu in gpus), end="; ")
    print(placement.parallel.num_shards, placement.shared)
with Connection(config, "tiny", [Server()]):
    pass
"""


@pytest.mark.parametrize(
    ("values", "num_gpus", "trained", "replicas", "starts_at_once"),
    [
        ({}, 2, "1", ["0; 1; 1 False", "1; 1; 1 True"], False),
        ({}, 3, "2", ["0; 2; 1 False", "1; 2; 1 False"], True),
        ({"devices.train": "cpu"}, 2, "", ["0; ; 1 False", "1; ; 1 False"], True),
        (
            {"devices.train_launcher": "accelerate"},
            4,
            "2,3",
            ["0; 2 3; 1 False", "1; 2 3; 1 False"],
            True,
        ),
        (
            {
                "devices.server": "cuda:0,1,2,3",
                "server.extra_args": ["--tensor-parallel-size", "2"],
            },
            4,
            "3",
            ["0 1; 3; 2 False", "2 3; 3; 2 True"],
            False,
        ),
        ({"devices.server": "cuda:3,1,2,0"}, 5, "4", ["3 1; 4; 2 False", "2 0; 4; 2 False"], True),
    ],
)
def test_servers_and_training_know_of_each_other(
    values: dict[str, object],
    num_gpus: int,
    trained: str,
    replicas: list[str],
    starts_at_once: bool,
    tmp_path: Path,
) -> None:
    code = REPLICAS.format(values={"server.replicas": 2, **values})
    lines = run(code, with_gpus(num_gpus, tmp_path))
    started = ["started beside the training"] if starts_at_once else []
    assert lines == [f"trains on {trained}", *replicas, *started]


@pytest.mark.parametrize(
    "elsewhere", [{"server.ray": "auto"}, {"server.url": "http://127.0.0.1:1"}], ids=["ray", "url"]
)
def test_servers_elsewhere_take_no_gpus_here(
    elsewhere: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cluster's first machine may have fewer than a server on its others."""
    monkeypatch.setattr(devices_module, "visible_gpus", lambda: GPUS[:1])
    values = elsewhere | {"server.extra_args": ["--tensor-parallel-size", "4"]}
    assert placement_of(load_config(None, values)).train == tuple(GPUS[:1])
    here = {"server.extra_args": values["server.extra_args"]}
    with pytest.raises(UsageError, match="ask for 4 GPUs"):
        placement_of(load_config(None, here))


def test_numbers_count_what_is_visible(two_gpus: dict[str, str]) -> None:
    environment = two_gpus | {"CUDA_VISIBLE_DEVICES": "1"}
    lines = run(SHOW.format(pairs=["devices.train=cpu"]), environment)
    assert lines[4:] == ["1 PCI_BUS_ID", " PCI_BUS_ID"]


def test_a_process_that_sees_no_gpu_computes_on_the_cpu(two_gpus: dict[str, str]) -> None:
    code = "from selfstudy_engine.data.hardware import device; print(device())"
    assert run(code, two_gpus) == ["cuda"]
    assert run(code, two_gpus | {"CUDA_VISIBLE_DEVICES": ""}) == ["cpu"]


@pytest.mark.parametrize("command", ["loop", "train"])
def test_the_command_line_refuses_with_what_is_there(
    command: str, two_gpus: dict[str, str], tmp_path: Path
) -> None:
    servers = tmp_path / "run.toml"
    # which `train` doesn't start
    servers.write_text('server.replicas = 4\nserver.extra_args = ["--tensor-parallel-size", "2"]')
    folder = {"loop": ["--runs", "runs"], "train": ["--out", "adapter", "--config", str(servers)]}[
        command
    ]
    arguments = [command, *folder, "--train-device", "cuda:2"]
    result = subprocess.run(
        [sys.executable, "-m", "selfstudy_engine.cli", *arguments],
        env=two_gpus,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 2
    assert "cuda:2 isn't there; this machine has cuda:0" in result.stderr
    assert not (tmp_path / "runs").exists()
