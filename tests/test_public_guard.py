"""What a public server lets through: four routes, the key, one model, all of it within limits."""

import asyncio
from typing import Any

import orjson
import pytest

from selfstudy_engine.engine import public_guard
from selfstudy_engine.engine.guard import KEY_VARIABLE
from selfstudy_engine.engine.public_guard import ROUTES, PublicGuard

KEY = "a-random-key-of-thirty-characters"
MODEL = "round-0002-0123456789ab"
COMPLETIONS, CHATS = "/v1/completions", "/v1/chat/completions"


class Asked:
    """What became of one request."""

    def __init__(self) -> None:
        self.sent: list[dict[str, Any]] = []
        self.reached: list[tuple[str, bytes]] = []

    @property
    def status(self) -> int | None:
        return self.sent[0]["status"] if self.sent else None

    @property
    def headers(self) -> dict[bytes, bytes]:
        return dict(self.sent[0]["headers"])

    @property
    def message(self) -> str:
        return str(orjson.loads(self.sent[1]["body"])["error"]["message"])


class Client:
    """Asks an app behind one guard."""

    def __init__(self) -> None:
        self._asked = Asked()
        self._guard = PublicGuard(self._app)

    async def _app(self, scope: Any, receive: Any, send: Any) -> None:
        body, more = b"", scope["type"] == "http" and scope["method"] == "POST"
        while more:
            message = await receive()
            body, more = body + message["body"], message["more_body"]
        headers = dict(scope.get("headers", []))
        assert not body or headers[b"content-length"] == str(len(body)).encode()
        self._asked.reached.append((scope.get("path", scope["type"]), body))

    def __call__(
        self,
        path: str = COMPLETIONS,
        *,
        method: str = "POST",
        key: str | None = KEY,
        body: Any = None,
        address: str = "192.0.2.1",
        kind: str = "http",
    ) -> Asked:
        content = {"model": MODEL, "prompt": "CCO"} if body is None else body
        raw = content if isinstance(content, bytes) else orjson.dumps(content)
        parts = [raw[: len(raw) // 2], raw[len(raw) // 2 :]]
        messages = [
            {"type": "http.request", "body": part, "more_body": number < len(parts)}
            for number, part in enumerate(parts, start=1)
        ]

        async def receive() -> dict[str, Any]:
            return messages.pop(0) if messages else {"type": "http.disconnect"}

        async def send(message: Any) -> None:
            asked.sent.append(message)

        headers = [] if key is None else [(b"authorization", f"Bearer {key}".encode())]
        scope = {"type": kind, "path": path, "headers": headers, "client": (address, 4000)}
        if kind == "http":
            scope["method"] = method
        asked = self._asked = Asked()
        asyncio.run(self._guard(scope, receive, send))
        return asked


@pytest.fixture
def ask(monkeypatch: pytest.MonkeyPatch) -> Client:
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    monkeypatch.setenv(public_guard.MODEL_VARIABLE, MODEL)
    monkeypatch.setenv(public_guard.RATE_VARIABLE, "30")
    monkeypatch.setenv(public_guard.BODY_VARIABLE, "10000")
    return Client()


def test_the_list_is_short() -> None:
    """Whatever is added here is open to the world: this test is to be changed with thought."""
    assert sorted(ROUTES) == [
        ("GET", "/health"),
        ("GET", "/v1/models"),
        ("POST", "/v1/chat/completions"),
        ("POST", "/v1/completions"),
    ]


@pytest.mark.parametrize(("method", "path"), sorted(ROUTES))
def test_what_is_on_the_list_passes_with_the_key(ask: Client, method: str, path: str) -> None:
    asked = ask(path, method=method)
    assert [reached for reached, _ in asked.reached] == [path]
    assert not asked.sent


@pytest.mark.parametrize(
    ("method", "path"),
    [
        *(("POST", path) for path in ("/collective_rpc", "/pause", "/resume", "/sleep")),
        *(("POST", path) for path in ("/reset_prefix_cache", "/v1/load_lora_adapter")),
        *(("POST", path) for path in ("/v1/unload_lora_adapter", "/invocations", "/adapters")),
        *(("GET", path) for path in ("/metrics", "/docs", "/openapi.json", "/ping", "/", "")),
        *(("GET", path) for path in (COMPLETIONS, "/health/", "//health", "/HEALTH")),
        *(("POST", path) for path in ("/health", "/v1/models", f"{COMPLETIONS}/render")),
        *(("OPTIONS", path) for path in (COMPLETIONS, "/v1/models")),
    ],
)
def test_nothing_else_is_reached_even_with_the_key(ask: Client, method: str, path: str) -> None:
    asked = ask(path, method=method)
    assert (asked.status, asked.reached) == (404, [])


@pytest.mark.parametrize("path", [COMPLETIONS, CHATS])
@pytest.mark.parametrize("key", [None, "", "wrong", KEY[:-1], f"{KEY} ", KEY.upper()])
def test_without_the_key_nothing_is_reached(ask: Client, path: str, key: str | None) -> None:
    asked = ask(path, key=key)
    assert (asked.status, asked.reached) == (401, [])
    assert KEY not in asked.message


def test_health_and_lifespan_need_none_and_count_for_nothing(ask: Client) -> None:
    for _ in range(100):
        assert ask("/health", method="GET", key=None).reached
    assert ask("", key=None, kind="lifespan").reached == [("", b"")]
    assert ask().reached


def test_a_websocket_is_closed_with_and_without_the_key(ask: Client) -> None:
    for key in (None, KEY):
        asked = ask("/v1/realtime", key=key, kind="websocket")
        assert (asked.sent[0]["type"], asked.reached) == ("websocket.close", [])


def test_a_question_arrives_as_it_was_sent(ask: Client) -> None:
    question = {"model": MODEL, "messages": [{"role": "user", "content": "é😀"}], "n": 2}
    [(_, body)] = ask(CHATS, body=question).reached
    assert orjson.loads(body) == question


def test_what_is_ambiguous_is_read_once(ask: Client) -> None:
    twice = f'{{"model": "base", "model": "{MODEL}", "prompt": "CCO"}}'.encode()
    [(_, body)] = ask(body=twice).reached
    assert body == f'{{"model":"{MODEL}","prompt":"CCO"}}'.encode()


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"{", 400, "isn't JSON"),
        (b"\xff", 400, "isn't JSON"),
        (b"", 400, "isn't JSON"),
        ([], 400, "isn't a JSON object"),
        ({"prompt": "CCO"}, 404, f"answers as model '{MODEL}' only"),
        ({"model": "the-base-model", "prompt": "CCO"}, 404, "answers as model"),
        ({"model": MODEL, "prompt": "C" * 10_000}, 413, "longer than 10,000 bytes"),
        ({"model": MODEL, "prompt": "CCO", "n": 257}, 400, "256 completions at most"),
        ({"model": MODEL, "prompt": "CCO", "n": "257"}, 400, "256 completions at most"),
        ({"model": MODEL, "prompt": ["C", "CC"] * 65, "n": 2}, 400, "256 completions at most"),
        ({"model": MODEL, "prompt": [[1], [2]], "n": 129}, 400, "256 completions at most"),
    ],
)
def test_a_wrong_question_is_answered_here(
    ask: Client, body: Any, status: int, message: str
) -> None:
    asked = ask(body=body)
    assert (asked.status, asked.reached) == (status, [])
    assert message in asked.message


