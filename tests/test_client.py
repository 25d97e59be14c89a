"""The client against a server: what it asks, how much at once, and what comes back."""

import asyncio
import itertools
import logging
import time
from collections.abc import Iterator

import pytest
from asking import ask_for, collect, generate, params, texts
from fake_vllm import TOKENS_PER_COMPLETION, FakeVllm

from selfstudy_engine.engine import client as client_module
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.concurrency import START
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.server_client import ServerClient

ROUTE = "/v1/completions"


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
