"""Requests -> results, so many at a time: a queue with a limit in front and a reader behind.

Results are taken off the reader's hands: while it stores one, others are asked and answered, up to
a bounded number. It knows neither HTTP nor completions.
"""

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable, Coroutine, Iterable
from typing import Any, Generic, TypeVar

Request = TypeVar("Request")
Result = TypeVar("Result")


class Admission(Generic[Request, Result]):
    """One pass over the requests; read `results`, and call `close` whatever happens.

    Args:
        ask: answers one request.
        requests: drawn in order, one by one, when there is room.
        size: how much room a request takes.
        limit: room in all, now; may change, `admit` then takes notice. One request always goes,
            however large it is.
        max_unread: results that may wait for the reader before nothing more is asked.
    """

    def __init__(
        self,
        ask: Callable[[Request], Coroutine[Any, Any, Result]],
        requests: Iterable[Request],
        *,
        size: Callable[[Request], int],
        limit: Callable[[], int],
        max_unread: int,
    ) -> None:
        self._ask = ask
        self._waiting = iter(requests)
        self._size = size
        self._limit = limit
        self._max_unread = max_unread
        self._held: Request | None = None
        self._running: dict[asyncio.Task[Result], int] = {}
        self._used = 0
        self._unread: deque[Result] = deque()
        self._failure: BaseException | None = None
        self._finished = asyncio.Event()
        self._closed = False
        self.held_back = False
        """Whether a request could go out if only the limit were higher."""

    @property
    def in_flight(self) -> int:
        """Room that is taken now."""
        return self._used

    def admit(self) -> None:
        """Ask as many requests as there is room for; after a failure none."""
        self.held_back = False
        limit = self._limit()
        while self._has_room_for_results():
            if self._running and self._used >= limit:
                self.held_back = True
                return
            if self._held is None:
                try:
                    self._held = next(self._waiting, None)
                except Exception as error:  # noqa: BLE001 - the caller's own; `results` raises it
                    self._failure = error
                if self._held is None:
                    return
            size = self._size(self._held)
            if self._running and self._used + size > limit:
                self.held_back = True
                return
            task = asyncio.create_task(self._ask(self._held))
            self._held = None
            self._used += size
            self._running[task] = size
            task.add_done_callback(self._finish)

    def _has_room_for_results(self) -> bool:
        return not self._closed and self._failure is None and len(self._unread) < self._max_unread

    def _finish(self, task: asyncio.Task[Result]) -> None:
        self._used -= self._running.pop(task)
        if task.cancelled():
            return
        # After a failure nothing new is asked, but what is being answered isn't lost.
        if failure := task.exception():
            self._failure = self._failure or failure
        else:
            self._unread.append(task.result())
        self.admit()
        self._finished.set()

    async def results(self) -> AsyncIterator[Result]:
        """Yield the results as they come; then raise the first failure, if there was one."""
        self.admit()
        while self._running or self._unread:
            while self._unread:
                result = self._unread.popleft()
                self.admit()
                yield result
            if self._running:
                self._finished.clear()
                await self._finished.wait()
        if self._failure:
            raise self._failure

    async def close(self) -> None:
        """Cancel what is still running; returns when it has ended."""
        self._closed = True
        running = list(self._running)
        for task in running:
            task.cancel()
        await asyncio.gather(*running, return_exceptions=True)
