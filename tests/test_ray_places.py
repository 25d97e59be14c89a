"""What is asked of a Ray cluster, and what is said where it can't be had; without a cluster."""

import errno
import os
import socket
import sys
from pathlib import Path
from typing import cast

import pytest
from click.testing import CliRunner
from conftest import MakeAdapter, MakeConfig
from ray.exceptions import RayTaskError

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.adapter_transfer import pack_adapter, unpack_adapter
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.devices import replica_configs
from selfstudy_engine.data.errors import AdapterError, ServerError, UsageError
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE
from selfstudy_engine.engine.ray_cluster import RayCluster, fits, server_needs, training_needs
from selfstudy_engine.engine.ray_server import RayServer
from selfstudy_engine.engine.ray_session import _secrets_hidden, ray_session

CPU, GPU = {"CPU": 1.0}, {"CPU": 1.0, "GPU": 1.0}


def test_an_adapter_arrives_as_it_was_sent(make_adapter: MakeAdapter, tmp_path: Path) -> None:
    sent = make_adapter("a")
    arrived = unpack_adapter(pack_adapter(sent.folder), tmp_path / "there", sent.sha256)
    assert arrived.folder == tmp_path / "there"
    assert (arrived.name, arrived.sha256, arrived.canary) == (sent.name, sent.sha256, sent.canary)
    assert pack_adapter(arrived.folder) == pack_adapter(sent.folder)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("adapter_model.safetensors", b"other bytes", "SHA-256 differs"),
        ("../elsewhere", b"", "outside of its folder"),
    ],
)
def test_an_adapter_that_arrives_otherwise_is_not_there(
    make_adapter: MakeAdapter, tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    sent = make_adapter("a")
    files = pack_adapter(sent.folder) | {name: content}
    with pytest.raises(AdapterError, match=message):
        unpack_adapter(files, tmp_path / "there" / "a", sent.sha256)
    assert not list((tmp_path / "there").iterdir())
    assert not (tmp_path / "there" / "elsewhere").exists()


def test_another_adapter_than_the_one_that_was_sent_is_refused(
    make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    first, second = make_adapter("a"), make_adapter("b", logprob=-3.0)
    with pytest.raises(AdapterError, match=f"SHA-256 {second.sha256}, sent was {first.sha256}"):
        unpack_adapter(pack_adapter(second.folder), tmp_path / "there", first.sha256)
    assert not (tmp_path / "there").exists()


def test_what_a_nodes_disk_refuses_is_its_servers_failure(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """So that the others go on, and the message names it."""
    full = OSError(errno.ENOSPC, "No space left on device", "/tmp/a")

    def refuse(*arguments: object, **options: object) -> None:
        raise RayTaskError("take_adapter", "its traceback", full)

    monkeypatch.setattr("ray.get", refuse)
    server = RayServer(cast(RayCluster, None), 1, tmp_path / "server.log")
    with pytest.raises(ServerError, match="server 1 of the Ray cluster: /tmp/a: No space left on"):
        server._ask(None, 1)


@pytest.mark.parametrize(
    ("nodes", "num_servers", "server", "training", "holds"),
    [
        ([CPU, CPU, CPU], 2, CPU, CPU, True),
        ([CPU, CPU], 2, CPU, CPU, False),
        ([{"CPU": 8.0}], 2, CPU, {}, False),  # a node to itself
        ([{"CPU": 8.0, "GPU": 3.0}], 2, GPU, GPU, True),
        ([{"CPU": 8.0, "GPU": 2.0}], 2, GPU, GPU, False),
        ([{"CPU": 8.0, "GPU": 2.0}], 2, GPU, CPU, True),
        ([GPU, GPU, GPU, GPU], 2, {"CPU": 1, "GPU": 2}, {}, False),  # not across nodes
        ([{"CPU": 4.0, "GPU": 4.0}], 2, {"CPU": 1, "GPU": 2}, {}, True),
    ],
)
def test_what_fits(
    nodes: list[dict[str, float]],
    num_servers: int,
    server: dict[str, float],
    training: dict[str, float],
    holds: bool,
) -> None:
    assert fits(nodes, num_servers, server, training) == holds


def test_a_server_has_as_many_gpus_as_its_model_is_cut_into() -> None:
    config = load_config(None, {"server.extra_args": ["--tensor-parallel-size", "4"]})
    assert server_needs(config, has_gpus=True) == {"CPU": 1, "GPU": 4}
    assert server_needs(config, has_gpus=False) == training_needs(config, has_gpus=False) == CPU
    assert training_needs(config, has_gpus=True) == GPU
    on_cpu = load_config(None, {"devices.server": "cpu", "devices.train": "cpu"})
    assert server_needs(on_cpu, has_gpus=True) == training_needs(on_cpu, has_gpus=True) == CPU


@pytest.mark.parametrize("device", ["cuda", "cuda:1"])
def test_gpus_are_rays_to_choose(device: str) -> None:
    config = load_config(None, {"devices.server": device, "devices.train": device})
    for needs, flag in ((server_needs, "--server-device"), (training_needs, "--train-device")):
        with pytest.raises(UsageError, match=f"{flag} {device}: with --ray, Ray chooses"):
            needs(config, has_gpus=True)


def test_several_servers_on_one_machine_need_gpus(small_config: MakeConfig) -> None:
    config = small_config()
    assert replica_configs(config) == [config]
    with pytest.raises(UsageError, match=r"--replicas 2 needs as many GPUs.* has cpu.*--ray"):
        replica_configs(small_config(server__replicas=2, devices__server="cpu"))


def test_a_dry_run_says_who_places_what(table: Path, tmp_path: Path) -> None:
    options = ["--table", str(table), "--test-size", "6", "--runs", str(tmp_path)]
    command = ["loop", "--dry-run", "--ray", "auto", "--replicas", "3", *options]
    result = CliRunner().invoke(cli, command, catch_exceptions=False)
    assert "# Ray (auto) places training, and servers: 3" in result.output
    assert "serves on" not in result.output


@pytest.mark.parametrize("address", ["ray://head:10001", "head", "", "http://head:6379"])
def test_an_address_that_is_none_is_refused(address: str) -> None:
    with pytest.raises(UsageError, match=r"server\.ray"):
        load_config(None, {"server.ray": address})


def test_ray_is_asked_for_by_its_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with (
        pytest.raises(UsageError, match=r"pip install 'selfstudy-engine\[ray\]'"),
        ray_session("auto"),
    ):
        pass


def test_a_cluster_that_nobody_reaches_is_named() -> None:
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{closed.getsockname()[1]}"
    with (
        pytest.raises(UsageError, match=f"Ray cluster at {address} .*refused.*ray start --head"),
        ray_session(address),
    ):
        pass


def test_what_ray_starts_here_gets_no_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SERVER_KEY_VARIABLE, "secret")
    with _secrets_hidden():
        assert SERVER_KEY_VARIABLE not in os.environ
    assert os.environ[SERVER_KEY_VARIABLE] == "secret"
