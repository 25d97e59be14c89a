"""A server that dies is started again, and what it had answered stays; a real one dies in
test_real_loop.py."""

import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import MakeConfig, QuietReporter, Trained, running, train_here
from fake_vllm import FakeVllm

from selfstudy_engine.data import devices
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import ServerDiedError, ServerError, TrainingError
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Sample
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine import server as server_module
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.server import VllmServer
from selfstudy_engine.engine.training import Training

FAKE = Path(__file__).parent / "fake_vllm_process.py"
NUM_SAMPLES = 16
Lives = Callable[..., Path]


@pytest.fixture
def lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Lives:
    """Have servers be fakes that die after so many texts, one number for each process."""
    path = tmp_path / "lives"

    def command(config: RunConfig, model: str, port: int, **options: object) -> list[str]:
        return [sys.executable, str(FAKE), str(port), str(path)]

    monkeypatch.setattr(server_module, "server_command", command)

    def fix(*numbers: int | str) -> Path:
        path.write_text("".join(f"{number}\n" for number in numbers))
        return path

    return fix


def run(config: RunConfig, runs: Path, reporter: QuietReporter | None = None) -> None:
    run_loop(config, runs, reporter or QuietReporter(), start_training=train_here)


def samples_of(runs: Path) -> list[Sample]:
    return list(SampleStore(RunFolder(runs / "test").samples).samples())


def check_complete(runs: Path) -> None:
    samples, folder = samples_of(runs), RunFolder(runs / "test")
    assert len(samples) == len({sample.key for sample in samples}) == NUM_SAMPLES
    assert [record.round for record in load_records(folder)] == [0, 1, 2]
    assert sum(record.num_completions for record in load_records(folder)) == NUM_SAMPLES


# A round asks for 6 test answers, then 8 samples.
@pytest.mark.parametrize(
    "deaths",
    [(0,), (3,), (9,), (17, 2, 11)],
    ids=["first answer", "evaluation", "samples", "three times"],
)
def test_a_loop_survives_its_server(
    small_config: MakeConfig,
    tmp_path: Path,
    lives: Lives,
    caplog: pytest.LogCaptureFixture,
    deaths: tuple[int, ...],
) -> None:
    caplog.set_level(logging.WARNING)
    left = lives(*deaths)
    run(small_config(), tmp_path)
    assert left.read_text() == ""
    check_complete(tmp_path)
    said = [record.message for record in caplog.records if "starting it again" in record.message]
    assert len(said) == len(deaths)
    assert "ended with exit code -9" in said[0]
    assert "starting it again, 1 of 3 times" in said[0]


def test_each_new_server_proves_the_adapter_before_it_answers(
    small_config: MakeConfig, tmp_path: Path, lives: Lives
) -> None:
    """Its canary is in the log of swaps: a fake that isn't told of an adapter answers as the base,
    and would fail it."""
    lives(9)
    reporter = QuietReporter()
    run(small_config(), tmp_path, reporter)
    swaps = [phase for phase in reporter.phases if phase.startswith("swap to")]
    assert swaps == ["swap to round-0000"] * 2 + ["swap to round-0001", "swap to round-0002"]
    assert {s.adapter for s in samples_of(tmp_path) if s.round == 0} == {"round-0000"}


def test_restarts_are_bounded_and_the_same_command_goes_on(
    small_config: MakeConfig, tmp_path: Path, lives: Lives
) -> None:
    lives(13, 0, 0)  # of the four questions with two answers each, three are answered
    config = small_config(server__max_restarts=2)
    with pytest.raises(ServerDiedError, match="ended with exit code -9"):
        run(config, tmp_path)
    before = samples_of(tmp_path)
    assert before, "what was answered is stored"
    run(config, tmp_path)
    check_complete(tmp_path)
    assert [s for s in samples_of(tmp_path) if s.key in {b.key for b in before}] == before


def test_a_server_that_no_longer_starts_ends_the_run(
    small_config: MakeConfig, tmp_path: Path, lives: Lives
) -> None:
    lives(3, "never")
    with pytest.raises(ServerDiedError, match=r"exit code 1; (.*\n)+.*no memory is left"):
        run(small_config(server__max_restarts=1), tmp_path)


