"""HTTP in a process of its own: the same answers, and a process that may die at any moment."""

import asyncio
import logging
import os
import pickle
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import TypeVar

import psutil
import pytest
from fake_vllm import FakeVllm

from selfstudy_engine.data.errors import ServerError, WorkerError
from selfstudy_engine.engine import http_process, http_worker
from selfstudy_engine.engine.batched_messages import BatchedMessages
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.http_process import HttpProcess, num_processes
from selfstudy_engine.engine.http_session import Answer, HttpSession
from selfstudy_engine.engine.transport import Transport

ROUTE = "/v1/completions"
BODY = {"model": "tiny", "prompt": "SMILES: C\nReason:", "n": 1}
Result = TypeVar("Result")


@asynccontextmanager
async def running(endpoint: Endpoint) -> AsyncIterator[tuple[HttpProcess, Transport]]:
    process = HttpProcess()
    transport = Transport(endpoint, 64, 5, open_session=process.open_session)
    try:
        yield process, transport
    finally:
        await transport.close()
        await process.close()
        assert workers() == []


def run(endpoint: Endpoint, work: Callable[[HttpProcess, Transport], Awaitable[Result]]) -> Result:
    async def all_of_it() -> Result:
        async with running(endpoint) as (process, transport):
            return await work(process, transport)

    return asyncio.run(all_of_it())


def workers() -> list[psutil.Process]:
    """Return those of this process that run."""
    name = http_worker.__name__
    return [one for one in psutil.Process().children() if name in one.cmdline()]


async def post_often(transport: Transport, num_times: int) -> list[Answer]:
    return list(await asyncio.gather(*(transport.post(ROUTE, BODY) for _ in range(num_times))))


def test_a_process_that_dies_costs_nothing(
    fake: FakeVllm, caplog: pytest.LogCaptureFixture
) -> None:
    fake.latency_seconds = 0.3

    async def work(process: HttpProcess, transport: Transport) -> list[Answer]:
        asking = asyncio.create_task(post_often(transport, 20))
        for killed in range(2):
            while len(fake.generations) < 20 * (killed + 1):
                await asyncio.sleep(0.01)
            [worker] = workers()
            os.kill(worker.pid, signal.SIGKILL)
        return await asking

    answers = run(fake.endpoint, work)
    assert [answer.status for answer in answers] == [200] * 20
    assert len(fake.generations) == 60, "each was asked again"
    said = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert said == ["the process that speaks HTTP ended with -9"] * 2


def test_one_that_dies_between_requests_is_replaced_too(fake: FakeVllm) -> None:
    async def work(process: HttpProcess, transport: Transport) -> list[Answer]:
        answers = []
        for _ in range(http_process.MOST_DEATHS + 2):
            answers += await post_often(transport, 1)
            [worker] = workers()
            os.kill(worker.pid, signal.SIGKILL)
            worker.wait(5)
        return answers

    assert [answer.status for answer in run(fake.endpoint, work)] == [200] * 5


def test_processes_that_die_one_after_the_other_end_the_run(
    fake: FakeVllm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http_process, "http_worker", SimpleNamespace(__name__="no_such_module"))

    async def work(process: HttpProcess, transport: Transport) -> None:
        for _ in range(2):  # also whoever asks later
            with pytest.raises(WorkerError, match=r"ended with 1, 3 times; .*Run the same command"):
                await transport.post(ROUTE, BODY)

    run(fake.endpoint, work)
    assert fake.requests == []


def test_a_request_that_kills_them_is_found_among_others_that_are_answered(fake: FakeVllm) -> None:
    fake.fail_next(ROUTE, times=100, hang=True)

    async def work(process: HttpProcess, transport: Transport) -> None:
        asking = asyncio.create_task(transport.post(ROUTE, BODY))
        for num_asked in range(1, http_process.MOST_DEATHS + 1):
            while len(fake.generations) < num_asked:
                await asyncio.sleep(0.01)
            assert (await transport.get("/metrics")).status == 200
            [worker] = workers()
            os.kill(worker.pid, signal.SIGKILL)
        with pytest.raises(WorkerError, match="ended with -9, 3 times"):
            await asking
        assert (await transport.get("/metrics")).status == 200

    run(fake.endpoint, work)


def test_closing_at_once_leaves_nobody_waiting(fake: FakeVllm) -> None:
    async def work() -> None:
        process = HttpProcess()
        session = process.open_session(fake.endpoint, 4, 5)
        asking = asyncio.create_task(session.send("GET", "/health", None))
        await asyncio.sleep(0)
        await process.close()
        with pytest.raises(WorkerError, match=r"was ended\. Run"):
            await asking

    asyncio.run(work())


