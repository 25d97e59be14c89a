"""JSON to one server and back over one pool of connections; tried again where that can help.

It knows HTTP, not completions: a refusal comes back as an answer with its status.
"""

import asyncio
import random
from collections.abc import Coroutine, Mapping
from typing import Any

import orjson

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.http_session import Answer, HttpSession, NoAnswerError, OpenSession

MAX_RETRIES = 5
"""Further tries after a transport error, 408, 409, 429 or 5xx, with exponential backoff."""
_FIRST_DELAY_SECONDS = 0.5
_MAX_DELAY_SECONDS = 8.0


class Transport:
    """Use it inside one event loop; connections are opened by the first request.

    Args:
        endpoint: the server.
        max_connections: requests in flight at most; further ones wait for a connection.
        timeout_seconds: for each attempt of a request.
        max_unanswered: tries, of a request's, that bring no answer at all.
        open_session: where the connections are held: in this process, or in another.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        max_connections: int,
        timeout_seconds: float,
        max_unanswered: int = MAX_RETRIES + 1,
        open_session: OpenSession = HttpSession,
    ) -> None:
        self.url = endpoint.url
        self._max_unanswered = max_unanswered
        self._closed = False
        self._limits: set[asyncio.Timeout] = set()
        """Of the requests in flight, which `close` ends."""
        self._is_own = endpoint.is_own
        self._session = open_session(endpoint, max_connections, timeout_seconds)

    async def close(self) -> None:
        """Close the connections; requests in flight fail."""
        self._closed = True
        for limit in self._limits:
            limit.reschedule(0)  # that is long past
        while self._limits:
            await asyncio.sleep(0)
        await self._session.close()

    async def post(
        self, path: str, body: Mapping[str, Any], headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send JSON to a route, again after a failure that may pass.

        Where nobody listens for a server of ours any more it is dead: that doesn't pass.

        Returns:
            The answer, whatever its status; after all retries the last one.

        Raises:
            ServerError: no answer at all.
        """
        return await self._until_closed(self._post(path, orjson.dumps(body), headers))

    async def _post(
        self, path: str, data: bytes, headers: Mapping[str, str] | None = None
    ) -> Answer:
        num_unanswered = 0
        for retry in range(MAX_RETRIES + 1):
            pause = None
            try:
                answer = await self._session.send("POST", path, data, headers)
                if retry == MAX_RETRIES or not answer.is_passing:
                    return answer
                pause = answer.retry_after_seconds
            except NoAnswerError as error:
                num_unanswered += 1
                last = retry == MAX_RETRIES or num_unanswered == self._max_unanswered
                if last or (self._is_own and error.refused):
                    raise
            await asyncio.sleep(backoff_seconds(retry) if pause is None else pause)
        raise AssertionError("the last try returns or raises")

    async def get(self, path: str) -> Answer:
        """Ask a route once.

        Raises:
            ServerError: no answer.
        """
        return await self._until_closed(self._session.send("GET", path, None))

    async def _until_closed(self, work: Coroutine[None, None, Answer]) -> Answer:
        """Wait for an answer, unless the connections are closed meanwhile: then fail at once."""
        given_up = f"the connection to {self.url} was given up"
        if self._closed:
            work.close()
            raise ServerError(given_up)
        try:
            async with asyncio.timeout(None) as limit:
                self._limits.add(limit)
                try:
                    return await work
                finally:
                    self._limits.discard(limit)
        except TimeoutError as error:
            raise ServerError(given_up) from error


def backoff_seconds(retry: int) -> float:
    """Return the pause before a further try: doubled each time, up to a quarter off at random."""
    return min(_FIRST_DELAY_SECONDS * 2.0**retry, _MAX_DELAY_SECONDS) * (1 - random.random() / 4)
