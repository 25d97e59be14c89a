"""A table that changes under a run: places stay, verdicts and measured answers follow."""

from pathlib import Path

import pytest
from samples import make_evaluated, make_sample
from stored_samples import fill

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.errors import TableError
from selfstudy_engine.data.evaluations import load_evaluation, save_evaluation
from selfstudy_engine.data.molecules import Table, to_molecule
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.split_record import (
    Place,
    load_places,
    save_places,
    settle,
    to_places,
    to_split,
)
from selfstudy_engine.data.splits import Split
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import Task
from selfstudy_engine.engine.corrections import judge_again, measure_again, settle_task


def molecule(smiles: str, value: float = 1.0) -> Molecule:
    found = to_molecule(smiles, value=value)
    assert found
    return found


SPLIT = Split([molecule("CCO"), molecule("CCC")], [molecule("CC(=O)O")], [molecule("CC(=O)[O-]")])
MOLECULES = [*SPLIT.pool, *SPLIT.test, *SPLIT.relatives]


def test_places_read_back(tmp_path: Path) -> None:
    places = [*to_places(SPLIT), Place("K", "gone", "C", None, "test")]
    save_places(tmp_path / "split.parquet", places)
    assert load_places(tmp_path / "split.parquet") == places
    assert to_split(places) == SPLIT


def test_an_unchanged_table_changes_nothing() -> None:
    places, changes = settle(to_places(SPLIT), MOLECULES[::-1], [])
    assert to_split(places) == SPLIT
    assert not changes


def test_corrected_withdrawn_new_and_restored_rows() -> None:
    new = [molecule("CCCC"), molecule("CC(=O)[O-].[Na+]"), molecule("CN")]
    now = [molecule("CCO", 7.0), *SPLIT.test, *new]
    places, changes = settle(to_places(SPLIT), now, [molecule("C[NH3+].[Cl-]")])
    split = to_split(places)
    assert str(changes) == "1 values corrected, 2 withdrawn, 1 new"
    assert changes.values[molecule("CCO").molecule_id] == 7.0
    assert [m.smiles for m in split.pool] == ["CCO", "CCCC"]
    assert split.test == SPLIT.test
    again, changes = settle(places, now, [molecule("C[NH3+].[Cl-]")])
    assert (again, bool(changes)) == (places, False)
    restored, changes = settle(places, [*MOLECULES, new[0]], [])
    assert str(changes) == "3 values corrected, 0 withdrawn, 0 new"
    assert to_split(restored).test == SPLIT.test


def test_a_run_whose_split_leaks_by_a_newer_rule_goes_on_and_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    ring, chain = molecule("OC1OCC(O)C(O)C1O"), molecule("OCC(O)C(O)C(O)C=O")
    old = Split([ring, molecule("CCC")], [chain])
    folder = RunFolder(tmp_path)
    save_places(folder.split, to_places(old))
    table = Table([*old.pool, *old.test])
    task, changes = settle_task(folder, Task(table, SPLIT, []), RunConfig())
    assert (task.split, bool(changes)) == (old, False)
    assert f"1 molecules that it learns from (pool {ring.smiles} is a form" in caplog.text


@pytest.mark.parametrize("kept", [[*SPLIT.pool, molecule("CCCC")], SPLIT.test, [molecule("CN")]])
def test_another_table_than_the_runs_is_refused_before_anything_is_changed(
    tmp_path: Path, kept: list[Molecule]
) -> None:
    """Half a file, say, or one that was put in its place: it cost the run its evaluations."""
    folder = RunFolder(tmp_path)
    config = RunConfig(table=TableConfig(path="other.csv"))
    settle_task(folder, Task(Table(MOLECULES), SPLIT, []), config)
    before = folder.split.read_bytes()
    with pytest.raises(TableError, match=r"table other.csv isn't that of run .*: of its test set"):
        settle_task(folder, Task(Table(kept), SPLIT, []), config)
    assert folder.split.read_bytes() == before


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    made = SampleStore(tmp_path / "samples")
    fill(made, [make_sample("A"), make_sample("B")], [make_sample("C")])
    return made


def test_samples_are_judged_again_and_the_old_shard_is_kept(store: SampleStore) -> None:
    untouched = store.shards()[1].read_bytes()
    assert judge_again(store, {"A": 500.0}, RunConfig()) == (1, 1)
    first, second, third = store.samples()
    assert (first.measured, first.error) == (500.0, -610.0)
    assert first.rejections == ("out of tolerance",)
    assert (second, third) == (make_sample("B"), make_sample("C"))
    assert store.shards()[1].read_bytes() == untouched
    names = sorted(path.name for path in store.round_folder(0).iterdir())
    assert names == ["part-000000.parquet", "part-000000.parquet.superseded", "part-000001.parquet"]
    assert judge_again(store, {"A": -114.1}, RunConfig()) == (1, 1)
    assert [sample.accepted for sample in store.samples()] == [True] * 3
    assert len(list(store.round_folder(0).iterdir())) == 4


def test_what_a_reason_claims_stays_as_false_as_it_was(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    false = {"accepted": False, "rejections": ("false claim",), "findings": ("false claim",)}
    with store.writer(0) as writer:
        writer.add([make_sample("A", **false)])
    assert judge_again(store, {"A": 500.0}, RunConfig()) == (0, 1)
    [sample] = store.samples()
    assert sample.findings == ("out of tolerance", "false claim")


def test_a_withdrawn_molecules_samples_are_rejected_until_it_is_back(store: SampleStore) -> None:
    assert judge_again(store, {"B": None}, RunConfig()) == (1, 1)
    assert judge_again(store, {"B": None}, RunConfig()) == (0, 1)
    [withdrawn] = [sample for sample in store.samples() if not sample.accepted]
    assert (withdrawn.molecule_id, withdrawn.rejections) == ("B", ("withdrawn",))
    assert withdrawn.measured == make_sample().measured
    assert judge_again(store, {"B": -114.1}, RunConfig()) == (1, 1)
    assert all(sample.accepted for sample in store.samples())


def test_what_was_only_recorded_stays_so_when_a_row_is_withdrawn(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    outside = {"accepted": False, "rejections": ("out of tolerance",)}
    with store.writer(0) as writer:
        writer.add([make_sample("A", findings=("wide range",))])
        writer.add([make_sample("B", findings=("wide range", "out of tolerance"), **outside)])
    assert judge_again(store, {"A": None, "B": None}, RunConfig()) == (1, 2)
    first, second = store.samples()
    assert first.rejections == ("withdrawn",)
    assert first.findings == ("wide range", "withdrawn")
    assert second.rejections == ("out of tolerance", "withdrawn")
    assert second.findings == ("wide range", "out of tolerance", "withdrawn")


def test_evaluations_follow(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.evaluation(0).parent.mkdir()
    for index in (0, 1):
        answers = [make_evaluated(key, 10.0, 12.0) for key in ("A", "B", "C")]
        save_evaluation(folder.evaluation(index), answers)
    assert measure_again(folder, {"A": 20.0, "B": None, "X": 3.0}) == 4
    for index in (0, 1):
        answers = load_evaluation(folder.evaluation(index))
        assert [(a.molecule_id, a.measured) for a in answers] == [("A", 20.0), ("C", 10.0)]
    assert measure_again(folder, {"B": 11.0}) == 2
    for index in (0, 1):
        answers = load_evaluation(folder.evaluation(index))
        assert [(a.molecule_id, a.measured, a.predicted) for a in answers] == [
            *(("A", 20.0, 12.0), ("B", 11.0, 12.0), ("C", 10.0, 12.0))
        ], "an answer that was given isn't lost with its row"
