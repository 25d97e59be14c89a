"""Every route but /health needs the key; real HTTP against an app behind the guard."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from selfstudy_engine.engine.asgi import ORIGIN_HEADER, Origin
from selfstudy_engine.engine.guard import KEY_VARIABLE, RequireKey

KEY = "a-random-key"


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The environment of a server's start."""
    for variable, value in Origin.create(tmp_path / "weights").items():
        monkeypatch.setenv(variable, value)


def request(
    monkeypatch: pytest.MonkeyPatch, path: str, authorization: str | None, kind: str = "http"
) -> tuple[list[dict[str, Any]], list[str]]:
    """Return what was sent back, and the paths that reached the app."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)
    reached: list[str] = []
    sent: list[dict[str, Any]] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        reached.append(scope.get("path", scope["type"]))

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> dict[str, Any]:
        return {"type": f"{kind}.request"}

    headers = [] if authorization is None else [(b"authorization", authorization.encode())]
    scope = {"type": kind, "path": path, "headers": headers}
    asyncio.run(RequireKey(app)(scope, receive, send))
    return sent, reached


ADMIN = ["/collective_rpc", "/pause", "/reset_prefix_cache", "/v1/load_lora_adapter", "/metrics"]


@pytest.mark.parametrize("path", [*ADMIN, "/v1/completions", "/health/", "//health", "/"])
@pytest.mark.parametrize(
    "authorization", [None, "", "Bearer", "Bearer wrong", KEY, f"bearer {KEY}", f"Bearer {KEY} "]
)
def test_without_the_key_nothing_is_reached(
    monkeypatch: pytest.MonkeyPatch, path: str, authorization: str | None
) -> None:
    sent, reached = request(monkeypatch, path, authorization)
    assert reached == []
    assert sent[0]["status"] == 401


@pytest.mark.parametrize("path", [*ADMIN, "/health"])
def test_with_the_key_every_route_is(monkeypatch: pytest.MonkeyPatch, path: str) -> None:
    assert request(monkeypatch, path, f"Bearer {KEY}") == ([], [path])


def test_health_and_lifespan_need_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert request(monkeypatch, "/health", None)[1] == ["/health"]
    assert request(monkeypatch, "", None, kind="lifespan")[1] == [""]


def test_a_websocket_without_the_key_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    sent, reached = request(monkeypatch, "/v1/realtime", None, kind="websocket")
    assert (sent[0]["type"], reached) == ("websocket.close", [])


def test_a_server_without_a_key_isnt_started(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_VARIABLE, raising=False)
    with pytest.raises(KeyError, match=KEY_VARIABLE):
        RequireKey(lambda *_: None)  # type: ignore[arg-type]


def test_answers_tell_weights_apart_whichever_of_a_servers_processes_swapped(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Merged ones have no name of their own; see `Origin`."""
    monkeypatch.setenv(KEY_VARIABLE, KEY)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": [(b"a", b"b")]})

    one, other = RequireKey(app), RequireKey(app)

    def origin(process: RequireKey, path: str) -> str:
        sent: list[dict[str, Any]] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [(b"authorization", f"Bearer {KEY}".encode())]
        scope = {"type": "http", "path": path, "headers": headers}
        asyncio.run(process(scope, None, send))  # type: ignore[arg-type]
        assert sent[0]["headers"][0] == (b"a", b"b")
        return str(dict(sent[0]["headers"])[ORIGIN_HEADER.encode()].decode())

    first = origin(one, "/health")
    asks = ("/v1/completions", "/pause", "/reset_prefix_cache", "/resume", "/health")
    assert {origin(process, path) for process in (one, other) for path in asks} == {first}
    swapped = origin(one, "/collective_rpc")
    assert {origin(process, path) for process in (one, other) for path in asks} == {swapped}
    assert swapped != first
    assert swapped.partition(".")[0] == first.partition(".")[0]
    for variable, value in Origin.create(tmp_path / "weights").items():
        monkeypatch.setenv(variable, value)
    assert origin(RequireKey(app), "/health").partition(".")[0] != first.partition(".")[0]
