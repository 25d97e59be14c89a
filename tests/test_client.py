"""The client against a server that fails on command: a retry, or an error that names the value."""

import asyncio
import gc
import itertools
import json
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from fake_vllm import TOKENS_PER_COMPLETION, FakeVllm

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.engine import client as client_module
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.concurrency import START
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.generation import Generated, GenerationRequest, SamplingParams
from selfstudy_engine.engine.server import served_model
from selfstudy_engine.engine.server_client import ServerClient

ROUTE = "/v1/completions"


def params(n: int = 2) -> SamplingParams:
    return SamplingParams(n=n, temperature=0.8, top_p=1.0, max_tokens=32, stop=("\n\n",))


def ask_for(num_prompts: int, n: int = 2) -> list[GenerationRequest[int]]:
    return [
        GenerationRequest(index, f"SMILES: {'C' * (index + 1)}\nReason:", params(n))
        for index in range(num_prompts)
    ]


async def collect(
    endpoint: Endpoint,
    requests: Any,
    concurrency: int | None = 8,
    timeout_seconds: float = 10,
    model: str = "tiny",
) -> list[Generated[int]]:
    async with GenerationClient([ServerClient(endpoint, concurrency, timeout_seconds)]) as client:
        return [item async for item in client.generate(model, requests)]


def generate(fake: FakeVllm, num_prompts: int = 1, n: int = 2, **how: Any) -> list[Generated[int]]:
    return asyncio.run(collect(fake.endpoint, ask_for(num_prompts, n), **how))


def texts(found: list[Generated[int]]) -> dict[int, list[str]]:
    return {generated.item: [c.text for c in generated.completions] for generated in found}


def test_every_prompt_comes_back_with_n_completions(fake: FakeVllm) -> None:
    found = generate(fake, 9, n=3)
    assert sorted(generated.item for generated in found) == list(range(9))
    completions = [c for generated in found for c in generated.completions]
    assert len(completions) == 27
    assert {c.finish_reason for c in completions} == {"stop"}
    assert sum(c.num_output_tokens for c in completions) == 27 * TOKENS_PER_COMPLETION


def test_the_request_says_how_to_sample_and_carries_no_seed(fake: FakeVllm) -> None:
    generate(fake)
    body = fake.requests[0].body
    assert (body["n"], body["temperature"], body["max_tokens"]) == (2, 0.8, 32)
    assert body["stop"] == ["\n\n"]
    assert body["stream"] is False
    assert "seed" not in body  # ends vLLM's CPU engine


def test_answers_dont_depend_on_their_order(fake: FakeVllm) -> None:
    one_by_one = texts(generate(fake, 12, concurrency=2))
    fake.latency_seconds = 0.01
    assert texts(generate(fake, 12, concurrency=24)) == one_by_one


def test_a_later_prompt_may_answer_first(fake: FakeVllm) -> None:
    fake.fail_next(ROUTE, status=500, matching=lambda body: body["prompt"] == "SMILES: C\nReason:")
    fake.latency_seconds = 0.05
    found = [generated.item for generated in generate(fake, 3)]
    assert sorted(found) == [0, 1, 2]
    assert found[-1] == 0


@pytest.mark.parametrize(("concurrency", "n", "limit"), [(6, 2, 6), (5, 2, 4), (1, 4, 4)])
def test_the_concurrency_limit_holds(fake: FakeVllm, concurrency: int, n: int, limit: int) -> None:
    """Completions count, not requests; one request always goes."""
    fake.latency_seconds = 0.03
    generate(fake, 10, n=n, concurrency=concurrency)
    assert fake.max_in_flight == limit


def test_prompts_are_drawn_lazily(fake: FakeVllm) -> None:
    drawn: list[int] = []

    def requests() -> Iterator[GenerationRequest[int]]:
        for request in ask_for(50):
            drawn.append(request.item)
            yield request

    async def take_three() -> None:
        async with GenerationClient([ServerClient(fake.endpoint, 4, 10)]) as client:
            answers = client.generate("tiny", requests(), max_unread=2)
            for _ in range(3):
                await anext(answers)
            await asyncio.sleep(0.2)  # the reader is slow, and nothing more is drawn
            await answers.aclose()  # type: ignore[attr-defined]

    asyncio.run(take_three())
    read, unread, in_flight = 3, 2, 2
    assert len(drawn) <= read + unread + in_flight


def test_greedy_questions_and_samples_share_one_queue(fake: FakeVllm) -> None:
    greedy = SamplingParams(n=1, temperature=0, top_p=1, max_tokens=8)
    requests = [
        GenerationRequest(index, f"prompt {index}", greedy if index % 2 else params(n=3))
        for index in range(8)
    ]
    found = asyncio.run(collect(fake.endpoint, requests, concurrency=4))
    assert {g.item: len(g.completions) for g in found} == {i: 1 if i % 2 else 3 for i in range(8)}
    asked = {request.body["prompt"]: request.body for request in fake.requests}
    assert [asked[f"prompt {i}"]["temperature"] for i in range(4)] == [0.8, 0, 0.8, 0]
    assert [asked[f"prompt {i}"]["max_tokens"] for i in range(2)] == [32, 8]
    assert fake.max_in_flight <= 4


