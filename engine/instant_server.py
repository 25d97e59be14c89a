"""A server that answers every completion request at once: what is left is the client's own cost.

It reads no further than where a request ends, and knows one answer; run as a module by
`bench_client`, it prints its port and serves until its standard input closes.
"""

import asyncio
import re
import sys
from functools import partial

import orjson

from selfstudy_engine.engine.endpoint import HOST

MODEL = "instant"
TEXT = (
    " One benzene ring with a hydroxyl and an aldehyde group, which hold each other by hydrogen "
    "bonds: moderate.\nMelting point (°C): 082"
)
TOKENS_PER_COMPLETION = 40
_LENGTH = re.compile(rb"\r\ncontent-length: *([0-9]+)", re.IGNORECASE)
_END_OF_HEADERS = b"\r\n\r\n"


def canned_answer(n: int) -> bytes:
    """Return a whole HTTP response with n choices, in the form in which vLLM writes them."""
    choice = {
        "text": TEXT,
        "logprobs": None,
        "finish_reason": "stop",
        "stop_reason": None,
        "token_ids": None,
        "prompt_logprobs": None,
        "prompt_token_ids": None,
    }
    body = orjson.dumps(
        {
            "id": "cmpl-0123456789abcdef0123456789abcdef",
            "object": "text_completion",
            "created": 1_700_000_000,
            "model": MODEL,
            "choices": [{"index": index, **choice} for index in range(n)],
            "service_tier": None,
            "system_fingerprint": None,
            "usage": {
                "prompt_tokens": 40,
                "total_tokens": 40 + n * TOKENS_PER_COMPLETION,
                "completion_tokens": n * TOKENS_PER_COMPLETION,
                "prompt_tokens_details": None,
            },
            "kv_transfer_params": None,
        }
    )
    head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: {len(body)}"
    return head.encode() + _END_OF_HEADERS + body


class InstantProtocol(asyncio.Protocol):
    """One connection; requests may come in pieces, or several at once."""

    def __init__(self, answer: bytes) -> None:
        self._answer = answer
        self._received = b""
        self._transport: asyncio.Transport

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Keep what answers are written to."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        """Answer every request that is complete by now."""
        self._received += data
        while (head := self._received.find(_END_OF_HEADERS)) >= 0:
            length = _LENGTH.search(self._received, 0, head)
            end = head + len(_END_OF_HEADERS) + (int(length[1]) if length else 0)
            if len(self._received) < end:
                return
            self._received = self._received[end:]
            self._transport.write(self._answer)


async def serve(n: int) -> None:
    """Serve completions of n choices on a free port, which is printed, until stdin closes."""
    loop = asyncio.get_running_loop()
    protocol = partial(InstantProtocol, canned_answer(n))
    server = await loop.create_server(protocol, HOST, 0, backlog=4096)
    async with server:
        sys.stdout.write(f"{server.sockets[0].getsockname()[1]}\n")
        sys.stdout.flush()
        await loop.run_in_executor(None, sys.stdin.buffer.read)


if __name__ == "__main__":
    asyncio.run(serve(n=int(sys.argv[1])))
