"""Which GPUs the servers and the training process compute on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfstudy_engine.data.accelerate_config import read_accelerate_config
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.config_machines import DevicesConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import Device, Gpu, visible_gpus
from selfstudy_engine.data.parallel import Parallel


@dataclass(frozen=True, slots=True)
class Placement:
    """Where servers and training compute; no GPU means on the CPU."""

    server: tuple[Gpu, ...]
    """Of all servers that the run starts."""
    train: tuple[Gpu, ...]
    parallel: Parallel = field(default_factory=Parallel)
    """How a server's ranks share the work."""
    num_train_processes: int = 1
    """One for each GPU; on the CPU as many as are wanted."""

    @property
    def shared(self) -> bool:
        """Whether they have a GPU in common: then they take turns, and share its memory."""
        return not set(self.server).isdisjoint(self.train)

    @property
    def server_kind(self) -> Device:
        """What the server computes on."""
        return "cuda" if self.server else "cpu"

    @property
    def train_kind(self) -> Device:
        """What training computes on."""
        return "cuda" if self.train else "cpu"


def place(
    server: str,
    train: str,
    gpus: Sequence[Gpu],
    server_args: Sequence[str] = (),
    *,
    num_processes: int | None = 1,
    num_servers: int = 1,
) -> Placement:
    """Decide where to compute.

    "auto" is the first GPU for each server, or as many as vLLM's arguments ask for, and the last
    ones for training: they share one only where there is no other. Several GPUs that are named for
    a server, and of which vLLM's arguments say nothing, share the weights (tensor parallelism).

    Args:
        server: auto, cpu, cuda, or cuda:N[,N...]; N counts the GPUs below, as in torch.
        train: the same.
        gpus: the visible ones.
        server_args: further arguments of vLLM.
        num_processes: that train together, each on a GPU of its own; None: one for each GPU.
        num_servers: that divide the server's GPUs among them.

    Raises:
        UsageError: a device that isn't there, those that are, are named; or another number of them
            than servers and vLLM's arguments ask for, or than there are processes.

    Example:
        >>> place("auto", "cpu", []).shared
        False
    """
    parallel = Parallel.of(server_args)
    first = tuple(gpus[: num_servers * parallel.num_ranks])
    for_server = _choose("--server-device", server, gpus, first)
    if num_servers > 1 and (not for_server or len(for_server) % num_servers):
        raise UsageError(
            f"--replicas {num_servers} needs as many GPUs, or a multiple, in --server-device; this "
            f"machine has {_list(gpus)}, and a server on a CPU uses all cores; use several "
            "machines with --ray, or fewer servers"
        )
    if parallel.num_ranks == 1 and for_server:
        parallel = Parallel(tensor=len(for_server) // num_servers)
    if for_server and len(for_server) != num_servers * parallel.num_ranks:
        each = f" for each of {num_servers} servers" if num_servers > 1 else ""
        raise UsageError(
            f"vLLM's arguments ask for {parallel.num_ranks} GPUs{each}, and --server-device "
            f"{server} is {len(for_server)}; this machine has {_list(gpus)}"
        )
    others = tuple(gpu for gpu in gpus if gpu not in for_server)
    automatic = tuple(gpus[-num_processes:]) if num_processes else others or tuple(gpus)
    for_train = _choose("--train-device", train, gpus, automatic)
    if for_train and num_processes not in (None, len(for_train)):
        raise UsageError(
            f"--train-device {train} is {len(for_train)} of {_list(gpus)}, for {num_processes} "
            "processes; name a GPU for each, and start them with --train-launcher accelerate "
            "--num-processes N"
        )
    if not for_train and num_processes is None:
        raise UsageError(
            "how many processes are to train on the CPU? Give --num-processes, or leave out "
            "--train-launcher"
        )
    return Placement(for_server, for_train, parallel, len(for_train) or num_processes or 1)


def _choose(
    flag: str, device: str, gpus: Sequence[Gpu], automatic: tuple[Gpu, ...]
) -> tuple[Gpu, ...]:
    if device == "cpu":
        return ()
    kind, _, numbers = device.partition(":")
    chosen = [int(number) for number in numbers.split(",") if number]
    if kind == "cuda" and max(chosen, default=0) >= len(gpus):
        raise UsageError(f"{flag} {device} isn't there; this machine has {_list(gpus)}")
    if len(set(chosen)) < len(chosen):
        raise UsageError(f"{flag} {device} names a GPU twice; name each once")
    return tuple(gpus[number] for number in chosen) or automatic


def _list(gpus: Sequence[Gpu]) -> str:
    there = [f"cuda:{number} ({gpu.name})" for number, gpu in enumerate(gpus)]
    return ", ".join([*there, "cpu"])


def placement_of(config: RunConfig) -> Placement:
    """Return where a run's processes compute on this machine.

    Raises:
        UsageError: a device that isn't there, or it can't be known which the server leaves.
    """
    devices, server = config.devices, config.server
    elsewhere = server.url or server.ray != "off"
    num_processes = _num_processes(devices)
    unknown = server.url and devices.server == devices.train == "auto" and num_processes is None
    if unknown and len(visible_gpus()) > 2:
        raise UsageError(
            f"which GPUs the server at {server.url[0]} computes on isn't known here, and "
            "accelerate would take all but one; name training's with --train-device, such as "
            "cuda:4,5,6,7"
        )
    return place(
        devices.server,
        devices.train,
        visible_gpus(),
        () if elsewhere else server.extra_args,
        num_processes=num_processes,
        num_servers=1 if elsewhere else server.replicas,
    )


def _num_processes(devices: DevicesConfig) -> int | None:
    if devices.train_launcher == "python":
        return 1
    if devices.accelerate_config is None:
        return devices.num_processes
    in_file = read_accelerate_config(Path(devices.accelerate_config)).num_processes
    return devices.num_processes or in_file


def replica_configs(config: RunConfig) -> list[RunConfig]:
    """Return the configuration of each of the servers that a run starts on this machine.

    Each names its own GPUs, and those that the run trains on: alone it would choose others.

    Raises:
        UsageError: there aren't GPUs for all; on a CPU one server has all cores.
    """
    if config.server.replicas == 1:
        return [config]
    placement = placement_of(config)
    size = placement.parallel.num_ranks
    parts = (placement.server[at : at + size] for at in range(0, len(placement.server), size))
    alone = {"server.replicas": 1, "devices.train": _name(placement.train)}
    return [override(config, alone | {"devices.server": _name(part)}) for part in parts]


def _name(gpus: Sequence[Gpu]) -> str:
    numbers = ",".join(str(visible_gpus().index(gpu)) for gpu in gpus)
    return f"cuda:{numbers}" if numbers else "cpu"


def device_environment(gpus: Sequence[Gpu]) -> dict[str, str]:
    """Return a child's environment with which it sees these GPUs only.

    Nothing where this machine has none. By number, since vLLM takes no UUID; in the PCI bus's
    order, as nvidia-smi counts, since CUDA begins with the fastest otherwise.
    """
    if not visible_gpus():
        return {}
    numbers = ",".join(gpu.key for gpu in gpus)
    return {"CUDA_VISIBLE_DEVICES": numbers, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
