"""JSON to one server and back over one pool of connections; tried again where that can help.

It knows HTTP, not completions: a refusal comes back as an answer with its status.
"""

import asyncio
import random
import resource
from collections.abc import Coroutine, Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from time import time
from typing import Any

import aiohttp
import orjson

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.engine.asgi import PROCESS_HEADER
from selfstudy_engine.engine.endpoint import Endpoint

MAX_RETRIES = 5
"""Further tries after a transport error, 408, 409, 429 or 5xx, with exponential backoff."""
_FIRST_DELAY_SECONDS = 0.5
_MAX_DELAY_SECONDS = 8.0
_MAX_RETRY_AFTER_SECONDS = 60.0
"""Longest pause that a server may ask for."""
_KEEP_ALIVE_SECONDS = 4.0
"""Below vLLM's 5 s, so that no request meets a connection that is just being closed."""
_OTHER_FILES = 256
_RETRIED = frozenset({408, 409, 429})


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered after all retries."""

    status: int
    body: bytes
    retry_after_seconds: float | None = None
    """The pause that it asked for."""
    process: str = ""
    """Which start of the server it is from; empty where the server doesn't say."""

    @property
    def text(self) -> str:
        """The body's beginning, for an error message."""
        return self.body[:500].decode("utf-8", errors="replace")

    @property
    def is_passing(self) -> bool:
        """Whether the same request may be answered another time."""
        return self.status in _RETRIED or self.status >= 500


class Transport:
    """Use it inside one event loop; connections are opened by the first request.

    Args:
        endpoint: the server.
        max_connections: requests in flight at most; further ones wait for a connection.
        timeout_seconds: for each attempt of a request.
        max_unanswered: tries, of a request's, that bring no answer at all.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        max_connections: int,
        timeout_seconds: float,
        max_unanswered: int = MAX_RETRIES + 1,
    ) -> None:
        self.url = endpoint.url
        self._max_unanswered = max_unanswered
        self._closed = False
        self._limits: set[asyncio.Timeout] = set()
        """Of the requests in flight, which `close` ends."""
        self._endpoint = endpoint
        self._max_connections = max_connections
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._http: aiohttp.ClientSession | None = None

    async def close(self) -> None:
        """Close the connections; requests in flight fail."""
        self._closed = True
        for limit in self._limits:
            limit.reschedule(0)  # that is long past
        while self._limits:
            await asyncio.sleep(0)
        if self._http:
            await self._http.close()
            # aiohttp has the event loop close the sockets, which may be over before it gets to it.
            await asyncio.sleep(0)

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
                answer = await self._send("POST", path, data, headers)
                if retry == MAX_RETRIES or not answer.is_passing:
                    return answer
                pause = answer.retry_after_seconds
            except ServerError as error:
                num_unanswered += 1
                last = retry == MAX_RETRIES or num_unanswered == self._max_unanswered
                if last or (self._endpoint.is_own and _was_refused(error)):
                    raise
            await asyncio.sleep(backoff_seconds(retry) if pause is None else pause)
        raise AssertionError("the last try returns or raises")

    async def get(self, path: str) -> Answer:
        """Ask a route once.

        Raises:
            ServerError: no answer.
        """
        return await self._until_closed(self._send("GET", path, None))

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

    async def _send(
        self,
        method: str,
        path: str,
        data: bytes | None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        http = self._http = self._http or self._open()
        try:
            async with http.request(
                method, self.url + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
                pause = retry_after_seconds(response.headers)
                process = response.headers.get(PROCESS_HEADER, "")
                return Answer(response.status, body, pause, process)
        except (aiohttp.ClientError, OSError) as error:  # OSError: also the attempt's TimeoutError
            why = str(error) or type(error).__name__
            raise ServerError(
                f"the server at {self.url} doesn't answer ({why}); once it does, run the same "
                "command again"
            ) from error

    def _open(self) -> aiohttp.ClientSession:
        _allow_open_files(self._max_connections + _OTHER_FILES)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(
                limit=self._max_connections,
                keepalive_timeout=_KEEP_ALIVE_SECONDS,
                ssl=self._endpoint.verify,
            ),
            headers=self._endpoint.headers | {"Content-Type": "application/json"},
            timeout=self._timeout,
            cookie_jar=aiohttp.DummyCookieJar(),
            trust_env=self._endpoint.may_use_proxy,
        )


def _was_refused(error: ServerError) -> bool:
    """Tell whether nobody listens there."""
    cause = error.__cause__
    return isinstance(cause, aiohttp.ClientConnectorError) and isinstance(
        cause.os_error, ConnectionRefusedError
    )


def backoff_seconds(retry: int) -> float:
    """Return the pause before a further try: doubled each time, up to a quarter off at random."""
    return min(_FIRST_DELAY_SECONDS * 2.0**retry, _MAX_DELAY_SECONDS) * (1 - random.random() / 4)


def retry_after_seconds(headers: Mapping[str, str]) -> float | None:
    """Return the pause that a server asks for (RFC 9110, 10.2.3), capped; None if it doesn't.

    >>> retry_after_seconds({"Retry-After": "2"}), retry_after_seconds({"Retry-After": "3600"})
    (2.0, 60.0)
    >>> retry_after_seconds({"retry-after-ms": "250", "Retry-After": "2"})
    0.25
    >>> retry_after_seconds({"Retry-After": "soon"}), retry_after_seconds({})
    (None, None)
    """
    for name, factor in (("retry-after-ms", 1e-3), ("Retry-After", 1.0)):
        value = headers.get(name)
        if value is None:
            continue
        try:
            seconds = float(value) * factor
        except ValueError:
            try:
                seconds = parsedate_to_datetime(value).timestamp() - time()
            except (ValueError, OverflowError):
                continue
        if seconds >= 0:  # not NaN either
            return min(seconds, _MAX_RETRY_AFTER_SECONDS)
    return None


def _allow_open_files(num_wanted: int) -> None:
    """Raise this process's soft limit of open files, as far as the hard one goes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = num_wanted if hard == resource.RLIM_INFINITY else min(num_wanted, hard)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
