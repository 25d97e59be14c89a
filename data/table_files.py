"""A table's file in (CSV, TSV, Parquet, SDF), its rows out, in the property's unit."""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.types

from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.errors import MAX_LISTED, TableError, counted, listed, shown
from selfstudy_engine.data.properties import Property, convert
from selfstudy_engine.data.table_blocks import is_sdf, read_blocks


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table as it was read: `line` is what an editor shows, or a record's number."""

    line: int
    name: str
    smiles: str
    value: float


def read_rows(path: Path, table: TableConfig, prop: Property) -> Iterator[Row]:
    """Stream the rows of a CSV, TSV, Parquet or SDF table, their values in the property's unit.

    The file is read twice: before this returns, all values were looked at, which takes little
    beside what is made of the rows then.

    Raises:
        TableError: unreadable, without a named column, or with values that aren't numbers.
    """
    unit = table.value_unit or prop.unit
    bad, num_bad, has_commas = [], 0, False
    for line, _, smiles, value in _cells(path, table):
        # A record that can't be read has no value.
        if _to_number(value) is None and (smiles or not is_sdf(path)):
            num_bad += 1
            has_commas |= _has_comma(str(value))
            if num_bad <= MAX_LISTED:
                bad.append(f"line {line}: {shown(value)}")
    if bad:
        raise TableError(
            f"table {path}: column {table.value_column!r} has no finite number in "
            f"{counted(num_bad, 'row')} ({listed(bad, num_items=num_bad)}); write one there (of a "
            "range, its middle), or leave the row out"
            + ("; decimal commas are read between semicolons alone" if has_commas else "")
        )
    convert(0.0, unit, prop.unit)  # refuses a unit before the first row
    return _rows(path, table, unit, prop.unit)


def _rows(path: Path, table: TableConfig, unit: str, to_unit: str) -> Iterator[Row]:
    for line, name, smiles, value in _cells(path, table):
        number = _to_number(value)
        converted = float("nan") if number is None else convert(number, unit, to_unit)
        yield Row(line, _text(name), _text(smiles), converted)


def _text(cell: Any) -> str:
    return "" if cell is None else str(cell).strip()


def _cells(path: Path, table: TableConfig) -> Iterator[tuple[int, Any, Any, Any]]:
    """Yield line, name, SMILES and value of each row, as they stand there."""
    wanted = [*filter(None, [table.name_column]), table.smiles_column, table.value_column]
    marks: dict[str, str] = {}
    for block in read_blocks(path):
        _check_columns(path, block.columns.schema, wanted)
        *names, smiles, values = (block.columns.column(name).to_pylist() for name in wanted)
        if block.decimal_comma:
            texts = [str(text) for text in values]
            _note_marks(marks, block.lines, texts)
            if len(marks) > 1:
                raise TableError(
                    f"table {path}: column {table.value_column!r} has numbers with commas and with "
                    f"points ({'; '.join(marks.values())}), so that one of them may be of "
                    "thousands; write all with decimal commas, or all with decimal points"
                )
            values = [text.replace(",", ".") for text in texts]
        name = names[0] if names else [""] * len(smiles)
        yield from zip(block.lines, name, smiles, values, strict=True)


def _has_comma(text: str) -> bool:
    """Whether it would be a number if its comma were a point."""
    return "," in text and _NUMBER.fullmatch(text.replace(",", ".")) is not None


def _note_marks(marks: dict[str, str], lines: Sequence[int], texts: Sequence[str]) -> None:
    """Note the first number with a comma, and the first with a point."""
    for line, text in zip(lines, texts, strict=True):
        mark = "," if "," in text else "."
        if mark in text and mark not in marks and _NUMBER.fullmatch(text.replace(",", ".")):
            marks[mark] = f"line {line}: {shown(text)}"


def read_columns(path: Path, wanted: Sequence[str]) -> pa.Table:
    """Read all columns of a CSV, TSV, Parquet or SDF table as they stand; text, but for Parquet.

    Args:
        path: of the table.
        wanted: columns that must be there, once each.

    Raises:
        TableError: unreadable, or without one of them.
    """
    columns = pa.Table.from_batches([block.columns for block in read_blocks(path)])
    _check_columns(path, columns.schema, wanted)
    return columns


def _check_columns(path: Path, schema: pa.Schema, wanted: Sequence[str]) -> None:
    for column in wanted:
        if column not in schema.names:
            raise TableError(
                f"table {path} has no column {column!r} (it has: "
                f"{listed([shown(name) for name in schema.names], ', ', most=20)}); name it "
                "with --smiles-column, --value-column or --name-column"
            )
        if schema.names.count(column) > 1:
            raise TableError(f"table {path} has several columns {column!r}; rename all but one")
        kind = schema.field(column).type
        if not _is_text_or_number(kind):
            raise TableError(
                f"table {path}: column {column!r} holds {shown(str(kind))}; give text or numbers"
            )


def _is_text_or_number(kind: pa.DataType) -> bool:
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    tests = (
        *(pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view),
        *(pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal, pa.types.is_null),
    )
    return any(test(kind) for test in tests)


_NUMBER = re.compile(r"\s*+[+-]?(?:[0-9]++\.?[0-9]*+|\.[0-9]++)(?:[eE][+-]?[0-9]++)?\s*+")


def _to_number(value: Any) -> float | None:
    # Stricter than float(), which also takes "1_000" and digits of other scripts.
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    if not isinstance(value, str | int | float | Decimal):
        return None
    number = float(value)
    return number if abs(number) < float("inf") else None
