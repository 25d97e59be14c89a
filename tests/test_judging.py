"""Verdicts from other processes: the same, whatever becomes of the processes; none is left."""

import asyncio
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path

import psutil
import pytest
from samples import SHIPPED

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import StoreError, WorkerError
from selfstudy_engine.data.schema import Completion, Molecule
from selfstudy_engine.engine import judges as judges_module
from selfstudy_engine.engine import worker_pool
from selfstudy_engine.engine.claims import check_claims
from selfstudy_engine.engine.false_claims import finds_false
from selfstudy_engine.engine.judges import Chunk, Judges, Unjudged
from selfstudy_engine.engine.judging import CHUNK_COMPLETIONS, CHUNKS_PER_PROCESS, Judging
from selfstudy_engine.engine.sampling import Answered, SampleQuestion
from selfstudy_engine.engine.verify import Judged, Rules, judge
from selfstudy_engine.engine.worker import Worker, WorkerDiedError
from selfstudy_engine.engine.worker_pool import MOST_DEATHS, WorkerPool

RULES = Rules.of(RunConfig(), 25.0, finds_false(partial(check_claims, known=None)))
MOLECULES = [exemplar.molecule for exemplar in SHIPPED]
CLAIMS = ("One benzene ring", "Two nitro groups", "A carboxylic acid", "A long chain", "")
EXTRAS = ("", " °C", " K", "-300", " or so")


def make_answers(number: int, seed: int = 1) -> Iterator[Answered]:
    """Yield answers of every kind: true, false, cut off, told their value, in other units."""
    generator = random.Random(seed)
    for index in range(number):
        molecule = MOLECULES[index % len(MOLECULES)]
        completions = []
        for _ in range(8):
            value = molecule.value + generator.gauss(0, 40)
            reason = f"{generator.choice(CLAIMS)} of {generator.randrange(50)} packs it densely."
            text = f" {reason}\nMelting point (°C): {value:.0f}{generator.choice(EXTRAS)}"
            completions.append(Completion(text, generator.choice(("stop", "length")), 20, 20))
        yield Answered(SampleQuestion(molecule, "", hinted=index % 3 == 0), completions, 1.0)


def judged_here(answered: Answered) -> list[Judged]:
    question = answered.question
    return [
        judge(each.text, each.finish_reason, question.molecule, RULES, hinted=question.hinted)
        for each in answered.completions
    ]


def workers() -> list[psutil.Process]:
    found = []
    for process in psutil.Process().children():
        if process.status() != psutil.STATUS_ZOMBIE and any(
            "worker" in p for p in process.cmdline()
        ):
            found.append(process)
    return found


def judge_all(
    answers: Sequence[Answered], num_processes: int, num_killed: int
) -> tuple[list[tuple[Answered, Sequence[Judged]]], int]:
    """Return what comes of answers, and how many waited at most; some workers die on the way."""
    found: list[tuple[Answered, Sequence[Judged]]] = []
    most_waiting = 0

    async def story() -> None:
        nonlocal most_waiting
        with Judges(num_processes) as judges:
            async with Judging(judges, RULES, lambda *settled: found.append(settled)) as judging:
                for number, answered in enumerate(answers, 1):
                    await judging.add(answered)
                    most_waiting = max(most_waiting, number - len(found))
                    if number % 100 == 0 and number <= 100 * num_killed:
                        while not workers():  # it is being started
                            await asyncio.sleep(0.01)
                        workers()[0].kill()

    asyncio.run(story())
    assert workers() == []
    return found, most_waiting


@pytest.mark.parametrize(("num_processes", "num_killed"), [(0, 0), (2, 0), (2, 2)])
def test_verdicts_are_the_same_wherever_they_are_found(
    num_processes: int, num_killed: int, caplog: pytest.LogCaptureFixture
) -> None:
    """Killed processes cost nothing; and whoever brings more than they can judge waits."""
    answers = list(make_answers(300))
    found, most_waiting = judge_all(answers, num_processes, num_killed)
    assert sorted(answers.index(answered) for answered, _ in found) == list(range(len(answers)))
    assert all(list(judged) == judged_here(answered) for answered, judged in found)
    assert {name for _, judged in found for each in judged for name in each.verdict.findings} >= {
        *("truncated", "no value", "other unit", "out of tolerance", "answer leaked"),
        "false claim",
    }
    assert most_waiting <= (CHUNKS_PER_PROCESS * num_processes + 1) * CHUNK_COMPLETIONS // 8
    assert [r for r in caplog.records if "died" in r.message] == caplog.records
    assert bool(caplog.records) == bool(num_killed)


@pytest.mark.parametrize("num_processes", [0, 1])
def test_a_verdict_that_cant_be_stored_ends_the_pass(num_processes: int) -> None:
    def settle(answered: Answered, verdicts: Sequence[Judged]) -> None:
        raise StoreError("the disk is full")

    async def story() -> None:
        with Judges(num_processes) as judges:
            async with Judging(judges, RULES, settle) as judging:
                for answered in make_answers(1):
                    await judging.add(answered)

    with pytest.raises(StoreError, match="full"):
        asyncio.run(story())
    assert workers() == []


