"""Prompts -> completions through a server's OpenAI API: bounded concurrency, retries, checks.

An answer that can't be trusted (another model's name, an aborted request, too few choices) is an
error of the server, never a wrong answer.
"""

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Generic, Self, TypeVar

import openai
from openai.types import Completion as ApiCompletion

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.data.schema import Completion
from selfstudy_engine.engine.server import Endpoint

MAX_RETRIES = 5
"""Further tries after a transport error, 429 or 5xx, with exponential backoff and jitter."""
_FINISHED = ("stop", "length")
Item = TypeVar("Item")


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
class Generated(Generic[Item]):
    """The n completions of one prompt, with what the caller sent along."""

    item: Item
    completions: list[Completion]


class GenerationClient:
    """Speaks to one server; use it as an async context manager.

    Args:
        endpoint: the server.
        concurrency: completions (not requests) in flight at most.
        timeout_seconds: for each attempt of a request.
    """

    def __init__(self, endpoint: Endpoint, concurrency: int, timeout_seconds: float) -> None:
        self._concurrency = concurrency
        self._api = openai.AsyncOpenAI(
            base_url=f"{endpoint.url}/v1",
            api_key=endpoint.api_key or "none",
            max_retries=MAX_RETRIES,
            timeout=timeout_seconds,
            http_client=openai.DefaultAsyncHttpxClient(trust_env=endpoint.may_use_proxy),
        )

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
        await self._api.close()

    async def generate(
        self, model: str, prompts: Iterable[tuple[Item, str]], params: SamplingParams
    ) -> AsyncIterator[Generated[Item]]:
        """Yield each prompt's completions as they arrive, in no particular order.

        Args:
            model: the served name; every answer must name it.
            prompts: pairs of what comes back with the answer, and the prompt. Drawn from lazily:
                a finished prompt makes room for the next.
            params: the same for all.

        Raises:
            ServerError: an answer that can't be used, or no answer after all retries.
        """
        max_requests = max(1, self._concurrency // params.n)
        waiting = iter(prompts)
        running: set[asyncio.Task[Generated[Item]]] = set()
        failure: BaseException | None = None
        try:
            while True:
                # After a failure nothing new is asked, but what is being answered isn't lost.
                while not failure and len(running) < max_requests:
                    pair = next(waiting, None)
                    if pair is None:
                        break
                    running.add(asyncio.create_task(self._request(model, *pair, params)))
                if not running:
                    break
                done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
                for task in done:
                    failed = task.exception()
                    failure = failure or failed
                    if not failed:
                        yield task.result()
            if failure:
                raise failure
        finally:
            for task in running:
                task.cancel()
            await asyncio.gather(*running, return_exceptions=True)

    async def _request(
        self, model: str, item: Item, prompt: str, params: SamplingParams
    ) -> Generated[Item]:
        try:
            answer = await self._ask(model, prompt, params)
        except ServerError as error:
            if not _is_too_long(error.__cause__):
                raise
            # A property of the molecule, not of the server: data, as an unparsable answer is.
            too_long = Completion("", "length", num_prompt_tokens=0, num_output_tokens=0)
            return Generated(item, [too_long] * params.n)
        return Generated(item, _to_completions(answer, model, params.n))

    async def _ask(self, model: str, prompt: str, params: SamplingParams) -> ApiCompletion:
        return await self.complete(
            model=model,
            prompt=prompt,
            n=params.n,
            temperature=params.temperature,
            top_p=params.top_p,
            max_tokens=params.max_tokens,
            stop=list(params.stop) or None,
            extra_body={"ignore_eos": True} if params.ignore_eos else None,
        )

    async def complete(self, **request: Any) -> ApiCompletion:
        """Send one request to /v1/completions.

        Raises:
            ServerError: no usable answer after all retries.
        """
        try:
            answer = await self._api.completions.create(stream=False, **request)
        except (openai.APIError, ValueError) as error:  # ValueError: a body that isn't JSON
            raise ServerError(f"the server at {self._api.base_url} failed: {error}") from error
        if not isinstance(answer, ApiCompletion):
            raise ServerError(f"the server at {self._api.base_url} answered {str(answer)[:100]!r}")
        return answer


def _is_too_long(error: BaseException | None) -> bool:
    return isinstance(error, openai.BadRequestError) and "context length" in str(error)


def _to_completions(answer: ApiCompletion, model: str, n: int) -> list[Completion]:
    if answer.model != model:
        raise ServerError(f"the server answered as model {answer.model!r}, asked was {model!r}")
    choices: Sequence[Any] = sorted(answer.choices or [], key=lambda choice: choice.index)
    if [choice.index for choice in choices] != list(range(n)):
        raise ServerError(f"the server gave {len(choices)} choices, asked were {n}")
    bad = [choice.finish_reason for choice in choices if choice.finish_reason not in _FINISHED]
    if bad:
        raise ServerError(f"the server ended a completion with {bad[0]!r}, not one of {_FINISHED}")
    usage = answer.usage
    if usage is None:
        raise ServerError("the server's answer has no token counts (usage)")
    per_choice, rest = divmod(usage.completion_tokens, n)
    return [
        Completion(
            text=choice.text,
            finish_reason=choice.finish_reason,
            num_prompt_tokens=usage.prompt_tokens,
            num_output_tokens=per_choice + (choice.index < rest),
        )
        for choice in choices
    ]
