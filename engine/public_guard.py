"""An ASGI middleware for a server that other machines reach: four routes, a key, limits.

The first thing that a request meets in vLLM's API server (--middleware), as `guard` is where only
this machine reaches it. It lets one model be asked; which one, and the limits, come through the
environment (`public_serving`).
"""

import math
import os
from typing import Any

import orjson

from selfstudy_engine.engine.asgi import (
    App,
    Receive,
    RefusedError,
    Scope,
    Send,
    read_body,
    replay,
)
from selfstudy_engine.engine.guard import OPEN_ROUTES, Key
from selfstudy_engine.engine.rate_limit import RateLimit

ROUTES = frozenset(
    {
        *(("GET", path) for path in (*OPEN_ROUTES, "/v1/models")),
        *(("POST", path) for path in ("/v1/completions", "/v1/chat/completions")),
    }
)
MODEL_VARIABLE = "SELFSTUDY_PUBLIC_MODEL"
"""Environment variable: the one model that may be asked."""
RATE_VARIABLE = "SELFSTUDY_PUBLIC_RATE"
"""Environment variable: requests per minute of one address."""
BODY_VARIABLE = "SELFSTUDY_PUBLIC_BODY"
"""Environment variable: longest body of a request, in bytes."""

MOST_SEQUENCES = 256
"""Completions of one request: the limit of requests would else limit no work."""


class PublicGuard:
    """Lets through what is on the list, with the key, within the limits.

    Raises:
        KeyError: when it is made without the key or one of the variables.
    """

    def __init__(self, app: App) -> None:
        self._app = app
        self._key = Key()
        self._model = os.environ[MODEL_VARIABLE]
        self._max_body = int(os.environ[BODY_VARIABLE])
        self._rate = RateLimit(int(os.environ[RATE_VARIABLE]))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, or answer it with what is wrong."""
        if scope["type"] != "lifespan":
            try:
                scope, receive = await self._check(scope, receive)
            except RefusedError as refused:
                await refused.answer(scope, send)
                return
        await self._app(scope, receive, send)

    async def _check(self, scope: Scope, receive: Receive) -> tuple[Scope, Receive]:
        if scope["type"] != "http" or (scope["method"], scope["path"]) not in ROUTES:
            raise RefusedError(404, "there is no such route")
        if scope["path"] in OPEN_ROUTES:
            return scope, receive
        # Before the key is looked at, so that nobody tries many.
        client = scope.get("client")
        wait = self._rate.seconds_to_wait(client[0] if client else "")
        if wait:
            seconds = math.ceil(wait)
            reason = f"too many requests from your address; try again in {seconds} s"
            raise RefusedError(429, reason, {b"retry-after": str(seconds).encode()})
        self._key.check(scope)
        if scope["method"] == "GET":
            return scope, receive
        question = self._check_question(await read_body(receive, self._max_body))
        # As it was understood here: no second reading of what is ambiguous.
        return replay(orjson.dumps(question), scope, receive)

    def _check_question(self, body: bytes) -> dict[str, Any]:
        try:
            question = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise RefusedError(400, f"the request's body isn't JSON: {error}") from error
        if not isinstance(question, dict):
            raise RefusedError(400, "the request's body isn't a JSON object")
        if question.get("model") != self._model:
            raise RefusedError(404, f"this server answers as model {self._model!r} only")
        if _num_sequences(question) > MOST_SEQUENCES:
            raise RefusedError(
                400,
                f"a request gets {MOST_SEQUENCES} completions at most (prompts times n): ask again",
            )
        return question


def _num_sequences(question: dict[str, Any]) -> float:
    """Return how many completions a question asks for; what vLLM refuses may be anything."""
    prompt = question.get("prompt")
    num_prompts = 1
    if isinstance(prompt, list) and prompt and not isinstance(prompt[0], int):  # else tokens
        num_prompts = len(prompt)
    each = question.get("n") or 1
    try:
        return num_prompts * float(each)  # vLLM takes "8" for 8, too
    except (TypeError, ValueError):
        return math.inf
