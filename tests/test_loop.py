"""Whole runs against the fake server: the tiny model really trained."""

import os
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
from conftest import MakeConfig, loop
from fake_vllm import FakeVllm
from stored_samples import content_of, stored

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.errors import RunFolderError, UsageError
from selfstudy_engine.data.run_folder import RunFolder, open_run
from selfstudy_engine.engine.rounds import load_records

BATCH, ROUNDS, TEST_SIZE = 8, 2, 6


@pytest.fixture(scope="module", autouse=True)
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Work in an empty folder: a run must leave nothing where it was called."""
    before, folder = Path.cwd(), tmp_path_factory.mktemp("elsewhere")
    os.chdir(folder)
    yield folder
    os.chdir(before)


def test_every_round_is_recorded(finished: RunFolder) -> None:
    records = load_records(finished)
    assert [record.adapter for record in records] == ["round-0000", "round-0001", "round-0002"]
    assert [record.num_completions for record in records] == [BATCH, BATCH, 0]
    for record in records:
        assert record.adapter_sha256 == read_adapter(finished.adapter(record.round)).sha256
        assert 0 <= record.answered <= 1
        assert record.test_mae.low <= record.test_mae.value <= record.test_mae.high
    assert records[0].num_trained_samples == 0
    assert records[1].num_trained_samples == records[0].num_accepted > 0
    assert records[2].num_trained_samples == sum(r.num_accepted for r in records)
    assert records[0].test_change.value == 0
    assert records[1].train_mae is not None


def test_metrics_are_one_json_line_a_round(finished: RunFolder) -> None:
    lines = [orjson.loads(line) for line in finished.metrics.read_bytes().splitlines()]
    assert [line["round"] for line in lines] == [0, 1, 2]
    for line in lines[:2]:
        assert line["acceptance"] == line["num_accepted"] / line["num_completions"]
        assert line["timing"]["num_generated"] == BATCH


def test_the_last_record_reads_back_as_it_was_written(finished: RunFolder) -> None:
    """It has no samples; the command line formats its lift all the same."""
    last = load_records(finished)[-1]
    assert last.lift is None
    assert last.acceptance is None


def test_samples_cite_the_adapter_that_answered(finished: RunFolder) -> None:
    samples = stored(finished).values()
    assert len(samples) == ROUNDS * BATCH
    hashes = {read_adapter(finished.adapter(i)).sha256 for i in range(ROUNDS)}
    assert len(hashes) == ROUNDS
    for sample in samples:
        adapter = read_adapter(finished.adapter(sample.round))
        assert (sample.adapter, sample.adapter_sha256) == (adapter.name, adapter.sha256)
        assert sample.accepted == (not sample.rejections)
        if sample.accepted:
            assert sample.error is not None
            assert abs(sample.error) <= 30


def test_false_claims_are_found_in_every_answer_with_a_value(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    """In rejected answers too: else the share would be that of what the tolerance lets through."""
    fake.reason = "Two nitro groups, and reason number {}."
    records, _ = loop(small_config(), before_generating.path.parent, fake)
    assert [record.false_claims for record in records] == [0.0, 1.0, None]
    assert records[1].num_accepted == 0
    findings = {
        (sample.predicted is not None, "false claim" in sample.findings)
        for sample in stored(before_generating).values()
        if sample.round == 1
    }
    assert findings == {(True, True), (False, False)}


def test_rounds_ask_about_other_molecules_and_never_the_test_set(finished: RunFolder) -> None:
    import pyarrow.parquet as pq

    asked = [
        {s.molecule_id for s in stored(finished).values() if s.round == index} for index in (0, 1)
    ]
    rows = pq.read_table(finished.evaluation(0)).to_pylist()
    test = {row["molecule_id"] for row in rows if row["split"] == "test"}
    assert len(test) == TEST_SIZE
    assert not asked[0] & asked[1]
    assert not (asked[0] | asked[1]) & test


def test_nothing_is_left_outside_the_run(finished: RunFolder, elsewhere: Path) -> None:
    assert list(elsewhere.iterdir()) == []
    assert [path.name for path in finished.path.parent.iterdir()] == ["test"]
    assert not list(finished.path.rglob("*.tmp"))


def test_a_finished_run_does_nothing_again(
    copied: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    before = {p: p.stat().st_mtime_ns for p in copied.path.rglob("*.*") if p.is_file()}
    records, reporter = loop(small_config(), copied.path.parent, fake)
    assert records == load_records(copied)
    assert (fake.requests, reporter.phases) == ([], [])
    unchanged = {p: p.stat().st_mtime_ns for p in before if p.name not in ("run.toml", ".lock")}
    assert all(before[path] == time_ns for path, time_ns in unchanged.items())


def test_more_rounds_continue_a_finished_run(
    copied: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    before = content_of(copied)
    records, reporter = loop(small_config(rounds=3), copied.path.parent, fake)
    assert [record.num_completions for record in records] == [BATCH, BATCH, BATCH, 0]
    assert reporter.rounds == [2, 3]
    after = content_of(copied)
    assert before.items() <= after.items()
    assert len(after) == 3 * BATCH
    evaluated = [name for name in reporter.phases if "evaluate" in name]
    assert evaluated == ["round 3: evaluate"]  # round 2 was measured before


def test_fewer_rounds_or_another_batch_are_refused(
    copied: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    runs = copied.path.parent
    with pytest.raises(RunFolderError, match="made with 2 rounds, more than the 1 asked"):
        loop(small_config(rounds=1), runs, fake)
    with pytest.raises(RunFolderError, match=r"generation.batch: 8 -> 16"):
        loop(small_config(generation__batch=16), runs, fake)
    assert fake.requests == []


def test_a_run_in_use_is_refused(
    copied: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    before = copied.config.read_bytes()
    with copied.locked(), pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        loop(small_config(rounds=3), copied.path.parent, fake)
    assert copied.config.read_bytes() == before  # the other process's training reads it
    loop(small_config(), copied.path.parent, fake)


def test_runtime_mode_goes_the_same_way(
    before_generating: RunFolder, finished: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    config = small_config(server__adapter_mode="runtime")
    loop(config, before_generating.path.parent, fake)
    assert content_of(before_generating) == content_of(finished)
    asked = {request.body["model"] for request in fake.generations}
    hashes = [read_adapter(finished.adapter(i)).sha256[:12] for i in (1, 2)]
    assert asked == {f"round-000{i}-{sha}" for i, sha in zip((1, 2), hashes, strict=True)}


def test_processes_that_judge_store_the_same_samples(
    before_generating: RunFolder, finished: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    loop(small_config(), before_generating.path.parent, fake, num_judges=2)
    again, before = stored(before_generating), stored(finished)
    assert again.keys() == before.keys()
    for key, sample in again.items():
        assert sample == before[key]._replace(created_at=sample.created_at)


def test_a_new_run_with_a_taken_name_is_refused(small_config: MakeConfig, tmp_path: Path) -> None:
    (tmp_path / "test").mkdir()
    (tmp_path / "test" / "thesis.tex").touch()
    with pytest.raises(RunFolderError, match="isn't empty and isn't a run"):
        open_run(tmp_path, small_config())


def test_a_loop_that_would_reject_every_direct_answer_is_refused(
    small_config: MakeConfig, tmp_path: Path, fake: FakeVllm
) -> None:
    with pytest.raises(UsageError, match=r'verdict\.reject has "no reason"'):
        loop(small_config(train__reasons="drop"), tmp_path, fake)
    assert list(tmp_path.iterdir()) == []
    assert fake.requests == []
