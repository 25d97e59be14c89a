"""Which GPUs the server and the training process compute on."""

from collections.abc import Sequence
from dataclasses import dataclass

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import Device, Gpu, visible_gpus

_SEVERAL_GPUS = (
    *("--tensor-parallel-size", "-tp", "--pipeline-parallel-size", "-pp"),
    *("--data-parallel-size", "-dp"),
)
"""Arguments of vLLM that make one server take several GPUs."""


@dataclass(frozen=True, slots=True)
class Placement:
    """Where the two processes compute; no GPU means on the CPU."""

    server: tuple[Gpu, ...]
    train: tuple[Gpu, ...]

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

    "auto" is the first GPU for the server, or all if vLLM's arguments ask for several, and the last
    one for training: they share one only where there is no other.

    Args:
        server: auto, cpu, cuda, or cuda:N[,N...]; N counts the GPUs below, as in torch.
        train: the same, with one N.
        gpus: the visible ones.
        server_args: further arguments of vLLM.

    Raises:
        UsageError: a device that isn't there; those that are, are named.

    Example:
        >>> place("auto", "cpu", []).shared
        False
    """
    several = any(argument.split("=")[0] in _SEVERAL_GPUS for argument in server_args)
    for_server = tuple(gpus) if several else tuple(gpus[:1])
    return Placement(
        _choose("--server-device", server, gpus, for_server),
        _choose("--train-device", train, gpus, tuple(gpus[-1:])),
    )


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
