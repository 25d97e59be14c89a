"""Several workers that share tasks; one that dies is replaced, and its task is done again.

Workers are started as tasks ask for them, and kept. A task is a pure function, so that it may be
done twice.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic

from selfstudy_engine.data.errors import WorkerError
from selfstudy_engine.engine.worker import Context, Result, Worker, WorkerDiedError

MOST_DEATHS = 3
"""Workers that one task may outlive; then it counts as the one to blame."""
logger = logging.getLogger(__name__)


class WorkerPool(Generic[Context]):
    """Has up to `size` tasks done at once; `close` it.

    Args:
        context: what all tasks need.
        size: workers at most.
    """

    def __init__(self, context: Context, size: int) -> None:
        self._context = context
        self._threads = ThreadPoolExecutor(size, "worker")
        self._workers: set[Worker[Context]] = set()
        self._idle: list[Worker[Context]] = []
        self._closed = False
        self.size = size

    def submit(self, task: Callable[[Context], Result]) -> "Future[Result]":
        """Have a task done; what comes of it may be a `WorkerError`: several workers died of it."""
        return self._threads.submit(self._do, task)

    async def do(self, task: Callable[[Context], Result]) -> Result:
        """Return what comes of a task.

        Raises:
            WorkerError: several workers died of it.
        """
        return await asyncio.wrap_future(self.submit(task))

    def _do(self, task: Callable[[Context], Result]) -> Result:
        for _ in range(MOST_DEATHS):
            worker = self._take()
            try:
                return worker.do(task)
            except WorkerDiedError as death:
                self._workers.discard(worker)
                if self._closed:
                    raise
                logger.warning("a worker died (%s): what it did is done again", death)
                last = death
            finally:
                if worker in self._workers:
                    self._idle.append(worker)
        raise WorkerError(
            f"{MOST_DEATHS} workers in a row died of the same task (the last one: {last}); out of "
            "memory? Run the same command again: what is stored isn't done again"
        ) from last

    def _take(self) -> Worker[Context]:
        try:
            return self._idle.pop()
        except IndexError:
            worker = Worker(self._context)
            self._workers.add(worker)
            return worker

    def close(self) -> None:
        """End all workers; what they were doing is lost."""
        self._closed = True
        for worker in list(self._workers):
            worker.end()
        self._threads.shutdown(cancel_futures=True)
        for worker in self._workers:  # of a thread that was just about to start one
            worker.end()
