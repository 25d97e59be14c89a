"""One server's OpenAI API: a prompt in, its completions out; and how much the server can use."""

import asyncio
import logging
from collections.abc import Mapping
from typing import Any, Self, TypeVar

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.data.schema import Completion
from selfstudy_engine.engine.answers import decode, is_too_long, to_completions
from selfstudy_engine.engine.concurrency import MAXIMUM, ConcurrencyController, parse_load
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.generation import Generated, GenerationRequest
from selfstudy_engine.engine.http_session import Answer, HttpSession, OpenSession
from selfstudy_engine.engine.transport import MAX_RETRIES, Transport
from selfstudy_engine.engine.vllm_metrics import parse_metrics

LOOK_SECONDS = 0.5
"""Time between two looks at the server's metrics."""
HEALTH_SECONDS = 20.0
"""A server that answers nothing for so long is taken for gone, where others can answer instead."""
_ROUTE = "/v1/completions"
_ENGINE_HEADER = "X-data-parallel-rank"
"""vLLM's: which of its engines answers."""
Item = TypeVar("Item")
logger = logging.getLogger(__name__)


class ServerClient:
    """Speaks to one server inside one event loop; use it as an async context manager.

    Args:
        endpoint: the server.
        concurrency: completions (not requests) in flight at most; None follows the server's
            metrics.
        timeout_seconds: for each attempt of a request.
        look_seconds: time between two looks at the metrics.
        max_unanswered: tries, of a request's, that bring no answer at all.
        open_session: where the connections are held.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        concurrency: int | None,
        timeout_seconds: float,
        *,
        look_seconds: float = LOOK_SECONDS,
        max_unanswered: int = MAX_RETRIES + 1,
        open_session: OpenSession = HttpSession,
    ) -> None:
        self.url = endpoint.url
        self.look_seconds = look_seconds
        self.in_flight = 0
        """Completions that it is asked for now."""
        self._controller = ConcurrencyController()
        self.concurrency = concurrency or self._controller.limit
        """Completions that may be in flight now; plain, as each prompt's routing reads all."""
        self._is_fixed = concurrency is not None
        self._has_metrics = True
        self._origin: str | None = None
        # One more: the metrics are asked for however many requests are in flight.
        connections = (concurrency or MAXIMUM) + 1
        self._transport = Transport(
            endpoint, connections, timeout_seconds, max_unanswered, open_session
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections; requests in flight fail."""
        await self._transport.close()

    @property
    def is_steered(self) -> bool:
        """Whether `look` can change how many completions may be in flight."""
        return self._has_metrics and not self._is_fixed

    async def ask(self, model: str, request: GenerationRequest[Item]) -> Generated[Item]:
        """Return a prompt's completions.

        Args:
            model: the served name; the answer must name it.
            request: the prompt.

        Raises:
            ServerError: an answer that can't be used, or no answer after all retries.
        """
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
        self.in_flight += params.n
        try:
            answer = await self._post(body)
        finally:
            self.in_flight -= params.n
        if is_too_long(answer):
            # A property of the molecule, not of the server: data, as an unparsable answer is.
            too_long = Completion("", "length", num_prompt_tokens=0, num_output_tokens=0)
            return Generated(request.item, [too_long] * params.n)
        return Generated(request.item, to_completions(decode(answer, self.url), model, params.n))

    async def complete(self, *, engine: int | None = None, **body: Any) -> dict[str, Any]:
        """Send one request to /v1/completions and return the answer's JSON as it is.

        Args:
            engine: who is to answer, of several engines behind one address (data parallelism).
            body: the request's fields.

        Raises:
            ServerError: no usable answer after all retries.
        """
        headers = {} if engine is None else {_ENGINE_HEADER: str(engine)}
        return decode(await self._post({"stream": False, **body}, headers), self.url)

    async def _post(self, body: dict[str, Any], headers: Mapping[str, str] | None = None) -> Answer:
        if self._origin:  # what other weights left in the prefix cache isn't ours to read
            body["cache_salt"] = self._origin
        answer = await self._transport.post(_ROUTE, body, headers)
        if self._origin is not None and answer.origin != self._origin:
            is_same = answer.origin.partition(".")[0] == self._origin.partition(".")[0]
            what = "was given other weights by another client" if is_same else "was started again"
            raise ServerError(
                f"the server at {self.url} {what} since its adapter was proven: run the same "
                "command again, which gives it the adapter anew"
                + (", once the other has ended" if is_same else "")
            )
        return answer

    async def count_engines(self) -> int:
        """Return how many engines answer behind the address; 1 where it has no metrics.

        Raises:
            ServerError: no answer, or one that isn't its last word.
        """
        answer = await self._transport.get("/metrics")
        if answer.is_passing:
            raise ServerError(
                f"the server at {self.url} answered {answer.status} when asked for its metrics, "
                "which tell how many copies of the weights are to be proven"
            )
        page = answer.body.decode("utf-8", errors="replace") if answer.status == 200 else ""
        return max(1, len(parse_metrics(page).get("num_requests_running", [])))

    async def follow_origin(self) -> None:
        """From now on take answers only of the process and the weights that answer now.

        Raises:
            ServerError: none does.
        """
        self._origin = (await self._transport.get("/health")).origin

    def follow_any_origin(self) -> None:
        """Take answers of whatever listens there."""
        self._origin = None

    async def look(self, *, held_back: bool) -> bool:
        """Look at the server's metrics, and have them decide how much may be in flight.

        Args:
            held_back: whether the limit, and nothing else, keeps more from being asked.

        Returns:
            Whether the server answered, whatever it said.
        """
        try:
            async with asyncio.timeout(HEALTH_SECONDS):
                answer = await self._transport.get("/metrics")
        except (ServerError, TimeoutError):
            return False
        if answer.is_passing or not self.is_steered:
            return True
        page = answer.body.decode("utf-8", errors="replace")
        load = parse_load(page) if answer.status == 200 else None
        if load is None:
            self._has_metrics = False
            logger.warning(
                "the server at %s shows no vLLM metrics (status %d): %d completions are kept in "
                "flight; set --concurrency to change that",
                *(self.url, answer.status, self.concurrency),
            )
        else:
            self.concurrency = self._controller.update(
                load, in_flight=self.in_flight, held_back=held_back
            )
        return True
