"""Tables: right ones of any cell and dialect read back exactly, damaged ones are refused."""

import csv
import io
import re
from collections.abc import Iterator
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fuzzing import NASTY_TEXTS, fuzz, may_refuse, mutated, written_texts
from hypothesis import strategies as st
from rdkit import Chem

from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.errors import TableError
from selfstudy_engine.data.molecules import canonicalize
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.table_files import read_columns, read_rows
from selfstudy_engine.engine.report_import import load_rounds

MELTING_POINT = find_property("melting_point")
NAMED = TableConfig(name_column="name", conflicts="drop")
Cells = tuple[str, str, str]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tables")


def number(text: str) -> float | None:
    """Read a plain ASCII number, by another way than the package's."""
    text = text.strip()
    if not text or set(text) - set("0123456789+-.eE"):
        return None
    try:
        value = float(Decimal(text))
    except InvalidOperation:
        return None
    return value if abs(value) < float("inf") else None


numbers = st.one_of(
    st.integers(-300, 3000).map(str),
    st.floats(-300, 3000).map(repr),
    st.decimals(-300, 3000, places=3).map(str),
    st.sampled_from(["1.", ".5", "+5", " 5 ", "5e1", "-5E-1", "1e-999", "00012", "-0", "8" * 300]),
)
cells = st.one_of(written_texts, st.sampled_from(["a,b", 'say "x"', "two\nlines", "\r\n", " x "]))
rows = st.lists(
    st.tuples(cells, st.sampled_from(["CCO", "c1ccccc1", " OCC ", "xyz", ""]) | cells, numbers),
    min_size=1,
    max_size=8,
)


DIALECTS = (
    {"lineterminator": "\n", "quoting": csv.QUOTE_ALL},
    {"lineterminator": "\r\n", "quoting": csv.QUOTE_ALL},
    {"lineterminator": "\r\n", "quoting": csv.QUOTE_MINIMAL},  # with "\n" it leaves "\r" bare
)


def write_text(path: Path, header: list[str], rows: list[Cells], dialect: dict[str, object]) -> str:
    text = io.StringIO()
    writer = csv.writer(text, **dialect)  # type: ignore[arg-type]
    writer.writerow(header)
    writer.writerows(rows)
    path.write_bytes(text.getvalue().encode("utf-8"))
    return text.getvalue()


@fuzz(
    28,
    rows=rows,
    tabs=st.booleans(),
    dialect=st.sampled_from(DIALECTS),
    mark=st.booleans(),
)
def test_a_text_table_reads_back(
    folder: Path, rows: list[Cells], tabs: bool, dialect: dict[str, object], mark: bool
) -> None:
    path = folder / ("a.tsv" if tabs else "a.csv")
    dialect = dialect | {"delimiter": "\t" if tabs else ","}
    write_text(path, ["name", "smiles", "value"], rows, dialect)
    if mark:
        path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    read = list(read_rows(path, NAMED, MELTING_POINT))
    assert [(r.name, r.smiles, r.value) for r in read] == [
        (name.strip(), smiles.strip(), number(value)) for name, smiles, value in rows
    ]
    lines = [1]  # where each record begins, as an editor counts
    for record in [("name", "smiles", "value"), *rows]:
        breaks = sum(
            len(cell.replace("\r\n", "\n").replace("\r", "\n").split("\n")) - 1 for cell in record
        )
        lines.append(lines[-1] + 1 + breaks)
    assert [r.line for r in read] == lines[1:-1]


bad_numbers = st.one_of(written_texts, st.sampled_from(NASTY_TEXTS)).filter(
    lambda text: number(text) is None
)


@fuzz(15, good=st.lists(numbers, max_size=4), bad=bad_numbers)
def test_what_is_no_number_is_refused_with_its_line(
    folder: Path, good: list[str], bad: str
) -> None:
    path = folder / "b.csv"
    rows = [("", "CCO", value) for value in [*good, bad]]
    write_text(path, ["name", "smiles", "value"], rows, {"quoting": csv.QUOTE_ALL})
    with pytest.raises(
        TableError, match=f"'value' has no finite number in 1 row .*line {len(good) + 2}:"
    ):
        list(read_rows(path, NAMED, MELTING_POINT))
    with may_refuse(TableError):
        list(read_rows(path, NAMED, MELTING_POINT))


