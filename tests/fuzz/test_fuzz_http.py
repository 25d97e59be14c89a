"""What a server may answer: used where it is right to the last field, an error otherwise."""

import asyncio
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import orjson
import pytest
from fuzzing import NASTY_TEXTS, fuzz, json_values, may_refuse, mutated, mutated_json, texts
from hypothesis import strategies as st

from selfstudy_engine.data.adapters import Adapter, Probe
from selfstudy_engine.data.errors import SelfStudyError, ServerError, SwapError
from selfstudy_engine.engine.answers import decode, is_too_long, to_completions
from selfstudy_engine.engine.canary import Served, check_canary
from selfstudy_engine.engine.concurrency import (
    MAXIMUM,
    MINIMUM,
    ConcurrencyController,
    parse_load,
)
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.http_session import Answer, retry_after_seconds
from selfstudy_engine.engine.server import served_model
from selfstudy_engine.engine.swap import AdminApi, make_swapper

CHOICES = [
    {"index": index, "text": f" Text {index}.\nMelting point (°C): 80", "finish_reason": "stop"}
    for index in range(3)
]
RIGHT = {
    "id": "cmpl-1",
    "model": "tiny",
    "choices": CHOICES,
    "usage": {"prompt_tokens": 10, "completion_tokens": 31, "total_tokens": 41},
}
bodies = st.one_of(
    mutated(
        (orjson.dumps(RIGHT),),
        st.binary(max_size=3) | st.sampled_from([b'"', b"1e999", b"NaN", b"[" * 5000]),
    ),
    mutated_json(RIGHT, most=3).map(orjson.dumps),
    json_values.map(orjson.dumps),
    st.sampled_from([b"", b"[" * 100_000, b"\xff", b"<html>", b'{"a":' * 3000]),
)


@fuzz(90, short=40, body=bodies, status=st.sampled_from([200, 200, 200, 200, 200, 400, 500]))
def test_completions_are_all_there_or_refused(body: bytes, status: int) -> None:
    answer = Answer(status, body)
    is_too_long(answer)
    with may_refuse(ServerError):
        content = decode(answer, "http://x")
        found = to_completions(content, "tiny", 3)
        said = orjson.loads(body)
        assert status == 200
        assert said["model"] == "tiny"
        by_index = {choice["index"]: choice for choice in said["choices"]}
        assert [c.text for c in found] == [by_index[index]["text"] for index in range(3)]
        assert all(type(c.text) is str and c.finish_reason in ("stop", "length") for c in found)
        assert sum(c.num_output_tokens for c in found) == said["usage"]["completion_tokens"]
        for completion in found:  # what a shard's columns can hold
            assert 0 <= completion.num_prompt_tokens < 2**31
            assert 0 <= completion.num_output_tokens < 2**31


METRICS = (
    'vllm:num_requests_running{engine="0"} 3.0\nvllm:num_requests_waiting{engine="0"} 1.0\n'
    'vllm:kv_cache_usage_perc{engine="0"} 0.5\nvllm:num_preemptions_total 2.0\npython_info 1.0\n',
)
metric_tokens = st.sampled_from(
    [
        "1e999",
        "1.2.3",
        ".",
        "NaN",
        "+Inf",
        "-1",
        "1e18",
        "9" * 400,
        "{",
        "}",
        '"',
        "\n",
        " ",
        "# ",
        "vllm:",
        *NASTY_TEXTS,
    ]
)


@fuzz(60, pages=st.lists(mutated(METRICS, metric_tokens), min_size=1, max_size=4))
def test_metrics_are_numbers_and_the_limit_stays_within_its_own(pages: list[str]) -> None:
    controller = ConcurrencyController()
    for page in pages:
        load = parse_load(page)
        if load is None:
            continue
        assert load.running >= 0
        assert load.waiting >= 0
        assert 0 <= load.kv_cache_usage <= 1
        for held_back in (True, False):
            limit = controller.update(load, in_flight=load.running, held_back=held_back)
            assert MINIMUM <= limit <= MAXIMUM


waits = st.one_of(
    texts,
    st.floats().map(str),
    mutated(
        ("Wed, 21 Oct 2026 07:28:00 GMT", "120", "Wed, 21 Oct 2026 07:28:00 -9999"),
        st.sampled_from(["0", "9", "-", ":", "99999999", "0001", *NASTY_TEXTS]),
    ),
)


@fuzz(40, wait=waits, name=st.sampled_from(["Retry-After", "retry-after-ms"]))
def test_a_pause_is_short_or_none(wait: str, name: str) -> None:
    pause = retry_after_seconds({name: wait})
    assert pause is None or 0 <= pause <= 60


