"""An ASGI middleware for our vLLM servers: no route but /health without the server's key.

vLLM's own key guards /v1 only; pausing, resetting and calling into the workers stay open to every
user of the machine without this. Runs inside vLLM's API server (--middleware).
"""

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

OPEN_ROUTES = frozenset({"/health"})
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]


class RequireKey:
    """Lets a request through if it carries the key of $VLLM_API_KEY as its bearer token.

    Raises:
        KeyError: when it is made without that variable: a server without a key is not started.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._expected = f"Bearer {os.environ['VLLM_API_KEY']}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401; connections other than HTTP are closed."""
        if scope["type"] == "lifespan" or self._may_pass(scope):
            await self._app(scope, receive, send)
        elif scope["type"] == "http":
            headers = [(b"content-type", b"application/json"), (b"www-authenticate", b"Bearer")]
            await send({"type": "http.response.start", "status": 401, "headers": headers})
            body = b'{"error": "this server needs its key: Authorization: Bearer KEY"}'
            await send({"type": "http.response.body", "body": body})
        else:
            await send({"type": "websocket.close", "code": 1008})

    def _may_pass(self, scope: Scope) -> bool:
        if scope["type"] == "http" and scope["path"] in OPEN_ROUTES:
            return True
        given = dict(scope["headers"]).get(b"authorization", b"")
        return secrets.compare_digest(given, self._expected)
