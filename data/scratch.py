"""A temporary folder, and an end for those whose process was killed before it could remove them."""

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_PREFIX = "selfstudy-"
_LOCK = ".lock"
_GRACE_SECONDS = 60.0
"""For a process to lock the folder that it has just made."""


@contextmanager
def scratch_folder() -> Iterator[Path]:
    """Make a folder that is gone after the block; if the process is killed, with the next one."""
    _sweep()
    with tempfile.TemporaryDirectory(prefix=_PREFIX) as name:
        folder = Path(name)
        with (folder / _LOCK).open("wb") as lock:  # the kernel unlocks it, however we end
            fcntl.flock(lock, fcntl.LOCK_EX)
            try:
                yield folder
            finally:
                with suppress(OSError):  # what is left is removed next
                    _empty(folder)


def _sweep() -> None:
    """Remove the folders that nobody holds any more; those of others, and links, stay."""
    for lock in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*/{_LOCK}"):
        with suppress(OSError):  # held, another's, or swept by another at this moment
            found = lock.lstat()
            if found.st_uid != os.getuid() or time.time() - found.st_mtime < _GRACE_SECONDS:
                continue
            with lock.open("rb") as file:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _empty(lock.parent)
                shutil.rmtree(lock.parent)


def _empty(folder: Path) -> None:
    """Remove all but the lock, by which the rest is found if this is cut off, too."""
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path, ignore_errors=True)
        elif path.name != _LOCK:
            path.unlink(missing_ok=True)
