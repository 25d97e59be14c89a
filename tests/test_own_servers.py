"""Several servers of our own, of which one dies: each has one process at a time, and all end."""

import asyncio
import errno
import logging
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest
from conftest import MakeAdapter
from fake_vllm import FakeVllm

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.errors import ServerDiedError, ServerError, WorkerError
from selfstudy_engine.engine import replicas as replicas_module
from selfstudy_engine.engine.canary import warm_up
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.swap import publish_here

_WAIT_SECONDS = 30


class OwnServer:
    """A `Server` whose process is a fake's; it notes what a real one would suffer from.

    Attributes:
        num_starts: of a process.
        num_waits: for one to be ready.
        running: the number of each start whose process runs.
        overlaps: starts while a process ran.
        stops_slowly: the next stop takes until another comes meanwhile, or else half a second.
        comes_up: cleared, a process that was started isn't ready.
        dies_starting: so many of the next starts end before they are ready.
    """

    public = None
    shares_training_gpu = False

    def __init__(self, fake: FakeVllm) -> None:
        self._fake = fake
        self._dead = threading.Event()
        self._second_stop = threading.Event()
        self.running: set[int] = set()
        self.num_starts = self.num_waits = self.overlaps = 0
        self.stops_slowly = False
        self.dies_starting = 0
        self.stopping = threading.Event()
        self.comes_up = threading.Event()
        self.comes_up.set()

    @property
    def endpoint(self) -> Endpoint:
        return self._fake.endpoint

    def start(self) -> None:
        self.overlaps += bool(self.running)
        self.num_starts += 1
        self.running.add(self.num_starts)
        self._dead.clear()
        self._fake.merged, self._fake.process = None, f"start {self.num_starts}"

    def wait_ready(self) -> float:
        self.num_waits += 1
        if self.dies_starting:
            self.dies_starting -= 1
            self.die()
            raise ServerDiedError("it died as it started")
        if not self.comes_up.wait(_WAIT_SECONDS):
            raise ServerError("it isn't ready")
        return 0.0

    def check_alive(self) -> None:
        if self._dead.is_set():
            raise ServerDiedError("it died")

    def check_healthy(self) -> None:
        if self._dead.is_set() or not self.comes_up.is_set():
            raise ServerDiedError("it died")

    def stop(self) -> None:
        ending = set(self.running)
        if self.stopping.is_set():
            self._second_stop.set()
        if self.stops_slowly:
            self.stops_slowly = False
            self.stopping.set()
            self._second_stop.wait(0.5)
        self.running -= ending

    def publish(self, adapter: Adapter) -> str:
        return publish_here(adapter)

    def die(self) -> None:
        self._dead.set()
        self._fake.process = "dead"


@pytest.fixture
def servers(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[OwnServer]]:
    monkeypatch.setattr(replicas_module, "RETRY_SECONDS", 0.05)
    with ExitStack() as stack:
        yield [OwnServer(stack.enter_context(FakeVllm())) for _ in range(2)]


def connect(servers: list[OwnServer]) -> Connection:
    return Connection(load_config(None, {"model.dtype": "float32"}), "owner/tiny", servers)


def wait_for_both(connection: Connection) -> None:
    """Wait until two servers answer."""

    async def wait() -> None:
        async with asyncio.timeout(_WAIT_SECONDS):
            while len(connection.client.servers) < 2:
                await asyncio.sleep(0.01)

    connection.run(wait())


def lose(connection: Connection, server: OwnServer) -> None:
    """Have a server die, and be asked something."""
    server.die()
    [lost] = [r for r in connection.replicas if r.server is server]

    async def ask() -> None:
        assert lost.client
        with pytest.raises(ServerError, match="started again") as error:
            await warm_up(lost.client, lost.served.model)
        connection.client.lose(lost.client, error.value)

    connection.run(ask())


@pytest.mark.parametrize("how", ["they are replaced", "they are left"])
def test_one_that_is_being_started_again_is_started_once_and_ended(
    servers: list[OwnServer], make_adapter: MakeAdapter, how: str
) -> None:
    with connect(servers) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        servers[1].stops_slowly = True
        lose(connection, servers[1])
        connection.run(asyncio.to_thread(servers[1].stopping.wait, _WAIT_SECONDS))
        if how == "they are replaced":
            connection.restart()
            connection.connect()
            assert all(server.running for server in servers)
    assert not servers[1].overlaps
    assert not any(server.running for server in servers)


def test_one_that_is_starting_when_another_adapter_comes_goes_on_starting(
    servers: list[OwnServer], make_adapter: MakeAdapter
) -> None:
    with connect(servers) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        servers[1].comes_up.clear()
        lose(connection, servers[1])

        async def swap_while_it_starts(adapter: Adapter) -> None:
            while servers[1].num_starts < 2:
                await asyncio.sleep(0.01)
            for _ in range(12):  # more swaps than a small pool has threads
                await connection.swap(adapter)
                await asyncio.sleep(
                    0.1
                )  # for as long as it isn't ready, it could be taken for dead
            servers[1].comes_up.set()
            while len(connection.client.servers) < 2:
                await asyncio.sleep(0.01)

        connection.run(swap_while_it_starts(make_adapter("b", logprob=-3.0)))
        assert [server.num_starts for server in servers] == [1, 2]
        assert servers[1].num_waits == 2, "one for each start"


