"""Whole runs against the fake server: the tiny model really trained, and killed as a process."""

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest
from conftest import MakeConfig, QuietReporter, loop
from fake_vllm import FakeVllm
from stored_samples import content_of, stored

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.errors import (
    RunFolderError,
    SelfStudyError,
    ServerError,
    SwapError,
    TrainingError,
    UsageError,
)
from selfstudy_engine.data.evaluations import load_evaluation
from selfstudy_engine.data.molecules import to_molecule
from selfstudy_engine.data.run_folder import RunFolder, open_run
from selfstudy_engine.data.split_record import load_places
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine import corrections
from selfstudy_engine.engine.loop import run_loop
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


def test_rows_that_are_left_out_are_counted_when_a_run_begins(
    tmp_path: Path,
    small_config: MakeConfig,
    table: Path,
    fake: FakeVllm,
    caplog: pytest.LogCaptureFixture,
) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text(f"{table.read_text()}not a molecule,3\nCCO,-500\nnor this,4\n")
    config = small_config(server__url="http://127.0.0.1:1", table__path=str(bad))
    for _ in range(2):
        with pytest.raises(ServerError, match="no vLLM server"):
            run_loop(config, tmp_path, QuietReporter())
    [said] = caplog.messages
    assert said.startswith(f"3 rows of {bad} are left out (unparsable SMILES: 2, value outside")


