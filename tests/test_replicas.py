"""Several fake servers that answer as one: shared out, swapped together, quarantined alone."""

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeAdapter, MakeConfig, QuietReporter, train_here
from fake_vllm import FakeVllm

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import ServerError, SwapError, UsageError, WorkerError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine import client as client_module
from selfstudy_engine.engine import http_process
from selfstudy_engine.engine import replicas as replicas_module
from selfstudy_engine.engine import server_client as server_client_module
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.loop import run_loop

ROUTE = "/v1/completions"
KEY = "secret"
PARAMS = SamplingParams(n=2, temperature=0.8, top_p=1, max_tokens=32)


@pytest.fixture
def fakes() -> Iterator[list[FakeVllm]]:
    with ExitStack() as stack:
        yield [stack.enter_context(FakeVllm(api_key=KEY)) for _ in range(3)]


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """What takes seconds takes less."""
    monkeypatch.setattr(replicas_module, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(replicas_module, "GRACE_SECONDS", 1.0)


def config_of(fakes: list[FakeVllm], **values: Any) -> RunConfig:
    settings = {
        "model.dtype": "float32",
        "server.url": [fake.url for fake in fakes],
        "generation.concurrency": 8,
        "generation.request_timeout_seconds": 20,
    }
    return load_config(None, settings | values)


@pytest.fixture(params=[0, 16], ids=["HTTP in a process", "HTTP here"])
def _http(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the connections are held, which makes no difference."""
    monkeypatch.setattr(http_process, "SERVERS_HERE", request.param)


@pytest.fixture
def connected(_http: None, fakes: list[FakeVllm]) -> Iterator[Connection]:
    with Connection(config_of(fakes), "owner/tiny", (), KEY) as connection:
        connection.connect()
        yield connection


def ask(
    connection: Connection, num_prompts: int = 60, on_answer: Callable[[int], None] = lambda n: None
) -> dict[int, list[str]]:
    """Have prompts answered; each has two completions, once."""
    requests = [
        GenerationRequest(number, f"SMILES: {'C' * (number + 1)}\nReason:", PARAMS)
        for number in range(num_prompts)
    ]

    async def read() -> dict[int, list[str]]:
        found: dict[int, list[str]] = {}
        async for generated in connection.client.generate(connection.served.model, requests):
            assert generated.item not in found
            found[generated.item] = [completion.text for completion in generated.completions]
            on_answer(len(found))
        return found

    found = connection.run(read())
    assert sorted(found) == list(range(num_prompts))
    return found


def wait_for_all(connection: Connection) -> None:
    """Wait until no server is quarantined."""

    async def wait() -> None:
        async with asyncio.timeout(10):
            while len(connection.replicas) < 3:
                await asyncio.sleep(0.01)

    connection.run(wait())


def shares(fakes: list[FakeVllm]) -> list[int]:
    return [len(fake.generations) for fake in fakes]


def quarantined(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [r.getMessage() for r in caplog.records if "is quarantined" in r.getMessage()]


def test_prompts_are_shared_out(fakes: list[FakeVllm], connected: Connection) -> None:
    for fake in fakes:
        fake.latency_seconds = 0.02
    ask(connected)
    assert sum(shares(fakes)) == 60, "none is asked twice"
    assert min(shares(fakes)) >= 12
    assert all(fake.max_in_flight <= 8 for fake in fakes)


@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_a_swap_reaches_all_before_anything_is_asked(
    fakes: list[FakeVllm], make_adapter: MakeAdapter, mode: str
) -> None:
    adapter = make_adapter("round-0001")
    config = config_of(fakes, **{"server.adapter_mode": mode})
    with Connection(config, "owner/tiny", (), KEY) as connection:
        connection.connect()
        connection.swap_to(adapter)
        assert connection.served.adapter_sha256 == adapter.sha256
        answers = ask(connection)
    assert all(shares(fakes))
    with FakeVllm(api_key=KEY) as alone:
        config = config_of([alone], **{"server.adapter_mode": mode})
        with Connection(config, "owner/tiny", (), KEY) as connection:
            connection.connect()
            connection.swap_to(adapter)
            assert ask(connection) == answers, "whoever answers, answers the same"


def test_a_replica_that_fails_its_canary_is_named_and_asked_nothing(
    fakes: list[FakeVllm],
    connected: Connection,
    make_adapter: MakeAdapter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fakes[1].keeps_old_adapter = True
    connected.swap_to(make_adapter("a"))
    [said] = quarantined(caplog)
    assert fakes[1].url in said
    assert "doesn't answer from adapter a" in said
    ask(connected)
    assert [bool(share) for share in shares(fakes)] == [True, False, True]


def test_what_is_no_servers_fault_ends_the_run(
    connected: Connection, make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Quarantine would leave out servers that answer, and never bring them back."""

    async def fail(adapter: object) -> None:
        raise WorkerError("our processes keep dying")

    monkeypatch.setattr(connected.replicas[1], "swap", fail)
    with pytest.raises(WorkerError, match="our processes keep dying"):
        connected.swap_to(make_adapter("a"))


def test_a_replica_comes_back_after_a_proven_swap_in_the_middle_of_a_pass(
    fakes: list[FakeVllm],
    connected: Connection,
    make_adapter: MakeAdapter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO, "selfstudy_engine")
    adapter = make_adapter("a")
    fakes[1].keeps_old_adapter = True
    connected.swap_to(adapter)
    for fake in fakes:
        fake.latency_seconds = 0.05

    def mend(num_answered: int) -> None:
        if num_answered == 100:
            assert not fakes[1].generations
            assert "isn't back" in caplog.text, "it was tried"
            fakes[1].keeps_old_adapter = False

    ask(connected, 400, mend)
    assert fakes[1].generations
    assert "answers again, proven" in caplog.text
    first = fakes[1].requests.index(fakes[1].generations[0])
    kinds = [request.kind for request in fakes[1].requests[:first]]
    assert kinds[-4:] == ["next", "next", "score", "score"], "the canary comes before"
    assert fakes[1].merged == adapter.folder.resolve()


def test_all_servers_swap_to_the_next_adapter_those_in_quarantine_too(
    fakes: list[FakeVllm], connected: Connection, make_adapter: MakeAdapter
) -> None:
    fakes[0].keeps_old_adapter = True
    connected.swap_to(make_adapter("a"))
    fakes[0].keeps_old_adapter = False
    second = make_adapter("b", logprob=-3.0)
    connected.swap_to(second)
    for fake in fakes:
        fake.latency_seconds = 0.02
    ask(connected, 200)
    assert {fake.merged for fake in fakes} == {second.folder.resolve()}
    assert all(shares(fakes))


def test_no_server_is_asked_after_a_swap_that_fails_on_all(
    fakes: list[FakeVllm], connected: Connection, make_adapter: MakeAdapter
) -> None:
    for fake in fakes:
        fake.keeps_old_adapter = True
    with pytest.raises(SwapError, match="doesn't answer from adapter a"):
        connected.swap_to(make_adapter("a"))
    assert connected.client.servers == []
    for fake in fakes:
        fake.keeps_old_adapter = False
    connected.swap_to(make_adapter("b"))
    ask(connected)


def test_servers_that_are_connected_anew_have_no_quarantine_behind_them(
    fakes: list[FakeVllm], connected: Connection, make_adapter: MakeAdapter
) -> None:
    fakes[1].keeps_old_adapter = True
    connected.swap_to(make_adapter("a"))
    connected._disconnect()  # as `restart` does, which needs servers of our own
    fakes[1].keeps_old_adapter = False
    connected.connect()
    connected.swap_to(make_adapter("b", logprob=-3.0))
    assert len(connected.client.servers) == 3


def test_one_that_takes_too_long_to_swap_doesnt_hold_up_the_others(
    fakes: list[FakeVllm],
    connected: Connection,
    make_adapter: MakeAdapter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    fakes[2].fail_next("/collective_rpc", hang=True)
    started = time.monotonic()
    connected.swap_to(make_adapter("a"))
    assert time.monotonic() - started < 10
    [said] = quarantined(caplog)
    assert f"{fakes[2].url} is quarantined: it took 1 s longer than the others" in said
    assert fakes[2].paused, "in the middle of a swap"
    wait_for_all(connected)
    ask(connected)


@pytest.mark.parametrize("mode", ["lone", "of several"])
def test_a_server_that_an_interrupted_swap_left_paused_is_reached_again(
    fakes: list[FakeVllm], make_adapter: MakeAdapter, mode: str
) -> None:
    """By the same command, after the loop was killed in the middle of a swap."""
    asked = fakes[:1] if mode == "lone" else fakes
    asked[0].paused = True
    with Connection(config_of(asked), "owner/tiny", (), KEY) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        assert len(connection.client.servers) == len(asked)
        ask(connection)


@pytest.mark.parametrize(
    "how",
    [{"refuse": True}, {"cut": True}, {"status": 404, "text": "gone"}, {"text": "[]"}],
    ids=["refuse", "cut", "404", "another form"],
)
def test_what_a_server_fails_at_is_asked_of_another(
    fakes: list[FakeVllm],
    connected: Connection,
    caplog: pytest.LogCaptureFixture,
    how: dict[str, Any],
) -> None:
    expected = ask(connected)
    for fake in fakes:
        fake.latency_seconds = 0.02
    fakes[0].fail_next(ROUTE, times=10**6, **how)
    assert ask(connected) == expected
    [said] = quarantined(caplog)
    assert fakes[0].url in said


def test_a_server_that_was_started_again_answers_nothing_unproven(
    fakes: list[FakeVllm],
    connected: Connection,
    make_adapter: MakeAdapter,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It has its base weights, under the same name."""
    connected.swap_to(make_adapter("a"))
    expected = ask(connected, 200)
    for fake in fakes:
        fake.latency_seconds = 0.02
    restarted = fakes[1]

    def restart(num_answered: int) -> None:
        if num_answered == 50:
            restarted.merged, restarted.process = None, "another"

    assert ask(connected, 200, restart) == expected
    [said] = quarantined(caplog)
    assert f"{restarted.url} was started again since its adapter was proven" in said


def test_the_only_server_isnt_asked_either_once_it_was_started_again(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    with Connection(config_of([fake]), "owner/tiny", (), KEY) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        fake.process = "another"
        with pytest.raises(ServerError, match="started again since its adapter was proven"):
            ask(connection)
        connection.swap_to(make_adapter("b"))
        ask(connection)


def test_what_another_client_swapped_answers_nothing_of_ours(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    """Merged weights answer under the base model's name, whoever had them merged."""
    config, mine = config_of([fake]), make_adapter("a")
    with (
        Connection(config, "owner/tiny", (), KEY) as ours,
        Connection(config, "owner/tiny", (), KEY) as theirs,
    ):
        for connection in (ours, theirs):
            connection.connect()
        ours.swap_to(mine)
        ask(ours)
        for swap in (lambda: theirs.swap_to(make_adapter("b")), theirs.swap_to_base):
            swap()
            with pytest.raises(ServerError, match="was given other weights by another client"):
                ask(ours)
            ask(theirs)
        ours.swap_to(mine)
        ask(ours)
        with pytest.raises(ServerError, match="by another client"):
            ask(theirs)


def test_a_server_that_falls_silent_is_left_and_its_prompts_are_asked_again(
    fakes: list[FakeVllm],
    connected: Connection,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(client_module, "HEALTH_SECONDS", 0.5)
    monkeypatch.setattr(server_client_module, "HEALTH_SECONDS", 0.5)
    for fake in fakes:
        fake.latency_seconds = 0.02
    silent = fakes[2]
    for route in (ROUTE, "/metrics", "/v1/models"):
        silent.fail_next(route, times=10**6, hang=True)
    started = time.monotonic()
    ask(connected)
    assert time.monotonic() - started < 15, "a request's own limit is 20 s"
    [said] = quarantined(caplog)
    assert f"the server at {silent.url} has answered nothing for 0.5 s" in said


def test_a_prompt_that_every_server_fails_at_ends_the_pass(
    fakes: list[FakeVllm], connected: Connection
) -> None:
    poison = "SMILES: C\nReason:"
    for fake in fakes:
        fake.fail_next(
            ROUTE, times=10**6, status=400, matching=lambda body: body["prompt"] == poison
        )
    with pytest.raises(ServerError, match="failed with 400"):
        ask(connected)


def test_a_wrong_url_among_others_is_named_and_the_others_answer(
    fakes: list[FakeVllm], caplog: pytest.LogCaptureFixture
) -> None:
    config = config_of(fakes, **{"server.url": ["http://127.0.0.1:1", fakes[0].url]})
    with Connection(config, "owner/tiny", (), KEY) as connection:
        connection.connect()
        ask(connection)
    [said] = quarantined(caplog)
    assert "no vLLM server answers at http://127.0.0.1:1" in said


def test_no_server_at_all_is_an_error(fakes: list[FakeVllm]) -> None:
    config = config_of(fakes, **{"server.url": ["http://127.0.0.1:1", "http://127.0.0.1:2"]})
    with (
        Connection(config, "owner/tiny", (), KEY) as connection,
        pytest.raises(ServerError, match=r"no vLLM server answers at http://127\.0\.0\.1:1"),
    ):
        connection.connect()


def test_servers_of_different_models_are_refused(fakes: list[FakeVllm]) -> None:
    fakes[1].model = "other"
    with (
        Connection(config_of(fakes), "owner/tiny", (), KEY) as connection,
        pytest.raises(UsageError, match=rf"'other' at {fakes[1].url}, 'tiny' at"),
    ):
        connection.connect()


@pytest.mark.usefixtures("_http")
def test_a_loop_over_several_servers_has_the_samples_of_one(
    fakes: list[FakeVllm],
    finished: RunFolder,
    small_config: MakeConfig,
    tmp_path: Path,
) -> None:
    """One server goes in the middle of a round, and another keeps an old adapter."""
    config = small_config(server__url=[fake.url for fake in fakes])
    fakes[0].fail_next(ROUTE, times=10**6, refuse=True, matching=lambda body: body.get("n") == 2)
    fakes[1].keeps_old_adapter = True
    run_loop(config, tmp_path, QuietReporter(), KEY, start_training=train_here)
    expected = {s.key: s.completion for s in SampleStore(finished.samples).samples()}
    found = {s.key: s.completion for s in SampleStore(tmp_path / "test/samples").samples()}
    assert Counter(found.keys()) == Counter(expected.keys())
