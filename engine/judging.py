"""One pass of answers in, their verdicts out as they are found: to whoever stores them.

Where processes judge, answers go to them in chunks. Only so many are on their way at once: whoever
brings one more waits, so that memory stays flat however slow judging is.
"""

import asyncio
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self

from selfstudy_engine.data.errors import SelfStudyError
from selfstudy_engine.engine.judges import Chunk, Judges, Unjudged
from selfstudy_engine.engine.sampling import Answered
from selfstudy_engine.engine.verify import Judged, Rules

CHUNK_COMPLETIONS = 256
"""Enough that what a chunk costs is shared by many, few enough that none waits long."""
CHUNK_SECONDS = 0.1
"""After which a chunk goes off that isn't full."""
CHUNKS_PER_PROCESS = 2
"""One that is judged, and the next."""


class Judging:
    """Use it as an async context manager; leaving it waits for the last verdicts.

    Args:
        judges: who judges.
        rules: of the round.
        settle: takes an answer and what came of each of its completions alone.
    """

    def __init__(
        self,
        judges: Judges,
        rules: Rules,
        settle: Callable[[Answered, Sequence[Judged]], None],
    ) -> None:
        self._judges = judges
        self._rules = rules
        self._settle = settle
        self._chunk: list[Answered] = []
        self._chunk_completions = 0
        self._timer: asyncio.TimerHandle | None = None
        self._sent: set[asyncio.Task[None]] = set()
        self._failure: BaseException | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Judge what has come, also after a server's failure; a call to stop doesn't wait."""
        if error is None or isinstance(error, SelfStudyError):
            self._send()
        else:
            self._cancel_timer()
            for task in self._sent:
                task.cancel()
        await asyncio.gather(*self._sent, return_exceptions=True)
        if error is None and self._failure:
            raise self._failure

    async def add(self, answered: Answered) -> None:
        """Take in an answer; returns when there is room for the next.

        Raises:
            SelfStudyError: an earlier one couldn't be judged or settled.
        """
        pool = self._judges.pool(self._rules)
        if pool is None:
            [judged] = self._to_chunk([answered]).judge(self._rules)
            self._settle(answered, judged)
            return
        self._chunk.append(answered)
        self._chunk_completions += len(answered.completions)
        if self._chunk_completions >= CHUNK_COMPLETIONS:
            self._send()
        elif self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(CHUNK_SECONDS, self._send)
        while len(self._sent) >= CHUNKS_PER_PROCESS * pool.size:
            await asyncio.wait(self._sent, return_when=asyncio.FIRST_COMPLETED)
        if self._failure:
            raise self._failure

    def _send(self) -> None:
        self._cancel_timer()
        chunk, self._chunk, self._chunk_completions = self._chunk, [], 0
        if chunk:
            task = asyncio.create_task(self._judge(chunk))
            self._sent.add(task)
            task.add_done_callback(self._finish)

    def _cancel_timer(self) -> None:
        if self._timer:
            self._timer.cancel()
            self._timer = None

    async def _judge(self, answers: Sequence[Answered]) -> None:
        pool = self._judges.pool(self._rules)
        assert pool, "a chunk is only sent to processes"
        for answered, judged in zip(
            answers, await pool.do(self._to_chunk(answers).judge), strict=True
        ):
            self._settle(answered, judged)

    def _finish(self, task: asyncio.Task[None]) -> None:
        self._sent.discard(task)
        if not task.cancelled() and (failure := task.exception()):
            self._failure = self._failure or failure

    def _to_chunk(self, answers: Sequence[Answered]) -> Chunk:
        return Chunk(
            self._rules.tolerance,
            [
                Unjudged(
                    answered.question.molecule,
                    answered.question.hinted,
                    [(each.text, each.finish_reason) for each in answered.completions],
                )
                for answered in answers
            ],
        )
