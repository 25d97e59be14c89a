"""HTTP in a process of its own, for a loop whose core the sockets of many servers would fill.

Sessions of such a process are used as those of this one; only the bytes travel further. One that
dies is replaced, and the next is asked what was unanswered: those who wait notice nothing.
"""

import asyncio
import itertools
import logging
import math
import socket
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from selfstudy_engine.data.errors import SelfStudyError, WorkerError
from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.engine import http_worker
from selfstudy_engine.engine.batched_messages import BatchedMessages
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.http_session import Answer, Session

SERVERS_HERE = 16
"""Servers whose sockets leave the loop's core most of its time."""
SERVERS_EACH = 32
MOST_DEATHS = 3
"""Processes that one request may outlive; then the run ends."""
_RETRY_SECONDS = 0.5
"""Pause before another try to start one."""
_GRACE_SECONDS = 5.0
logger = logging.getLogger(__name__)


def num_processes(num_servers: int) -> int:
    """Return how many processes are to speak with so many servers; 0 leaves it to this one."""
    return 0 if num_servers <= SERVERS_HERE else math.ceil(num_servers / SERVERS_EACH)


@dataclass(slots=True)
class _Unanswered:
    message: tuple[Any, ...]
    answer: asyncio.Future[Answer]
    num_deaths: int = 0
    """Of processes that were to send it."""


class HttpProcess:
    """Belongs to one event loop; started by the first request, also after `close` has ended it."""

    def __init__(self) -> None:
        self._numbers = itertools.count()
        self._sessions: dict[int, tuple[Any, ...]] = {}
        """What opens each."""
        self._unanswered: dict[int, _Unanswered] = {}
        self._messages: BatchedMessages | None = None
        """To the process that runs."""
        self._running: asyncio.Task[None] | None = None

    def open_session(
        self, endpoint: Endpoint, max_connections: int, timeout_seconds: float
    ) -> Session:
        """Return a session with a server; see `HttpSession`."""
        number = next(self._numbers)
        self._sessions[number] = ("open", number, endpoint, max_connections, timeout_seconds)
        self._tell(self._sessions[number])
        return _RemoteSession(self, number)

    def close_session(self, number: int) -> None:
        """Close a session."""
        if self._sessions.pop(number, None):
            self._tell(("close", number))

    async def send(self, session: int, *request: Any) -> Answer:
        """Send a request of a session; see `HttpSession.send`.

        Raises:
            SelfStudyError: what the session raises there.
            WorkerError: `MOST_DEATHS` processes died of it or couldn't be started.
        """
        if self._running is None or self._running.done():
            self._running = asyncio.create_task(self._run())
        number = next(self._numbers)
        message = ("send", number, session, *request)
        answer: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._unanswered[number] = _Unanswered(message, answer)
        self._tell(message)
        try:
            return await answer
        except asyncio.CancelledError:
            self._tell(("cancel", number))
            raise
        finally:
            self._unanswered.pop(number, None)

    async def close(self) -> None:
        """End the process; requests in flight fail."""
        if self._running:
            self._running.cancel()
            await asyncio.wait([self._running])
        self._fail(list(self._unanswered), "was ended.")

    def _tell(self, message: tuple[Any, ...]) -> None:
        if self._messages:
            self._messages.send(message)

    async def _run(self) -> None:
        """Keep a process running, until one dies that has nothing left to answer."""
        while self._unanswered:
            try:
                reason = f"ended with {await self._run_one()}"
            except (OSError, RuntimeError) as error:  # RuntimeError: no thread to wait for it
                reason = f"can't be started ({error})"
                await asyncio.sleep(_RETRY_SECONDS)
            logger.warning("the process that speaks HTTP %s", reason)
            for unanswered in self._unanswered.values():
                unanswered.num_deaths += 1
            to_blame = [n for n, u in self._unanswered.items() if u.num_deaths == MOST_DEATHS]
            self._fail(to_blame, f"{reason}, {MOST_DEATHS} times; out of memory?")

    def _fail(self, numbers: Sequence[int], reason: str) -> None:
        """Tell those who wait for an answer that there will be none."""
        for number in numbers:
            answer = self._unanswered.pop(number).answer
            if not answer.done():
                answer.set_exception(
                    WorkerError(
                        f"the process that speaks HTTP with the servers {reason} Run the same "
                        "command again: what is stored isn't done again"
                    )
                )

    async def _run_one(self) -> int | None:
        """Start a process, and return its exit code once it has ended."""
        ours, theirs = socket.socketpair()
        with theirs:
            _, messages = await asyncio.get_running_loop().create_unix_connection(
                lambda: BatchedMessages(self._take), sock=ours
            )
            try:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-m", http_worker.__name__),
                    stdin=theirs.fileno(),
                    env=child_environment(),
                    start_new_session=True,  # a Ctrl-C isn't for it: it ends with this process
                )
            except BaseException:
                messages.close()
                raise
        try:
            for opening in self._sessions.values():
                messages.send(opening)
            for unanswered in self._unanswered.values():
                messages.send(unanswered.message)
            self._messages = messages
            await messages.ended
            with suppress(TimeoutError):  # wait_for would swallow a cancellation in Python 3.11
                async with asyncio.timeout(_GRACE_SECONDS):
                    await process.wait()
        finally:
            self._messages = None
            messages.close()
            with suppress(ProcessLookupError):
                process.kill()
            await process.wait()
        return process.returncode

    def _take(self, message: tuple[int, Answer | None, SelfStudyError | None]) -> None:
        number, answer, error = message
        unanswered = self._unanswered.pop(number, None)
        if unanswered is None or unanswered.answer.done():  # it was cancelled
            return
        if error:
            unanswered.answer.set_exception(error)
        else:
            assert answer
            unanswered.answer.set_result(answer)


class _RemoteSession:
    """A session of that process."""

    def __init__(self, process: HttpProcess, number: int) -> None:
        self._process = process
        self._number = number

    async def send(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """See `Session`."""
        return await self._process.send(self._number, method, path, data, headers)

    async def close(self) -> None:
        """See `Session`."""
        self._process.close_session(self._number)
