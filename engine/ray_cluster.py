"""Which nodes of a Ray cluster serve and train: what is asked for, whether it fits, where it went.

A server is a bundle of Ray's placement group. On GPUs it has as many as its tensor parallel size;
on CPUs it has a node to itself, since vLLM computes with all cores that it sees.
"""

import logging
import threading
from collections.abc import Mapping, Sequence, Set
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Self

from selfstudy_engine.data.adapter_transfer import pack_adapter
from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import resolve_dtype
from selfstudy_engine.data.parallel import Parallel
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.ray_session import ray_session, reason_of
from selfstudy_engine.engine.ray_versions import check_versions

if TYPE_CHECKING:
    import ray
    from ray.util.placement_group import PlacementGroup

Resources = dict[str, float]
"""What Ray counts: CPU, GPU."""
logger = logging.getLogger(__name__)


class _SentRound(NamedTuple):
    names: Set[str]
    """Of its shards."""
    files: "ray.ObjectRef[Any]"
    """Name -> content."""


class RayCluster:
    """The bundles of one run; use it as a context manager.

    Args:
        config: of the run: replicas, Ray's address, devices, vLLM's arguments.
        trains: whether adapters are trained there, too.
    """

    def __init__(self, config: RunConfig, *, trains: bool) -> None:
        self._given = config
        self._trains = trains
        self._cleanup = ExitStack()
        self._sent: dict[str, ray.ObjectRef[Any]] = {}
        self._sending = threading.Lock()
        self._rounds: dict[Path, _SentRound] = {}
        self._group: PlacementGroup
        self.config: RunConfig
        """With which servers run and adapters are trained, on any node."""
        self.server_needs: Resources
        """Of each server, on one node."""
        self.training_needs: Resources

    def __enter__(self) -> Self:
        """Connect, and reserve the servers' places.

        Raises:
            UsageError: Ray isn't there, the cluster hasn't the places, or a node hasn't this
                version of the engine.
        """
        with ExitStack() as stack:
            stack.enter_context(ray_session(self._given.server.ray))
            nodes = alive_nodes()
            has_gpus = any(resources.get("GPU", 0) >= 1 for resources in nodes.values())
            self.server_needs = server_needs(self._given, has_gpus=has_gpus)
            self.training_needs = training_needs(self._given, has_gpus=has_gpus)
            self._check_room(nodes)
            check_versions(self._usable(nodes))
            self._group = self._reserve(stack)
            self.config = self._with_dtype()
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._sent.clear()
        self._rounds.clear()
        self._cleanup.close()

    def server_options(self, index: int) -> dict[str, Any]:
        """Return Ray's options for the actor of a server."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        strategy = PlacementGroupSchedulingStrategy(self._group, index)
        return {**_options(self.server_needs), "scheduling_strategy": strategy}

    def training_options(self) -> dict[str, Any]:
        """Return Ray's options for a training: beside no server, if there is another node."""
        from ray.util import placement_group_table
        from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

        options = _options(self.training_needs)
        taken = set(placement_group_table(self._group)["bundles_to_node_id"].values())
        for node, resources in alive_nodes().items():
            if node not in taken and _holds(resources, self.training_needs):
                return options | {
                    "scheduling_strategy": NodeAffinitySchedulingStrategy(node, soft=True)
                }
        return options

    def send(self, adapter: Adapter) -> "ray.ObjectRef[Any]":
        """Return an adapter's files in Ray's object store; put there once for all servers."""
        import ray

        with self._sending:  # all servers ask at once
            if adapter.sha256 not in self._sent:
                self._sent = {adapter.sha256: ray.put(pack_adapter(adapter.folder))}
            return self._sent[adapter.sha256]

    def send_rounds(self, store: SampleStore, before_round: int) -> "dict[int, ray.ObjectRef[Any]]":
        """Return the shards of the rounds before one, by their names, in Ray's object store.

        A round is put there once, and is fetched once by each node that trains: it doesn't change
        any more, but for what a reader sets aside.
        """
        import ray

        sent = {}
        for index in store.rounds():
            if index >= before_round:
                continue
            folder, shards = store.round_folder(index), store.shards(index)
            names = {path.name for path in shards}
            there = self._rounds.get(folder)
            if there is None or there.names != names:
                files = ray.put({path.name: path.read_bytes() for path in shards})
                there = self._rounds[folder] = _SentRound(names, files)
            sent[index] = there.files
        return sent

    def _usable(self, nodes: Mapping[str, Resources]) -> list[str]:
        """Return those where Ray may place a server or a training."""
        wanted = [self.server_needs, *([self.training_needs] if self._trains else [])]
        return [node for node, has in nodes.items() if any(_holds(has, needs) for needs in wanted)]

    def _check_room(self, nodes: Mapping[str, Resources]) -> None:
        num, needs = self._given.server.replicas, self.server_needs
        trained = self.training_needs if self._trains else {}
        if fits(list(nodes.values()), num, needs, trained):
            return
        asked = f"{num} {'server' if num == 1 else 'servers'} of {_list(needs)} each"
        asked += ", each on a node of its own" if "GPU" not in needs else ""
        asked += f", and {_list(trained)} for training" if trained else ""
        raise UsageError(
            f"the Ray cluster can't hold what is asked for ({asked}); it has {describe_nodes()}; "
            "have more machines join it (`ray start --address=...`), or lower --replicas"
        )

    def _reserve(self, stack: ExitStack) -> "PlacementGroup":
        from ray.util.placement_group import placement_group, remove_placement_group

        strategy = "SPREAD" if "GPU" in self.server_needs else "STRICT_SPREAD"
        num, seconds = self._given.server.replicas, self._given.server.startup_timeout_seconds
        group = placement_group([self.server_needs] * num, strategy=strategy)
        stack.callback(remove_placement_group, group)
        if not group.wait(seconds):
            raise UsageError(
                f"the Ray cluster had no room for {num} x {_list(self.server_needs)} for "
                f"{seconds:g} s, as others use it; it has {describe_nodes()}; wait for them, or "
                "raise server.startup_timeout_seconds"
            )
        return group

    def _with_dtype(self) -> RunConfig:
        """Return the configuration with the number format that the first server's node prefers.

        All then compute in one: "auto" would mean another thing on each kind of node.

        Raises:
            UsageError: that node is gone since it was reserved, and no other can be.
        """
        import ray
        from ray.exceptions import RayError

        kind = "cuda" if "GPU" in self.server_needs else "cpu"
        # A server sees its own GPUs only, and nothing is trained beside it on them.
        devices = {"devices.server": "auto" if kind == "cuda" else "cpu", "devices.train": "cpu"}
        config = override(self._given, devices)
        alone = {"ray": "off", "replicas": 1}
        config = config.model_copy(update={"server": config.server.model_copy(update=alone)})
        if config.model.dtype != "auto":
            return config
        there = ray.remote(resolve_dtype).options(**self.server_options(0))
        seconds = config.server.startup_timeout_seconds
        try:
            dtype = ray.get(there.remote("auto", kind), timeout=seconds)
        except RayError as error:
            raise UsageError(
                f"the first server's node of the Ray cluster didn't answer within {seconds:g} s "
                f"({reason_of(error)}); the cluster has {describe_nodes()}; have another machine "
                "join it, and run the same command again"
            ) from error
        return override(config, {"model.dtype": dtype})


