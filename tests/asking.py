"""What a client asks a fake server in the tests."""

import asyncio
from typing import Any

from fake_vllm import FakeVllm

from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.generation import Generated, GenerationRequest, SamplingParams
from selfstudy_engine.engine.server_client import ServerClient


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
