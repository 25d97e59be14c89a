"""A table's file in (CSV, TSV, Parquet, SDF), its columns out, one block of rows at a time."""

import csv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, TextIO

import pyarrow as pa
import pyarrow.parquet
from rdkit import Chem

from selfstudy_engine.data.errors import TableError, shown_text
from selfstudy_engine.data.rdkit_logs import quiet_rdkit

_CELL_CHARACTERS = 1 << 22
"""Of a text file; the limit is the whole process's, and Python's own is 131,072."""
_BLOCK_ROWS = 4096
_BLOCK_CHARACTERS = 1 << 20
_SDF = frozenset([".sdf", ".sd", ".mol"])
_PARQUET = frozenset([".parquet", ".pq"])
_TABS = frozenset([".tsv", ".tab"])
_NO_TEXT = {
    b"PK\x03\x04": "a workbook (.xlsx, .ods) or a ZIP archive: save its sheet as CSV, or unpack it",
    b"\xd0\xcf\x11\xe0": "an old workbook (.xls): save its sheet as CSV",
    b"\x1f\x8b": "compressed by gzip: unpack it with gunzip",
    b"PAR1": "a Parquet file: let its name end in .parquet",
}
"""What a file is that begins so, and what to do about it."""
TextRow = tuple[int, list[str]]
"""The line that a row begins in, and its cells."""


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows, as they stand in the file; text, but for Parquet."""

    columns: pa.RecordBatch
    lines: list[int]
    """Of each row: where an editor shows its beginning, or a record's number."""
    decimal_comma: bool = False
    """Whether numbers may be written as 1,5."""


def read_blocks(path: Path) -> Iterator[Block]:
    """Yield a table's blocks, at least one; its columns are the same in each.

    Raises:
        TableError: the file can't be read; what was yielded before can.
    """
    kind = path.suffix.lower()
    try:
        path.open("rb").close()
    except OSError as error:
        raise TableError(f"can't read table {path}: {error.strerror}; check the path") from error
    with _readable(path):
        if kind in _SDF:
            yield from _sdf_blocks(path)
        elif kind in _PARQUET:
            yield from _parquet_blocks(path)
        else:
            yield from _text_blocks(path, "\t" if kind in _TABS else ",")


def is_sdf(path: Path) -> bool:
    """Tell whether a table's rows are records with a drawn structure."""
    return path.suffix.lower() in _SDF


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    try:
        yield
    except (OSError, pa.ArrowException, ValueError) as error:
        raise TableError(
            f"can't read table {path}: {shown_text(str(error))}; give a CSV (UTF-8, with a header "
            "line), TSV, Parquet or SDF file"
        ) from error


def _text_blocks(path: Path, delimiter: str) -> Iterator[Block]:
    # Not Arrow's reader: it takes all that follows a quote which is never closed for one cell.
    csv.field_size_limit(_CELL_CHARACTERS)
    with path.open("rb") as binary:
        beginning = binary.read(4)
    for magic, what in _NO_TEXT.items():
        if beginning.startswith(magic):
            raise ValueError(f"it is {what}")
    with path.open(encoding="utf-8-sig", newline="") as file:
        if delimiter == ",":
            delimiter = _delimiter_of(file)
        reader = csv.reader(file, delimiter=delimiter, strict=True)
        rows = _text_rows(reader)
        _, header = next(rows, (0, []))
        if header == ["sep=", ""]:  # for Excel: what splits the cells
            _, header = next(rows, (0, []))
        if not header:
            raise ValueError("Empty CSV file")
        for block in _blocks_of(rows):
            for line, cells in block:
                if len(cells) != len(header):
                    raise ValueError(
                        f"line {line}: Expected {len(header)} columns, got {len(cells)}"
                    )
            columns = list(zip(*(cells for _, cells in block), strict=True)) or [()] * len(header)
            arrays = [pa.array(column, pa.string()) for column in columns]
            yield Block(
                pa.RecordBatch.from_arrays(arrays, names=header),
                [line for line, _ in block],
                decimal_comma=delimiter == ";",
            )


def _delimiter_of(file: TextIO) -> str:
    """Tell by a CSV's header line what splits its cells, where that isn't commas: semicolons, as
    Excel writes it where decimals have commas, or tabs.
    """
    try:
        header = next(filter(str.strip, file), "")
    except UnicodeDecodeError:  # told when its rows are read
        header = ""
    file.seek(0)
    return next((each for each in ",;\t" if each in header), ",")


def _blocks_of(rows: Iterator[TextRow]) -> Iterator[list[TextRow]]:
    """Gather rows, up to a number of them and of characters; the last block may be empty."""
    block: list[TextRow] = []
    size = 0
    for line, cells in rows:
        block.append((line, cells))
        size += sum(map(len, cells))
        if len(block) == _BLOCK_ROWS or size > _BLOCK_CHARACTERS:
            yield block
            block, size = [], 0
    yield block


def _text_rows(reader: Any) -> Iterator[TextRow]:
    """Yield each row with the line that it begins in; empty ones (",," in a sheet) are left out."""
    line = 1
    try:
        for cells in reader:
            if any(cells):
                yield line, cells
            line = reader.line_num + 1
    except csv.Error as error:
        cause = str(error)
        if "field limit" in cause or "end of data" in cause:
            cause = f"a quote is never closed, or a cell is over {_CELL_CHARACTERS} characters long"
        raise ValueError(f"line {line}: {cause}") from error
    except UnicodeDecodeError as error:
        where = f"from line {line} on or later"
        raise ValueError(f"it isn't UTF-8 {where}: save it as UTF-8") from error


def _parquet_blocks(path: Path) -> Iterator[Block]:
    with pa.parquet.ParquetFile(path) as file:
        line = 2
        batches = file.iter_batches(_BLOCK_ROWS, use_threads=False)
        for batch in _at_least_one(batches, file.schema_arrow):
            batch.validate(full=True)  # its texts are UTF-8
            yield Block(batch, list(range(line, line + batch.num_rows)))
            line += batch.num_rows


def _at_least_one(batches: Iterator[pa.RecordBatch], schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    batch = None
    for batch in batches:
        yield batch
    if batch is None:
        yield pa.RecordBatch.from_pylist([], schema=schema)


def _sdf_blocks(path: Path) -> Iterator[Block]:
    """Yield a column for each data field, "smiles" (of the drawn structure) and "name".

    The name is the title line, or a field of that name where the line is empty. A record that
    RDKit can't read has an empty SMILES: it is counted with those later.
    """
    names = dict.fromkeys(key for record in _sdf_records(path) for key in record)
    schema = pa.schema([(name, pa.string()) for name in names])
    records, line = _sdf_records(path), 1
    while block := list(islice(records, _BLOCK_ROWS)):
        columns = {name: [record.get(name, "") for record in block] for name in names}
        rows = pa.RecordBatch.from_pydict(columns, schema=schema)
        yield Block(rows, list(range(line, line + len(block))))
        line += len(block)
    if line == 1:
        yield Block(pa.RecordBatch.from_pylist([], schema=schema), [])


def _sdf_records(path: Path) -> Iterator[dict[str, str]]:
    with quiet_rdkit():
        for mol in Chem.SDMolSupplier(str(path)):
            if mol is None:
                yield {}
                continue
            fields = {key: str(mol.GetProp(key)) for key in mol.GetPropNames()}
            title = mol.GetProp("_Name").strip() if mol.HasProp("_Name") else ""
            name = title or fields.get("name", "")
            yield fields | {"smiles": Chem.MolToSmiles(mol), "name": name}
