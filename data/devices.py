"""Which GPUs the server and the training process compute on."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from selfstudy_engine.data.accelerate_config import read_accelerate_config
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.config_machines import DevicesConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import Device, Gpu, visible_gpus
from selfstudy_engine.data.parallel import Parallel


@dataclass(frozen=True, slots=True)
class Placement:
    """Where server and training compute; no GPU means on the CPU."""

    server: tuple[Gpu, ...]
    train: tuple[Gpu, ...]
    parallel: Parallel = field(default_factory=Parallel)
    """How the server's ranks share the work."""
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
    num_processes: int | None = 1,
) -> Placement:
    """Decide where to compute.

    "auto" is the first GPU for the server, or as many as vLLM's arguments ask for, and the last
    ones for training: they share one only where there is no other. Several GPUs that are named, and
    of which vLLM's arguments say nothing, share the weights (tensor parallelism).

    Args:
        server: auto, cpu, cuda, or cuda:N[,N...]; N counts the GPUs below, as in torch.
        train: the same.
        gpus: the visible ones.
        server_args: further arguments of vLLM.
        num_processes: that train together, each on a GPU of its own; None: one for each GPU.

    Raises:
        UsageError: a device that isn't there, those that are, are named; or another number of them
            than vLLM's arguments ask for, or than there are processes.

    Example:
        >>> place("auto", "cpu", []).shared
        False
    """
    parallel = Parallel.of(server_args)
    for_server = _choose("--server-device", server, gpus, tuple(gpus[: parallel.num_ranks]))
    if parallel.num_ranks == 1 and for_server:
        parallel = Parallel(tensor=len(for_server))
    if for_server and len(for_server) != parallel.num_ranks:
        raise UsageError(
            f"vLLM's arguments ask for {parallel.num_ranks} GPUs, and --server-device {server} is "
            f"{len(for_server)}; this machine has {_list(gpus)}"
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
        UsageError: a device that isn't there.
    """
    devices = config.devices
    return place(
        devices.server,
        devices.train,
        visible_gpus(),
        config.server.extra_args,
        _num_processes(devices),
    )


def _num_processes(devices: DevicesConfig) -> int | None:
    if devices.train_launcher == "python":
        return 1
    if devices.accelerate_config is None:
        return devices.num_processes
    in_file = read_accelerate_config(Path(devices.accelerate_config)).num_processes
    return devices.num_processes or in_file


def replica_devices(config: RunConfig) -> list[str]:
    """Return the --server-device of each of the servers that a run starts on this machine.

    Raises:
        UsageError: there aren't GPUs for all; on a CPU one server has all cores.
    """
    num, device, gpus = config.server.replicas, config.devices.server, visible_gpus()
    if num == 1:
        return [device]
    numbers = [int(number) for number in device.partition(":")[2].split(",") if number]
    numbers = numbers or list(range(num * Parallel.of(config.server.extra_args).num_ranks))
    if device == "cpu" or len(numbers) % num or max(numbers) >= len(gpus):
        raise UsageError(
            f"--replicas {num} needs as many GPUs, or a multiple, in --server-device; this machine "
            f"has {_list(gpus)}, and a server on a CPU uses all cores; use several machines with "
            "--ray, or fewer servers"
        )
    size = len(numbers) // num
    parts = [numbers[index : index + size] for index in range(0, len(numbers), size)]
    return [f"cuda:{','.join(map(str, part))}" for part in parts]


def device_environment(gpus: Sequence[Gpu]) -> dict[str, str]:
    """Return a child's environment with which it sees these GPUs only.

    Nothing where this machine has none. By number, since vLLM takes no UUID; in the PCI bus's
    order, as nvidia-smi counts, since CUDA begins with the fastest otherwise.
    """
    if not visible_gpus():
        return {}
    numbers = ",".join(gpu.key for gpu in gpus)
    return {"CUDA_VISIBLE_DEVICES": numbers, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
