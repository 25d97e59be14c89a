"""One request: what is tried again, after which pause, and what comes back."""

import asyncio
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Any

import pytest
from fake_vllm import FakeVllm

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.engine import transport
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.http_process import HttpProcess
from selfstudy_engine.engine.http_session import Answer, HttpSession, retry_after_seconds
from selfstudy_engine.engine.server import free_port
from selfstudy_engine.engine.transport import (
    MAX_RETRIES,
    Transport,
    backoff_seconds,
)

ROUTE = "/v1/completions"
BODY: dict[str, Any] = {"model": "tiny", "prompt": "SMILES: C\nReason:", "n": 1}


Post = Callable[..., list[Answer]]


@pytest.fixture(params=["here", "in a process"])
def post(request: pytest.FixtureRequest) -> Post:
    """Send so many requests at once, wherever the connections are held."""

    async def run(endpoint: Endpoint, path: str, num_times: int) -> list[Answer]:
        process = HttpProcess()
        open_session = HttpSession if request.param == "here" else process.open_session
        sender = Transport(endpoint, 4, timeout_seconds=5, open_session=open_session)
        try:
            return list(await asyncio.gather(*(sender.post(path, BODY) for _ in range(num_times))))
        finally:
            await sender.close()
            await process.close()

    def run_here(endpoint: Endpoint, path: str = ROUTE, num_times: int = 1) -> list[Answer]:
        return asyncio.run(run(endpoint, path, num_times))

    return run_here


@pytest.mark.parametrize("status", [408, 409, 429, 500, 502, 503])
def test_a_status_that_may_pass_is_tried_again(post: Post, fake: FakeVllm, status: int) -> None:
    fake.fail_next(ROUTE, status=status, times=2)
    [answer] = post(fake.endpoint)
    assert answer.status == 200
    assert len(fake.requests) == 3


@pytest.mark.parametrize("status", [302, 400, 401, 403, 404, 422])
def test_a_refusal_comes_back_with_its_text(post: Post, fake: FakeVllm, status: int) -> None:
    fake.fail_next(ROUTE, status=status, text="because")
    [answer] = post(fake.endpoint)
    assert (answer.status, answer.text) == (status, "because")
    assert len(fake.requests) == 1


def test_the_last_failure_comes_back(post: Post, fake: FakeVllm) -> None:
    fake.fail_next(ROUTE, status=503, text="still starting", times=100)
    [answer] = post(fake.endpoint)
    assert (answer.status, answer.text) == (503, "still starting")
    assert len(fake.requests) == MAX_RETRIES + 1


def test_no_answer_at_all_names_the_server() -> None:
    async def run() -> None:
        sender = Transport(Endpoint("http://127.0.0.1:1", ""), 4, timeout_seconds=5)
        try:
            await sender.get("/metrics")
        finally:
            await sender.close()

    with pytest.raises(ServerError, match=r"1:1 doesn't answer \(Cannot connect .*\); once it"):
        asyncio.run(run())


@pytest.mark.parametrize(("is_own", "num_retries"), [(False, MAX_RETRIES), (True, 0)])
def test_where_nobody_listens_for_a_server_of_ours_it_is_dead_at_once(
    post: Post, monkeypatch: pytest.MonkeyPatch, is_own: bool, num_retries: int
) -> None:
    pauses: list[int] = []

    def backoff(retry: int) -> float:
        pauses.append(retry)
        return 0.0

    monkeypatch.setattr(transport, "backoff_seconds", backoff)
    with pytest.raises(ServerError, match="Cannot connect"):
        post(Endpoint(f"http://127.0.0.1:{free_port()}", "", is_own=is_own))
    assert pauses == list(range(num_retries))


def test_more_requests_than_connections_wait_for_one(post: Post, fake: FakeVllm) -> None:
    fake.latency_seconds = 0.01
    answers = post(fake.endpoint, num_times=20)
    assert {answer.status for answer in answers} == {200}
    assert fake.max_in_flight == 4


def test_pauses_grow_and_differ() -> None:
    for retry, longest in enumerate([0.5, 1, 2, 4, 8, 8]):
        pauses = [backoff_seconds(retry) for _ in range(50)]
        assert max(pauses) <= longest
        assert min(pauses) >= 0.75 * longest
        assert len(set(pauses)) > 1


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({"retry-after-ms": "10"}, 0.01),
        ({"retry-after-ms": "soon", "Retry-After": "3"}, 3),
        ({"Retry-After": "0"}, 0),
        ({"Retry-After": "1e9"}, 60),
        ({"Retry-After": "nan"}, None),
        ({"Retry-After": "-5"}, None),
        ({"Retry-After": "Wed, 21 Oct 2015 07:28:00 GMT"}, None),
        ({"Retry-After": ""}, None),
    ],
)
def test_a_server_may_say_how_long_to_wait(headers: dict[str, str], seconds: float | None) -> None:
    assert retry_after_seconds(headers) == seconds


def test_a_server_may_say_until_when_to_wait() -> None:
    headers = {"Retry-After": formatdate(time.time() + 30, usegmt=True)}
    seconds = retry_after_seconds(headers)
    assert seconds is not None
    assert 25 < seconds <= 30
