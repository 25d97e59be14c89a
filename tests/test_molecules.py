"""Tables -> canonical molecules -> pool and test set."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem
from samples import make_pool

from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.errors import TableError, UsageError
from selfstudy_engine.data.molecules import (
    Table,
    canonicalize,
    family,
    is_small_organic,
    to_molecule,
)
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.splits import check_leaks, scaffold, split, unrelated
from selfstudy_engine.data.table_files import Row, read_rows
from selfstudy_engine.data.table_output import describe_split

MELTING_POINT = find_property("melting_point")
NAMED = TableConfig(name_column="name")
DROP = TableConfig(conflicts="drop")


def table_of(rows: Iterable[Row], rules: TableConfig = TableConfig()) -> Table:  # noqa: B008 - frozen
    return canonicalize(rows, MELTING_POINT, rules, "t.csv")


def write(tmp_path: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


ROWS = [Row(2, "ethanol", "OCC", -114.1), Row(3, "", "c1ccccc1", 5.5)]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.csv", "name,smiles,value,other\nethanol,OCC,-114.1,x\n, c1ccccc1 ,5.5,\n"),
        ("a.csv", "name,smiles,value\r\nethanol,OCC,-114.1\r\n,c1ccccc1, 5.5 \r\n"),
        ("a.csv", "\ufeffname,smiles,value\nethanol,OCC,-1.141e2\n,c1ccccc1,5.5"),
        ("a.CSV", 'value,smiles,name\n"-114.1","OCC","ethanol"\n5.5,c1ccccc1,""\n'),
        ("a.tsv", "name\tsmiles\tvalue\nethanol\tOCC\t-114.1\n\tc1ccccc1\t5.5\n"),
        ("a.csv", "\ufeffname;smiles;value\r\nethanol;OCC;-114,1\r\n;c1ccccc1;5,5\r\n"),
        ("a.csv", '"name";"smiles";"value"\nethanol;OCC;"-1,141e2"\n;c1ccccc1;5,5\n'),
    ],
)
def test_text_tables(tmp_path: Path, name: str, content: str) -> None:
    assert list(read_rows(write(tmp_path, content, name), NAMED, MELTING_POINT)) == ROWS


def test_parquet_table(tmp_path: Path) -> None:
    columns = {"name": ["ethanol", None], "smiles": ["OCC", "c1ccccc1"], "value": [-114.1, 5.5]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet", NAMED, MELTING_POINT)) == ROWS


def test_other_column_names_and_units(tmp_path: Path) -> None:
    path = write(tmp_path, "S,Tm\nCCO,159.05\n")
    table = TableConfig(smiles_column="S", value_column="Tm", value_unit="K")
    [row] = read_rows(path, table, MELTING_POINT)
    assert (row.name, row.value) == ("", pytest.approx(-114.1))
    with pytest.raises(UsageError, match="can't convert unit 'Pa'"):
        read_rows(path, table.model_copy(update={"value_unit": "Pa"}), MELTING_POINT)


@pytest.mark.parametrize("missing", ["smiles", "value", "name"])
def test_a_missing_column_is_named_beside_those_that_are_there(
    tmp_path: Path, missing: str
) -> None:
    header = ",".join("other" if name == missing else name for name in ("name", "smiles", "value"))
    path = write(tmp_path, f"{header}\nx,CCO,1\n")
    with pytest.raises(TableError, match=f"no column '{missing}'.*other.*--{missing}-column"):
        read_rows(path, NAMED, MELTING_POINT)


def test_values_that_are_no_numbers_are_listed_by_line_up_to_five(tmp_path: Path) -> None:
    values = ["1", "nan", "", "inf", "80-82", "1,5", "-inf", "x"]
    lines = "".join(f'CCO,"{value}"\n' for value in values)
    with pytest.raises(TableError) as caught:
        read_rows(write(tmp_path, "smiles,value\n" + lines), TableConfig(), MELTING_POINT)
    message = str(caught.value)
    assert "'value' has 7 values" in message
    assert "line 3: 'nan'; line 4: ''; line 5: 'inf'; line 6: '80-82'; line 7: '1,5', and 2" in (
        message
    )
    assert "line 8" not in message


def test_missing_values_of_a_parquet_table_are_refused(tmp_path: Path) -> None:
    columns = {"smiles": ["C", "CC", "CCC"], "value": [1.0, None, float("nan")]}
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(TableError, match="has 2 values"):
        read_rows(tmp_path / "a.parquet", TableConfig(), MELTING_POINT)


@pytest.mark.parametrize("value", ["1_000", "\uff11\uff12"])
def test_a_number_that_only_python_reads_is_refused(tmp_path: Path, value: str) -> None:
    with pytest.raises(TableError, match="line 2"):
        read_rows(write(tmp_path, f"smiles,value\nCCO,{value}\n"), TableConfig(), MELTING_POINT)


def test_line_numbers_are_those_of_an_editor(tmp_path: Path) -> None:
    path = write(tmp_path, "smiles,value\n\nCCO,1\n\nCC,x\n")
    with pytest.raises(TableError, match="line 5: 'x'"):
        read_rows(path, TableConfig(), MELTING_POINT)


def test_two_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path, "smiles,value,value\nCCO,1,2\n")
    with pytest.raises(TableError, match="value"):
        read_rows(path, TableConfig(), MELTING_POINT)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", b"", "Empty CSV"),
        ("a.csv", "smiles,value,name\nCCO,1,caf\xe9\n".encode("latin-1"), "save it as UTF-8"),
        ("a.csv", "smiles,value,caf\xe9\nCCO,1,x\n".encode("latin-1"), "UTF-8"),
        ("a.csv", "smiles;value\nCCO;1\n".encode("utf-16"), "from line 1 on .*save it as UTF-8"),
        ("a.csv", b"smiles,value\nCCO,1\nCC\n", "Expected 2 columns, got 1"),
        ("a.parquet", b"smiles,value\nCCO,1\n", "Parquet"),
        ("a.csv/", b"", "directory"),
    ],
)
def test_an_unreadable_table_is_refused(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    path = tmp_path / name.rstrip("/")
    path.mkdir() if name.endswith("/") else path.write_bytes(content)
    with pytest.raises(TableError, match=message) as caught:
        read_rows(path, TableConfig(), MELTING_POINT)
    assert str(path) in str(caught.value)
    assert "UTF-8, with a header line" in str(caught.value)


def test_semicolons_and_commas_of_other_cells_stay(tmp_path: Path) -> None:
    path = write(tmp_path, "name;smiles;value\n2,3-dimethylbutane;CC(C)C(C)C;-128,8\n")
    [row] = read_rows(path, NAMED, MELTING_POINT)
    assert (row.name, row.value) == ("2,3-dimethylbutane", -128.8)
    path = write(tmp_path, "smiles;x,value\nCCO;1,2\n")
    with pytest.raises(TableError, match="it has: smiles;x, value"):
        read_rows(path, TableConfig(), MELTING_POINT)
    path = write(tmp_path, "smiles;value\nCCO;1.234,5\n")
    with pytest.raises(TableError, match="line 2"):
        read_rows(path, TableConfig(), MELTING_POINT)


@pytest.mark.parametrize("values", [("80,5", "1.234"), ("80.5", "1,234")])
def test_commas_and_points_of_one_column_are_refused(
    tmp_path: Path, values: tuple[str, str]
) -> None:
    between = "CC;7\n" * 5000  # more than a block
    body = f"CCO;{values[0]}\nN;n.a.\n{between}CCC;{values[1]}\n"
    path = write(tmp_path, f"smiles;value\n{body}")
    with pytest.raises(TableError, match=r"commas and with points .*line 2: .*line 5004: "):
        read_rows(path, TableConfig(), MELTING_POINT)
    for other in ("80,5;12", "80.5;12", "80,5;1,234"):
        first, second = other.split(";")
        path = write(tmp_path, f"smiles;value\nCCO;{first}\nCC;{second}\n")
        assert len(list(read_rows(path, TableConfig(), MELTING_POINT))) == 2
    path = write(tmp_path, "smiles;value\nCCO;1,234,567\nCC;80.5\nC;n.a.\n")
    with pytest.raises(TableError, match=r"2 values that aren't finite .*line 2: .*line 4: "):
        read_rows(path, TableConfig(), MELTING_POINT)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no\.csv.*No such file"):
        read_rows(tmp_path / "no.csv", TableConfig(), MELTING_POINT)


def test_to_molecule_is_canonical() -> None:
    assert to_molecule("OCC", "ethanol", 1.0) == to_molecule("C(C)O", "ethanol", 1.0)
    molecule = to_molecule("C[C@H](O)F")
    mirrored = to_molecule("C[C@@H](O)F")
    assert molecule is not None
    assert mirrored is not None
    assert molecule.skeleton == mirrored.skeleton
    assert molecule.molecule_id != mirrored.molecule_id
    assert len(molecule.molecule_id) == 27


@pytest.mark.parametrize("smiles", ["", " ", "xyz", "C(", "c1cccc1", "C(C)(C)(C)(C)C", "*"])
def test_what_is_no_molecule_is_none_and_silent(
    smiles: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert to_molecule(smiles) is None
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize(
    ("smiles", "organic"),
    [
        ("CCO", True),
        ("C", True),
        ("FC(F)(F)C(F)(F)F", True),
        ("O=C=O", False),
        ("ClC(Cl)(Cl)Cl", False),
        ("CCO.O", False),
        ("C[NH3+]", False),
        ("[2H]C", False),
        ("C[CH2]", False),
        ("C[Fe]", False),
        ("C" * 70, True),
        ("C" * 71, False),
        ("nonsense", False),
        ("", False),
    ],
)
def test_small_organic(smiles: str, organic: bool) -> None:
    assert is_small_organic(smiles) is organic


def test_unparsable_smiles_are_counted_and_listed() -> None:
    rows = [Row(2, "", "CCO", 1.0), Row(3, "", "xyz", 2.0), Row(4, "", "", 3.0)]
    table = table_of(rows)
    assert [molecule.smiles for molecule in table.molecules] == ["CCO"]
    assert table.dropped == {"unparsable SMILES": ["line 3: 'xyz'", "line 4: ''"]}


def test_duplicates_become_their_median_and_the_first_name() -> None:
    rows = [Row(2, "", "OCC", 1.0), Row(3, "ethanol", "CCO", 2.0), Row(4, "alcohol", "CCO", 9.0)]
    [molecule] = table_of(rows).molecules
    assert (molecule.name, molecule.smiles, molecule.value) == ("ethanol", "CCO", 2.0)


def test_conflicts_are_refused_or_dropped() -> None:
    rows = [Row(2, "", "OCC", 0.0), Row(3, "", "CCO", 30.5), Row(4, "", "CC", 1.0)]
    with pytest.raises(TableError, match=r"CCO \(lines 2, 3: 0.0 to 30.5.*--conflicts drop"):
        table_of(rows)
    table = table_of(rows, DROP)
    assert [molecule.smiles for molecule in table.molecules] == ["CC"]
    assert table.dropped == {
        "conflicting values": [
            f"line {line}: CCO (lines 2, 3: 0.0 to 30.5, spread 30.5)" for line in (2, 3)
        ]
    }
    at_the_limit = [rows[0], Row(3, "", "CCO", 30.0)]
    assert len(table_of(at_the_limit).molecules) == 1
    narrow, wide = (TableConfig(conflicts="drop", max_spread=limit) for limit in (20, 40))
    assert "conflicting values" in table_of([*at_the_limit, rows[2]], narrow).dropped
    assert len(table_of(rows, wide).molecules) == 2


def test_an_empty_table_is_refused() -> None:
    with pytest.raises(TableError, match="no usable row \\(empty\\)"):
        table_of([])
    with pytest.raises(TableError, match="line 2: 'xyz'"):
        table_of([Row(2, "", "xyz", 1.0)])


def test_split_is_deterministic_and_complete() -> None:
    pool = make_pool(50)
    parts = split(pool, [], 10, seed=3)
    assert parts == split(pool, [], 10, seed=3)
    assert parts.test != split(pool, [], 10, seed=4).test
    assert len(parts.test) == 10
    assert {m.molecule_id for m in parts.test + parts.pool} == {m.molecule_id for m in pool}


def test_split_does_not_depend_on_the_order_of_rows() -> None:
    pool = make_pool(50)
    assert split(pool, [], 10, 0) == split(pool[::-1], [], 10, 0)


def test_split_is_disjoint_by_skeleton() -> None:
    stereo = [
        Molecule(f"{i % 20:014d}-{i // 20:010d}-N", "", "C" * (i % 20 + 1), 0.0) for i in range(60)
    ]
    parts = split(stereo, [], 8, seed=0)
    tested = {molecule.skeleton for molecule in parts.test}
    assert len(tested) == len(parts.test) == 8
    assert not tested & {molecule.skeleton for molecule in parts.pool}
    assert len(parts.pool) == 36


def test_split_moves_few_molecules_when_rows_are_added() -> None:
    before = split(make_pool(100), [], 20, 0)
    after = split(make_pool(110), [], 20, 0)
    kept = {m.skeleton for m in before.test} & {m.skeleton for m in after.test}
    assert len(kept) >= 15
    displaced = {m.skeleton for m in before.pool} & {m.skeleton for m in after.test}
    assert not displaced


def test_exemplars_are_in_neither_part() -> None:
    pool = make_pool(10)
    parts = split(pool, [pool[3], Molecule("ABSENT", "", "N", 0.0)], 4, 0)
    assert pool[3] not in parts.pool + parts.test
    assert len(parts.pool) + len(parts.test) == 9


def test_a_test_set_as_large_as_the_table_is_refused() -> None:
    pool = make_pool(10)
    assert len(split(pool, [pool[0]], 8, 0).pool) == 1
    with pytest.raises(TableError, match=r"test size 9 .* 9 distinct .*--test-size"):
        split(pool, [pool[0]], 9, 0)


SALTS = [Row(2, "", "CC(=O)[O-].[Na+]", 324.0), Row(3, "", "CCO", -114.0)]


@pytest.mark.parametrize(
    ("rule", "smiles", "dropped"),
    [
        ("keep", {"CC(=O)[O-].[Na+]", "CCO"}, {}),
        ("strip", {"CC(=O)O", "CCO"}, {}),
        ("drop", {"CCO"}, {"salt or mixture": ["line 2: 'CC(=O)[O-].[Na+]'"]}),
    ],
)
def test_salts(rule: str, smiles: set[str], dropped: dict[str, list[str]]) -> None:
    table = table_of(SALTS, TableConfig(salts=rule))  # type: ignore[arg-type]
    assert {molecule.smiles for molecule in table.molecules} == smiles
    assert table.dropped == dropped


@pytest.mark.parametrize(
    ("smiles", "acid"),
    [
        ("CC(=O)O[Na]", "CC(=O)O"),
        ("[K]Oc1ccccc1", "Oc1ccccc1"),
        ("CS[Na]", "CS"),
        ("CC(=O)O[Mg]OC(C)=O", "CC(=O)O"),
        ("CC(=O)O[Zn]OC(C)=O", "CC(=O)O"),
        ("CS(=O)(=O)O[Ag]", "CS(=O)(=O)O"),
    ],
)
def test_a_salt_whose_metal_is_drawn_with_a_bond_is_a_salt(smiles: str, acid: str) -> None:
    rows = [Row(2, "", smiles, 1.0), Row(3, "", "CCO", 2.0)]
    told = table_of(rows, TableConfig(salts="drop")).dropped
    assert told == {"salt or mixture": [f"line 2: '{smiles}'"]}
    stripped = table_of(rows, TableConfig(salts="strip")).molecules
    assert [m.smiles for m in stripped] == [acid, "CCO"]
    assert family(smiles) == family(acid)


@pytest.mark.parametrize(
    ("smiles", "kept"),
    [
        ("CCN.Cc1ccc(S(=O)(=O)O)cc1", "CCN"),  # the acid is larger
        ("OC(=O)C(O)C(O)C(=O)O.C[NH3+].[Cl-]", "CN"),
        ("CC[NH3+].[O-]c1ccccc1CCCCC", "CCCCCc1ccccc1O"),
        ("CC(=O)O.CCO", "CCO"),  # nothing else is there
        ("[Na+].[Cl-]", "Cl"),
    ],
)
def test_what_many_salts_share_is_not_what_is_kept(smiles: str, kept: str) -> None:
    [molecule] = table_of([Row(2, "", smiles, 1.0)], TableConfig(salts="strip")).molecules
    assert molecule.smiles == kept


@pytest.mark.parametrize(
    "smiles",
    [
        *("CC[Pb](CC)(CC)CC", "C[Mg]Br", "[Li]CCCC", "CCCC[Sn](CCCC)(CCCC)OC(C)=O"),
        *("[Fe]C1C=CC=C1", "CC(=O)O[Hg]c1ccccc1", "N[Pt](N)(Cl)Cl", "C[Si](C)(C)OC(C)=O"),
        "CC(C)O[Al](OC(C)C)OC(C)C",
    ],
)
def test_organometallics_and_complexes_are_no_salts(smiles: str) -> None:
    [molecule] = table_of([Row(2, "", smiles, 1.0)], TableConfig(salts="drop")).molecules
    assert table_of([Row(2, "", smiles, 1.0)], TableConfig(salts="strip")).molecules == [molecule]


def test_the_organics_rule_names_what_it_drops() -> None:
    rows = [Row(2, "", "CCO", 1.0), Row(3, "", "O=C=O", 2.0), Row(4, "", "C[Fe]", 2.0)]
    table = table_of(rows, TableConfig(organics=True))
    assert [molecule.smiles for molecule in table.molecules] == ["CCO"]
    assert table.dropped == {"not a small organic molecule": ["line 3: 'O=C=O'", "line 4: 'C[Fe]'"]}


def test_stereoisomers_are_one_molecule_by_skeleton_only() -> None:
    rows = [Row(2, "", r"OC(=O)/C=C/C(=O)O", 287.0), Row(3, "", r"OC(=O)/C=C\C(=O)O", 135.0)]
    assert len(table_of(rows).molecules) == 2
    rules = TableConfig(duplicates="skeleton", conflicts="drop")
    table = table_of([*rows, Row(4, "", "C", 1.0)], rules)
    assert [molecule.smiles for molecule in table.molecules] == ["C"]
    assert len(table.dropped["conflicting values"]) == 2


def test_every_row_is_a_molecule_or_merged_or_dropped() -> None:
    rows = [
        *(Row(2, "64-17-5", "OCC", 1.0), Row(3, "ethanol", "CCO", 2.0)),
        Row(4, "50-00-0", "C=O", 3.0),
        *(Row(5, "", "xyz", 4.0), Row(6, "", "CC", 0.0), Row(7, "", "CC", 99.0)),
    ]
    table = table_of(rows, DROP)
    num_dropped = sum(map(len, table.dropped.values()))
    assert len(table.molecules) + table.num_merged + num_dropped == len(rows)
    assert [molecule.name for molecule in table.molecules] == ["ethanol", ""]
    assert table.num_cas_names == 2


def test_a_value_that_no_answer_could_state_is_dropped_with_the_limits() -> None:
    table = table_of([Row(2, "", "CC", 2780.0), Row(3, "", "CCO", -114.1), Row(4, "", "C", -300.0)])
    assert [molecule.smiles for molecule in table.molecules] == ["CCO"]
    assert table.dropped["value outside the property's limits"] == [
        "line 2: 2780 °C, not -273.15 to 2000 ('CC')",
        "line 4: -300 °C, not -273.15 to 2000 ('C')",
    ]


def test_an_sdf_record_is_the_molecule_that_is_drawn(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    with Chem.SDWriter(str(path)) as writer:
        mol = Chem.MolFromSmiles("c1ccc2c(c1)[nH]c1ccccc12")
        fields = {"smiles": "c1ccc2c(c1)n(H)c1ccccc12", "name": "carbazole", "value": "246"}
        for key, text in fields.items():
            mol.SetProp(key, text)
        writer.write(mol)
    [row] = read_rows(path, TableConfig(name_column="name"), MELTING_POINT)
    assert (row.name, row.smiles) == ("carbazole", "c1ccc2c(c1)[nH]c1ccccc12")


def test_an_sdf_table(tmp_path: Path) -> None:
    path = tmp_path / "a.sdf"
    with Chem.SDWriter(str(path)) as writer:
        for smiles, title, value in (("CCO", "ethanol", "159.05"), ("c1ccccc1", "", "278.65")):
            mol = Chem.MolFromSmiles(smiles)
            mol.SetProp("_Name", title)
            mol.SetProp("Tm", value)
            writer.write(mol)
    table = TableConfig(value_column="Tm", name_column="name", value_unit="K")
    first, second = read_rows(path, table, MELTING_POINT)
    assert (first.line, first.name, first.smiles) == (1, "ethanol", "CCO")
    assert (first.value, second.value) == (pytest.approx(-114.1), pytest.approx(5.5))
    path.write_text("garbage\n\n\nM  END\n$$$$\n" + path.read_text("utf-8"), "utf-8")
    rows = read_rows(path, table, MELTING_POINT)
    assert table_of(rows).dropped == {"unparsable SMILES": ["line 1: ''"]}
    with pytest.raises(TableError, match="no column 'mp'"):
        read_rows(path, TableConfig(value_column="mp"), MELTING_POINT)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)O", True),
        ("C[NH3+].[Cl-]", "CN", True),
        ("Oc1ccccn1", "O=c1cccc[nH]1", True),
        ("c1c[nH]cn1", "c1cnc[nH]1", True),
        ("C[C@H](O)F", "C[C@@H](O)F", True),
        ("CCO", "COC", False),
        ("Oc1ccccc1C", "Oc1cccc(C)c1", False),
        ("CC(=O)O", "CC=O", False),
    ],
)
def test_families(one: str, other: str, same: bool) -> None:
    assert (family(one) == family(other)) is same


def molecules_of(*smiles: str) -> list[Molecule]:
    found = [to_molecule(text) for text in smiles]
    return [replace(m, value=float(n)) for n, m in enumerate(found) if m]


def test_relatives_of_test_molecules_and_exemplars_are_set_aside() -> None:
    forms = ("CC(=O)CC(C)=O", "CC(O)=CC(C)=O", "CC(=O)[O-].[Na+]", "CC(=O)O", "CCO", "CCC", "CCCC")
    molecules = molecules_of(*forms)
    exemplar = molecules_of("CC(=O)O")
    for seed in range(10):
        parts = split(molecules, exemplar, 2, seed)
        everything = [*parts.pool, *parts.test, *parts.relatives, *exemplar]
        assert {m.smiles for m in everything} == {m.smiles for m in molecules}
        assert "CC(=O)[O-].[Na+]" in {m.smiles for m in parts.relatives}
        check_leaks(parts.pool, parts.test, exemplar)


def test_every_molecule_of_a_table_is_in_one_part_or_is_an_exemplar() -> None:
    """Stereoisomers, too: of each pair one may be tested, and the other then isn't learned from."""
    pairs = [f"C[C@{at}H](O)C{'C' * n}N" for n in range(4) for at in ("", "@")]
    molecules = molecules_of(*pairs, "CCO")
    exemplars = molecules_of(pairs[0])
    parts = split(molecules, exemplars, 2, 0)
    assert [len(part) for part in (parts.pool, parts.test, parts.relatives)] == [3, 2, 3]
    everything = [*parts.pool, *parts.test, *parts.relatives, *exemplars]
    assert sorted(m.smiles for m in everything) == sorted(m.smiles for m in molecules)
    told = describe_split(len(molecules), parts)
    assert told.startswith("3 pool + 2 test + 3 set aside (stereoisomers, ")
    assert told.endswith(" + 1 exemplars")


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ("C[C@H](O)F", "pool C.*F is C.*F"),
        ("CC(=O)[O-].[K+]", r"pool CC\(=O\)\[O-\].* is a form of CC\(=O\)O"),
        ("CC(=O)O[K]", r"pool CC\(=O\)\[O\]\[K\] is a form of CC\(=O\)O"),
        ("[2H]C([2H])([2H])C(=O)[O-].[Na+]", r"pool \[2H\].* is a form of CC\(=O\)O"),
        ("[13CH3]C(=O)[O-].[Na+]", r"pool \[13CH3\].* is a form of CC\(=O\)O"),
        ("Oc1ccccn1", "pool Oc1ccccn1 is"),
    ],
)
def test_a_leak_fails(trained: str, message: str) -> None:
    test = molecules_of("C[C@@H](O)F", "CC(=O)O", "O=c1cccc[nH]1")
    check_leaks(molecules_of("CCO"), test, [])
    with pytest.raises(TableError, match=f"1 molecules.*{message}"):
        check_leaks(molecules_of("CCO", trained), test, [])
    with pytest.raises(TableError, match="exemplar"):
        check_leaks([], test, molecules_of(trained))


