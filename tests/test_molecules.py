"""Rows -> canonical molecules; what is one, what is organic, what is a salt."""

from collections.abc import Iterable

import pytest

from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.errors import TableError
from selfstudy_engine.data.molecules import (
    Table,
    canonicalize,
    is_small_organic,
    to_molecule,
)
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.relatives import family
from selfstudy_engine.data.table_files import Row

MELTING_POINT = find_property("melting_point")
DROP = TableConfig(conflicts="drop")


def table_of(rows: Iterable[Row], rules: TableConfig = TableConfig()) -> Table:  # noqa: B008 - frozen
    return canonicalize(rows, MELTING_POINT, rules, "t.csv")


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
    with pytest.raises(
        TableError,
        match=r"values of 1 molecule are .*CCO \(lines 2, 3: 0.0 to 30.5.*--conflicts drop",
    ):
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


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("CC(=O)[O-].[Na+]", "CC(=O)O", True),
        ("C[NH3+].[Cl-]", "CN", True),
        ("Oc1ccccn1", "O=c1cccc[nH]1", True),
        ("c1c[nH]cn1", "c1cnc[nH]1", True),
        ("C[C@H](O)F", "C[C@@H](O)F", True),
        ("C[N+](C)(C)CC(=O)[O-]", "C[N+](C)(C)CC(=O)O.[Cl-]", True),
        ("O[n+]1ccccc1.[Cl-]", "[O-][n+]1ccccc1", True),
        ("C[N+](C)(C)O.[Cl-]", "C[N+](C)(C)[O-]", True),
        ("C[N+](C)(C)[O-]", "CN(C)C", False),
        ("OCC1OC(O)C(O)C(O)C1O", "OCC(O)C(O)C(O)C(O)C=O", True),
        ("OCC1(O)OCC(O)C(O)C1O", "OCC1(O)OC(CO)C(O)C1O", True),
        ("[OH:3][CH:1]1[O:2]CC(O)C1O", "O=CC(O)C(O)CO", True),
        ("COC1OCC(O)C1O", "COC(O)C(O)C(O)C=O", False),
        ("CCO", "COC", False),
        ("Oc1ccccc1C", "Oc1cccc(C)c1", False),
        ("CC(=O)O", "CC=O", False),
    ],
)
def test_families(one: str, other: str, same: bool) -> None:
    assert (family(one) == family(other)) is same
