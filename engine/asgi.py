"""What our middlewares inside vLLM's API server share: types, a body read whole, an answer of ours.

It knows no route and no key.
"""

import asyncio
import os
import secrets
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from mmap import mmap
from pathlib import Path
from typing import Any

import orjson

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]
PROCESS_VARIABLE = "SELFSTUDY_PROCESS"
"""Environment variable: what tells this start of the server from every other one."""
WEIGHTS_VARIABLE = "SELFSTUDY_WEIGHTS"
"""Environment variable: file that a server's API processes share, see `Origin`."""
ORIGIN_HEADER = "x-selfstudy-origin"
"""Header of each answer: `Origin.header`."""
_WEIGHTS_BYTES = 8
_BODY_SECONDS = 30.0
_BODY_HEADERS = frozenset({b"content-length", b"transfer-encoding"})


class RefusedError(Exception):
    """A request that we answer ourselves.

    Args:
        status: of HTTP.
        reason: for the client.
        headers: of the answer.
    """

    def __init__(
        self, status: int, reason: str, headers: Mapping[bytes, bytes] | None = None
    ) -> None:
        super().__init__(reason)
        self.status = status
        self._headers = headers or {}

    async def answer(self, scope: Scope, send: Send) -> None:
        """Send the refusal in the form of OpenAI's errors; close what isn't HTTP."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
            return
        kind = "rate_limit_error" if self.status == 429 else "invalid_request_error"
        error = {"message": str(self), "type": kind, "code": self.status}
        headers = [(b"content-type", b"application/json"), *self._headers.items()]
        await send({"type": "http.response.start", "status": self.status, "headers": headers})
        await send({"type": "http.response.body", "body": orjson.dumps({"error": error})})


class Origin:
    """What answers: this start of the server, with the weights that it was given last.

    Merged weights answer under the base model's name, whoever had them merged. So each answer says
    `START.WEIGHTS`, and a client that proved an adapter sees by the first answer that the server
    was started again, or that another client gave it other weights.

    Raises:
        KeyError: the environment doesn't name the file of WEIGHTS.
        OSError: it can't be used.
    """

    def __init__(self) -> None:
        self._start = os.environ[PROCESS_VARIABLE]
        with Path(os.environ[WEIGHTS_VARIABLE]).open("r+b") as file:
            self._weights = mmap(file.fileno(), _WEIGHTS_BYTES)

    @staticmethod
    def create(path: Path) -> dict[str, str]:
        """Make the file for a new start; returns the environment that names both."""
        path.write_bytes(bytes(_WEIGHTS_BYTES))
        return {PROCESS_VARIABLE: secrets.token_hex(8), WEIGHTS_VARIABLE: str(path)}

    @property
    def header(self) -> str:
        """START.WEIGHTS"""
        return f"{self._start}.{self._weights[:].hex()}"

    def change_weights(self) -> None:
        """Have every answer from now on say other weights."""
        self._weights[:] = secrets.token_bytes(_WEIGHTS_BYTES)

    def named(self, send: Send) -> Send:
        """Return a `send` that says in each answer's headers what answers."""

        async def send_named(message: MutableMapping[str, Any]) -> None:
            if message["type"] == "http.response.start":
                header = (ORIGIN_HEADER.encode(), self.header.encode())
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        return send_named


async def read_body(receive: Receive, limit: int) -> bytes:
    """Return a request's whole body, of `limit` bytes at most.

    Raises:
        RefusedError: it is longer (413), or doesn't come within 30 s (408).
    """
    body = bytearray()
    try:
        async with asyncio.timeout(_BODY_SECONDS):
            while True:
                message = await receive()
                body += message.get("body", b"")
                if len(body) > limit:
                    raise RefusedError(413, f"the request is longer than {limit:,} bytes")
                if message["type"] != "http.request":
                    raise RefusedError(400, "the connection ended before the request did")
                if not message.get("more_body", False):
                    return bytes(body)
    except TimeoutError as error:
        raise RefusedError(
            408, f"the request's body didn't come within {_BODY_SECONDS:g} s"
        ) from error


def replay(body: bytes, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
    """Return scope and receive of the same request with this body."""
    kept = [(key, value) for key, value in scope["headers"] if key not in _BODY_HEADERS]
    headers = [*kept, (b"content-length", str(len(body)).encode())]
    message = {"type": "http.request", "body": body, "more_body": False}
    given = False

    async def receive_once() -> MutableMapping[str, Any]:
        nonlocal given
        if given:
            return await receive()  # the client's hanging up
        given = True
        return message

    return {**scope, "headers": headers}, receive_once
