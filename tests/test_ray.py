"""A loop on a Ray cluster: three nodes on loopback, fakes in vLLM's place, real trainings.

What a real vLLM does there is in test_real_ray.py.
"""

import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import ray
from conftest import MakeAdapter, MakeConfig, QuietReporter
from fake_vllm import made_up_number
from ray_nodes import ADDRESSES, HERE, RayNodes
from samples import make_sample

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import ServerDiedError, UsageError
from selfstudy_engine.data.exemplars import to_lines
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.shards import set_aside
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import configured_exemplars
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.ray_cluster import RayCluster
from selfstudy_engine.engine.ray_server import RayServer
from selfstudy_engine.engine.ray_training import RayTraining
from selfstudy_engine.engine.training import TimeLimits

HEAD = ADDRESSES[0]
NOWHERE = {"num_cpus": 999}
"""No node has so many."""
pytestmark = pytest.mark.long  # three Ray nodes, and trainings in processes of their own: minutes


@pytest.fixture(scope="module")
def nodes() -> Iterator[RayNodes]:
    with RayNodes(HERE / "fake_node") as started:
        yield started


class Misfortunes(QuietReporter):
    """Kills a node in the first round, and a server in the first swap after it that may be hit.

    Args:
        nodes: those.
        num_answers: after which the node dies.
        swap_seconds: after which the server dies.
        may_hit: whether a swap may be hit.
    """

    def __init__(
        self,
        nodes: RayNodes,
        num_answers: int,
        swap_seconds: float,
        may_hit: Callable[[], bool] = lambda: True,
    ) -> None:
        super().__init__()
        self._nodes, self._num_answers, self._swap_seconds = nodes, num_answers, swap_seconds
        self._may_hit = may_hit
        self.killed: list[str] = []

    def phase(self, name: str, total: int | None = None) -> None:
        super().phase(name, total)
        if name.startswith("swap to") and len(self.killed) == 1 and self._may_hit():
            threading.Timer(self._swap_seconds, self._kill_server).start()

    def advance(self, done: int, detail: str = "") -> None:
        if "generate" in self.phases[-1] and not self.killed and done >= self._num_answers:
            [victim, *_] = sorted(self._nodes.servers().keys() - {HEAD})
            self.killed.append(victim)
            self._nodes.kill(victim)

    def _kill_server(self) -> None:
        host, process = sorted(self._nodes.servers().items())[-1]
        self.killed.append(host)
        os.killpg(process.pid, signal.SIGKILL)


def check_whole(folder: RunFolder, num_samples: int, staleness: int = 0) -> None:
    samples = list(SampleStore(folder.samples).samples())
    assert len(samples) == len({sample.key for sample in samples}) == num_samples
    for index in {sample.round for sample in samples}:
        answering = read_adapter(folder.adapter(max(index - staleness, 0)))
        names = {(s.adapter, s.adapter_sha256) for s in samples if s.round == index}
        assert names == {(answering.name, answering.sha256)}
        num_accepted = sum(sample.accepted for sample in samples if sample.round < index)
        assert read_adapter(folder.adapter(index)).training["num_samples"] == num_accepted


