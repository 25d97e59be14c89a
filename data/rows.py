"""A small table of a run in one Parquet file: rows in, the same rows out, or the file is named."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.parquet

from selfstudy_engine.data.errors import damaged
from selfstudy_engine.data.files import ON_DISK, Files
from selfstudy_engine.data.parquet import to_parquet

Row = TypeVar("Row")


def save_rows(
    path: Path, rows: Iterable[dict[str, Any]], schema: pa.Schema, files: Files = ON_DISK
) -> None:
    """Write rows in the place of those that were there."""
    table = pa.Table.from_pylist(list(rows), schema=schema)
    files.replace(path, to_parquet(table, compression="zstd"))


def load_rows(path: Path, to_row: Callable[[dict[str, Any]], Row], remedy: str) -> list[Row]:
    """Read rows back.

    Args:
        path: that `save_rows` wrote.
        to_row: makes one of its columns' values.
        remedy: for a damaged file.

    Raises:
        StoreError: they aren't what was written.
        OSError: the file can't be read.
    """
    content = path.read_bytes()
    try:
        table = pa.parquet.read_table(pa.BufferReader(content))
        return [to_row(row) for row in table.to_pylist()]
    except (OSError, pa.ArrowException, ValueError, KeyError, TypeError) as error:
        raise damaged(path, error, remedy) from error
