"""One HTTP request to one server, over connections that are kept: an answer, or that there is none.

Nothing is tried again here (`transport`).
"""

import asyncio
import resource
from collections.abc import Callable, Mapping
from email.utils import parsedate_to_datetime
from time import time
from typing import NamedTuple, Protocol

import aiohttp

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.engine.asgi import ORIGIN_HEADER
from selfstudy_engine.engine.endpoint import Endpoint

_KEEP_ALIVE_SECONDS = 4.0
"""Below vLLM's 5 s, so that no request meets a connection that is just being closed."""
_MAX_RETRY_AFTER_SECONDS = 60.0
"""Longest pause that a server may ask for."""
_OPEN_FILES = 65_536
"""Bounded, as what we start inherits it."""


class NoAnswerError(ServerError):
    """A request had no answer.

    Args:
        message: names the server, the reason and the remedy.
        refused: whether nobody listens there.
    """

    def __init__(self, message: str, *, refused: bool = False) -> None:
        super().__init__(message)
        self.refused = refused


class Answer(NamedTuple):
    """What a server answered."""

    status: int
    body: bytes
    retry_after_seconds: float | None = None
    """The pause that it asked for."""
    origin: str = ""
    """Which start of the server it is from; empty where the server doesn't say."""

    @property
    def text(self) -> str:
        """The body's beginning, for an error message."""
        return self.body[:500].decode("utf-8", errors="replace")

    @property
    def is_passing(self) -> bool:
        """See `is_passing`."""
        return is_passing(self.status)


class Session(Protocol):
    """The connections to one server, wherever they are held."""

    async def send(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """Send one request.

        Raises:
            NoAnswerError: no answer.
            UsageError: the server's certificate can't be read.
        """

    async def close(self) -> None:
        """Close the connections; nothing may be in flight."""


OpenSession = Callable[[Endpoint, int, float], Session]
"""From a server, connections at most and seconds for each request; see `HttpSession`."""


class HttpSession:
    """A session of this process; the first request opens it, inside the event loop that runs then.

    Args:
        endpoint: the server.
        max_connections: requests in flight at most; further ones wait for a connection.
        timeout_seconds: for each request.
    """

    def __init__(self, endpoint: Endpoint, max_connections: int, timeout_seconds: float) -> None:
        self._endpoint = endpoint
        self._max_connections = max_connections
        self._timeout = aiohttp.ClientTimeout(total=timeout_seconds)
        self._http: aiohttp.ClientSession | None = None

    async def send(
        self, method: str, path: str, data: bytes | None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        """See `Session`."""
        http = self._http = self._http or self._open()
        url = self._endpoint.url
        try:
            async with http.request(
                method, url + path, data=data, headers=headers, allow_redirects=False
            ) as response:
                body = await response.read()
                pause = retry_after_seconds(response.headers)
                origin = response.headers.get(ORIGIN_HEADER, "")
                return Answer(response.status, body, pause, origin)
        except (aiohttp.ClientError, OSError) as error:  # OSError: also the attempt's TimeoutError
            why = str(error) or type(error).__name__
            raise NoAnswerError(
                f"the server at {url} doesn't answer ({why}); once it does, run the same command "
                "again",
                refused=_was_refused(error),
            ) from error

    async def close(self) -> None:
        """See `Session`."""
        if self._http:
            await self._http.close()
            # aiohttp has the event loop close the sockets, which may be over before it gets to it.
            await asyncio.sleep(0)

    def _open(self) -> aiohttp.ClientSession:
        _allow_open_files()
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


def is_passing(status: int) -> bool:
    """Tell whether a request that was refused may be answered another time."""
    return status in {408, 409, 429} or status >= 500


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


def _was_refused(error: Exception) -> bool:
    return isinstance(error, aiohttp.ClientConnectorError) and isinstance(
        error.os_error, ConnectionRefusedError
    )


def _allow_open_files() -> None:
    """Have this process open as many files as connections to many servers may need."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = _OPEN_FILES if hard == resource.RLIM_INFINITY else min(_OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
