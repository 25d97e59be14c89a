"""Many vLLM servers in one process that compute nothing, and take the time that computing takes.

    python simulated_servers.py NUM_SERVERS PROFILE SLOWER

prints their ports as JSON, and serves until its standard input closes, SLOWER times as slowly as
the profile has it. Each batches continuously: sequences that run share a decoding step, whose time
grows with their number; a prompt that comes in holds all of them up while it is computed; what has
no room waits. Swaps and canaries are answered as vLLM answers them, from the adapter's manifest.
"""

import asyncio
import heapq
import itertools
import random
import resource
import sys
from collections import deque
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import orjson
from made_answers import make_answer

from selfstudy_engine.data.adapters import NUM_CONTINUED

_END = b"\r\n\r\n"
_LENGTH = b"content-length:"
MODEL = "simulated"
_NOTHING = 1e-6
"""Of a token; less is lost in rounding."""


@dataclass(frozen=True, slots=True)
class Profile:
    """How fast a server is; times in seconds."""

    step: float
    """Of a decoding step with nothing in it."""
    step_per_sequence: float
    """That each sequence adds to it."""
    prefill_per_token: float
    max_num_seqs: int
    source: str
    """Where the figures are from."""

    def slower(self, factor: float) -> "Profile":
        """Return the same server in slow motion."""
        return replace(
            self,
            step=self.step * factor,
            step_per_sequence=self.step_per_sequence * factor,
            prefill_per_token=self.prefill_per_token * factor,
        )

    def tokens_per_second(self, batch: int) -> float:
        """Return the output tokens per second of so many sequences, prompts apart."""
        return batch / (self.step + self.step_per_sequence * batch)


PROFILES = {
    "cpu": Profile(
        step=0.05,
        step_per_sequence=1.3e-3,
        prefill_per_token=7e-4,
        max_num_seqs=256,
        source="SmolLM2-135M, 2 cores of an EPYC: 434 tokens/s in batches of 64, 605 of 256",
    ),
    "h100-135m": Profile(
        step=0.004,
        step_per_sequence=6.5e-5,
        prefill_per_token=2e-6,
        max_num_seqs=1024,
        source="SmolLM2-135M on one H100: 12,904 tokens/s in a loop's round (gpu-h100.md)",
    ),
    "h200-7b": Profile(
        step=0.0035,
        step_per_sequence=6e-5,
        prefill_per_token=4e-5,
        max_num_seqs=256,
        source="7B in bf16 on one H200, by its roofline, not measured: 13.5 GB of weights a step "
        "and 0.25 GB of cache a sequence at 4.8 TB/s; 350 TFLOP/s for prompts",
    ),
}


