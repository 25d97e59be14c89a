"""How long a swap takes: from a published adapter to the canary's proof, idle and under load."""

import asyncio
import statistics
import time
from typing import Any

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.engine.bench_workloads import Workload
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.generation import GenerationRequest


def measure_swaps(
    connection: Connection, adapter: Adapter, workload: Workload, num_swaps: int
) -> dict[str, Any]:
    """Swap from the base model to an adapter again and again.

    Args:
        connection: of a server that is swapped by merging.
        adapter: published; each swap reads and verifies its folder anew.
        workload: asked while one more swap happens.
        num_swaps: on an idle server, as the loop swaps.

    Returns:
        seconds (of each), seconds_median, seconds_worst, seconds_under_load (with the draining of
        what was in flight), num_asked_under_load, num_lost.
    """
    seconds = []
    for _ in range(num_swaps):
        connection.swap_to_base()
        started = time.perf_counter()
        connection.swap_to(read_adapter(adapter.folder))
        seconds.append(time.perf_counter() - started)
    connection.swap_to_base()
    under_load, num_answered = connection.run(_swap_under_load(connection, adapter, workload))
    num_asked = len(workload.prompts) * workload.params.n
    return {
        "seconds": seconds,
        "seconds_median": statistics.median(seconds),
        "seconds_worst": max(seconds),
        "seconds_under_load": under_load,
        "num_asked_under_load": num_asked,
        "num_lost": num_asked - num_answered,
    }


async def _swap_under_load(
    connection: Connection, adapter: Adapter, workload: Workload
) -> tuple[float, int]:
    """Return the swap's seconds while a workload is being answered, and what was answered."""
    answered = 0
    first = asyncio.Event()

    async def ask() -> None:
        nonlocal answered
        requests = (GenerationRequest(None, prompt, workload.params) for prompt in workload.prompts)
        async for generated in connection.client.generate(connection.served.model, requests):
            answered += len(generated.completions)
            first.set()
        first.set()

    asking = asyncio.create_task(ask())
    await asyncio.sleep(0.5)
    started = time.perf_counter()
    await connection.swap(adapter)
    seconds = time.perf_counter() - started
    await asking
    return seconds, answered