TOSYLATE = "Cc1ccc(S(=O)(=O)[O-])cc1"
TARTRATE = "OC(=O)C(O)C(O)C(=O)[O-]"
NICOTINE = "C[NH+]1CCCC1c1cccnc1"


@pytest.mark.parametrize(
    ("one", "other", "related"),
    [
        ("CCN", f"CC[NH3+].{TOSYLATE}", True),
        ("CCN", "CCN.Cc1ccc(S(=O)(=O)O)cc1", True),
        ("Cc1ccc(S(=O)(=O)O)cc1", f"CC[NH3+].{TOSYLATE}", True),
        ("CC[NH3+].[Cl-]", f"CC[NH3+].{TOSYLATE}", True),
        (f"CC[NH3+].{TARTRATE}", f"CC[NH3+].{TOSYLATE}", True),
        (f"{NICOTINE}.{TARTRATE}", f"{NICOTINE}.{TOSYLATE}", True),
        (f"CC[NH3+].{TOSYLATE}", f"CC[NH3+].{TOSYLATE}.O", True),
        (f"CC[NH3+].{TOSYLATE}", f"CCC[NH3+].{TOSYLATE}", False),
        (f"{NICOTINE}.{TARTRATE}", f"CC[NH3+].{TARTRATE}", False),
        ("CCCN", f"CC[NH3+].{TOSYLATE}", False),
        ("CC(=O)O", "CCO.O", False),
    ],
)
def test_a_salt_is_related_to_its_acid_and_its_base(one: str, other: str, related: bool) -> None:
    for first, second in ((one, other), (other, one)):
        left = unrelated(molecules_of(first), molecules_of(second))
        assert (not left) is related


def test_scaffolds_stay_together_and_the_rarest_are_tested() -> None:
    benzenes = [f"{'C' * n}c1ccccc1" for n in range(1, 7)]
    pyridines = [f"{'C' * n}c1ccncc1" for n in range(1, 4)]
    molecules = molecules_of(*benzenes, *pyridines, "C1CC1", "CCO", "CCC")
    parts = split(molecules, [], 4, 0, "scaffold")
    cores = [{scaffold(m.smiles) for m in part} for part in (parts.test, parts.pool)]
    assert not cores[0] & cores[1]
    assert {m.smiles for m in parts.test} == {"C1CC1", "CCO", "CCC"}
    assert len(split(molecules, [], 6, 0, "scaffold").test) == 6
    assert split(molecules, [], 4, 0, "scaffold") == split(molecules[::-1], [], 4, 0, "scaffold")
    with pytest.raises(TableError, match="the rarest has 6"):
        split(molecules_of(*benzenes), [], 4, 0, "scaffold")
