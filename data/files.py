"""Durable, atomic files: after each function returns, a crash can't undo or halve what was written.

The order is always the same: temporary name, fsync, rename, fsync of the folder.
"""

import errno
import fcntl
import glob
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, BinaryIO, Protocol

_WRITER = re.compile("[0-9]+(-[0-9]+)?")


def fsync_path(path: Path) -> None:
    """Flush one file, or a folder's list of names, to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_folder(path: Path) -> None:
    """Make a folder, unless it is there, and those above it that are missing."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    for folder in missing:
        fsync_path(folder.parent)


def check_writable(path: Path) -> None:
    """Look whether a folder can be written or, where it isn't there, made; makes nothing.

    Raises:
        OSError: it can't; what its place doesn't allow.
    """
    there = next(folder for folder in (path, *path.parents) if folder.exists())
    if not there.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), str(path))
    if not os.access(there, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(there))


def is_temporary(path: Path) -> bool:
    """Tell whether a file is one that `write_atomic` had not finished."""
    return path.name.startswith(".") and path.name.endswith(".tmp")


def _leftovers(target: Path) -> Iterator[Path]:
    """Yield the temporary files and folders of a target whose process is gone."""
    prefix = f".{target.name}."
    for left in target.parent.glob(f"{glob.escape(prefix)}*.tmp"):
        writer = left.name.removeprefix(prefix).partition(".")[0]
        if _WRITER.fullmatch(writer) and not _is_alive(writer):
            yield left


def _writer() -> str:
    """Return PID-START of this process: where containers start again, PIDs do, too."""
    return f"{os.getpid()}-{_start_of('self')}"


def _is_alive(writer: str) -> bool:
    process, _, start = writer.partition("-")
    with suppress(OSError):
        return _start_of(process) == start
    return False


def _start_of(process: str) -> str:
    """Return a process's start, in clock ticks since the machine's."""
    stat = Path("/proc", process, "stat").read_text("utf-8", errors="replace")
    return stat.rpartition(")")[2].split()[19]


def write_atomic(path: Path, content: bytes) -> None:
    """Write `content` so that `path` holds either what it held before or all of it.

    Raises:
        OSError: see `replacing`.
    """
    with replacing(path) as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a file that takes the place of `path` when the block ends without an error.

    What a killed process left of the same file is removed.

    Raises:
        OSError: the disk is full or read-only; nothing is left behind.
    """
    for left in _leftovers(path):
        with suppress(OSError):  # another user's
            left.unlink()
    temporary = path.with_name(f".{path.name}.{_writer()}.tmp")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
    except BaseException as error:
        with suppress(OSError):
            temporary.unlink()
        if isinstance(error, OSError) and error.filename in {None, str(temporary)}:
            error.filename = str(path)  # of an open file it is None
        raise
    fsync_path(path.parent)


@contextmanager
def publish_folder(target: Path) -> Iterator[Path]:
    """Yield a temporary folder that becomes `target` when the block ends without an error.

    A `target` that appears meanwhile is never overwritten. What a killed process left unfinished of
    the same target is removed.

    Raises:
        OSError: the disk is full or read-only, or `target` exists already.
    """
    make_folder(target.parent)
    for left in _leftovers(target):
        shutil.rmtree(left, ignore_errors=True)
    prefix = f".{target.name}.{_writer()}."
    try:
        temporary = Path(tempfile.mkdtemp(prefix=prefix, suffix=".tmp", dir=target.parent))
    except OSError as error:
        error.filename = str(target)
        raise
    try:
        yield temporary
        for file in sorted(temporary.rglob("*")):
            fsync_path(file)
        fsync_path(temporary)
        temporary.chmod(0o755)
        if target.exists():  # rename alone would replace an empty folder
            raise FileExistsError(errno.EEXIST, "exists already", str(target))
        temporary.rename(target)
    except BaseException:
        with suppress(OSError):
            shutil.rmtree(temporary)
        raise
    fsync_path(target.parent)


def lock(file: IO[Any]) -> None:
    """Hold an open file for this process; the lock goes with the process, however it ends.

    Raises:
        BlockingIOError: another process holds it.
        OSError: the file system has no locks.
    """
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        error.filename = file.name
        raise


class Files(Protocol):
    """How a run's files become durable; what is written is whole when it can be seen."""

    def put(self, path: Path, content: bytes, before: bytes | None) -> None:
        """Write a file that holds `before` still, or (None) isn't there yet.

        Doing it again is as good as once.
        """

    def replace(self, path: Path, content: bytes) -> None:
        """Write a file in the place of what it held before, if anything."""

    def add_folder(self, folder: Path, last: str) -> None:
        """Take a published folder; to readers it is there as soon as its file `last` is."""

    def restore_shards(self, folder: Path) -> bool:
        """Bring back shards that were set aside here and are whole elsewhere; tell if any were."""


class OnDisk:
    """Files of this machine's disk: a published folder is durable already."""

    def put(self, path: Path, content: bytes, before: bytes | None) -> None:
        """See `Files`; who holds the run is the only one that writes."""
        if before is None and path.exists() and path.read_bytes() != content:
            raise FileExistsError(errno.EEXIST, "exists already", str(path))
        write_atomic(path, content)

    def replace(self, path: Path, content: bytes) -> None:
        """See `Files`."""
        write_atomic(path, content)

    def add_folder(self, folder: Path, last: str) -> None:
        """See `Files`."""

    def restore_shards(self, folder: Path) -> bool:
        """See `Files`; nothing is elsewhere."""
        return False


ON_DISK = OnDisk()


def sha256_of(path: Path) -> str:
    """Return the hex SHA-256 of a file's content."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
