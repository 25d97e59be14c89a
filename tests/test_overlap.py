"""--overlap: the next adapter is trained while its predecessor generates."""

import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from threading import Event
from typing import Any

import pytest
from conftest import MakeConfig, QuietReporter, loop, train_beside, train_here
from fake_vllm import FakeVllm

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.errors import RunFolderError, ServerError, TrainingError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import RoundRecord
from selfstudy_engine.engine.training import Training, TrainingProcess

BATCH = 8
ROUNDS = 3


@pytest.fixture(scope="module")
def config_of(small_config: MakeConfig) -> Callable[..., Any]:
    return lambda **more: small_config(overlap=True, rounds=ROUNDS, **more)


@pytest.fixture(scope="module")
def overlapped(
    tmp_path_factory: pytest.TempPathFactory, config_of: Callable[..., Any]
) -> tuple[RunFolder, list[str]]:
    """A finished run, and what happened in it: requests for text and trainings."""
    runs = tmp_path_factory.mktemp("overlapped")
    events: list[str] = []
    with FakeVllm() as fake:

        @contextmanager
        def start_training(arguments: dict[str, object], *rest: Any) -> Iterator[Training]:
            index = arguments["before_round"]
            events.append(f"start {index}")
            with train_beside(arguments) as training:
                num_before = len(fake.generations)
                yield training
                asked = len(fake.generations) - num_before
                events.append(f"end {index} after {asked} requests")

        config = config_of(server__url=fake.url)
        run_loop(config, runs, QuietReporter(), fake.api_key, start_training=start_training)
    return RunFolder(runs / "test"), events


def adapters_of(folder: RunFolder) -> dict[int, set[str]]:
    found: dict[int, set[str]] = {}
    for sample in SampleStore(folder.samples).samples():
        found.setdefault(sample.round, set()).add(sample.adapter)
        adapter = read_adapter(folder.path / "adapters" / sample.adapter)
        assert sample.adapter_sha256 == adapter.sha256
    return found


def test_samples_are_one_adapter_stale_at_most(overlapped: tuple[RunFolder, list[str]]) -> None:
    folder, _ = overlapped
    assert adapters_of(folder) == {0: {"round-0000"}, 1: {"round-0000"}, 2: {"round-0001"}}
    assert SampleStore(folder.samples).count() == ROUNDS * BATCH


def test_each_round_is_generated_while_the_next_adapter_is_trained(
    overlapped: tuple[RunFolder, list[str]],
) -> None:
    _, events = overlapped
    test_size, requests = 6, BATCH // 2
    assert events[0] == "start 0"
    assert events[1] == "end 0 after 0 requests"
    assert events[3] == f"end 1 after {requests} requests"
    assert events[4] == "start 2"
    asked = int(events[5].split()[3])
    assert asked >= requests + test_size, "evaluating adapter 1 shares the queue"


def test_an_adapter_learns_from_all_samples_before_it(
    overlapped: tuple[RunFolder, list[str]],
) -> None:
    folder, _ = overlapped
    store = SampleStore(folder.samples)
    for index in range(1, ROUNDS + 1):
        num_accepted = sum(1 for _ in store.accepted(index))
        assert read_adapter(folder.adapter(index)).training["num_samples"] == num_accepted


def test_the_records_say_who_answered(
    overlapped: tuple[RunFolder, list[str]], config_of: Callable[..., Any], fake: FakeVllm
) -> None:
    folder, _ = overlapped
    records, reporter = loop(config_of(), folder.path.parent, fake)
    assert fake.requests == []
    assert reporter.phases == []
    assert [record.adapter for record in records] == [f"round-000{i}" for i in range(4)]
    assert [record.sampled_from for record in records] == [
        "round-0000",
        "round-0000",
        "round-0001",
        "",
    ]
    assert [record.num_completions for record in records] == [BATCH, BATCH, BATCH, 0]


