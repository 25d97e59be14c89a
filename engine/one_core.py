"""For measurements: modules in processes of their own, each on one core, and their memory."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def children_on(core: int) -> Iterator[None]:
    """Pin this thread, and so every process that it starts in the block, to one core."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def module_command(name: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this package with arguments."""
    return [sys.executable, "-m", f"{__package__}.{name}", *map(str, arguments)]


def resident_mb() -> float:
    """Return this process's resident memory, in MB."""
    return _status_mb("VmRSS")


def peak_resident_mb() -> float:
    """Return the most that it ever was.

    Not getrusage's ru_maxrss, which starts with what the parent had when it forked.
    """
    return _status_mb("VmHWM")


def _status_mb(key: str) -> float:
    lines = Path("/proc/self/status").read_text("ascii").splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields[key].split()[0]) * 1024 / 1e6
