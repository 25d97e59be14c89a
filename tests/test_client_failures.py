"""The client against a server that fails on command: a retry, or an error that names the value."""

import asyncio
import gc
import json
import logging
from collections.abc import Callable
from typing import Any

import pytest
from asking import ask_for, collect, generate, texts
from fake_vllm import FakeVllm

from selfstudy_engine.data.errors import ServerError, UsageError
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.server import served_model
from selfstudy_engine.engine.server_client import ServerClient

ROUTE = "/v1/completions"


@pytest.mark.parametrize(
    "how",
    [{"status": 500}, {"status": 503}, {"status": 429}, {"cut": True}, {"refuse": True}],
    ids=lambda how: "-".join(map(str, *how.items())),
)
def test_a_passing_failure_is_tried_again(fake: FakeVllm, how: dict[str, Any]) -> None:
    expected = texts(generate(fake))
    fake.fail_next(ROUTE, times=1, **how)
    assert texts(generate(fake)) == expected
    assert fake.paths == [ROUTE] * 3


def test_a_hanging_answer_is_given_up_and_asked_for_again(fake: FakeVllm) -> None:
    fake.fail_next(ROUTE, hang=True)
    [found] = generate(fake, timeout_seconds=0.3)
    assert len(found.completions) == 2
    assert fake.paths == [ROUTE] * 2


def test_a_lasting_failure_is_an_error_that_names_server_and_cause(fake: FakeVllm) -> None:
    fake.fail_next(ROUTE, status=500, times=100)
    with pytest.raises(ServerError, match=f"{fake.url}.*failed on command"):
        generate(fake)
    assert len(fake.requests) == 6  # the first and MAX_RETRIES


def test_a_refused_request_isnt_tried_again(fake: FakeVllm) -> None:
    message = "temperature must be non-negative"
    fake.fail_next(ROUTE, status=400, text=json.dumps({"error": {"message": message}}))
    with pytest.raises(ServerError, match=message):
        generate(fake)
    assert len(fake.requests) == 1


@pytest.mark.parametrize(
    "message",
    [
        "This model's maximum context length is 64 tokens",
        "max_tokens must be at least 1, got 0.",  # a prompt of 64 tokens
        "The decoder prompt (length 65) is longer than the maximum model length of 64.",
    ],
)
def test_a_prompt_over_the_context_length_is_data(fake: FakeVllm, message: str) -> None:
    fake.fail_next(ROUTE, status=400, text=json.dumps({"error": {"message": message}}))
    [generated] = generate(fake)
    assert [(c.text, c.finish_reason) for c in generated.completions] == [("", "length")] * 2


@pytest.mark.parametrize("key", ["", "wrong"])
def test_a_missing_or_wrong_key_is_named(fake: FakeVllm, key: str) -> None:
    with pytest.raises(ServerError, match="401"):
        asyncio.run(collect(Endpoint(fake.url, key), ask_for(1)))


def test_a_server_without_a_key_needs_none() -> None:
    with FakeVllm(api_key="") as fake:
        assert len(generate(fake)) == 1


Edit = Callable[[dict[str, Any]], dict[str, Any]]


def with_finish_reason(value: str | None) -> Edit:
    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        answer["choices"][1]["finish_reason"] = value
        return answer

    return edit


def with_text(value: str | None) -> Edit:
    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        answer["choices"][0]["text"] = value
        return answer

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda a: a | {"model": "other"}, "as model 'other', asked was 'tiny'"),
        (lambda a: a | {"choices": []}, "gave 0 choices, asked were 2"),
        (lambda a: a | {"choices": a["choices"][:1]}, "gave 1 choices, asked were 2"),
        (lambda a: a | {"choices": [a["choices"][0]] * 2}, "2 choices"),
        (with_finish_reason("abort"), "ended a completion with 'abort'"),
        (with_finish_reason(None), "ended a completion with None"),
        (lambda a: a | {"usage": None}, "no token counts"),
        (lambda a: {k: v for k, v in a.items() if k != "usage"}, "no token counts"),
        (lambda a: a | {"usage": {"prompt_tokens": 3}}, "isn't a completion.*completion_tokens"),
        (lambda a: a | {"choices": None}, "isn't a completion"),
        (lambda a: a | {"choices": ["text", "text"]}, "isn't a completion"),
        (lambda a: a | {"choices": [{"index": 0}, {"index": 1}]}, "isn't a completion.*text"),
        (with_text(None), "isn't a completion.*text"),
    ],
    ids=[
        *("model", "no choices", "one choice", "same index", "abort", "unfinished", "null"),
        *("usage", "half usage", "null choices", "bare texts", "bare choices", "no text"),
    ],
)
def test_an_answer_that_cant_be_trusted_is_an_error(
    fake: FakeVllm, edit: Edit, message: str
) -> None:
    fake.fail_next(ROUTE, edit=edit)
    with pytest.raises(ServerError, match=message):
        generate(fake)


