"""--gate: an adapter that is significantly worse is kept, and another goes on answering."""

import logging
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from conftest import MakeConfig, QuietReporter, small_molecules, train_here
from fake_vllm import FakeVllm
from rdkit.Chem import CanonSmiles

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.gate import Gate
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import RoundRecord, load_records
from selfstudy_engine.engine.subjects import find_subject, finished_round
from selfstudy_engine.engine.training import Training

MEASURED = {CanonSmiles(smiles): value for smiles, value in small_molecules()}


def answer_badly(fake: FakeVllm, *bad: str) -> None:
    """Have these adapters miss by 300, and the others by 5."""

    def answer(prompt: str, adapter: str, index: int) -> str:
        found = re.search(r"SMILES: (\S+)", prompt)
        assert found
        value = MEASURED[CanonSmiles(found[1])] + (300 if adapter in bad else 5)
        return f" For {index}, {found[1]}.\nMelting point (°C): {value:g}"

    fake.script = answer


def run(
    fake: FakeVllm, make_config: MakeConfig, runs: Path, **changes: Any
) -> tuple[RunFolder, list[RoundRecord]]:
    given = {"gate": True, "table__test_size": 20, "server__url": fake.url}
    config = make_config(**(given | changes))
    records = run_loop(config, runs, QuietReporter(), fake.api_key, start_training=train_here)
    folder = RunFolder(runs / "test")
    for sample in SampleStore(folder.samples).samples():
        adapter = read_adapter(folder.adapters / sample.adapter)
        assert sample.adapter_sha256 == adapter.sha256
    return folder, records


def test_a_worse_adapter_is_kept_and_doesnt_answer(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer_badly(fake, "round-0001")
    with caplog.at_level(logging.WARNING):
        folder, records = run(fake, small_config, tmp_path, rounds=3)
    assert [record.passed for record in records] == [True, False, True, True]
    assert [record.sampled_from for record in records] == [
        "round-0000",
        "round-0000",
        "round-0002",
        "",
    ]
    assert records[1].test_mae.value == pytest.approx(300)
    assert read_adapter(folder.adapter(1)).sha256 == records[1].adapter_sha256
    [message] = [record.getMessage() for record in caplog.records if "--gate" in record.message]
    assert "round-0001 is worse on the test set than round-0000 (MAE +295.0 °C [95%" in message


def test_an_adapter_that_isnt_worse_by_more_than_chance_passes(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path
) -> None:
    answer_badly(fake)
    _, records = run(fake, small_config, tmp_path)
    assert [record.passed for record in records] == [True, True, True]
    assert [record.sampled_from for record in records] == ["round-0000", "round-0001", ""]


def test_few_molecules_close_no_gate(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer_badly(fake, "round-0001")
    with caplog.at_level(logging.WARNING):
        _, records = run(fake, small_config, tmp_path, rounds=1, table__test_size=19)
    assert [record.passed for record in records] == [True, True]
    [message] = [record.getMessage() for record in caplog.records if "--gate" in record.message]
    assert "round-0001 answers unjudged" in message
    assert "19 test molecules (at least 20 are needed" in message


def test_without_the_gate_every_adapter_answers(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path
) -> None:
    answer_badly(fake, "round-0001")
    _, records = run(fake, small_config, tmp_path, gate=False)
    assert [record.passed for record in records] == [True, True, True]
    assert records[1].sampled_from == "round-0001"


def test_the_last_one_that_passed_is_predicted_with_and_evaluated(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    answer_badly(fake, "round-0002")
    folder, records = run(fake, small_config, tmp_path)
    assert [record.passed for record in records] == [True, True, False]
    caplog.clear()
    assert finished_round(folder) == 1
    assert find_subject("last", folder).label == "round 1"
    said = "takes round 1, the last whose adapter passed --gate; name round 2 for the last one"
    assert [said in message for message in caplog.messages] == [True, True]
    caplog.clear()
    assert finished_round(folder, 2) == 2
    assert find_subject("2", folder).label == "round 2"
    assert caplog.messages == []


@pytest.mark.parametrize("adapter_mode", ["merged", "runtime"])
def test_a_continued_run_decides_as_before(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path, adapter_mode: str
) -> None:
    """Killed between the evaluation and the samples: the gate is closed all the same."""
    answer_badly(fake, "round-0001")
    folder, before = run(fake, small_config, tmp_path, server__adapter_mode=adapter_mode)
    shutil.rmtree(SampleStore(folder.samples).round_folder(1))
    lines = folder.metrics.read_bytes().splitlines(keepends=True)
    folder.metrics.write_bytes(lines[0])
    run(fake, small_config, tmp_path, server__adapter_mode=adapter_mode)
    assert [record.sampled_from for record in load_records(folder)] == [
        record.sampled_from for record in before
    ]
    assert before[1].sampled_from == "round-0000"


def test_a_decision_stands_when_measured_values_are_corrected(
    fake: FakeVllm, small_config: MakeConfig, table: Path, tmp_path: Path
) -> None:
    """What answered the later rounds can't change any more."""
    answer_badly(fake, "round-0001")
    own = tmp_path / "table.csv"
    header, *lines = table.read_text().splitlines()
    own.write_text("\n".join([header, *lines]))
    folder, before = run(fake, small_config, tmp_path, table__path=str(own))
    shifted = [re.sub(r"[^,]+$", lambda value: f"{float(value[0]) + 300}", line) for line in lines]
    own.write_text("\n".join([header, *shifted]))
    _, after = run(fake, small_config, tmp_path, table__path=str(own))
    assert after[1].test_mae.value < after[0].test_mae.value < 320
    assert [record.passed for record in after] == [record.passed for record in before]
    assert finished_round(folder) == 2


def test_training_goes_on_from_the_one_that_passed(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path
) -> None:
    answer_badly(fake, "round-0001")
    started_from: dict[object, object] = {}

    @contextmanager
    def note(arguments: dict[str, object], *rest: object) -> Iterator[Training]:
        started_from[arguments["before_round"]] = arguments["previous"]
        with train_here(arguments) as training:
            yield training

    config = small_config(
        gate=True, table__test_size=20, server__url=fake.url, train__start_from="previous"
    )
    run_loop(config, tmp_path, QuietReporter(), fake.api_key, start_training=note)
    folder = RunFolder(tmp_path / "test")
    assert started_from == {0: None, 1: folder.adapter(0), 2: folder.adapter(0)}


def test_two_threads_decide_alike(tmp_path: Path) -> None:
    """--overlap records a round beside the next, and both ask who answers."""
    made = (RunFolder(tmp_path), True, 0.0, find_property("melting_point"))
    gates = [Gate(*made) for _ in range(5_000)]
    together = Barrier(2, timeout=10)

    def decide() -> None:
        for gate in gates:
            together.wait()
            gate.answering(0)

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(2) as pool:
            for decided in [pool.submit(decide) for _ in range(2)]:
                decided.result()
    finally:
        sys.setswitchinterval(before)
    for gate in gates:
        with pytest.raises(FileNotFoundError):  # round 1 isn't decided, nor evaluated
            gate.answering(1)


def test_an_overlapped_loop_never_samples_from_a_worse_adapter(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path
) -> None:
    answer_badly(fake, "round-0001")
    _, records = run(fake, small_config, tmp_path, rounds=3, overlap=True)
    assert [record.passed for record in records] == [True, False, True, True]
    assert [record.sampled_from for record in records] == [
        "round-0000",
        "round-0000",
        "round-0000",
        "",
    ]