def test_a_reader_that_stores_for_long_keeps_the_server_busy(fake: FakeVllm) -> None:
    """All is answered while the first answer is being stored."""

    async def read() -> int:
        async with GenerationClient([ServerClient(fake.endpoint, 4, 10)]) as client:
            answers = client.generate("tiny", ask_for(12))
            await anext(answers)
            while len(fake.requests) < 12:
                await asyncio.sleep(0.01)
            return 1 + len([generated async for generated in answers])

    assert asyncio.run(read()) == 12


@pytest.mark.parametrize("concurrency", [8, None])
def test_a_cancelled_call_leaves_no_task_behind(fake: FakeVllm, concurrency: int | None) -> None:
    fake.latency_seconds = 0.3

    async def run() -> None:
        async with GenerationClient(
            [ServerClient(fake.endpoint, concurrency, 10, look_seconds=0.01)]
        ) as client:

            async def generate() -> None:
                async for _ in client.generate("tiny", ask_for(6)):
                    pass

            task = asyncio.create_task(generate())
            await asyncio.sleep(0.1)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(run())


async def follow(fake: FakeVllm, until: int) -> int:
    """Generate until more than so many completions are in flight; return how many may be."""
    requests = (request for _ in itertools.count() for request in ask_for(50))
    async with (
        asyncio.timeout(30),
        GenerationClient([ServerClient(fake.endpoint, None, 10, look_seconds=0.05)]) as c,
    ):
        answers = c.generate("tiny", requests)
        while c.concurrency <= until or fake.max_in_flight <= until:
            assert (await anext(answers)).completions
        await answers.aclose()  # type: ignore[attr-defined]
        return c.concurrency


def test_concurrency_follows_the_servers_queue(fake: FakeVllm) -> None:
    fake.max_num_seqs, fake.latency_seconds = 100, 0.2
    assert 100 < asyncio.run(follow(fake, until=100)) <= 256


def test_a_fixed_concurrency_asks_for_no_metrics(fake: FakeVllm) -> None:
    fake.latency_seconds = 0.05

    async def run() -> int:
        async with GenerationClient(
            [ServerClient(fake.endpoint, 10, 10, look_seconds=0.01)]
        ) as client:
            async for _ in client.generate("tiny", ask_for(20)):
                pass
            return client.concurrency

    assert asyncio.run(run()) == fake.max_in_flight == 10
    assert "/metrics" not in fake.paths


def test_a_server_without_metrics_gets_the_starting_number_and_is_named_once(
    fake: FakeVllm, caplog: pytest.LogCaptureFixture
) -> None:
    fake.missing_routes, fake.latency_seconds = {"/metrics"}, 0.05

    async def run() -> int:
        async with GenerationClient(
            [ServerClient(fake.endpoint, None, 10, look_seconds=0.01)]
        ) as client:
            for _ in range(2):
                async for _ in client.generate("tiny", ask_for(100)):
                    pass
            return client.concurrency

    assert asyncio.run(run()) == START == fake.max_in_flight
    assert fake.paths.count("/metrics") == 1
    [warning] = [r.getMessage() for r in caplog.records if r.levelno == logging.WARNING]
    assert f"{fake.url} shows no vLLM metrics (status 404): 64 completions" in warning


def test_metrics_that_fail_for_once_are_asked_for_again(fake: FakeVllm) -> None:
    fake.max_num_seqs, fake.latency_seconds = 100, 0.2
    fake.fail_next("/metrics", refuse=True, times=2)
    fake.fail_next("/metrics", status=503)
    assert asyncio.run(follow(fake, until=START)) > START


def test_a_server_that_wasnt_asked_wasnt_silent(
    fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone and at a fixed concurrency it isn't looked at; then another comes back."""
    monkeypatch.setattr(client_module, "HEALTH_SECONDS", 0.5)
    fake.latency_seconds = 0.05
    lost: list[str] = []

    async def run(other: FakeVllm) -> None:
        one, two = (ServerClient(each.endpoint, 2, 10, look_seconds=0.02) for each in (fake, other))
        started = time.monotonic()
        async with GenerationClient([one], lambda _, error: lost.append(str(error))) as client:
            async for _ in client.generate("tiny", ask_for(60)):
                if two not in client.servers and time.monotonic() - started > 1:
                    fake.fail_next("/metrics", refuse=True, times=2)
                    client.add(two)

    with FakeVllm() as other:
        asyncio.run(run(other))
    assert lost == []
    assert fake.paths.count("/metrics") > 2


def test_no_prompts_are_no_requests(fake: FakeVllm) -> None:
    assert generate(fake, 0) == []
    assert fake.requests == []


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
    with pytest.raises(ServerError, match=f"{fake.url} refuses the key: set SELFSTUDY_SERVER_KEY"):
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