def test_one_that_cant_be_started_says_why(fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/no/such/python")

    async def work(process: HttpProcess, transport: Transport) -> None:
        with pytest.raises(WorkerError, match=r"can't be started .*No such file"):
            await transport.get("/health")

    run(fake.endpoint, work)


class SilentServer:
    """Answers nothing, and notices who hangs up."""

    def __init__(self) -> None:
        self.num_asked = 0
        self.num_gone = 0

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        self.num_asked += 1
        while await reader.read(1000):
            pass
        self.num_gone += 1
        writer.close()

    async def wait(self, num_asked: int, num_gone: int) -> None:
        async with asyncio.timeout(10):
            while (self.num_asked, self.num_gone) != (num_asked, num_gone):
                await asyncio.sleep(0.01)

    @asynccontextmanager
    async def serving(self) -> AsyncIterator[Endpoint]:
        server = await asyncio.start_server(self._answer, "127.0.0.1", 0)
        async with server:
            yield Endpoint("http://{}:{}".format(*server.sockets[0].getsockname()), "")


def test_a_request_that_is_given_up_is_given_up_there() -> None:
    """So that the server stops computing it."""

    async def work() -> None:
        silent = SilentServer()
        async with silent.serving() as endpoint, running(endpoint) as (_, transport):
            one, two = (asyncio.create_task(transport.get("/metrics")) for _ in range(2))
            await silent.wait(2, 0)
            one.cancel()
            await silent.wait(2, 1)
            await transport.close()
            await silent.wait(2, 2)
            with pytest.raises(ServerError, match="was given up"):
                await two

    asyncio.run(work())


def test_a_session_that_is_closed_leaves_the_others(fake: FakeVllm) -> None:
    async def work(process: HttpProcess, transport: Transport) -> None:
        other = Transport(fake.endpoint, 4, 5, open_session=process.open_session)
        assert (await other.get("/health")).status == 200
        await other.close()
        assert (await transport.get("/health")).status == 200

    run(fake.endpoint, work)


def test_a_key_reaches_it_unseen(fake: FakeVllm, monkeypatch: pytest.MonkeyPatch) -> None:
    key = "a-key-that-nobody-may-see"
    monkeypatch.setenv("SELFSTUDY_SERVER_KEY", key)
    fake.api_key = key

    async def work(process: HttpProcess, transport: Transport) -> None:
        assert (await transport.get("/metrics")).status == 200
        [worker] = workers()
        folder = Path(f"/proc/{worker.pid}")
        assert key.encode() not in (folder / "environ").read_bytes()
        assert key.encode() not in (folder / "cmdline").read_bytes()

    run(fake.endpoint, work)


@dataclass
class Worker:
    """A worker, and the other end of its socket."""

    process: "subprocess.Popen[bytes]"
    messages: socket.socket

    def tell(self, *messages: tuple[object, ...]) -> None:
        pickled = pickle.dumps(messages)
        self.messages.sendall(len(pickled).to_bytes(8, "little") + pickled)

    def complaint(self) -> bytes:
        assert self.process.stderr
        return self.process.stderr.read()


@pytest.fixture
def worker() -> Iterator[Worker]:
    ours, theirs = socket.socketpair()
    command = [sys.executable, "-m", http_worker.__name__]
    with theirs:
        process = subprocess.Popen(command, stdin=theirs.fileno(), stderr=subprocess.PIPE)
    with process, ours:
        yield Worker(process, ours)


def test_it_ends_with_whoever_started_it(worker: Worker) -> None:
    """However that ended: its end of the socket is closed by the kernel."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoint = Endpoint(f"http://127.0.0.1:{silent.getsockname()[1]}", "")
        worker.tell(("open", 0, endpoint, 4, 60.0), ("send", 1, 0, "GET", "/", None, None))
        connection, _ = silent.accept()
        worker.messages.close()
        assert worker.process.wait(10) == 0
        assert worker.complaint() == b""
        connection.close()


def test_a_bug_in_it_is_its_end_and_no_silence(worker: Worker) -> None:
    worker.tell(("open", 0, "no endpoint", 4, 60.0), ("send", 1, 0, "GET", "/", None, None))
    assert worker.process.wait(10) == 1
    assert b"AttributeError" in worker.complaint()


@pytest.mark.parametrize(
    ("num_servers", "expected"), [(1, 0), (16, 0), (17, 1), (32, 1), (33, 2), (64, 2)]
)
def test_few_servers_need_none(num_servers: int, expected: int) -> None:
    assert num_processes(num_servers) == expected


def test_many_messages_arrive_whole_and_in_order(caplog: pytest.LogCaptureFixture) -> None:
    async def work() -> None:
        loop = asyncio.get_running_loop()
        taken: list[tuple[int, bytes]] = []
        _, one = await loop.create_unix_connection(lambda: BatchedMessages(taken.append), sock=a)
        _, two = await loop.create_unix_connection(lambda: BatchedMessages(taken.append), sock=b)
        for number in range(50):
            one.send((number, b"x" * 40_000))
            if number % 7 == 0:
                await asyncio.sleep(0)
        started = time.monotonic()
        while len(taken) < 50 and time.monotonic() < started + 10:
            await asyncio.sleep(0.01)
        assert taken == [(number, b"x" * 40_000) for number in range(50)]
        one.send(lambda: "can't be pickled")
        await two.ended  # no silence
        await one.ended
        two.send("nobody hears it")
        await asyncio.sleep(0)

    a, b = socket.socketpair()
    asyncio.run(work())
    assert any("local object" in str(record.exc_info) for record in caplog.records)


@pytest.mark.parametrize(
    ("limits", "expected"),
    [
        ((1024, 4096), (4096, 4096)),
        ((1024, 1_048_576), (65_536, 1_048_576)),
        ((1024, resource.RLIM_INFINITY), (65_536, resource.RLIM_INFINITY)),
        ((100_000, 1_048_576), None),
        ((resource.RLIM_INFINITY, resource.RLIM_INFINITY), None),
    ],
)
def test_as_many_files_may_be_open_as_is_sensible(
    fake: FakeVllm,
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    expected: tuple[int, int] | None,
) -> None:
    found: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda _: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda _, wanted: found.append(wanted))

    async def work() -> None:
        session = HttpSession(fake.endpoint, 4, 5)
        assert (await session.send("GET", "/health", None)).status == 200
        await session.close()

    asyncio.run(work())
    assert found == ([expected] if expected else [])