def test_a_round_is_recorded_beside_the_asking_of_the_next(
    overlapped: tuple[RunFolder, list[str]],
    config_of: Callable[..., Any],
    fake: FakeVllm,
    tmp_path: Path,
) -> None:
    """A loop whose records wait for the server to be asked again gets to its end."""
    folder, _ = overlapped
    asked_again = Event()

    class Patient(QuietReporter):
        def phase(self, name: str, total: int | None = None) -> None:
            super().phase(name, total)
            if name == f"round {ROUNDS}: evaluate":
                asked_again.set()

        def finish_round(self, record: RoundRecord) -> None:
            super().finish_round(record)
            assert record.round != ROUNDS - 1 or asked_again.wait(60)

    copied = tmp_path / "test"
    shutil.copytree(folder.path, copied)
    (copied / "metrics.jsonl").unlink()
    RunFolder(copied).evaluation(ROUNDS).unlink()
    config = config_of(server__url=fake.url)
    assert len(run_loop(config, tmp_path, Patient(), fake.api_key)) == ROUNDS + 1


def test_adapters_that_answer_no_more_may_be_gone(
    overlapped: tuple[RunFolder, list[str]],
    small_config: MakeConfig,
    fake: FakeVllm,
    tmp_path: Path,
) -> None:
    """A run that went on trained them all again."""
    folder, _ = overlapped
    shutil.copytree(folder.path, tmp_path / "test")
    for index in range(ROUNDS - 1):
        shutil.rmtree(tmp_path / "test" / "adapters" / f"round-{index:04d}")
    trained: list[object] = []

    def start(arguments: dict[str, object], *rest: Any) -> AbstractContextManager[Training]:
        trained.append(arguments["before_round"])
        return train_here(arguments, *rest)

    config = small_config(overlap=True, rounds=ROUNDS + 1)
    records, _ = loop(config, tmp_path, fake, start)
    assert trained == [ROUNDS + 1]
    assert [record.num_completions for record in records] == [BATCH] * (ROUNDS + 1) + [0]


def test_a_run_changes_neither_to_nor_from_overlap(
    overlapped: tuple[RunFolder, list[str]], small_config: MakeConfig, fake: FakeVllm
) -> None:
    folder, _ = overlapped
    with pytest.raises(RunFolderError, match="overlap: True -> False"):
        loop(small_config(rounds=ROUNDS), folder.path.parent, fake)


def test_a_failure_while_generating_ends_the_training_and_the_same_command_goes_on(
    overlapped: tuple[RunFolder, list[str]],
    config_of: Callable[..., Any],
    fake: FakeVllm,
    tmp_path: Path,
) -> None:
    def in_round_1(body: dict[str, Any]) -> bool:
        return body.get("n") == 2 and SampleStore(tmp_path / "test/samples").count(0) == BATCH

    def start(arguments: dict[str, object], *rest: Any) -> AbstractContextManager[Training]:
        is_ended = arguments["before_round"] == 1  # a process can be, a thread can't
        return (TrainingProcess if is_ended else train_here)(arguments, *rest)

    fake.fail_next("/v1/completions", times=100, status=400, matching=in_round_1)
    config = config_of(server__url=fake.url)
    with pytest.raises(ServerError, match="failed on command"):
        run_loop(config, tmp_path, QuietReporter(), fake.api_key, start_training=start)
    folder = RunFolder(tmp_path / "test")
    assert not folder.adapter(1).exists(), "its training was ended with the loop"
    assert not list(folder.adapters.glob("*.tmp*/*.safetensors"))
    with FakeVllm() as healthy:
        loop(config_of(), tmp_path, healthy)
    finished, _ = overlapped
    assert adapters_of(folder) == adapters_of(finished)
    assert {s.key: s.completion for s in SampleStore(folder.samples).samples()} == {
        s.key: s.completion for s in SampleStore(finished.samples).samples()
    }


def test_a_failed_training_keeps_what_was_generated_meanwhile(
    config_of: Callable[..., Any], fake: FakeVllm, tmp_path: Path
) -> None:
    @contextmanager
    def fail_later(arguments: dict[str, object], *rest: Any) -> Iterator[Training]:
        if arguments["before_round"] == 1:
            arguments = arguments | {"exemplars": tmp_path / "missing.jsonl"}
        with train_beside(arguments) as training:
            yield training

    with pytest.raises(TrainingError):
        run_loop(
            config_of(server__url=fake.url),
            tmp_path,
            QuietReporter(),
            fake.api_key,
            start_training=fail_later,
        )
    folder = RunFolder(tmp_path / "test")
    assert SampleStore(folder.samples).count(1) == BATCH
    num_asked = len([r for r in fake.generations if r.body["n"] == 2])
    loop(config_of(), tmp_path, fake)
    again = [r for r in fake.generations if r.body["n"] == 2][num_asked:]
    assert len(again) == BATCH // 2, "only round 2 was left to generate"
