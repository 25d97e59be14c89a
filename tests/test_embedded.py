"""The embedded table; the model's conversion is left to the tests marked vllm."""

import shutil
import subprocess
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from samples import SHIPPED

from selfstudy_engine.data import embedded
from selfstudy_engine.data.embedded import cache_folder, embedded_table, read_cached
from selfstudy_engine.data.molecules import Table
from selfstudy_engine.data.properties import find_property


@pytest.fixture(scope="module")
def table() -> Table:
    return embedded_table()


@pytest.fixture
def cached(table: Table) -> Path:
    """The file of the user's own cache that reading `table` made or found.

    Environments with other versions of the packages may keep theirs beside it.
    """
    return embedded._cached_table(find_property("melting_point"))


def test_size_and_range(table: Table) -> None:
    assert len(table.molecules) == 11_187
    assert len({molecule.skeleton for molecule in table.molecules}) == 11_187
    dropped = {reason: len(rows) for reason, rows in table.dropped.items()}
    assert dropped == {
        "no structure for the CAS number": 1,
        "unparsable SMILES": 3,
        "not a small organic molecule": 203,
        "conflicting values": 76,
    }
    num_rows = len(table.molecules) + table.num_merged + sum(dropped.values())
    assert num_rows == 11_549, "all rows of the package's file"
    values = [molecule.value for molecule in table.molecules]
    assert -273.15 < min(values) < -180
    assert 400 < max(values) < 1000
    assert sum(not molecule.name for molecule in table.molecules) < 20


def test_known_molecules_have_their_names_and_values(table: Table) -> None:
    by_smiles = {molecule.smiles: molecule for molecule in table.molecules}
    assert by_smiles["CCO"].name == "ethanol"
    assert by_smiles["c1ccccc1"].value == pytest.approx(5.5, abs=0.5)
    assert by_smiles["c1ccc2ccccc2c1"].value == pytest.approx(80, abs=2)


def test_the_shipped_exemplars_say_what_the_table_says(table: Table) -> None:
    values = {molecule.molecule_id: molecule.value for molecule in table.molecules}
    shipped = [exemplar.molecule for exemplar in SHIPPED]
    missing = [molecule for molecule in shipped if molecule.molecule_id not in values]
    for molecule in shipped:
        if molecule not in missing:
            assert molecule.value == pytest.approx(values[molecule.molecule_id], abs=0.06)
    [menthol] = missing  # its stereoisomers differ by 45 °C
    rows = [row for row in table.dropped["conflicting values"] if menthol.smiles in row]
    assert len(rows) == 3
    assert all(f": {menthol.value} to 79.5" in row for row in rows)


def test_the_cache_is_read_from_xdg_cache_home(
    cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = cache_folder() / "tables" / cached.name
    assert target.is_relative_to(tmp_path)
    target.parent.mkdir(parents=True)
    row = {"molecule_id": "KEY-A-N", "name": "planted", "smiles": "C", "value": 1.5}
    counts = b'{"dropped": {"why": ["line 7"]}, "num_merged": 3, "num_cas_names": 2}'
    planted = pa.Table.from_pylist([row]).replace_schema_metadata({embedded._COUNTS: counts})
    pq.write_table(planted, target)
    table = embedded_table()
    [molecule] = table.molecules
    assert (molecule.name, molecule.value) == ("planted", 1.5)
    assert (table.dropped, table.num_merged, table.num_cas_names) == ({"why": ["line 7"]}, 3, 2)


def test_the_cached_table_is_the_same_table(
    table: Table, cached: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = cache_folder() / "tables" / cached.name
    target.parent.mkdir(parents=True)
    shutil.copyfile(cached, target)
    assert embedded_table() == table
    target.write_bytes(target.read_bytes()[:1000])
    assert read_cached(target) is None, "a damaged one is made anew"


def test_without_xdg_cache_home_the_cache_lies_in_the_home(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "selfstudy-engine"
    monkeypatch.setenv("XDG_CACHE_HOME", "")
    assert cache_folder() == tmp_path / ".cache" / "selfstudy-engine"


def test_a_model_that_another_process_converted_meanwhile_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    target = embedded.embedded_model_folder()

    def convert_slowly(*command: object, **how: object) -> subprocess.CompletedProcess[str]:
        target.mkdir()
        (target / "config.json").write_text("theirs")
        return subprocess.CompletedProcess([], 0, "", "")

    monkeypatch.setattr("subprocess.run", convert_slowly)
    assert embedded.embedded_model() == target
    assert (target / "config.json").read_text() == "theirs"
    assert [path.name for path in target.parent.iterdir()] == [target.name]