BASES = tuple(
    text.encode()
    for text in (
        "name,smiles,value\nethanol,CCO,-114.1\nbenzene,c1ccccc1,5.5\nphenol,Oc1ccccc1,40.9\n",
        'name,smiles,value\r\n"ethanol, pure","CCO",-114\r\n"two\r\nlines",CC,"1.5e1"\r\n',
        'id,value,smiles,name\n1,5,CCO,"say ""x"""\n2,6,CC,\n\n3,7,C,x\n',
        "smiles,value\nCCO,1\nCC,2\n",
        "smiles;value\nCCO;1,5\nCC;2\n",
    )
)
table_tokens = st.one_of(
    st.sampled_from(
        [b'"', b'""', b",", b"\n", b"\r\n", b"\r", b"\t", b";", b"value", b"name,name"]
    ),
    st.sampled_from(
        [b"\xff", b"\xff\xfe", b"\xc3", b"\xe9", b"\xed\xa0\x80", b"\xf0\x9f", b"\x00", b"\x1a"]
    ),
    st.sampled_from(NASTY_TEXTS).map(lambda text: text.encode()),
    st.binary(max_size=4),
)


def records(text: str, separator: str) -> list[list[str]] | None:
    """Split a text into rows and cells, letter by letter; None where a quote is out of place."""
    found: list[list[str]] = []
    cells: list[str] = []
    at, end = 0, len(text)
    while at < end:
        cell, quoted = "", text[at] == '"'
        if quoted:
            at += 1
            while text[at : at + 1] != '"' or text[at : at + 2] == '""':
                if at >= end:
                    return None
                cell += text[at]
                at += 2 if text[at] == '"' else 1
            at += 1
        else:
            while at < end and text[at] not in f"{separator}\r\n":
                cell, at = cell + text[at], at + 1
        cells.append(cell)
        if text[at : at + 1] not in ("", separator, "\r", "\n"):
            return None
        if text[at : at + 1] == separator:
            at += 1
            if at < end and text[at] not in "\r\n":
                continue
            cells.append("")
        if cells != [""] or quoted:
            found.append(cells)
        cells, at = [], at + (2 if text[at : at + 2] == "\r\n" else 1)
    return found


