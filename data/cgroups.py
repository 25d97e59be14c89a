"""What a container or a batch job may take of its machine, as the kernel's cgroups have it.

Version 2 has one tree of groups, version 1 one for each resource; some machines have both.
"""

from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

_MOUNTS = Path("/sys/fs/cgroup")
_OWN_GROUPS = Path("/proc/self/cgroup")


def memory_limit() -> int | None:
    """Return how many bytes this process's group may have, with all that is in it.

    None without a limit, or (version 1) a number beyond any memory.
    """
    names = ("memory.max", "memory.limit_in_bytes")
    groups = _groups("memory")
    return min(
        (n for group in groups for name in names for n in _numbers(group / name)), default=None
    )


def core_quota() -> float | None:
    """Return how many cores' time this process's group may take; None without a limit."""
    quotas = []
    for group in _groups("cpu"):
        limit = _numbers(group / "cpu.max") or [
            *_numbers(group / "cpu.cfs_quota_us"),  # -1 without a limit
            *_numbers(group / "cpu.cfs_period_us"),
        ]
        if len(limit) == 2 and limit[0] > 0:
            quotas.append(limit[0] / limit[1])
    return min(quotas, default=None)


def _groups(resource: str) -> Iterator[Path]:
    """Yield the folders of this process's group and of those that it is in."""
    try:
        lines = _OWN_GROUPS.read_text("utf-8").splitlines()
    except OSError:
        return
    for line in lines:
        _, resources, path = line.split(":", 2)
        if resource in resources.split(","):
            tops = [_MOUNTS / resource]
        else:
            tops = [] if resources else [_MOUNTS, _MOUNTS / "unified"]
        for top in tops:
            # In a container, a path of the host's may not be there; the top then is its own group.
            group = top / path.lstrip("/")
            yield from (each for each in (group, *group.parents) if each.is_relative_to(top))


def _numbers(path: Path) -> list[int]:
    """Return a file's numbers; none if it isn't there, or says "max"."""
    with suppress(OSError, ValueError):
        return [int(word) for word in path.read_text("utf-8").split()]
    return []
