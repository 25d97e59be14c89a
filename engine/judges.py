"""Texts in, verdicts on each alone out: here, or in processes once one core isn't enough.

What was accepted before isn't known here (`verify.compare`), so that any process can judge any
text. Workers import this module: it reaches nothing that speaks to servers.
"""

import logging
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import NamedTuple, Self

from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.verify import Judged, Rules, judge
from selfstudy_engine.engine.worker_pool import WorkerPool

BUSY = 0.5
"""Share of its time that this thread may work before processes judge instead of it."""
WATCH_SECONDS = 5.0
"""How long it must have done so: a busy moment isn't worth the imports and the memory of each."""
MOST_PROCESSES = 8
logger = logging.getLogger(__name__)


class Unjudged(NamedTuple):
    """The answers to one question, as far as their verdicts depend on them."""

    molecule: Molecule
    hinted: bool
    texts: Sequence[tuple[str, str]]
    """Text and reason of its end, of each completion."""


class Chunk(NamedTuple):
    """Answers that are judged at once."""

    tolerance: float
    """Of the round."""
    answers: Sequence[Unjudged]

    def judge(self, rules: Rules) -> list[list[Judged]]:
        """Return what comes of each answer's texts, each text taken alone."""
        rules = replace(rules, tolerance=self.tolerance)
        return [
            [
                judge(text, finish_reason, answer.molecule, rules, hinted=answer.hinted)
                for text, finish_reason in answer.texts
            ]
            for answer in self.answers
        ]


class Judges:
    """Who judges a run's answers; use it as a context manager.

    Args:
        num_processes: that judge from the first answer on; None has this process judge until that
            keeps it busy, and then as many as there is work and cores for.
    """

    def __init__(self, num_processes: int | None = None) -> None:
        self._num_processes = num_processes
        self._pool: WorkerPool[Rules] | None = None
        self._first: Future[list[list[Judged]]] | None = None
        """Done when a process has imported what it needs."""
        self._looked_at: tuple[float, float] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        if self._pool:
            self._pool.close()

    def pool(self, rules: Rules) -> WorkerPool[Rules] | None:
        """Return the processes that judge by a run's rules, once they are wanted and ready.

        To be called by the thread that judges otherwise.
        """
        if self._pool is None and (size := self._wanted()):
            logger.info("answers are judged in up to %d processes from now on", size)
            self._pool = WorkerPool(rules, size)
            self._first = self._pool.submit(Chunk(0.0, []).judge)
        return self._pool if self._num_processes or self._has_begun() else None

    def _has_begun(self) -> bool:
        """Tell whether a process is ready; where none can be started this one goes on judging."""
        return bool(self._first and self._first.done() and not self._first.exception())

    def _wanted(self) -> int:
        if self._num_processes is not None:
            return self._num_processes
        now = (time.monotonic(), time.thread_time())
        if self._looked_at is None:
            self._looked_at = now
        seconds, worked = (new - old for new, old in zip(now, self._looked_at, strict=True))
        if seconds < WATCH_SECONDS:
            return 0
        self._looked_at = now
        if worked < BUSY * seconds:
            return 0
        num_cores = len(os.sched_getaffinity(0))
        return min(num_cores, MOST_PROCESSES) if num_cores > 1 else 0
