"""A table's file in (CSV, TSV, Parquet, SDF), its rows out, in the property's unit."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rdkit import Chem

from selfstudy_engine.data.config import TableConfig
from selfstudy_engine.data.errors import TableError
from selfstudy_engine.data.properties import Property, convert
from selfstudy_engine.data.rdkit_logs import quiet_rdkit

MAX_LISTED = 5
"""Rows that an error message lists at most."""

_SDF = frozenset([".sdf", ".sd", ".mol"])


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table as it was read: `line` is what an editor shows, or a record's number."""

    line: int
    name: str
    smiles: str
    value: float


def read_rows(path: Path, table: TableConfig, prop: Property) -> list[Row]:
    """Read a CSV, TSV, Parquet or SDF table, its values converted into the property's unit.

    Raises:
        TableError: unreadable, without a named column, empty, or with values that aren't numbers.
    """
    wanted = [table.smiles_column, table.value_column, *filter(None, [table.name_column])]
    columns = read_columns(path, wanted)
    smiles = columns[table.smiles_column].to_pylist()
    values = columns[table.value_column].to_pylist()
    names = columns[table.name_column].to_pylist() if table.name_column else [""] * len(smiles)
    unit = table.value_unit or prop.unit
    rows, bad = [], []
    first = 1 if path.suffix.lower() in _SDF else 2
    cells = zip(names, smiles, values, strict=True)
    for line, (name, text, value) in enumerate(cells, start=first):
        number = _to_number(value)
        if number is None and first == 1 and not text:  # a record that can't be read has no value
            rows.append(Row(line, "", "", float("nan")))
        elif number is None:
            bad.append(f"line {line}: {value!r}")
        else:
            converted = convert(number, unit, prop.unit)
            rows.append(Row(line, str(name or "").strip(), str(text or "").strip(), converted))
    if bad:
        raise TableError(
            f"table {path}: column {table.value_column!r} has {len(bad)} values that aren't "
            f"finite numbers ({listed(bad)}); correct or remove these rows"
        )
    return rows


def read_columns(path: Path, wanted: Sequence[str]) -> pa.Table:
    """Read all columns of a CSV, TSV, Parquet or SDF table as they stand; text, but for Parquet.

    Args:
        path: of the table.
        wanted: columns that must be there, once each.

    Raises:
        TableError: unreadable, or without one of them.
    """
    columns = _read_table(path)
    for column in wanted:
        if column not in columns.column_names:
            raise TableError(
                f"table {path} has no column {column!r} (it has: "
                f"{', '.join(columns.column_names)}); name it with --smiles-column, "
                "--value-column or --name-column"
            )
        if columns.column_names.count(column) > 1:
            raise TableError(f"table {path} has several columns {column!r}; rename all but one")
    return columns


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() in _SDF:
            return _read_sdf(path)
        if path.suffix.lower() in {".parquet", ".pq"}:
            return pa.parquet.read_table(path)
        header = pa.csv.open_csv(path, parse_options=_delimiter(path)).schema.names
        # Text for every column: a type guessed from the first rows would fail later without a line.
        options = pa.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
        return pa.csv.read_csv(path, parse_options=_delimiter(path), convert_options=options)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TableError(
            f"can't read table {path}: {error}; give a CSV (UTF-8, with a header line), TSV, "
            "Parquet or SDF file"
        ) from error


def _read_sdf(path: Path) -> pa.Table:
    """Return a column for each data field, "smiles" (of the drawn structure) and "name".

    The name is the title line, or a field of that name where the line is empty. A record that
    RDKit can't read has an empty SMILES: it is counted with those later.
    """
    path.open("rb").close()
    records: list[dict[str, str]] = []
    with quiet_rdkit():
        for mol in Chem.SDMolSupplier(str(path)):
            if mol is None:
                records.append({})
                continue
            fields = {key: str(mol.GetProp(key)) for key in mol.GetPropNames()}
            title = mol.GetProp("_Name").strip() if mol.HasProp("_Name") else ""
            name = title or fields.get("name", "")
            records.append(fields | {"smiles": Chem.MolToSmiles(mol), "name": name})
    names = dict.fromkeys(key for record in records for key in record)
    columns = {key: [record.get(key, "") for record in records] for key in names}
    return pa.table(columns, schema=pa.schema([(key, pa.string()) for key in names]))


def _delimiter(path: Path) -> pa.csv.ParseOptions:
    delimiter = "\t" if path.suffix.lower() in {".tsv", ".tab"} else ","
    # Empty lines stay, so that a row's number is the line that an editor shows.
    return pa.csv.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False
    )


_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


def _to_number(value: Any) -> float | None:
    # Stricter than float(), which also takes "1_000" and digits of other scripts.
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def listed(items: Sequence[str]) -> str:
    """Join the first few of many."""
    more = f", and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return "; ".join(items[:MAX_LISTED]) + more
