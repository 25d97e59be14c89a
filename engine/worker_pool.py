"""Several workers that do the same work; one that dies is replaced, and its task is done again.

Workers are started as tasks ask for them, and kept. The work must be a pure function.
"""

import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

from selfstudy_engine.data.errors import WorkerError
from selfstudy_engine.engine.worker import Worker, WorkerDiedError

MOST_DEATHS = 3
"""Workers that one task may outlive; then it counts as the one to blame."""
Task = TypeVar("Task")
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class WorkerPool(Generic[Task, Result]):
    """Has up to `size` tasks done at once; `close` it.

    Args:
        work: importable by its name.
        size: workers at most.
    """

    def __init__(self, work: Callable[[Task], Result], size: int) -> None:
        self._work = work
        self._threads = ThreadPoolExecutor(size, "worker")
        self._workers: set[Worker] = set()
        self._idle: list[Worker] = []
        self._closed = False
        self.size = size

    def submit(self, task: Task) -> "Future[Result]":
        """Have a task done; a result may be a `WorkerError`: several workers died of it."""
        return self._threads.submit(self._do, task)

    async def do(self, task: Task) -> Result:
        """Return what the work makes of a task.

        Raises:
            WorkerError: several workers died of it.
        """
        return await asyncio.wrap_future(self.submit(task))

    def _do(self, task: Task) -> Result:
        for _ in range(MOST_DEATHS):
            worker = self._take()
            try:
                result: Result = worker.do(task)
            except WorkerDiedError as death:
                self._workers.discard(worker)
                if self._closed:
                    raise
                logger.warning("a worker died (%s): what it did is done again", death)
                last = death
            else:
                self._idle.append(worker)
                return result
        raise WorkerError(
            f"{MOST_DEATHS} workers in a row died of the same task (the last one: {last}); out of "
            "memory? Run the same command again: what is stored isn't done again"
        ) from last

    def _take(self) -> Worker:
        try:
            return self._idle.pop()
        except IndexError:
            worker = Worker(self._work)
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
