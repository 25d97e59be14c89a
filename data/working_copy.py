"""A run that lies in S3, and its folder: a working copy that holds nothing which S3 doesn't.

Objects have the names of the folder's files. Each is written there first, by one request, then
here, where the trainer, the server and the report read it. An adapter is there as soon as its
manifest is, which comes last. What can be made again (logs, report, ablations) stays here.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from selfstudy_engine.data.files import ON_DISK
from selfstudy_engine.data.lease import Lease
from selfstudy_engine.data.objects import Objects
from selfstudy_engine.data.pull import bring_up_to_date, problem_of
from selfstudy_engine.data.remote_address import RemoteAddress
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.shards import SET_ASIDE


class WorkingCopy:
    """Writes a run's files into S3, then into its folder; see `Files`."""

    def __init__(self, folder: Path, objects: Objects, lease: Lease) -> None:
        self._folder = folder
        self._objects = objects
        self._lease = lease
        self._last_put = ("", b"", "")
        """Key, content and ETag."""

    def put(self, path: Path, content: bytes, before: bytes | None) -> None:
        """See `Files`; what somebody else wrote under that name is never written over."""
        self._lease.check()
        key = self._key(path)
        etag = None if before is None else self._etag(key, before, content)
        self._last_put = (key, content, self._objects.create(key, content, etag))
        ON_DISK.put(path, content, before)

    def _etag(self, key: str, *contents: bytes) -> str:
        """Return the ETag of an object that has one of these contents."""
        if self._last_put[:2] == (key, contents[0]):
            return self._last_put[2]
        found = self._objects.find(key)
        if found is None or found.content not in contents:
            raise self._objects.conflict(key)
        return found.etag

    def replace(self, path: Path, content: bytes) -> None:
        """See `Files`."""
        self._lease.check()
        self._objects.replace(self._key(path), content)
        ON_DISK.replace(path, content)

    def add_folder(self, folder: Path, last: str) -> None:
        """See `Files`; a folder that is there already stays as it is."""
        content = (folder / last).read_bytes()
        found = self._objects.find(self._key(folder / last))
        if found is None:
            for path in sorted(folder.iterdir()):
                if path.name != last:
                    self._lease.check()
                    self._objects.replace(self._key(path), path)
        self._lease.check()
        self._objects.create(self._key(folder / last), content)

    def restore_shards(self, folder: Path) -> bool:
        """See `Files`: else what S3 has would be asked for again, and be there twice."""
        restored = False
        for aside in sorted(folder.glob(f"*{SET_ASIDE}*")):
            path = aside.with_name(aside.name.partition(SET_ASIDE)[0])
            found = None if path.exists() else self._objects.find(self._key(path))
            if found and not problem_of(found.content):
                ON_DISK.put(path, found.content, None)
                restored = True
        return restored

    def _key(self, path: Path) -> str:
        return path.relative_to(self._folder).as_posix()


@contextmanager
def held_run(path: Path, remote: str | None) -> Iterator[RunFolder]:
    """Yield a run's folder to write into; if it lies in S3, held for us and up to date.

    Args:
        path: of the folder.
        remote: address of all runs in S3, or None for a run that is nowhere else.

    Raises:
        RunFolderError: another process holds it, or the folder is another run's.
        StoreError: S3 can't be read or written.
    """
    if remote is None:
        yield RunFolder(path)
        return
    objects = Objects(RemoteAddress.parse(remote) / path.name)
    with Lease(objects) as lease:
        folder = RunFolder(path, WorkingCopy(path, objects, lease))
        bring_up_to_date(folder, objects, remote, holds=True)
        yield folder