@pytest.mark.parametrize(
    ("text", "content_type"),
    [("<html>Sign in</html>", "text/html"), ("{not json", "application/json")],
)
def test_something_that_isnt_an_api_answer_is_an_error(
    fake: FakeVllm, text: str, content_type: str
) -> None:
    """A proxy's page with status 200, say."""
    fake.fail_next(ROUTE, text=text, content_type=content_type)
    with pytest.raises(ServerError):
        generate(fake)


def test_many_failures_at_once_are_one_error(
    fake: FakeVllm, caplog: pytest.LogCaptureFixture
) -> None:
    """No "Task exception was never retrieved" beside it."""
    fake.fail_next(
        ROUTE,
        times=100,
        edit=lambda answer: answer | {"model": "other"},
        matching=lambda body: body["prompt"] != "SMILES: C\nReason:",
    )

    async def run() -> None:
        async with GenerationClient([ServerClient(fake.endpoint, 16, 10)]) as client:
            async for _ in client.generate("tiny", ask_for(8)):
                await asyncio.sleep(0.5)  # all others have failed when this comes back

    with caplog.at_level(logging.ERROR), pytest.raises(ServerError, match="other"):
        asyncio.run(run())
    gc.collect()
    assert [record.getMessage()[:60] for record in caplog.records] == []


def test_answers_that_came_before_a_failure_arent_lost(fake: FakeVllm) -> None:
    """Those that arrive together with a failed one included."""
    fake.fail_next(
        ROUTE, status=400, matching=lambda body: body["prompt"].startswith("SMILES: CC\n")
    )
    fake.latency_seconds = 0.05
    found = []

    async def run() -> None:
        async with GenerationClient([ServerClient(fake.endpoint, 8, 10)]) as client:
            async for generated in client.generate("tiny", ask_for(4)):
                await asyncio.sleep(0.3)  # the others are all there when this comes back
                found.append(generated.item)

    with pytest.raises(ServerError):
        asyncio.run(run())
    assert sorted(found) == [0, 2, 3]


def test_the_served_model_is_the_base_model(fake: FakeVllm) -> None:
    fake.loaded["an-adapter"] = None  # type: ignore[assignment]
    assert served_model(fake.endpoint)["id"] == "tiny"


def test_served_model_names_a_refused_key(fake: FakeVllm) -> None:
    with pytest.raises(UsageError, match=f"{fake.url} refuses the key: set SELFSTUDY_SERVER_KEY"):
        served_model(Endpoint(fake.url, "wrong"))


def test_served_model_of_a_server_without_a_key() -> None:
    with FakeVllm(api_key="") as fake:
        assert served_model(fake.endpoint)["id"] == "tiny"


@pytest.mark.parametrize("text", ['{"data": []}', "[]", '{"data": null}', "<html>", '{"models":1}'])
def test_served_model_refuses_what_isnt_vllm(fake: FakeVllm, text: str) -> None:
    fake.fail_next("/v1/models", text=text)
    with pytest.raises(ServerError, match="no vLLM server answers"):
        served_model(fake.endpoint)


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "127.0.0.1:8000", "http://[::1"])
def test_served_model_names_an_address_without_a_server(url: str) -> None:
    with pytest.raises(ServerError, match="no vLLM server answers at"):
        served_model(Endpoint(url, "key"))


def test_a_proxy_isnt_asked_about_loopback(fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clusters set HTTP_PROXY; our own server is on 127.0.0.1 all the same."""
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    assert served_model(fake.endpoint)["id"] == "tiny"
    assert len(generate(fake)) == 1