def test_a_servers_failure_loses_no_answer_that_came_before_it() -> None:
    found = []

    async def story() -> None:
        with Judges(1) as judges:
            async with Judging(
                judges, RULES, lambda answered, _: found.append(answered)
            ) as judging:
                for answered in make_answers(3):
                    await judging.add(answered)
                raise StoreError("another")

    with pytest.raises(StoreError, match="another"):
        asyncio.run(story())
    assert len(found) == 3


def test_this_process_judges_until_that_keeps_it_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judges_module, "WATCH_SECONDS", 0.1)
    monkeypatch.setattr(judges_module, "BUSY", 0.1)  # a core that others want, too
    with Judges() as judges:
        assert judges.pool(RULES) is None
        time.sleep(0.2)
        assert judges.pool(RULES) is None, "it sleeps"
        until = time.thread_time() + 0.15
        while time.thread_time() < until:
            pass
        assert judges.pool(RULES) is None, "none is ready yet"
        if len(os.sched_getaffinity(0)) == 1:
            assert workers() == [], "there is no core for them"
            return
        deadline = time.monotonic() + 60
        while not judges.pool(RULES):
            assert time.monotonic() < deadline
            time.sleep(0.05)
        assert len(workers()) == 1


def test_where_no_process_can_be_started_this_one_goes_on_judging(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(judges_module, "WATCH_SECONDS", 0.0)
    monkeypatch.setattr(judges_module, "BUSY", 0.0)

    def refuse(*_: object) -> None:
        raise OSError("out of memory")

    monkeypatch.setattr(worker_pool, "Worker", refuse)
    with Judges() as judges:
        for _ in range(100):
            assert judges.pool(RULES) is None
            time.sleep(0.001)


def test_a_tasks_error_is_the_callers_and_costs_no_worker() -> None:
    pool = WorkerPool(RULES, 1)
    try:
        molecule = Molecule("K", "", "no SMILES", 10.0)
        text = " A reason of some words.\nMelting point (°C): 10"
        chunk = Chunk(30.0, [Unjudged(molecule, False, [(text, "stop")])])
        with pytest.raises(ValueError, match="no SMILES"):
            asyncio.run(pool.do(chunk.judge))
        [worker] = workers()
        assert asyncio.run(pool.do(Chunk(30.0, []).judge)) == []
        assert workers() == [worker]
    finally:
        pool.close()


def test_what_a_library_prints_is_no_result(capfd: pytest.CaptureFixture[str]) -> None:
    worker = Worker("hello")
    assert worker.do(print) is None
    worker.end()
    assert capfd.readouterr() == ("", "hello\n")


def test_a_worker_knows_no_key_and_nothing_that_speaks_to_servers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SELFSTUDY_SERVER_KEY", "nobody-may-see")
    worker: Worker[dict[str, object]] = Worker({})
    try:
        for module in ("judges", "false_claims"):
            worker.do(partial(exec, f"import selfstudy_engine.engine.{module}"))
        modules = worker.do(partial(eval, "set(__import__('sys').modules)"))
        environment = worker.do(partial(eval, "dict(__import__('os').environ)"))
    finally:
        worker.end()
    assert "rdkit" in modules
    assert not modules & {"aiohttp", "httpx", "torch", "selfstudy_engine.engine.client"}
    assert "nobody-may-see" not in str(environment)


def test_work_that_kills_its_workers_is_given_up() -> None:
    pool = WorkerPool(signal.SIGKILL, 1)
    with pytest.raises(WorkerError, match=f"{MOST_DEATHS} workers.*-9.*Run the same command"):
        asyncio.run(pool.do(signal.raise_signal))
    pool.close()


def test_a_dead_worker_says_so() -> None:
    worker = Worker(signal.SIGTERM)
    with pytest.raises(WorkerDiedError, match="-15"):
        worker.do(signal.raise_signal)


BUSY = """
import asyncio, sys
sys.path[:0] = [{tests!r}]
from test_judging import *

async def story():
    with Judges(2) as judges:
        async with Judging(judges, RULES, lambda *found: None) as judging:
            for number, answered in enumerate(make_answers(100_000)):
                await judging.add(answered)
                if number == 200:
                    print(*(worker.pid for worker in workers()), flush=True)
try:
    asyncio.run(story())
except KeyboardInterrupt:
    sys.exit(130)
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_process(number: signal.Signals) -> None:
    """And say nothing: a Ctrl-C, which all processes of a terminal get, isn't for them."""
    code = BUSY.format(tests=str(Path(__file__).parent))
    with subprocess.Popen(
        [sys.executable, "-c", code],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as parent:
        assert parent.stdout
        started = [psutil.Process(int(pid)) for pid in parent.stdout.readline().split()]
        assert started
        os.killpg(parent.pid, number)
        _, said = parent.communicate(timeout=30)
    assert parent.returncode == (130 if number == signal.SIGINT else -number)
    assert said == ""
    _, alive = psutil.wait_procs(started, timeout=10)
    assert alive == []
