"""How the training process is started, and what it sees: alone, or several by accelerate."""

import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from selfstudy_engine.data.accelerate_config import read_accelerate_config
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.config_machines import DevicesConfig
from selfstudy_engine.data.devices import device_environment, placement_of
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.data.privacy import child_environment

_MODULE = ("-m", "selfstudy_engine.train")
_LAUNCHER = ("-m", "selfstudy_engine.train.launcher")
_LOOPBACK = "lo"


@dataclass(frozen=True, slots=True)
class Launch:
    """The beginning of a training's command line, and its environment."""

    command: tuple[str, ...]
    environment: dict[str, str]


def launch_here() -> Launch:
    """Return how one process trains that sees what we see."""
    return Launch((sys.executable, *_MODULE), training_environment(None))


def launch_of(config: RunConfig) -> Launch:
    """Return how a run trains on this machine.

    Raises:
        UsageError: a device that isn't there, or accelerate's file can't be used.
    """
    placement = placement_of(config)
    environment = training_environment(placement.train)
    if config.devices.train_launcher == "python":
        return Launch((sys.executable, *_MODULE), environment)
    command = _accelerate(config.devices, placement.num_train_processes, bool(placement.train))
    # They speak to each other on this machine only.
    environment |= {"GLOO_SOCKET_IFNAME": _LOOPBACK, "NCCL_SOCKET_IFNAME": _LOOPBACK}
    if not placement.train:
        environment["ACCELERATE_USE_CPU"] = "true"
    return Launch(command, environment)


def _accelerate(devices: DevicesConfig, num_processes: int, on_gpus: bool) -> tuple[str, ...]:
    """Return the command; what it says stands above any file, and above the user's default one."""
    file = devices.accelerate_config
    spread = file is not None and read_accelerate_config(Path(file)).spread
    num_threads = 1 if on_gpus else max(1, len(os.sched_getaffinity(0)) // num_processes)
    options: dict[str, object] = {
        "num_processes": num_processes,
        "num_machines": 1,
        "machine_rank": 0,
        "rdzv_backend": "loopback",  # the launcher's own
        "main_process_port": 0,  # not used then; any other would have to be free
        "num_cpu_threads_per_process": num_threads,
        "gpu_ids": "all",  # that the process sees
        "mixed_precision": "no",  # training sees to it
        "dynamo_backend": "no",
    }
    if file is not None:
        options["config_file"] = file
    command = [sys.executable, *_LAUNCHER]
    if num_processes > 1 and not spread:
        command.append("--multi_gpu")  # on CPUs, too: accelerate's own way there needs MPI
    command += [part for key, value in options.items() for part in (f"--{key}", str(value))]
    return (*command, *_MODULE)


def training_environment(gpus: Sequence[Gpu] | None) -> dict[str, str]:
    """Return the child's environment: ours, with these GPUs (None: as we see them)."""
    devices = {} if gpus is None else device_environment(gpus)
    return child_environment() | devices | {"TOKENIZERS_PARALLELISM": "false"}
