"""Which GPUs the server and the training process compute on."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import Device, Gpu, visible_gpus
from selfstudy_engine.data.parallel import Parallel


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the two processes compute; no GPU means on the CPU."""

    server: tuple[Gpu, ...]
    train: tuple[Gpu, ...]
    parallel: Parallel = field(default_factory=Parallel)
    """How the server's ranks share the work."""

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
    server: str, train: str, gpus: Sequence[Gpu], server_args: Sequence[str] = ()
) -> Placement:
    """Decide where to compute.

    "auto" is the first GPU for the server, or as many as vLLM's arguments ask for, and the last one
    for training: they share one only where there is no other. Several GPUs that are named, and of
    which vLLM's arguments say nothing, share the weights (tensor parallelism).

    Args:
        server: auto, cpu, cuda, or cuda:N[,N...]; N counts the GPUs below, as in torch.
        train: the same, with one N.
        gpus: the visible ones.
        server_args: further arguments of vLLM.

    Raises:
        UsageError: a device that isn't there, those that are, are named; or another number of them
            than vLLM's arguments ask for.

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
    for_train = _choose("--train-device", train, gpus, tuple(gpus[-1:]))
    return Placement(for_server, for_train, parallel)


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
    return place(devices.server, devices.train, visible_gpus(), config.server.extra_args)


def device_environment(gpus: Sequence[Gpu]) -> dict[str, str]:
    """Return a child's environment with which it sees these GPUs only.

    Nothing where this machine has none. By number, since vLLM takes no UUID; in the PCI bus's
    order, as nvidia-smi counts, since CUDA begins with the fastest otherwise.
    """
    if not visible_gpus():
        return {}
    numbers = ",".join(gpu.key for gpu in gpus)
    return {"CUDA_VISIBLE_DEVICES": numbers, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}