def as_written(path: Path) -> list[tuple[str, ...]] | None:
    """Return SMILES and value of a table's rows; None where it has no such rows."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError:
        return None
    header = next(filter(str.strip, re.split("[\r\n]", text)), "")
    separator = next((each for each in ",;\t" if each in header), ",")
    rows = records(text, separator)
    if not rows or any(len(row) != len(rows[0]) for row in rows):
        return None
    if any(rows[0].count(name) != 1 for name in ("smiles", "value")):
        return None
    places = [rows[0].index(name) for name in ("smiles", "value")]
    found = [tuple(row[place].strip() for place in places) for row in rows[1:]]
    return [
        (smiles, value.replace(",", ".") if separator == ";" else value) for smiles, value in found
    ]


@fuzz(45, short=40, content=mutated(BASES, table_tokens))
def test_a_mutated_text_table_is_read_as_it_stands_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "c.csv"
    path.write_bytes(content)
    with may_refuse(TableError):
        rows = list(read_rows(path, TableConfig(), MELTING_POINT))
        expected = as_written(path)
        assert expected is not None
        assert [(row.smiles, row.value) for row in rows] == [
            (smiles, number(value)) for smiles, value in expected
        ]
        canonicalize(rows, MELTING_POINT, NAMED, "c.csv")


def parquet(table: pa.Table) -> bytes:
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink)
    content: bytes = sink.getvalue().to_pybytes()
    return content


kinds = st.sampled_from(
    [
        pa.float32(),
        pa.float64(),
        pa.int8(),
        pa.uint64(),
        pa.decimal128(30, 3),
        pa.large_string(),
        pa.string(),
        pa.dictionary(pa.int32(), pa.string()),
    ]
)


@fuzz(6, kind=kinds, values=st.lists(st.integers(0, 100), max_size=6), holes=st.booleans())
def test_a_parquet_table_reads_back(
    folder: Path, kind: pa.DataType, values: list[int], holes: bool
) -> None:
    is_text = not (
        pa.types.is_floating(kind) or pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    )
    column = (
        pa.array([str(value) for value in values], pa.string()) if is_text else pa.array(values)
    )
    names = [None if holes else f"molecule {index}" for index in range(len(values))]
    table = pa.table(
        {
            "name": pa.array(names, pa.string()),
            "smiles": ["CCO"] * len(values),
            "value": column.cast(kind),
        }
    )
    path = folder / "a.parquet"
    path.write_bytes(parquet(table))
    rows = list(read_rows(path, NAMED, MELTING_POINT))
    assert [(row.name, row.smiles, row.value) for row in rows] == [
        (name or "", "CCO", float(value)) for name, value in zip(names, values, strict=True)
    ]


strange = st.sampled_from(
    [
        pa.array([True, False]),
        pa.array([b"1", b"2"]),
        pa.array([[1], [2]]),
        pa.array([{"a": 1}, None]),
        pa.array([1, 2], pa.timestamp("ns")),
        pa.array([1, None]),
        pa.array([1.0, float("nan")]),
        pa.array([1, 2], pa.duration("us")),
        pa.nulls(2),
        pa.array([1, 2], pa.date32()),
        pa.array(["1", "x"]),
        pa.array([1.0, float("-inf")]),
    ]
)


@fuzz(3, column=strange, place=st.sampled_from(["value", "smiles", "name"]))
def test_a_parquet_table_of_other_things_is_refused_or_read(
    folder: Path, column: "pa.Array[Any]", place: str
) -> None:
    columns: dict[str, Any] = {"name": ["a", "b"], "smiles": ["CCO", "CC"], "value": [1.0, 2.0]}
    columns[place] = column
    path = folder / "b.parquet"
    path.write_bytes(parquet(pa.table(columns)))
    if place == "value":
        with pytest.raises(TableError, match="value"):
            list(read_rows(path, NAMED, MELTING_POINT))
    with may_refuse(TableError):
        list(read_rows(path, NAMED, MELTING_POINT))
    with may_refuse(TableError):
        read_columns(path, ["smiles"]).to_pylist()


PARQUET = parquet(
    pa.table({"name": ["a", "é"] * 9, "smiles": ["CCO", "CC"] * 9, "value": [1.5] * 18})
)


@fuzz(8, content=mutated((PARQUET,), st.binary(min_size=1, max_size=3), most=2))
def test_a_mutated_parquet_table_is_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "c.parquet"
    path.write_bytes(content)
    with may_refuse(TableError):
        for row in read_rows(path, NAMED, MELTING_POINT):
            assert abs(row.value) < float("inf")
    with may_refuse(TableError):
        read_columns(path, ["smiles"]).to_pylist()


def sdf_records() -> Iterator[str]:
    for name, smiles, value in (
        ("ethanol", "CCO", "-114.1"),
        ("", "c1ccccc1", "5.5"),
        ("é", "C", "-182"),
    ):
        mol = Chem.MolFromSmiles(smiles)
        mol.SetProp("_Name", name)
        yield f"{Chem.MolToMolBlock(mol)}>  <value>  (1)\n{value}\n\n$$$$\n"


SDF = ("".join(sdf_records()), next(sdf_records()))
sdf_tokens = st.one_of(
    st.sampled_from(
        [
            "$$$$\n",
            "M  END\n",
            "V3000",
            "> <value>\n",
            "> <smiles>\nCCC\n\n",
            "999",
            "-1",
            " 0",
            "\n",
            "C  ",
        ]
    ),
    st.sampled_from(NASTY_TEXTS),
)


@fuzz(7, text=mutated(SDF, sdf_tokens), broken=st.booleans())
def test_a_mutated_sdf_is_read_or_refused(folder: Path, text: str, broken: bool) -> None:
    path = folder / "a.sdf"
    path.write_bytes(text.encode("latin-1" if broken else "utf-8", "replace"))
    with may_refuse(TableError):
        rows = list(read_rows(path, TableConfig(), MELTING_POINT))
        for row in rows:
            assert not row.smiles or Chem.MolFromSmiles(row.smiles) is not None
            assert not row.smiles or number(str(row.value)) is not None
        canonicalize(rows, MELTING_POINT, NAMED, "a.sdf")


@fuzz(1, cell=st.sampled_from([1000, 100_000, 1_000_000, 2_000_000]), text=written_texts)
def test_a_huge_cell_is_read(folder: Path, cell: int, text: str) -> None:
    path = folder / "d.csv"
    name = ((text or "x") * cell)[:cell]
    rows = [(name, "CCO", "1"), ("", name, "2"), ("", "CC", "3")]
    write_text(path, ["name", "smiles", "value"], rows, {"quoting": csv.QUOTE_ALL})
    first, _, last = read_rows(path, NAMED, MELTING_POINT)
    assert (first.name, last.value) == (name.strip(), 3.0)
    with path.open("a", encoding="utf-8") as file:
        file.write(f'"","CC","{name}x"\n')
    with pytest.raises(TableError, match="'value' has no finite number in 1 row ") as caught:
        list(read_rows(path, NAMED, MELTING_POINT))
    assert len(str(caught.value)) < 1000


ROUNDS = b"run,round,split,mae\na,0,test,80.5\na,0,train,70\na,1,test,75\n"


@fuzz(7, content=mutated((ROUNDS,), table_tokens))
def test_imported_rounds_are_read_or_refused(folder: Path, content: bytes) -> None:
    path = folder / "rounds.csv"
    path.write_bytes(content)
    with may_refuse(TableError):
        for run in load_rounds(path):
            for found in run.rounds:
                assert abs(found.round) < 2**53
                assert 0 <= found.mae < float("inf")