PROBE = Probe([1, 2, 3], [-0.5, -0.25], [-1.5, -2.5], -0.125)
ADAPTER = Adapter(Path("/a"), "a", "f" * 64, "m", "hub:m", 8, 2.0, [PROBE], {})
IDS, LOGPROBS = [2, 3, 4, 5, 6, 7], [-0.5, -0.25, -0.125, -0.75, -1.0, -0.625]
"""Of the probe after its first token, and of the four that follow it."""
ENTRIES = [{str(token): {"logprob": value}} for token, value in zip(IDS, LOGPROBS, strict=True)]
SCORED = {"model": "tiny", "choices": [{"prompt_logprobs": [None, *ENTRIES]}]}
FOLLOWING = {"token_ids": IDS[2:], "logprobs": {"token_logprobs": LOGPROBS[2:]}}
NEXT = {"model": "tiny", "choices": [FOLLOWING]}


class Answering:
    """A client of a server that says these two things."""

    def __init__(self, scored: Any, following: Any) -> None:
        self._scored, self._following = scored, following

    async def complete(self, **body: Any) -> Any:
        return self._scored if "prompt_logprobs" in body else self._following


def test_a_canary_passes_on_the_right_numbers() -> None:
    client: Any = Answering(SCORED, NEXT)
    result = asyncio.run(check_canary(client, Served("tiny"), ADAPTER, "float32"))
    assert result.distance == 0


objects = st.dictionaries(texts, json_values, max_size=3)


@fuzz(
    40,
    scored=st.one_of(st.just(SCORED), mutated_json(SCORED, most=3), objects),
    following=st.one_of(st.just(NEXT), mutated_json(NEXT, most=3), objects),
)
def test_a_canary_passes_on_the_right_numbers_alone(scored: Any, following: Any) -> None:
    if not isinstance(scored, dict) or not isinstance(following, dict):
        return  # `decode` lets objects alone through
    client: Any = Answering(scored, following)
    with may_refuse(SwapError):
        asyncio.run(check_canary(client, Served("tiny"), ADAPTER, "float32"))
        assert scored["model"] == following["model"] == "tiny"
        entries = scored["choices"][0]["prompt_logprobs"][1:]
        continued = following["choices"][0]
        ids = [2, 3, *map(int, continued["token_ids"])]
        found = [float(entry[str(t)]["logprob"]) for entry, t in zip(entries, ids, strict=True)]
        assert found[:2] == pytest.approx(LOGPROBS[:2], abs=0.05)
        decoded = [float(value) for value in continued["logprobs"]["token_logprobs"]]
        assert decoded[0] == pytest.approx(LOGPROBS[2], abs=0.05)
        assert decoded[1:] == pytest.approx(found[3:], abs=0.15)


class Saying(ThreadingHTTPServer):
    """A server that says the same to everybody."""

    status, body, encoding = 200, b"", "application/json"


class _Handler(BaseHTTPRequestHandler):
    server: Saying

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("Content-Length", 0)))
        self.send_response(self.server.status)
        self.send_header("Content-Type", self.server.encoding)
        self.send_header("Content-Length", str(len(self.server.body)))
        self.end_headers()
        self.wfile.write(self.server.body)

    do_POST = do_GET

    def log_message(self, *values: object) -> None:
        """Nothing is logged."""


@pytest.fixture(scope="module")
def server() -> Iterator[Saying]:
    with Saying(("127.0.0.1", 0), _Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


MODELS = {"data": [{"id": "tiny", "max_model_len": 2048}, {"id": "a", "parent": "tiny"}]}
RPC = {"results": ["f" * 64], "success": True}
said = st.one_of(
    mutated_json(MODELS, most=3).map(orjson.dumps),
    mutated_json(RPC, most=2).map(orjson.dumps),
    json_values.map(orjson.dumps),
    st.sampled_from(
        [b"", b"[" * 100_000, b"\xff\xfe", b'{"data": NaN}', b'{"data":[{"id":"\\ud800"}]}']
    ),
)
charsets = st.sampled_from(
    ["application/json", "text/html; charset=hex", "x; charset=utf-7", "a;b"]
)


@fuzz(3, short=6, body=said, status=st.sampled_from([200, 200, 200, 404, 500]), encoding=charsets)
def test_admin_routes_and_models_are_right_or_refused(
    server: Saying, body: bytes, status: int, encoding: str
) -> None:
    server.body, server.status, server.encoding = body, status, encoding
    endpoint = Endpoint(f"http://127.0.0.1:{server.server_port}", "key")

    async def swap() -> Served:
        admin = AdminApi(endpoint)
        try:
            return await make_swapper("merged", admin, "tiny").swap(ADAPTER)
        finally:
            await admin.close()

    with may_refuse(SelfStudyError):
        model = served_model(endpoint)
        assert status == 200
        assert model in orjson.loads(body)["data"]
        assert isinstance(model["id"], str)
    with may_refuse(SwapError):
        asyncio.run(swap())
        results = orjson.loads(body)["results"]
        assert results
        assert set(results) == {ADAPTER.sha256}