def test_one_that_dies_before_it_is_connected_is_started_again(
    servers: list[OwnServer], make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    waits = []

    def wait_ready() -> float:
        waits.append(1)
        if len(waits) == 1:
            servers[1]._fake.fail_next("/v1/models", refuse=True)
            servers[1].die()
        return 0.0

    with connect(servers) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        monkeypatch.setattr(servers[1], "wait_ready", wait_ready)
        lose(connection, servers[1])
        wait_for_both(connection)
        assert servers[1].num_starts == 3
        assert len(waits) == 2


def test_one_that_cant_be_started_for_want_of_a_place_is_tried_again(
    servers: list[OwnServer], make_adapter: MakeAdapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full disk's log, or no process left: what isn't the server's failure, and passes."""
    refusals = [OSError(errno.ENOSPC, "No space left on device")]
    start = servers[1].start

    def refuse_once() -> None:
        if refusals:
            raise refusals.pop()
        start()

    with connect(servers) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        monkeypatch.setattr(servers[1], "start", refuse_once)
        lose(connection, servers[1])
        wait_for_both(connection)
        assert not refusals


@pytest.mark.parametrize("num_deaths", [1, 5])
def test_one_that_dies_as_it_starts_is_started_again_as_often_as_allowed(
    servers: list[OwnServer],
    make_adapter: MakeAdapter,
    num_deaths: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    allowed = load_config(None, {}).server.max_restarts
    assert 1 < allowed < 5
    with connect(servers) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        servers[1].dies_starting = num_deaths
        lose(connection, servers[1])

        async def wait() -> None:
            async with asyncio.timeout(_WAIT_SECONDS):
                while len(connection.client.servers) < 2 and "stays away" not in caplog.text:
                    await asyncio.sleep(0.01)

        connection.run(wait())
        comes_back = num_deaths < allowed
        assert servers[1].num_starts == 1 + (num_deaths + 1 if comes_back else allowed)
        assert len(connection.client.servers) == 1 + comes_back
        servers[1].dies_starting = 0
        connection.swap_to(make_adapter("b"))  # the next round's
        wait_for_both(connection)
        connection.restart()
        connection.connect()
        assert [replica.given_up for replica in connection.replicas] == [False, False]
    assert not any(server.running for server in servers)


def test_one_on_the_gpu_of_training_is_started_again_once_that_is_over(
    servers: list[OwnServer], make_adapter: MakeAdapter, caplog: pytest.LogCaptureFixture
) -> None:
    """Beside it vLLM may refuse to start, or take what training is about to."""
    caplog.set_level(logging.INFO)
    servers[1].shares_training_gpu = True
    with connect(servers) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        connection.note_training(runs=True)
        lose(connection, servers[1])

        async def try_thrice() -> None:
            async with asyncio.timeout(_WAIT_SECONDS):
                while caplog.text.count("isn't back: it died") < 3:
                    await asyncio.sleep(0.01)

        connection.run(try_thrice())
        assert servers[1].num_starts == 1
        connection.note_training(runs=False)
        wait_for_both(connection)
        assert servers[1].num_starts == 2


def test_a_training_waits_for_one_that_is_being_started_on_its_gpu(
    servers: list[OwnServer], make_adapter: MakeAdapter
) -> None:
    """Whether it comes up or dies: what vLLM measures meanwhile must be its own."""
    servers[1].shares_training_gpu = True
    with connect(servers) as connection:
        connection.note_training(runs=True)  # the first round's, which servers wait for
        connection.note_training(runs=False)
        connection.connect()
        connection.swap_to(make_adapter("a"))
        for dies in (0, 1):
            servers[1].dies_starting = dies
            servers[1].comes_up.clear()
            lose(connection, servers[1])
            num_waits = servers[1].num_waits

            async def begin_to_wait(num_waits: int = num_waits) -> None:
                while servers[1].num_waits == num_waits:
                    await asyncio.sleep(0.01)

            connection.run(begin_to_wait())
            late = threading.Timer(0.2, servers[1].comes_up.set)
            late.start()
            connection.note_training(runs=True)
            assert servers[1].comes_up.is_set() or dies
            late.join()
            connection.note_training(runs=False)
            wait_for_both(connection)


def test_one_that_our_own_processes_keep_from_coming_back_stays_away_and_says_so(
    servers: list[OwnServer],
    make_adapter: MakeAdapter,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """It was tried every 5 s for ever, which only --verbose told; the next swap tries again."""
    failures = [WorkerError("the process that speaks HTTP can't be started")]
    wait_ready = servers[1].wait_ready

    def fail_once() -> float:
        if failures:
            raise failures.pop()
        return wait_ready()

    async def wait_for_warning() -> None:
        async with asyncio.timeout(_WAIT_SECONDS):
            while "stays away: the process that speaks HTTP" not in caplog.text:
                await asyncio.sleep(0.01)

    with connect(servers) as connection:
        connection.connect()
        connection.swap_to(make_adapter("a"))
        monkeypatch.setattr(servers[1], "wait_ready", fail_once)
        lose(connection, servers[1])
        connection.run(wait_for_warning())
        connection.swap_to(make_adapter("b", logprob=-3.0))
        wait_for_both(connection)


def test_servers_that_only_answer_may_die_now_and_then(
    servers: list[OwnServer], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """What one may die is an hour's, not all its life's; one that was given up gets another try."""
    monkeypatch.setattr(replicas_module, "ALLOWANCE_SECONDS", 1.0)
    with connect(servers) as connection:
        connection.connect()
        servers[1].dies_starting = 4
        servers[1].die()

        def end_once_both_answer() -> None:
            while "stays away" not in caplog.text or len(connection.client.servers) < 2:
                time.sleep(0.01)
            num_starts.append(servers[1].num_starts)
            for server in servers:
                server.dies_starting = 99
                server.die()  # the last one's death ends it

        num_starts: list[int] = []
        watcher = threading.Thread(target=end_once_both_answer, daemon=True)
        watcher.start()
        with pytest.raises(ServerDiedError):
            connection.keep_answering()
        assert num_starts == [1 + 3 + 2]