def test_a_table_that_grows_keeps_the_test_set_and_the_pool_takes_what_is_new(
    copied: RunFolder,
    small_config: MakeConfig,
    fake: FakeVllm,
    table: Path,
    change_table: Callable[[dict[str, str | None]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """Other test molecules: no comparison with round 0 would be possible any more."""
    before = {place.molecule_id: place.part for place in load_places(copied.split)}
    change_table({})  # puts the table back afterwards
    with table.open("a", encoding="utf-8") as file:
        file.writelines(f"C1CCCCC1{'C' * i}O,{20 + i}\n" for i in range(60))
    records, reporter = loop(small_config(rounds=3), copied.path.parent, fake)
    assert "0 values corrected, 0 withdrawn, 60 new" in caplog.text
    assert (reporter.rounds, len(records)) == ([2, 3], 4)
    after = {place.molecule_id: place.part for place in load_places(copied.split)}
    assert before.items() < after.items()
    assert {after[key] for key in after.keys() - before.keys()} == {"pool"}


def test_an_interrupted_round_is_completed_with_the_same_samples(
    before_generating: RunFolder, finished: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    _, reporter = loop(small_config(), before_generating.path.parent, fake)
    assert content_of(before_generating) == content_of(finished)
    assert not [name for name in reporter.phases if "train" in name]


def test_a_failed_canary_accepts_no_sample(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    fake.keeps_old_adapter = True
    before = stored(before_generating).keys()
    with pytest.raises(SwapError, match="doesn't answer from adapter round-0001"):
        loop(small_config(), before_generating.path.parent, fake)
    assert stored(before_generating).keys() == before
    assert fake.generations == []


def test_a_damaged_adapter_is_never_served(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    with (before_generating.adapter(1) / "adapter_model.safetensors").open("ab") as file:
        file.write(b"x")
    with pytest.raises(SelfStudyError, match="isn't what was published"):
        loop(small_config(), before_generating.path.parent, fake)
    assert [request.path for request in fake.requests] == ["/v1/models"]


def test_a_server_that_fails_in_the_middle_leaves_the_samples_before(
    before_generating: RunFolder, finished: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    runs = before_generating.path.parent
    config = small_config(generation__concurrency=2)  # one request at a time; may change
    last_prompt = list(stored(finished).values())[-1].prompt
    fake.fail_next(
        "/v1/completions", status=400, matching=lambda body: body["prompt"] == last_prompt
    )
    with pytest.raises(RunFolderError, match=r"generation.temperature"):
        loop(small_config(generation__temperature=0.1), runs, fake)
    with pytest.raises(ServerError, match="failed on command"):
        loop(config, runs, fake)
    kept = content_of(before_generating)
    assert BATCH <= len(kept) < 2 * BATCH
    loop(small_config(), runs, fake)
    assert content_of(before_generating) == content_of(finished)


def test_an_answer_of_another_model_accepts_nothing_of_it(
    before_generating: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    fake.fail_next(
        "/v1/completions",
        times=100,
        edit=lambda answer: answer | {"model": "other"},
        matching=lambda body: body.get("n") == 2,
    )
    before = stored(before_generating).keys()
    with pytest.raises(ServerError, match="as model 'other'"):
        loop(small_config(), before_generating.path.parent, fake)
    assert stored(before_generating).keys() == before


def test_a_run_in_use_is_refused(
    copied: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    before = copied.config.read_bytes()
    with copied.locked(), pytest.raises(RunFolderError, match=f"in use by process {os.getpid()}"):
        loop(small_config(rounds=3), copied.path.parent, fake)
    assert copied.config.read_bytes() == before  # the other process's training reads it
    loop(small_config(), copied.path.parent, fake)


def test_a_server_that_isnt_there_is_named(
    before_generating: RunFolder, small_config: MakeConfig
) -> None:
    config = small_config(server__url="http://127.0.0.1:1")
    with pytest.raises(ServerError, match=r"no vLLM server answers at http://127.0.0.1:1 "):
        run_loop(config, before_generating.path.parent, QuietReporter(), "key")


@pytest.mark.parametrize("overlap", [False, True])
def test_a_server_that_isnt_there_is_named_before_anything_is_trained(
    tmp_path: Path, small_config: MakeConfig, fake: FakeVllm, overlap: bool
) -> None:
    missing = ["http://127.0.0.1:1", "http://127.0.0.1:2"]
    begun: list[object] = []

    def train(*call: Any) -> Any:
        begun.append(call)
        raise TrainingError("begun")

    def start(*urls: str) -> None:
        config = small_config(server__url=list(urls), overlap=overlap)
        run_loop(config, tmp_path, QuietReporter(), fake.api_key, start_training=train)

    with pytest.raises(ServerError, match=f"no vLLM server answers at {missing[0]} "):
        start(*missing)
    assert not begun
    with pytest.raises(TrainingError, match="begun"):
        start(missing[0], fake.url)


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


@pytest.fixture
def change_table(table: Path) -> Iterator[Callable[[dict[str, str | None]], None]]:
    """Change values of the shared table by canonical SMILES (None: take the row out); restored."""
    before = table.read_text("utf-8")

    def change(values: dict[str, str | None]) -> None:
        header, *lines = before.splitlines()
        kept = [header]
        for smiles, value in (line.split(",") for line in lines):
            molecule = to_molecule(smiles)
            assert molecule
            now = values.get(molecule.smiles, value)
            if now is not None:
                kept.append(f"{smiles},{now}")
        table.write_text("\n".join(kept) + "\n", "utf-8")

    yield change
    table.write_text(before, "utf-8")


def test_a_corrected_and_a_withdrawn_row_change_verdicts_at_the_next_start(
    copied: RunFolder,
    small_config: MakeConfig,
    fake: FakeVllm,
    change_table: Callable[[dict[str, str | None]], None],
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = stored(copied)
    places = {place.molecule_id: place.part for place in load_places(copied.split)}
    good = [sample for sample in before.values() if sample.accepted]
    corrected, withdrawn = good[0], next(s for s in good if s.smiles != good[0].smiles)
    change_table({corrected.smiles: "1500", withdrawn.smiles: None})
    shutil.rmtree(copied.adapter(0))  # an old one, to save disk space
    records, reporter = loop(small_config(), copied.path.parent, fake)
    assert "1 values corrected, 1 withdrawn, 0 new" in caplog.text
    assert reporter.rounds == []
    assert records == load_records(copied)
    after = stored(copied)
    assert after.keys() == before.keys()
    for key, sample in after.items():
        if sample.molecule_id == corrected.molecule_id:
            assert sample.measured == 1500
            found = "no value" if sample.predicted is None else "out of tolerance"
            assert found in sample.rejections
        elif sample.molecule_id == withdrawn.molecule_id:
            assert sample.rejections[-1] == "withdrawn"
        else:
            assert sample == before[key]
    kept = {place.molecule_id: place.part for place in load_places(copied.split)}
    assert kept == places
    num_accepted = sum(sample.accepted for sample in after.values())
    assert sum(record.num_accepted for record in records) == num_accepted < len(good)
    caplog.clear()
    loop(small_config(), copied.path.parent, fake)
    assert caplog.text == ""
    change_table({})
    loop(small_config(report="end"), copied.path.parent, fake)
    assert "2 values corrected, 0 withdrawn, 0 new" in caplog.text
    assert copied.report.exists()  # though the run was finished
    assert {k for k, s in stored(copied).items() if s.accepted} == {s.key for s in good}


def test_a_test_row_may_be_withdrawn_and_come_back(
    copied: RunFolder,
    small_config: MakeConfig,
    fake: FakeVllm,
    change_table: Callable[[dict[str, str | None]], None],
) -> None:
    row = next(place for place in load_places(copied.split) if place.part == "test")
    for change, rounds in (({row.smiles: None}, 2), ({}, 2), ({}, 3)):
        change_table(change)
        records, _ = loop(small_config(rounds=rounds), copied.path.parent, fake)
    assert [record.round for record in records] == [0, 1, 2, 3]
    tested = [
        {answer.molecule_id for answer in load_evaluation(copied.evaluation(index))}
        for index in (0, 3)
    ]
    assert [row.molecule_id in ids for ids in tested] == [True, True]


def test_a_change_that_is_followed_halfway_is_taken_back_with_the_table(
    copied: RunFolder,
    small_config: MakeConfig,
    fake: FakeVllm,
    change_table: Callable[[dict[str, str | None]], None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A wrong table, Ctrl-C, the right table."""
    before = {key: sample.accepted for key, sample in stored(copied).items()}
    good = next(sample for sample in stored(copied).values() if sample.accepted)

    def stop(*arguments: object) -> int:
        raise KeyboardInterrupt

    change_table({good.smiles: "1500"})
    with monkeypatch.context() as patch:
        patch.setattr(corrections, "measure_again", stop)
        with pytest.raises(KeyboardInterrupt):
            loop(small_config(), copied.path.parent, fake)
    assert not stored(copied)[good.key].accepted
    change_table({})
    loop(small_config(), copied.path.parent, fake)
    assert {key: sample.accepted for key, sample in stored(copied).items()} == before


def test_a_recorded_round_gets_no_samples_in_the_place_of_withdrawn_rows(
    small_config: MakeConfig,
    fake: FakeVllm,
    tmp_path: Path,
    change_table: Callable[[dict[str, str | None]], None],
) -> None:
    """With --overlap, too: later adapters were trained on what there was."""
    loop(small_config(overlap=True, rounds=1), tmp_path, fake)
    before = stored(RunFolder(tmp_path / "test"))
    change_table({next(iter(before.values())).smiles: None})
    loop(small_config(overlap=True, rounds=2), tmp_path, fake)
    after = stored(RunFolder(tmp_path / "test"))
    assert {key for key in after if key[1] == 0} == before.keys()
    assert len(after) == 2 * len(before)


def test_samples_that_are_asked_again_are_counted_anew(
    copied: RunFolder, small_config: MakeConfig, fake: FakeVllm
) -> None:
    """As those before may have been other ones."""
    [shard] = SampleStore(copied.samples).shards(0)
    shard.write_bytes(b"damaged")
    before = load_records(copied)
    records, reporter = loop(small_config(), copied.path.parent, fake)
    assert 0 in reporter.rounds
    lengths = [s.num_output_tokens for s in SampleStore(copied.samples).samples(0)]
    assert records[0].timing.num_generated == len(lengths) == before[0].num_completions


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
