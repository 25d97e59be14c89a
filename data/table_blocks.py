"""A table's file in (CSV, TSV, Parquet, SDF), its columns out, one block of rows at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet
from rdkit import Chem

from selfstudy_engine.data.errors import TableError, shown_text
from selfstudy_engine.data.rdkit_logs import quiet_rdkit

_BLOCK_MIB = 4
"""Of a text file; no row may be longer. Arrow reads up to 32 blocks ahead."""
_BLOCK_ROWS = 10_000
_SDF = frozenset([".sdf", ".sd", ".mol"])
_PARQUET = frozenset([".parquet", ".pq"])
_TABS = frozenset([".tsv", ".tab"])


@dataclass(frozen=True, slots=True)
class Block:
    """Some rows, as they stand in the file; text, but for Parquet."""

    columns: pa.RecordBatch
    lines: list[int]
    """Of each row: where an editor shows its beginning, or a record's number."""


def read_blocks(path: Path) -> Iterator[Block]:
    """Yield a table's blocks, at least one; its columns are the same in each.

    Raises:
        TableError: the file can't be read; what was yielded before can.
    """
    kind = path.suffix.lower()
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
        cause = str(error)
        if "straddling" in cause:
            cause = f"a row is longer than {_BLOCK_MIB} MiB, or a quote is never closed"
        raise TableError(
            f"can't read table {path}: {shown_text(cause)}; give a CSV (UTF-8, with a header "
            "line), TSV, Parquet or SDF file"
        ) from error


def _text_blocks(path: Path, delimiter: str) -> Iterator[Block]:
    def opened(columns: dict[str, pa.DataType]) -> pa.csv.CSVStreamingReader:
        return pa.csv.open_csv(
            path,
            read_options=pa.csv.ReadOptions(use_threads=False, block_size=_BLOCK_MIB << 20),
            # Empty lines stay, so that a row's number is the line that an editor shows.
            parse_options=pa.csv.ParseOptions(
                delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False
            ),
            convert_options=pa.csv.ConvertOptions(column_types=columns),
        )

    with opened({}) as reader:
        header = reader.schema.names
    line = 2 + sum(map(_num_breaks, header))
    # Text for every column: a type guessed from the first rows would fail later without a line.
    with opened(dict.fromkeys(header, pa.string())) as reader:
        for batch in _at_least_one(reader, reader.schema):
            for start in range(0, max(batch.num_rows, 1), _BLOCK_ROWS):
                rows = batch.slice(start, _BLOCK_ROWS)
                breaks = sum(map(_breaks, rows.columns), np.zeros(rows.num_rows, int))
                ends = line + np.cumsum(breaks + 1)
                yield Block(rows, (ends - breaks - 1).tolist())
                line = int(ends[-1]) if rows.num_rows else line


def _breaks(column: Any) -> Any:
    """Return the line breaks within each cell."""
    crlf, lf, cr = (
        pc.fill_null(pc.count_substring(column, end), 0).to_numpy(zero_copy_only=False)
        for end in ("\r\n", "\n", "\r")
    )
    return lf + cr - crlf


def _num_breaks(text: str) -> int:
    return int(_breaks(pa.array([text]))[0])


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
    path.open("rb").close()
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
