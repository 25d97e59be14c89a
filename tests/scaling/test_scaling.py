"""The simulated servers keep the time that they say, and a loop scales over a few of them."""

import asyncio
import os
import subprocess
import sys
from pathlib import Path

import orjson
import pytest
from simulated_servers import PROFILES, Engine, Profile

PROFILE = Profile(0.01, 0.001, 0.0, max_num_seqs=4, source="made up")


def seconds_of(engine: Engine, *requests: tuple[int, int]) -> float:
    """Have (prompt tokens, n) answered at once; returns the time that it took."""

    async def story() -> float:
        loop = asyncio.get_running_loop()
        started = loop.time()
        await asyncio.gather(*(engine.generate(*request) for request in requests))
        return loop.time() - started

    return asyncio.run(story())


def test_a_step_takes_its_time() -> None:
    """25 tokens of 11 ms at least."""
    assert seconds_of(Engine(PROFILE, 1), (10, 1)) > 0.27


def test_what_has_no_room_in_the_batch_waits() -> None:
    engine = Engine(PROFILE, 1)

    async def story() -> str:
        asking = asyncio.create_task(engine.generate(10, 6))
        await asyncio.sleep(0)
        seen = engine.metrics()
        await asking
        return seen

    seen = asyncio.run(story())
    assert 'num_requests_running{engine="0"} 4.0' in seen
    assert 'num_requests_waiting{engine="0"} 2.0' in seen


def test_prompts_hold_up_what_runs() -> None:
    slow = Profile(0.001, 0.0, prefill_per_token=0.01, max_num_seqs=4, source="made up")
    assert seconds_of(Engine(slow, 1), (50, 1), (50, 1)) > 1.0


@pytest.mark.parametrize("name", PROFILES)
def test_a_larger_batch_makes_more_tokens(name: str) -> None:
    profile = PROFILES[name]
    assert profile.tokens_per_second(64) > 5 * profile.tokens_per_second(1)


def test_the_table_says_what_a_loop_reached() -> None:
    program = Path(__file__).with_name("scaling.py")
    command = [sys.executable, str(program), "--replicas", "2", "--per-replica", "64"]
    command += ["--slower", "2", "--judges", "1"]
    environment = os.environ | {"PYTHONPATH": str(program.parents[1])}  # as the Makefile has it
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    output = result.stdout
    header, _, row = (line for line in output.splitlines() if line.startswith("|"))
    found = dict(zip(header.split(" | "), row.split(" | "), strict=True))
    assert found["completions"] == "128"
    assert orjson.loads(found["completions per second"]) > 0