def test_a_long_prompt_in_tokens_is_one_question(ask: Client) -> None:
    body = {"model": MODEL, "prompt": [1] * 1000, "n": 256}
    assert len(ask(body=body).reached) == 1


def test_too_many_requests_have_to_wait_whether_they_have_the_key_or_not(ask: Client) -> None:
    for number in range(30):
        assert ask(key=KEY if number % 2 else "a guess").status in (None, 401)
    late = ask()
    assert (late.status, late.reached) == (429, [])
    assert 1 <= int(late.headers[b"retry-after"]) <= 2
    assert "try again in" in late.message
    assert ask(address="192.0.2.2").reached


def test_a_body_that_doesnt_come_is_given_up(ask: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("selfstudy_engine.engine.asgi._BODY_SECONDS", 0.05)

    async def story() -> list[dict[str, Any]]:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(5)
            raise AssertionError

        headers = [(b"authorization", f"Bearer {KEY}".encode())]
        scope = {"type": "http", "path": COMPLETIONS, "method": "POST", "headers": headers}
        await ask._guard(scope, receive, send)
        return sent

    assert asyncio.run(story())[0]["status"] == 408


@pytest.mark.parametrize(
    "missing", [KEY_VARIABLE, public_guard.MODEL_VARIABLE, public_guard.RATE_VARIABLE]
)
def test_a_server_without_key_or_limits_isnt_started(
    ask: Client, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    del ask
    monkeypatch.delenv(missing)
    with pytest.raises(KeyError, match=missing):
        Client()
