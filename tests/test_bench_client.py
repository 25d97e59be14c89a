"""The instant server answers as vLLM does, and the benchmark counts what it gets."""

import asyncio
import os
import re
import subprocess
from collections.abc import Iterator

import pytest

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.engine.bench_client import measure_client, run_client
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.instant_server import MODEL, TEXT, InstantProtocol, canned_answer
from selfstudy_engine.engine.one_core import children_on, module_command, peak_resident_mb
from selfstudy_engine.engine.server_client import ServerClient


@pytest.fixture
def url() -> Iterator[str]:
    """An instant server of two choices, in its own process."""
    command = module_command("instant_server", 2)
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        assert process.poll() is None
    assert process.returncode == 0  # ended by its closed standard input


def test_the_client_takes_its_answers_for_real_ones(url: str) -> None:
    async def ask(n: int) -> list[str]:
        params = SamplingParams(n=n, temperature=1, top_p=1, max_tokens=8)
        async with GenerationClient([ServerClient(Endpoint(url, "key"), 16, 10)]) as client:
            requests = [GenerationRequest(index, "prompt", params) for index in range(100)]
            answers = [answer async for answer in client.generate(MODEL, requests)]
        assert sorted(answer.item for answer in answers) == list(range(100))
        return [completion.text for answer in answers for completion in answer.completions]

    assert asyncio.run(ask(2)) == [TEXT] * 200
    with pytest.raises(ServerError, match="gave 2 choices, asked were 3"):
        asyncio.run(ask(3))


class Sink(asyncio.Transport):
    """Keeps what is written."""

    def __init__(self) -> None:
        super().__init__()
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        self.written.append(bytes(data))


def test_requests_in_pieces_and_several_at_once() -> None:
    sink, protocol = Sink(), InstantProtocol(canned_answer(1))
    protocol.connection_made(sink)
    request = b"POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Length: 7\r\n\r\n{\r\n\r\n}x"
    for byte in request[:-1]:
        protocol.data_received(bytes([byte]))
    assert sink.written == []
    protocol.data_received(request[-1:] + request + request[:20])
    assert len(sink.written) == 2
    protocol.data_received(request[20:] + b"GET /metrics HTTP/1.1\r\n\r\n")
    assert len(sink.written) == 4
    head, _, body = sink.written[0].partition(b"\r\n\r\n")
    length = re.search(rb"content-length: (\d+)", head)
    assert length
    assert int(length[1]) == len(body)


def test_a_pass_counts_every_completion(url: str) -> None:
    figures = asyncio.run(run_client(url, 300, 2))
    assert (figures.num_prompts, figures.n) == (300, 2)
    assert figures.completions_per_second > 0
    assert figures.memory_growth_mb < 50


def test_the_benchmark_uses_one_core_for_each_side_and_leaves_ours_alone() -> None:
    before = os.sched_getaffinity(0)
    figures = measure_client(200, 1)
    assert figures["num_prompts"] == 200
    assert {figures["client_core"], figures["server_core"]} <= before
    assert os.sched_getaffinity(0) == before


def test_children_are_pinned_and_the_parent_isnt() -> None:
    before = os.sched_getaffinity(0)
    core = max(before)
    with children_on(core):
        shown = subprocess.run(
            ["grep", "Cpus_allowed_list", "/proc/self/status"], check=True, stdout=subprocess.PIPE
        )
    assert shown.stdout.split()[-1] == str(core).encode()
    assert os.sched_getaffinity(0) == before


def test_memory_is_this_processs_own() -> None:
    assert 10 < peak_resident_mb() < 100_000
