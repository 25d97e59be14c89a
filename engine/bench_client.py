"""How many completions a second the client can take, against a server that answers at once.

Client and server are processes of their own, each pinned to one core, so that the figure is the
client's and not the caller's.
"""

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import orjson

from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.data.prompts import STOP, render_prompt
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.endpoint import HOST, Endpoint
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.instant_server import MODEL
from selfstudy_engine.engine.one_core import children_on, module_command, resident_mb
from selfstudy_engine.engine.server_client import ServerClient

_CONCURRENCY = 256
_TIMEOUT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class ClientFigures:
    """What one pass measured, without its first tenth."""

    num_prompts: int
    n: int
    completions_per_second: float
    cpu_share: float
    """CPU time of the client over wall-clock time: 1 means that it was the limit."""
    memory_growth_mb: float
    """Largest resident memory in the rest of the pass, less that after its first tenth."""
    peak_rss_mb: float


def measure_client(num_prompts: int, n: int = 2) -> dict[str, Any]:
    """Send prompts to an instant server, and return `ClientFigures` with the cores used.

    Args:
        num_prompts: requests; at least 100.
        n: completions of each.
    """
    cores = sorted(os.sched_getaffinity(0))
    client_core, server_core = cores[0], cores[-1]
    with children_on(server_core):
        server = subprocess.Popen(
            module_command("instant_server", n),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
        )
    with server:  # leaving closes its standard input, which ends it
        assert server.stdout
        url = f"http://{HOST}:{int(server.stdout.readline())}"
        with children_on(client_core):
            client = module_command("bench_client", url, num_prompts, n)
            result = subprocess.run(
                client, check=True, stdout=subprocess.PIPE, env=child_environment()
            )
    figures: dict[str, Any] = orjson.loads(result.stdout)
    return figures | {"client_core": client_core, "server_core": server_core}


async def run_client(url: str, num_prompts: int, n: int) -> ClientFigures:
    """Send the prompts from this process."""
    prop = find_property("melting_point")
    params = SamplingParams(n=n, temperature=0.7, top_p=1, max_tokens=64, stop=(STOP,))

    def requests() -> Iterator[GenerationRequest[int]]:
        for index in range(num_prompts):
            molecule = Molecule("", f"compound {index}", "COc1cc(C=O)ccc1O", 80.0)
            yield GenerationRequest(index, render_prompt(molecule, prop), params)

    first = num_prompts // 10
    done = 0
    server = ServerClient(Endpoint(url, "key"), _CONCURRENCY, _TIMEOUT_SECONDS)
    async with GenerationClient([server]) as client:
        async for generated in client.generate(MODEL, requests()):
            assert len(generated.completions) == n
            done += 1
            if done == first:
                started, cpu, memory = time.perf_counter(), time.process_time(), resident_mb()
                peak = memory
            elif done > first and done % first == 0:
                peak = max(peak, resident_mb())
    seconds = time.perf_counter() - started
    return ClientFigures(
        num_prompts=done,
        n=n,
        completions_per_second=round((done - first) * n / seconds, 1),
        cpu_share=round((time.process_time() - cpu) / seconds, 3),
        memory_growth_mb=round(peak - memory, 2),
        peak_rss_mb=round(peak, 1),
    )


if __name__ == "__main__":
    measured = asyncio.run(run_client(sys.argv[1], int(sys.argv[2]), int(sys.argv[3])))
    sys.stdout.buffer.write(orjson.dumps(asdict(measured)))
