"""Who may write a run that lies in S3: one process at a time, on whatever machine.

The hold is one object that its owner renews. Every step is a conditional write, and only the
server's clock counts. A process that ended without a word loses it when it expires.
"""

import itertools
import logging
import os
import socket
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Self

import orjson

from selfstudy_engine.data.errors import ConflictError, InUseError, StoreError
from selfstudy_engine.data.objects import Found, Objects

LEASE_SECONDS = 60.0
"""How long after its last renewal a hold expires."""
_KEY = "lease.json"
_MAX_UNSEEN = 10
"""Tries to take a run that somebody is said to have and nobody has."""
_PAUSE_SECONDS = 0.2
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Owner:
    """A process that holds a run, or did."""

    host: str
    process: int
    machine: str
    """What `process` is a number of: this boot of this machine, seen from this container."""
    token: str
    """No other hold's."""
    seconds: float
    """See `LEASE_SECONDS`."""
    renewals: int = 0
    """Changes the content each time: where an ETag is its MD5, a hold that was just renewed would
    else look like the one that was seen to expire."""
    released: bool = False
    """Given back. A DELETE has no condition everywhere, and could meet another's hold."""

    @classmethod
    def this_process(cls, seconds: float) -> Self:
        """Return a new owner: us."""
        return cls(socket.gethostname(), os.getpid(), _machine(), uuid.uuid4().hex, seconds)

    @property
    def is_gone(self) -> bool:
        """Whether the process is known to have ended."""
        return self.machine == _machine() and not Path("/proc", str(self.process)).exists()


class Lease:
    """Holds the run below an address; use it as a context manager.

    Args:
        objects: of the run.
        seconds: see `LEASE_SECONDS`.
    """

    def __init__(self, objects: Objects, seconds: float = LEASE_SECONDS) -> None:
        self._objects = objects
        self._seconds = seconds
        self._owner = Owner.this_process(seconds)
        self._etag = ""
        self._renewed = 0.0
        self._lost: StoreError | None = None
        self._lock = threading.Lock()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._keep, name="lease", daemon=True)

    def __enter__(self) -> Self:
        """Take the run.

        Raises:
            InUseError: another process has it.
            RunFolderError: the server doesn't keep to conditions.
            StoreError: S3 can't be used, or not for this.
        """
        self._objects.settle_conditions()
        self._take()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()
        self._owner = replace(self._owner, released=True)
        with suppress(StoreError):  # then it expires
            self._renew()

    def check(self) -> None:
        """Make sure that we hold the run still; to be called before anything is written.

        Raises:
            StoreError: another process has it now, or that can't be found out.
        """
        if _now() - self._renewed > self._seconds:  # this process, the machine or the net stopped
            self._renew()
        if self._lost:
            raise self._lost

    def _take(self) -> None:
        etag = None
        for number in itertools.count(1):
            try:
                self._write(etag)
                return
            except ConflictError:
                held = self._objects.find(_KEY)
                if held is None and number == _MAX_UNSEEN:
                    raise
            if held:
                self._refuse_unless_over(held)
                etag = held.etag
            else:  # somebody writes the first one at this moment (AWS: ConditionalRequestConflict)
                time.sleep(_PAUSE_SECONDS)
                etag = None

    def _write(self, etag: str | None) -> None:
        """Make it ours from now on, if it has that ETag still, or (None) if nobody has it."""
        asked = _now()
        self._owner = replace(self._owner, renewals=self._owner.renewals + 1)
        self._etag = self._objects.swap(_KEY, orjson.dumps(asdict(self._owner)), etag)
        self._renewed = asked

    def _owner_of(self, held: Found) -> Owner:
        try:
            return Owner(**orjson.loads(held.content))
        except (ValueError, TypeError) as error:
            raise StoreError(
                f"{self._objects.url(_KEY)} is damaged; delete it if no loop works on this run"
            ) from error

    def _refuse_unless_over(self, held: Found) -> None:
        owner = self._owner_of(held)
        if owner.released or owner.is_gone or owner.token == self._owner.token:
            return
        age = (self._objects.now() - held.modified).total_seconds()
        if age <= owner.seconds:
            raise InUseError(
                f"run {self._objects.address} is in use by process {owner.process} on "
                f"{owner.host}, which was there {age:.0f} s ago; wait for it or end it; if it was "
                f"killed, run the same command again in {owner.seconds - age + 1:.0f} s"
            )
        logger.warning(
            "process %d on %s left run %s without a word %.0f s ago: taken over",
            *(owner.process, owner.host, self._objects.address, age),
        )

    def _keep(self) -> None:
        while not self._lost and not self._closed.wait(self._seconds / 3):
            try:
                self._renew()
            except StoreError as error:  # what matters is whether samples can be written
                logger.warning("%s", error)

    def _renew(self) -> None:
        with self._lock:
            try:
                self._write(self._etag)
            except ConflictError as error:
                held = self._objects.find(_KEY)
                if held and self._owner_of(held).token == self._owner.token:
                    self._write(held.etag)  # an earlier one came, and only its answer was lost
                else:
                    self._lost = error


def _now() -> float:
    return time.clock_gettime(time.CLOCK_BOOTTIME)  # goes on while the machine is suspended


def _machine() -> str:
    boot = Path("/proc/sys/kernel/random/boot_id").read_text("ascii").strip()
    return f"{boot} {os.readlink('/proc/self/ns/pid')}"  # noqa: PTH115 - no file's path
