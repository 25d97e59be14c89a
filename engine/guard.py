"""An ASGI middleware for our vLLM servers: no route but /health without the server's key.

vLLM's own key guards /v1 only; pausing, resetting and calling into the workers stay open to every
user of the machine without this. Each answer says what it is from, see `Origin`. Runs inside vLLM's
API server (--middleware).
"""

import os
import secrets

from selfstudy_engine.engine.asgi import (
    App,
    Origin,
    Receive,
    RefusedError,
    Scope,
    Send,
)

KEY_VARIABLE = "SELFSTUDY_GUARD_KEY"
"""Environment variable of a server. Not vLLM's own: 0.26 makes it part of the name under which what
was compiled is kept, and writes it there, into its cache folder."""
OPEN_ROUTES = frozenset({"/health"})
_WORKERS_ROUTE = "/collective_rpc"
"""By which merged weights change; see `merge_worker`."""


class Key:
    """The key of `KEY_VARIABLE`, which a request carries as its bearer token.

    Raises:
        KeyError: when it is made without that variable: a server without a key is not started.
    """

    def __init__(self) -> None:
        self._expected = f"Bearer {os.environ[KEY_VARIABLE]}".encode()

    def check(self, scope: Scope) -> None:
        """Refuse a request that doesn't carry it.

        Raises:
            RefusedError: 401.
        """
        given = dict(scope["headers"]).get(b"authorization", b"")
        if not secrets.compare_digest(given, self._expected):
            reason = "this server needs its key: Authorization: Bearer KEY"
            raise RefusedError(401, reason, {b"www-authenticate": b"Bearer"})


class RequireKey:
    """Lets a request through if it carries the server's key."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = Key()
        self._origin = Origin()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer 401; connections other than HTTP are closed."""
        open_to_all = scope["type"] == "http" and scope["path"] in OPEN_ROUTES
        if scope["type"] != "lifespan" and not open_to_all:
            try:
                self._key.check(scope)
            except RefusedError as refused:
                await refused.answer(scope, send)
                return
        if scope.get("path") == _WORKERS_ROUTE:
            self._origin.change_weights()
        await self._app(scope, receive, self._origin.named(send))