def test_killed_nodes_and_servers_cost_what_they_were_asked_and_nothing_else(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    reporter = Misfortunes(nodes, num_answers=8, swap_seconds=0)
    values = {"server__ray": nodes.address, "server__replicas": 2, "generation__batch": 64}
    values |= {"train__timeout_seconds": 600}
    try:
        records = run_loop(small_config(rounds=1, **values), tmp_path, reporter)
    finally:
        for host in reporter.killed[:1]:
            nodes.add(host)
    assert len(reporter.killed) == 2
    assert [record.round for record in records] == [0, 1]
    check_whole(RunFolder(tmp_path / "test"), 64)
    assert "is quarantined" in caplog.text
    assert not nodes.servers(), "no server outlives the loop"


class Overseer(QuietReporter):
    """Lets a round's first answer wait until the round's adapter is being trained.

    Args:
        nodes: where it is.
    """

    def __init__(self, nodes: RayNodes) -> None:
        super().__init__()
        self._nodes = nodes
        self.trainers: dict[int, set[str]] = {}
        """Round whose adapter was trained while it was generated -> hosts that trained it."""
        self.num_meanwhile: Counter[int] = Counter()
        """Answers that came meanwhile, by round."""

    def advance(self, done: int, detail: str = "") -> None:
        phase = re.fullmatch(r"round ([1-9]): (evaluate and )?generate", self.phases[-1])
        if not phase:
            return
        index = int(phase[1])
        if index not in self.trainers:
            self.trainers[index] = self._await_training(index)
        self.num_meanwhile[index] += bool(self._nodes.trainings(f"round-{index:04d}"))

    def _await_training(self, index: int) -> set[str]:
        deadline = time.monotonic() + 120
        while not (found := self._nodes.trainings(f"round-{index:04d}")):
            assert time.monotonic() < deadline, "it waits for the round's end"
            time.sleep(0.1)
        assert not found & self._nodes.servers().keys(), "there is a node without a server"
        return found


def test_servers_answer_while_another_node_trains_the_next_adapter(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path
) -> None:
    num_rounds, batch, overseer = 3, 32, Overseer(nodes)
    values = {"server__ray": nodes.address, "server__replicas": 2, "generation__batch": batch}
    values |= {"generation__request_timeout_seconds": 300, "train__timeout_seconds": 600}
    config = small_config(overlap=True, rounds=num_rounds, **values)
    records = run_loop(config, tmp_path, overseer)
    assert [record.round for record in records] == [*range(num_rounds + 1)]
    assert overseer.trainers.keys() == overseer.num_meanwhile.keys() == {1, 2}
    assert min(overseer.num_meanwhile.values()) > batch / 4, "not the first answers only"
    folder = RunFolder(tmp_path / "test")
    check_whole(folder, num_rounds * batch, staleness=1)
    told = [s for s in SampleStore(folder.samples).samples() if "of number" in s.completion]
    assert len({sample.adapter for sample in told}) == num_rounds - 1
    for sample in told:
        number = made_up_number(sample.prompt, sample.adapter, sample.sample_index)
        assert f"of number {number}." in sample.completion, "another adapter answered"


def test_servers_that_others_ask_are_looked_after(
    nodes: RayNodes, tiny_model: Path, tmp_path: Path
) -> None:
    options = ["--ray", nodes.address, "--replicas", "2", "--model", str(tiny_model)]
    command = [sys.executable, "-m", "selfstudy_engine.cli", "serve", *options]
    environment = os.environ | {SERVER_KEY_VARIABLE: "a-key-that-is-long-enough"}
    with subprocess.Popen(
        command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as serving:
        assert serving.stdout
        assert serving.stderr
        try:
            lines = [serving.stdout.readline().decode() for _ in range(4)]
            urls = [line.split()[1] for line in lines if line.startswith("URL:")]
            assert len(urls) == 2, serving.communicate(timeout=60)[1].decode()
            for url in urls:
                assert httpx.get(f"{url}/models", trust_env=False).status_code == 401
            host, process = sorted(nodes.servers().items())[0]
            os.killpg(process.pid, signal.SIGKILL)
            said = ""
            while "answers again, proven" not in said:
                said = serving.stderr.readline().decode()
                assert said, "it ended"
            assert host in said
            assert nodes.servers()[host].pid != process.pid
        finally:
            serving.terminate()
            left = serving.stderr.read().decode()
    assert serving.returncode == 130, left  # a request to end is ours, not Ray's
    assert not nodes.servers()


@pytest.fixture
def arguments(small_config: MakeConfig, tmp_path: Path) -> dict[str, Any]:
    """What a loop gives to its first training."""
    exemplars = tmp_path / "exemplars.jsonl"
    exemplars.write_bytes(to_lines(configured_exemplars(small_config())))
    paths = {"samples": tmp_path / "samples", "output": tmp_path / "adapters" / "round-0000"}
    return {"exemplars": exemplars, "before_round": 0, "previous": None, **paths}


def train(config: RunConfig, arguments: dict[str, Any], log: Path, on_step: Any) -> dict[str, Any]:
    limits = TimeLimits(300, 300)
    with (
        RayCluster(config, trains=True) as cluster,
        RayTraining(cluster, arguments, log, limits, on_step) as training,
    ):
        return training.result()


def test_a_training_whose_node_is_lost_begins_anew(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    killed: list[psutil.Process] = []

    def kill_once(step: int, num_steps: int) -> None:
        if not killed:
            processes = psutil.process_iter(["cmdline"])
            lines = [(process, process.info["cmdline"] or []) for process in processes]
            on_nodes = [p for p, line in lines if "ray::train_on_node" in " ".join(line)]
            [found] = (child for worker in on_nodes for child in worker.children())
            killed.append(found)
            found.parent().kill()

    config = small_config(server__ray=nodes.address)
    log = tmp_path / "train.log"
    figures = train(config, arguments, log, kill_once)
    psutil.wait_procs(killed, timeout=30)
    assert not killed[0].is_running(), "no training outlives its node"
    assert read_adapter(arguments["output"]).training == figures
    assert log.read_text().count('"max_steps"') > figures["steps"], "both wrote here"


def test_what_is_wrong_on_a_node_is_said_as_it_was_there(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    config = small_config(server__ray=nodes.address, model__path="/nobody/has/this")
    with pytest.raises(UsageError, match="'/nobody/has/this' is neither a folder nor a hub id"):
        train(config, arguments, tmp_path / "train.log", print)


def test_what_fails_here_ends_the_training_there(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path, arguments: dict[str, Any]
) -> None:
    def fail(step: int, num_steps: int) -> None:
        raise LookupError("a defect")

    config = small_config(server__ray=nodes.address)
    with pytest.raises(LookupError, match="a defect"):
        train(config, arguments, tmp_path / "train.log", fail)


def test_an_adapter_is_sent_once_to_servers_that_swap_at_once(
    nodes: RayNodes, small_config: MakeConfig, make_adapter: MakeAdapter
) -> None:
    config = small_config(server__ray=nodes.address)
    with RayCluster(config, trains=False) as cluster, ThreadPoolExecutor(8) as servers:
        assert len({*servers.map(cluster.send, [make_adapter("a")] * 8)}) == 1


def test_a_round_is_sent_once_unless_its_shards_change(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path
) -> None:
    store = SampleStore(tmp_path / "samples")
    for index in range(3):
        with store.writer(index) as writer:
            writer.add([make_sample(round=index)])
    with RayCluster(small_config(server__ray=nodes.address), trains=True) as cluster:
        first = cluster.send_rounds(store, 1)
        second = cluster.send_rounds(store, 2)
        assert [*first, *second] == [0, 0, 1]
        assert second[0] is first[0]
        [shard] = store.shards(1)
        assert ray.get(second[1]) == {shard.name: shard.read_bytes()}
        set_aside(shard, "damaged")
        third = cluster.send_rounds(store, 3)
        assert third[0] is first[0]
        assert ray.get(third[1]) == {}


def test_a_first_server_whose_place_is_lost_is_not_waited_for_forever(
    nodes: RayNodes, small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayCluster, "server_options", lambda *_: NOWHERE)
    limits = {"model__dtype": "auto", "server__startup_timeout_seconds": 3}
    config = small_config(server__ray=nodes.address, **limits)
    with (
        pytest.raises(UsageError, match=r"didn't answer within 3 s .* 2 CPU and 0 GPU on"),
        RayCluster(config, trains=False),
    ):
        pass


def test_a_server_whose_start_nobody_waits_for_says_what_it_failed_with(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path
) -> None:
    """But not that its node is gone: then it is placed again."""
    log = tmp_path / "server.log"
    with RayCluster(small_config(server__ray=nodes.address), trains=False) as cluster:
        server = RayServer(cluster, 0, log)
        server.check_alive()
        server.start()
        server.check_alive()
        server.wait_ready()
        server.check_alive()
        [process] = nodes.servers().values()
        os.killpg(process.pid, signal.SIGKILL)
        for check in (server.check_healthy, server.check_alive):  # the first one waits
            with pytest.raises(ServerDiedError, match="ended with exit code -9"):
                check()
        ray.kill(server._actor)
        server.check_alive()
        server.stop()


def test_a_server_ends_though_its_log_cant_be_written(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path
) -> None:
    log = tmp_path / "server.log"
    with RayCluster(small_config(server__ray=nodes.address), trains=False) as cluster:
        server = RayServer(cluster, 0, log)
        server.start()
        server.wait_ready()
        log.unlink()
        log.mkdir()
        server.stop()
        assert not nodes.servers()


def test_a_server_that_has_no_place_ends_at_once(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(RayCluster, "server_options", lambda *_: NOWHERE)
    with RayCluster(small_config(server__ray=nodes.address), trains=False) as cluster:
        server = RayServer(cluster, 0, tmp_path / "server.log")
        server.start()
        started = time.monotonic()
        server.stop()
        assert time.monotonic() - started < 20, "it doesn't wait for an answer"


def test_more_servers_than_nodes_are_refused_with_what_there_is(
    nodes: RayNodes, small_config: MakeConfig
) -> None:
    config = small_config(server__ray=nodes.address, server__replicas=4)
    with (
        pytest.raises(UsageError, match=r"4 servers of 1 CPU each, each on a node of its own") as e,
        RayCluster(config, trains=True),
    ):
        pass
    for host in ADDRESSES:
        assert f"2 CPU and 0 GPU on {host}" in str(e.value)


def test_a_node_without_this_version_of_the_engine_is_named(
    nodes: RayNodes, small_config: MakeConfig, tmp_path: Path
) -> None:
    package = tmp_path / "there" / "selfstudy_engine" / "__init__.py"
    package.parent.mkdir(parents=True)
    package.write_text("raise ImportError('not installed')")
    victim = ADDRESSES[-1]
    nodes.kill(victim)
    nodes.add(victim, tmp_path / "there")
    try:
        nodes.wait()
        with (
            pytest.raises(UsageError, match=rf"is none \(not installed\) on {victim}; install"),
            RayCluster(small_config(server__ray=nodes.address), trains=True),
        ):
            pass
    finally:
        nodes.kill(victim)
        nodes.add(victim)
        nodes.wait()