def test_a_server_that_never_was_ready_isnt_started_again(
    small_config: MakeConfig, tmp_path: Path, lives: Lives
) -> None:
    left = lives("never", "never")
    with pytest.raises(ServerDiedError, match="no memory is left"):
        run(small_config(), tmp_path)
    assert left.read_text() == "never\n"


def test_a_server_that_cant_start_is_told_of_while_the_first_adapter_is_trained(
    small_config: MakeConfig, tmp_path: Path, lives: Lives
) -> None:
    """It was noticed when that was done, which takes a large model an hour."""
    ended = threading.Event()

    class Endless:
        def has_ended(self, within_seconds: float) -> bool:
            return ended.wait(within_seconds)

        def result(self) -> dict[str, object]:
            assert ended.wait(30), "waited for"
            return {}

    @contextmanager
    def train(*arguments: object) -> Iterator[Training]:
        try:
            yield Endless()
        finally:
            ended.set()

    lives("never")
    with pytest.raises(ServerDiedError, match="no memory is left"):
        run_loop(small_config(), tmp_path, QuietReporter(), start_training=train)
    assert ended.is_set()


def test_a_server_whose_engine_died_counts_as_dead(
    small_config: MakeConfig, tmp_path: Path, lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's API server outlives its engine by moments, answering errors."""
    monkeypatch.setattr(server_module, "_HEALTH_SECONDS", 3)
    lives()
    config = small_config()
    server = VllmServer(config, str(tmp_path), tmp_path / "log")
    with running(server):
        server.check_healthy()
        os.kill(server.process_group, signal.SIGSTOP)
        try:
            started = time.monotonic()
            with pytest.raises(ServerDiedError, match="failed its health check for 3 s"):
                server.check_healthy()
            assert time.monotonic() - started < 20
        finally:
            os.kill(server.process_group, signal.SIGCONT)


def test_a_death_is_waited_for(small_config: MakeConfig, tmp_path: Path, lives: Lives) -> None:
    lives()
    server = VllmServer(small_config(), str(tmp_path), tmp_path / "log")
    with running(server):
        threading.Timer(0.3, os.kill, (server.process_group, signal.SIGKILL)).start()
        os.kill(server.process_group, signal.SIGSTOP)
        with pytest.raises(ServerDiedError, match="ended with exit code -9"):
            server.check_healthy()


def test_no_server_starts_beside_a_training_on_its_gpu(
    small_config: MakeConfig, tmp_path: Path, lives: Lives, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With --overlap, where a run is continued and where a server dies in a training."""
    gpu = Gpu("0", "GPU-0", "NVIDIA H100", 80 * 2**30, 9.0)
    monkeypatch.setattr(devices, "visible_gpus", lambda: (gpu,))
    config = small_config(overlap=True, server__max_restarts=1)
    log = RunFolder(tmp_path / "test").logs / "server.log"
    seen: list[tuple[object, int, int]] = []

    def num_starts() -> int:
        return log.read_text().count("$ ") if log.exists() else 0

    @contextmanager
    def train(arguments: dict[str, object], *rest: object) -> Iterator[Training]:
        """Train when somebody waits for it; note the servers started before and by then."""
        index, before = arguments["before_round"], num_starts()
        if (index, before) == (1, 1):
            raise TrainingError("stopped")
        ended = False

        def end() -> None:
            nonlocal ended
            if not ended:
                seen.append((index, before, num_starts()))
                with train_here(arguments):
                    ended = True

        yield Trained(end)

    lives("", 3)
    with pytest.raises(TrainingError, match="stopped"):
        run_loop(config, tmp_path, QuietReporter(), start_training=train)
    run_loop(config, tmp_path, QuietReporter(), start_training=train)
    check_complete(tmp_path)
    assert seen == [(0, 1, 1), (1, 2, 2), (2, 3, 3)]


def test_a_server_of_somebody_else_is_not_restarted(
    small_config: MakeConfig, fake: FakeVllm
) -> None:
    config = small_config(server__url=fake.url)
    with (
        Connection(config, "tiny", (), fake.api_key) as connection,
        pytest.raises(ServerError, match="isn't ours to start"),
    ):
        connection.restart()
