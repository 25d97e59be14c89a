"""The shared memory that vLLM's processes meet in: what they take of it, and whether it is there.

A container has 64 MiB unless it is given more, and a server that gets too little ends half a minute
after its start.
"""

import os
import shutil
from pathlib import Path

from selfstudy_engine.data.devices import Placement
from selfstudy_engine.data.errors import UsageError

SHARED_MEMORY = Path("/dev/shm")
_TO_RANKS, _FROM_A_RANK = 160, 240
"""MiB of the queue from an engine to its ranks, and of that back from each; vLLM 0.32
(v1/executor/multiproc_executor.py, distributed/device_communicators/shm_broadcast.py)."""
MIB = 1024**2


def needed_shared_memory(placement: Placement) -> int:
    """Return what one server takes, in MiB: nothing where its engine is its only rank, on a GPU."""
    parallel = placement.parallel
    if placement.server and parallel.num_shards == 1:
        return 0
    return parallel.data * (_TO_RANKS + parallel.num_shards * _FROM_A_RANK)


def check_shared_memory(placement: Placement, folder: Path = SHARED_MEMORY) -> int | None:
    """Return what is free, in MiB; None where no such folder is.

    Raises:
        UsageError: less than a server takes, or nothing can be written there.
    """
    if not folder.is_dir():
        return None
    free = shutil.disk_usage(folder).free // MIB
    needed = needed_shared_memory(placement)
    if needed and not os.access(folder, os.W_OK):
        raise UsageError(
            f"{folder} can't be written to, and the processes of a vLLM server meet there; "
            f"chmod 1777 {folder}"
        )
    if free < needed:
        raise UsageError(
            f"{folder} has {free} MiB free, and the processes of a vLLM server share {needed} MiB "
            "there; give the container more (docker run --shm-size 1g; on Kubernetes an emptyDir "
            f"of medium Memory), or enlarge it: mount -o remount,size=1g {folder}"
        )
    return free