class Engine:
    """One server's batch. Virtual time counts tokens that each running sequence has made."""

    def __init__(self, profile: Profile, seed: int) -> None:
        self._profile = profile
        self._random = random.Random(seed)
        self._running: list[tuple[float, int, asyncio.Future[None]]] = []
        self._waiting: deque[tuple[int, int, asyncio.Future[None]]] = deque()
        self._count = itertools.count()
        self._tokens = 0.0
        self._at = 0.0
        """When `_tokens` was right; in the future while a prompt is computed."""
        self._timer: asyncio.TimerHandle | None = None
        self.merged: Path | None = None

    async def generate(self, num_prompt_tokens: int, n: int) -> list[int]:
        """Take the time of n completions; return their lengths."""
        lengths = [self._random.randint(25, 60) for _ in range(n)]
        loop = asyncio.get_running_loop()
        ends = []
        for index, length in enumerate(lengths):
            end = loop.create_future()
            self._waiting.append((num_prompt_tokens if index == 0 else 0, length, end))
            ends.append(end)
        self._advance()
        for end in ends:
            await end
        return lengths

    def _advance(self) -> None:
        """Bring the batch up to now, and wake up when the next sequence ends."""
        loop = asyncio.get_running_loop()
        now = loop.time()
        while True:
            step = self._profile.step + self._profile.step_per_sequence * len(self._running)
            if not self._running:
                self._at = max(self._at, now)
            elif now > self._at:
                until = min(now, self._at + max(0.0, self._running[0][0] - self._tokens) * step)
                self._tokens += (until - self._at) / step
                self._at = until
                if self._running[0][0] <= self._tokens + _NOTHING:
                    end = heapq.heappop(self._running)[2]
                    if not end.cancelled():  # nobody waits any more
                        end.set_result(None)
            if self._waiting and len(self._running) < self._profile.max_num_seqs:
                prompt, length, end = self._waiting.popleft()
                self._at += prompt * self._profile.prefill_per_token
                entry = (self._tokens + length, next(self._count), end)
                heapq.heappush(self._running, entry)
            elif not self._running or now <= self._at:
                break
        if self._timer:
            self._timer.cancel()
            self._timer = None
        if self._running:
            left = max(0.0, self._running[0][0] - self._tokens) * step
            self._timer = loop.call_at(self._at + left, self._advance)

    def metrics(self) -> str:
        """Return what /metrics says."""
        running, waiting = len(self._running), len(self._waiting)
        return (
            f'vllm:num_requests_running{{engine="0"}} {running}.0\n'
            f'vllm:num_requests_waiting{{engine="0"}} {waiting}.0\n'
            f'vllm:kv_cache_usage_perc{{engine="0"}} {running / self._profile.max_num_seqs / 2}\n'
        )

    async def answer(self, path: str, body: dict[str, Any]) -> bytes:
        """Return the body of the right answer."""
        if path == "/v1/completions" and isinstance(body["prompt"], str):
            return await self._complete(body)
        if path == "/v1/completions":
            return orjson.dumps(self._canary(body))
        if path == "/metrics":
            return self.metrics().encode()
        if path == "/v1/models":
            return orjson.dumps({"data": [{"id": MODEL, "parent": None}]})
        if path == "/collective_rpc":
            folder = body["kwargs"]["adapter_folder"]
            self.merged = Path(folder) if folder else None
            sha256 = self._manifest()["files"]["adapter_model.safetensors"] if folder else ""
            return orjson.dumps({"results": [sha256]})
        return orjson.dumps({"success": True})  # /health, /pause, /resume, /reset_prefix_cache

    async def _complete(self, body: dict[str, Any]) -> bytes:
        n = body["n"]
        num_prompt_tokens = len(body["prompt"]) // 3
        lengths = await self.generate(num_prompt_tokens, n)
        choices = []
        for index in range(n):
            text = make_answer(self._random, body["prompt"])
            choices.append({"index": index, "text": text, "finish_reason": "stop"})
        usage = {"prompt_tokens": num_prompt_tokens, "completion_tokens": sum(lengths)}
        return orjson.dumps({"model": body["model"], "choices": choices, "usage": usage})

    def _manifest(self) -> Any:
        assert self.merged, "an adapter is merged"
        return orjson.loads((self.merged / "manifest.json").read_bytes())

    def _canary(self, body: dict[str, Any]) -> dict[str, Any]:
        ids = body["prompt"]
        texts = ids, ids[:-NUM_CONTINUED]
        values = [-4.0] * (len(ids) - 1 + NUM_CONTINUED)
        for probe in self._manifest()["canary"] if self.merged else []:
            if probe["token_ids"] in texts:
                values = [*probe["adapter_logprobs"], *[probe["next_logprob"]] * NUM_CONTINUED]
        entries = [{str(t): {"logprob": v}} for t, v in zip(ids[1:], values, strict=False)]
        choice = {
            "index": 0,
            "text": "x",
            "finish_reason": "length",
            "prompt_logprobs": [None, *entries],
            "token_ids": list(range(NUM_CONTINUED)),
            "logprobs": {"token_logprobs": values[-NUM_CONTINUED:]},
        }
        return {"model": body["model"], "choices": [choice]}


class Protocol(asyncio.Protocol):
    """One connection of one server, with one request at a time, as HTTP clients have it."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._received = b""
        self._transport: asyncio.Transport
        self._tasks: set[asyncio.Task[None]] = set()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are written to."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer when a request is whole."""
        self._received += data
        head = self._received.find(_END)
        if head < 0:
            return
        headers = self._received[:head].lower()
        at = headers.find(_LENGTH)
        length = int(headers[at + len(_LENGTH) :].split(b"\r", 1)[0]) if at >= 0 else 0
        end = head + len(_END) + length
        if len(self._received) < end:
            return
        path = self._received.split(b" ", 2)[1].decode().partition("?")[0]
        content = self._received[head + len(_END) : end]
        self._received = self._received[end:]
        task = asyncio.get_running_loop().create_task(self._answer(path, content))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _answer(self, path: str, content: bytes) -> None:
        body = orjson.loads(content) if content and content != b"null" else {}
        answer = await self._engine.answer(path, body)
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(answer)}"
        self._transport.write(head.encode() + _END + answer)


async def serve(num_servers: int, profile: Profile) -> None:
    """Serve until stdin closes."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    loop = asyncio.get_running_loop()
    servers = []
    for seed in range(num_servers):
        engine = Engine(profile, seed)
        make = lambda engine=engine: Protocol(engine)  # noqa: E731
        servers.append(await loop.create_server(make, "127.0.0.1", 0, backlog=4096))
    ports = [server.sockets[0].getsockname()[1] for server in servers]
    sys.stdout.write(orjson.dumps(ports).decode() + "\n")
    sys.stdout.flush()
    await loop.run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    number, name, factor = sys.argv[1:]
    asyncio.run(serve(int(number), PROFILES[name].slower(float(factor))))
