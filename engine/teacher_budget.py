"""What a teacher costs, and the guarantee that it costs no more than is allowed.

Before a call the most that it can cost is set aside; after it, what it did cost is counted.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager

from selfstudy_engine.data.config_sources import TeacherConfig
from selfstudy_engine.data.errors import BudgetError
from selfstudy_engine.engine.teacher_cache import TeacherAnswer

_FRAME_TOKENS = 64
"""Tokens that a server's chat template may put around a question."""


def most_prompt_tokens(question: str) -> int:
    """Return a number of tokens that a question never has more of: a token is a byte at least."""
    return len(question.encode()) + _FRAME_TOKENS


class Budget:
    """Counts tokens, and their cost where prices are known.

    Args:
        settings: prices per million tokens, and the most that may be spent.
        paid: what was asked before.
    """

    def __init__(self, settings: TeacherConfig, paid: Iterable[TeacherAnswer] = ()) -> None:
        self._settings = settings
        self._set_aside: list[float] = []
        self._changed = asyncio.Condition()
        self._largest_output = settings.max_tokens
        self.num_calls = 0
        self.num_prompt_tokens = 0
        self.num_output_tokens = 0
        for answer in paid:
            self.count(answer)

    @property
    def cost(self) -> float | None:
        """What has been spent, in the currency of the prices; None without prices."""
        return self._price(self.num_prompt_tokens, self.num_output_tokens)

    def most(self, question: str) -> tuple[int, int]:
        """Return the most prompt and output tokens that a question can take.

        A server that went beyond the limit of output tokens once may do so again.
        """
        return most_prompt_tokens(question), self._largest_output

    def count(self, answer: TeacherAnswer) -> None:
        """Count what an answer took."""
        self.num_calls += 1
        self.num_prompt_tokens += answer.num_prompt_tokens
        self.num_output_tokens += answer.num_output_tokens
        self._largest_output = max(self._largest_output, answer.num_output_tokens)

    @asynccontextmanager
    async def reserve(self, question: str) -> AsyncIterator[None]:
        """Set aside what a call can cost, while the block lasts; calls in flight are waited for.

        Raises:
            BudgetError: the call could exceed what is allowed.
        """
        async with self._changed:
            # Anew after each wait: what came meanwhile may have raised it.
            while not self._allows(most := self._price(*self.most(question)) or 0.0):
                if not self._set_aside:
                    raise BudgetError(
                        f"the next question to the teacher could cost up to {most:.4g}, and "
                        f"{self.cost:.4g} of --max-cost {self._settings.max_cost:g} is spent; a "
                        "higher --max-cost continues, and pays for nothing again"
                    )
                await self._changed.wait()
            self._set_aside.append(most)
        try:
            yield
        finally:
            self._set_aside.remove(most)
            async with self._changed:
                self._changed.notify_all()

    def describe(self) -> str:
        """Return what was spent, in words."""
        cost = "unknown cost (no --price-in and --price-out)"
        if self.cost is not None:
            cost = f"cost {self.cost:.4g}"
        return (
            f"{self.num_calls} calls, {self.num_prompt_tokens:,} prompt tokens, "
            f"{self.num_output_tokens:,} output tokens, {cost}"
        )

    def _allows(self, more: float) -> bool:
        limit = self._settings.max_cost
        return limit is None or (self.cost or 0.0) + sum(self._set_aside) + more <= limit

    def _price(self, num_prompt: int, num_output: int) -> float | None:
        price_in, price_out = self._settings.price_in, self._settings.price_out
        if price_in is None or price_out is None:
            return None
        return (num_prompt * price_in + num_output * price_out) / 1e6