def server_needs(config: RunConfig, *, has_gpus: bool) -> Resources:
    """Return what one server takes of a node.

    Raises:
        UsageError: a GPU, which Ray chooses.
    """
    if _on_gpu("--server-device", config.devices.server, has_gpus):
        return {"CPU": 1, "GPU": Parallel.of(config.server.extra_args).num_ranks}
    return {"CPU": 1}


def training_needs(config: RunConfig, *, has_gpus: bool) -> Resources:
    """Return what a training takes of a node.

    Raises:
        UsageError: a GPU, which Ray chooses, or several processes.
    """
    on_gpu = _on_gpu("--train-device", config.devices.train, has_gpus)
    if on_gpu and config.devices.train_launcher != "python":
        raise UsageError(
            f"--train-launcher {config.devices.train_launcher}: with --ray a training has one GPU; "
            "leave it out"
        )
    return {"CPU": 1, "GPU": 1} if on_gpu else {"CPU": 1}


def _on_gpu(flag: str, device: str, has_gpus: bool) -> bool:
    if device not in {"auto", "cpu"}:
        raise UsageError(f"{flag} {device}: with --ray, Ray chooses the GPUs; give auto or cpu")
    return has_gpus and device == "auto"


def fits(
    nodes: Sequence[Mapping[str, float]], num_servers: int, server: Resources, training: Resources
) -> bool:
    """Tell whether nodes can hold servers and training at once, if nobody else used them.

    Args:
        nodes: what each has in all.
        num_servers: on CPUs one a node; on GPUs as many as a node has GPUs for.
        server: what each takes.
        training: what it takes; empty where there is none.

    Example:
        >>> fits([{"CPU": 4, "GPU": 2}], 2, {"CPU": 1, "GPU": 1}, {"CPU": 1, "GPU": 1})
        False
    """
    places = [
        int(min(node.get(name, 0) // amount for name, amount in server.items())) for node in nodes
    ]
    if "GPU" not in server:
        places = [min(place, 1) for place in places]
    in_all = {
        name: num_servers * server.get(name, 0) + training.get(name, 0)
        for name in {*server, *training}
    }
    return sum(places) >= num_servers and all(
        sum(node.get(name, 0) for node in nodes) >= amount for name, amount in in_all.items()
    )


def alive_nodes() -> dict[str, Resources]:
    """Return id -> resources of the nodes that are part of the cluster now."""
    import ray

    return {node["NodeID"]: node["Resources"] for node in ray.nodes() if node["Alive"]}


def describe_nodes() -> str:
    """Return what each node has, for an error message."""
    import ray

    return "; ".join(
        f"{_list({key: node['Resources'].get(key, 0) for key in ('CPU', 'GPU')})} on "
        f"{node['NodeManagerAddress']}"
        for node in ray.nodes()
        if node["Alive"]
    )


def _list(resources: Mapping[str, float]) -> str:
    return " and ".join(f"{amount:g} {name}" for name, amount in resources.items())


def _holds(node: Mapping[str, float], needs: Resources) -> bool:
    return all(node.get(name, 0) >= amount for name, amount in needs.items())


def _options(needs: Resources) -> dict[str, Any]:
    return {"num_cpus": needs["CPU"], "num_gpus": needs.get("GPU", 0)}
