"""Files of tables -> rows, in the property's unit."""

import gzip
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from rdkit import Chem

from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.errors import TableError, UsageError
from selfstudy_engine.data.molecules import canonicalize
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.table_files import Row, read_rows

MELTING_POINT = find_property("melting_point")
NAMED = TableConfig(name_column="name")
ROWS = [Row(2, "ethanol", "OCC", -114.1), Row(3, "", "c1ccccc1", 5.5)]
# Without the time of packing: it names a test, and xdist's workers must agree on the names.
GZIPPED = gzip.compress(b"smiles,value\nCCO,1\n", mtime=0)


def write(tmp_path: Path, content: str | bytes, name: str = "table.csv") -> Path:
    path = tmp_path / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


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
    columns: dict[str, list[Any]] = {
        "name": ["ethanol", None],
        "smiles": ["OCC", "c1ccccc1"],
        "value": [-114.1, 5.5],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    assert list(read_rows(tmp_path / "a.parquet", NAMED, MELTING_POINT)) == ROWS


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
    assert [first.value, second.value] == pytest.approx([-114.1, 5.5])
    path.write_text("garbage\n\n\nM  END\n$$$$\n" + path.read_text("utf-8"), "utf-8")
    rows = read_rows(path, table, MELTING_POINT)
    dropped = canonicalize(rows, MELTING_POINT, table, "a.sdf").dropped
    assert dropped == {"unparsable SMILES": ["line 1: ''"]}
    with pytest.raises(TableError, match="no column 'mp'"):
        read_rows(path, TableConfig(value_column="mp"), MELTING_POINT)


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


def test_other_column_names_and_units(tmp_path: Path) -> None:
    path = write(tmp_path, "S,Tm\nCCO,159.05\n")
    table = TableConfig(smiles_column="S", value_column="Tm", value_unit="K")
    [row] = read_rows(path, table, MELTING_POINT)
    assert row.name == ""
    assert row.value == pytest.approx(-114.1)
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
    assert "'value' has no finite number in 7 rows" in message
    assert "line 3: 'nan'; line 4: ''; line 5: 'inf'; line 6: '80-82'; line 7: '1,5', and 2" in (
        message
    )
    assert "line 8" not in message
    assert message.endswith(
        "or leave the row out; decimal commas are read between semicolons alone"
    )


def test_only_a_number_with_a_comma_is_told_of_decimal_commas(tmp_path: Path) -> None:
    path = write(tmp_path, 'smiles,value\nCCO,"a,b"\nCCC,1e999\n')
    with pytest.raises(TableError, match=r"or leave the row out$"):
        read_rows(path, TableConfig(), MELTING_POINT)


def test_missing_values_of_a_parquet_table_are_refused(tmp_path: Path) -> None:
    columns: dict[str, list[Any]] = {
        "smiles": ["C", "CC", "CCC"],
        "value": [1.0, None, float("nan")],
    }
    pq.write_table(pa.table(columns), tmp_path / "a.parquet")
    with pytest.raises(TableError, match="no finite number in 2 rows"):
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
        (
            "a.xlsx",
            b"PK\x03\x04 \xff",
            r"it is a workbook \(.xlsx, .ods\) .*: save its sheet as CSV",
        ),
        ("a.csv", b"PK\x03\x04 \xff", "it is a workbook"),
        ("a.xls", b"\xd0\xcf\x11\xe0\xa1", "it is an old workbook"),
        ("a.csv.gz", GZIPPED, "compressed by gzip: unpack it"),
        ("a.csv", b"PAR1\x15\xff", "let its name end in .parquet"),
        ("a.csv/", b"", "Is a directory; check the path"),
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
    assert ("UTF-8, with a header line" in str(caught.value)) == path.is_file()


def test_semicolons_and_commas_of_other_cells_stay(tmp_path: Path) -> None:
    path = write(tmp_path, "name;smiles;value\n2,3-dimethylbutane;CC(C)C(C)C;-128,8\n")
    [row] = read_rows(path, NAMED, MELTING_POINT)
    assert (row.name, row.value) == ("2,3-dimethylbutane", -128.8)
    path = write(tmp_path, "smiles;x,value\nCCO;1,2\n")
    with pytest.raises(TableError, match="it has: 'smiles;x', 'value'"):
        read_rows(path, TableConfig(), MELTING_POINT)
    path = write(tmp_path, "smiles;value\nCCO;1.234,5\n")
    with pytest.raises(TableError, match="line 2"):
        read_rows(path, TableConfig(), MELTING_POINT)


def test_empty_rows_as_a_sheet_leaves_them_are_no_rows(tmp_path: Path) -> None:
    path = write(tmp_path, "name,smiles,value\n,,\nethanol,CCO,-114\n,,\n\n,,\n")
    assert [(row.line, row.name) for row in read_rows(path, NAMED, MELTING_POINT)] == [
        (3, "ethanol")
    ]


@pytest.mark.parametrize(
    ("beginning", "row"),
    [
        ("\ufeffsep=;\r\nsmiles;value\r\n", "CCO;-114,1"),
        ("sep=,\nsmiles,value\n", "CCO,-114.1"),
        ("sep=\t\nsmiles\tvalue\n", "CCO\t-114.1"),
    ],
    ids=["semicolon", "comma", "tab"],
)
def test_a_line_for_excel_is_no_header(tmp_path: Path, beginning: str, row: str) -> None:
    path = write(tmp_path, beginning + row)
    assert [*read_rows(path, TableConfig(), MELTING_POINT)] == [Row(3, "", "CCO", -114.1)]


def test_tabs_split_a_file_without_the_ending_of_one(tmp_path: Path) -> None:
    path = write(tmp_path, "name\tsmiles\tvalue\n2,3-dimethylbutane; dry\tCC(C)C(C)C\t-128.8\n")
    [row] = read_rows(path, NAMED, MELTING_POINT)
    assert (row.name, row.value) == ("2,3-dimethylbutane; dry", -128.8)


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
    with pytest.raises(TableError, match=r"no finite number in 2 rows .*line 2: .*line 4: "):
        read_rows(path, TableConfig(), MELTING_POINT)


def test_a_table_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(TableError, match=r"no\.csv.*No such file"):
        read_rows(tmp_path / "no.csv", TableConfig(), MELTING_POINT)
