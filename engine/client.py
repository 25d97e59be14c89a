"""Prompts -> completions through a server's OpenAI API, as many at once as the server can use."""

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.data.schema import Completion
from selfstudy_engine.engine.admission import Admission
from selfstudy_engine.engine.answers import decode, is_too_long, to_completions
from selfstudy_engine.engine.concurrency import MAXIMUM, ConcurrencyController, parse_load
from selfstudy_engine.engine.server import Endpoint
from selfstudy_engine.engine.transport import Transport

LOOK_SECONDS = 0.5
"""Time between two looks at the server's metrics."""
MAX_UNREAD = 1024
"""Answered requests that wait for a slow reader before no new ones are asked."""
_ROUTE = "/v1/completions"
Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn; no seed, as per-request seeds end vLLM's CPU engine."""

    n: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Run to max_tokens whatever the model says: for benchmarks."""


@dataclass(frozen=True, slots=True)
class GenerationRequest(Generic[Item_co]):
    """A prompt, how to sample from it, and what comes back with the answer."""

    item: Item_co
    prompt: str
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Generated(Generic[Item]):
    """The n completions of one prompt, with what the caller sent along."""

    item: Item
    completions: list[Completion]


class GenerationClient:
    """Speaks to one server; use it as an async context manager.

    Args:
        endpoint: the server.
        concurrency: completions (not requests) in flight at most, in each call of `generate`; None
            follows the server's metrics.
        timeout_seconds: for each attempt of a request.
        look_seconds: time between two looks at the metrics.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        concurrency: int | None,
        timeout_seconds: float,
        *,
        look_seconds: float = LOOK_SECONDS,
    ) -> None:
        self._fixed = concurrency
        self._controller = ConcurrencyController()
        self._look_seconds = look_seconds
        self._has_metrics = True
        # One more: the metrics are asked for however many requests are in flight.
        self._transport = Transport(endpoint, (concurrency or MAXIMUM) + 1, timeout_seconds)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await self._transport.close()

    @property
    def concurrency(self) -> int:
        """Completions that may be in flight now."""
        return self._fixed or self._controller.limit

    async def generate(
        self,
        model: str,
        requests: Iterable[GenerationRequest[Item]],
        *,
        max_unread: int = MAX_UNREAD,
    ) -> AsyncIterator[Generated[Item]]:
        """Yield each prompt's completions as they arrive, in no particular order.

        Args:
            model: the served name; every answer must name it.
            requests: asked in their order, and drawn lazily: only when there is room for one more.
            max_unread: answers that may wait for the reader before nothing more is asked.

        Raises:
            ServerError: an answer that can't be used, or no answer after all retries. What was in
                flight is yielded first.
        """

        async def ask(request: GenerationRequest[Item]) -> Generated[Item]:
            return await self._request(model, request)

        admission = Admission(
            ask,
            requests,
            size=lambda request: request.params.n,
            limit=lambda: self.concurrency,
            max_unread=max_unread,
        )
        steering = asyncio.create_task(self._steer(admission))
        try:
            async for generated in admission.results():
                yield generated
        finally:
            steering.cancel()
            await admission.close()
            [outcome] = await asyncio.gather(steering, return_exceptions=True)
            if isinstance(outcome, Exception):
                raise outcome

    async def _steer(self, admission: Admission[Any, Any]) -> None:
        """Follow the server's metrics for as long as one call of `generate` lasts."""
        while self._fixed is None and self._has_metrics:
            await asyncio.sleep(self._look_seconds)
            try:
                answer = await self._transport.get("/metrics")
            except ServerError:
                continue  # the requests themselves find out whether the server is gone
            if answer.is_passing:
                continue
            page = answer.body.decode("utf-8", errors="replace")
            load = parse_load(page) if answer.status == 200 else None
            if load is None:
                self._has_metrics = False
                logger.warning(
                    "the server at %s shows no vLLM metrics (status %d): %d completions are kept "
                    "in flight; set --concurrency to change that",
                    *(self._transport.url, answer.status, self.concurrency),
                )
                return
            self._controller.update(
                load, in_flight=admission.in_flight, held_back=admission.held_back
            )
            admission.admit()

    async def _request(self, model: str, request: GenerationRequest[Item]) -> Generated[Item]:
        params = request.params
        body = {
            "model": model,
            "prompt": request.prompt,
            "n": params.n,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "max_tokens": params.max_tokens,
            "stop": params.stop or None,
            "stream": False,
        }
        if params.ignore_eos:
            body["ignore_eos"] = True
        answer = await self._transport.post(_ROUTE, body)
        if is_too_long(answer):
            # A property of the molecule, not of the server: data, as an unparsable answer is.
            too_long = Completion("", "length", num_prompt_tokens=0, num_output_tokens=0)
            return Generated(request.item, [too_long] * params.n)
        return Generated(
            request.item, to_completions(decode(answer, self._transport.url), model, params.n)
        )

    async def complete(self, **body: Any) -> dict[str, Any]:
        """Send one request to /v1/completions and return the answer's JSON as it is.

        Raises:
            ServerError: no usable answer after all retries.
        """
        answer = await self._transport.post(_ROUTE, {"stream": False, **body})
        return decode(answer, self._transport.url)
