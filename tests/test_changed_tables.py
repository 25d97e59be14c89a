"""Runs whose table changes: what follows it, and what stays as it was."""

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from conftest import MakeConfig, QuietReporter, loop
from fake_vllm import FakeVllm
from stored_samples import stored

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.data.evaluations import load_evaluation
from selfstudy_engine.data.molecules import to_molecule
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.split_record import load_places
from selfstudy_engine.engine import corrections
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import load_records


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
    withdrawn: dict[str, str | None] = {row.smiles: None}
    for change, rounds in ((withdrawn, 2), ({}, 2), ({}, 3)):
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
