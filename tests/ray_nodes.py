"""A Ray cluster of three nodes on loopback addresses of this machine; they can be killed."""

import os
import secrets
import signal
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Self

import psutil
from ray.cluster_utils import Cluster

HERE = Path(__file__).parent
ADDRESSES = ("127.0.0.2", "127.0.0.3", "127.0.0.4")
"""Ray takes 127.0.0.1 for a name of the machine, and looks for another address of it."""
_MARK = "SELFSTUDY_TEST_NODES"
"""Environment variable by which the processes of one cluster are known."""
_SETTINGS = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 1000,
    "health_check_timeout_ms": 10_000,
    "health_check_failure_threshold": 8,
    "worker_niceness": 0,
    "memory_monitor_refresh_ms": 0,  # the machine's memory isn't the nodes' alone
}


class RayNodes:
    """Use it as a context manager.

    Args:
        python_path: where the nodes' processes look for modules first.
        cores: for each node, those that it may use; all if there are none.
        num_cpus: that each node offers.
    """

    def __init__(
        self, *python_path: Path, cores: tuple[set[int], ...] = (), num_cpus: int = 2
    ) -> None:
        self._python_path = (*python_path, HERE, HERE.parent / "src")
        self._cores = cores or (os.sched_getaffinity(0),) * len(ADDRESSES)
        self._num_cpus = num_cpus
        self._mark = secrets.token_hex(8)
        self._nodes: dict[str, Any] = {}
        self._cluster: Any = None

    def __enter__(self) -> Self:
        self._cluster = Cluster()
        for host in ADDRESSES:
            self.add(host)
        self.wait()
        return self

    def __exit__(self, *error: object) -> None:
        self._cluster.shutdown()

    @property
    def address(self) -> str:
        """Of the head, for --ray."""
        address: str = self._cluster.address
        return address

    def wait(self) -> None:
        """Wait until all nodes are part of the cluster."""
        self._cluster.wait_for_nodes(120)

    def add(self, host: str, *python_path: Path) -> None:
        """Start a node, on its own cores; its processes look for modules in these folders first."""
        head = {"_system_config": _SETTINGS, "include_dashboard": False}
        path = os.pathsep.join(map(str, (*python_path, *self._python_path)))
        before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, self._cores[ADDRESSES.index(host)])
        try:
            with _environment({"PYTHONPATH": path, _MARK: self._mark}):
                self._nodes[host] = self._cluster.add_node(
                    wait=False,
                    num_cpus=self._num_cpus,
                    object_store_memory=80 * 2**20,
                    node_ip_address=host,
                    **({} if self._nodes else head),
                )
        finally:
            os.sched_setaffinity(0, before)

    def kill(self, host: str) -> None:
        """Kill a node's processes; Ray's own, and those with them that Ray started."""
        server = self.servers().get(host)
        self._cluster.remove_node(self._nodes.pop(host), allow_graceful=False)
        if server:
            os.killpg(server.pid, signal.SIGKILL)

    def processes(self) -> list[psutil.Process]:
        """Return what Ray's workers started, and what that did."""
        found = []
        for process in psutil.process_iter():
            with suppress(psutil.Error):
                environment = process.environ()
                if "RAY_JOB_ID" in environment and environment.get(_MARK) == self._mark:
                    found.append(process)
        return found

    def servers(self) -> dict[str, psutil.Process]:
        """Return the vLLM servers, by their hosts."""
        found = {}
        for process in self.processes():
            with suppress(psutil.Error):
                command = process.cmdline()
                if "vllm.entrypoints.openai.api_server" in command:
                    found[command[command.index("--host") + 1]] = process
        return found

    def trainings(self, adapter: str) -> set[str]:
        """Return the hosts that train an adapter of this name."""
        found = set()
        for process in self.processes():
            with suppress(psutil.Error):
                command = process.cmdline()
                if "selfstudy_engine.train" in command and adapter in " ".join(command):
                    found.add(_host_of(process))
        return found


def _host_of(process: psutil.Process) -> str:
    """Return the address of the node whose daemon is among a process's ancestors."""
    words = [word for parent in process.parents() for word in parent.cmdline()]
    [host] = {word.partition("=")[2] for word in words if word.startswith("--node_ip_address=")}
    return str(host)


@contextmanager
def _environment(variables: dict[str, str]) -> Iterator[None]:
    before = dict(os.environ)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)
