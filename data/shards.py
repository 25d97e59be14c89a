"""One shard: samples in, a Parquet file out, and back; what is damaged is set aside."""

import itertools
import logging
import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet

from selfstudy_engine.data.errors import DamagedShardError, StoreError, shown_text
from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.parquet import check_seal, seal, to_parquet
from selfstudy_engine.data.schema import ADDED_COLUMNS, SAMPLE_SCHEMA

SET_ASIDE = ".damaged"
_SUPERSEDED = ".superseded"
logger = logging.getLogger(__name__)


def to_shard(table: pa.Table) -> bytes:
    """Return the bytes of a file of samples, sealed."""
    return seal(to_parquet(table, compression="zstd", write_page_checksum=True))


def read_shard(path: Path, columns: list[str]) -> pa.Table | None:
    """Read and verify columns of a shard; None if it was set aside."""
    try:
        return load_shard(path, columns)
    except DamagedShardError as error:
        set_aside(path, str(error))
        return None
    except StoreError:
        if os.path.lexists(path):
            raise
        return None  # set aside by another reader since it was listed


def load_shard(path: Path, columns: list[str]) -> pa.Table:
    """Read and verify columns of a shard, which stays where it is.

    Raises:
        DamagedShardError: with what is wrong.
        StoreError: it can't be opened.
    """
    try:
        content = path.read_bytes()  # what can't be read isn't damaged
    except OSError as error:
        raise StoreError(
            f"can't open shard {path}: {error.strerror}; make it readable and run the command again"
        ) from error
    return _parse_shard(content, columns)


def check_shard(content: bytes) -> None:
    """Make sure that these are the bytes of a whole shard.

    Raises:
        DamagedShardError: with what is wrong.
    """
    _parse_shard(content, SAMPLE_SCHEMA.names)


def has_grown(before: bytes, after: bytes) -> bool:
    """Tell whether a shard holds what it held before, and then maybe more."""
    try:
        old, new = (_parse_shard(content, SAMPLE_SCHEMA.names) for content in (before, after))
    except DamagedShardError:
        return False
    return bool(new.slice(0, old.num_rows).equals(old))


def _parse_shard(content: bytes, columns: list[str]) -> pa.Table:
    is_sealed = check_seal(content)
    try:
        # ParquetFile, as read_table goes through a dataset, which takes twice as long for a small
        # shard; a slow server makes hundreds of thousands of those.
        with pa.parquet.ParquetFile(
            pa.BufferReader(content), page_checksum_verification=True
        ) as file:
            there = set(file.schema_arrow.names)
            missing = set(SAMPLE_SCHEMA.names) - there - set(ADDED_COLUMNS)
            if missing:
                raise pa.ArrowInvalid(f"column {min(missing)!r} is missing")
            sources = {ADDED_COLUMNS.get(name) for name in set(columns) - there}
            needed = {source for source in sources if isinstance(source, str)}
            wanted = [*columns, *sorted(needed - set(columns))]
            table = file.read([name for name in wanted if name in there], use_threads=False)
        table.validate(full=True)
        schema = pa.schema([SAMPLE_SCHEMA.field(name) for name in columns])
        table = _with_added_columns(table, columns).select(columns).cast(schema)
        nulls = [
            field.name for field in schema if not field.nullable and table[field.name].null_count
        ]
        if nulls:
            raise pa.ArrowInvalid(f"column {nulls[0]!r} has missing values")
    except (OSError, pa.ArrowException, ValueError, KeyError) as error:
        problem = shown_text(str(error))
        if is_sealed and isinstance(error, MemoryError):  # its bytes are those that were written
            raise StoreError(
                f"too little memory to read samples ({problem}); end other programs or raise the "
                "limit (ulimit -v), then run the same command again"
            ) from error
        raise DamagedShardError(problem) from error
    return table


def _with_added_columns(table: pa.Table, columns: Sequence[str]) -> pa.Table:
    """Fill in those of the columns that shards of earlier versions lack."""
    for name, source in ADDED_COLUMNS.items():
        if name in columns and name not in table.column_names:
            kind = SAMPLE_SCHEMA.field(name).type
            if isinstance(source, str):
                column = table[source]
            else:
                column = pa.repeat(pa.scalar(source, kind), table.num_rows)
            table = table.append_column(name, column)
    return table


def keep_beside(path: Path) -> None:
    """Keep a shard under another name too: its place is about to be taken."""
    write_atomic(_free_name(path, _SUPERSEDED), path.read_bytes())


def _free_name(path: Path, suffix: str) -> Path:
    names = (f"{path.name}{suffix}{number or ''}" for number in itertools.count())
    return next(path.with_name(name) for name in names if not path.with_name(name).exists())


def set_aside(path: Path, problem: str) -> None:
    """Rename a damaged shard, so that its samples are asked for again."""
    aside = _free_name(path, SET_ASIDE)
    try:
        path.rename(aside)
        where = f"set aside as {aside.name}"
    except OSError as error:
        where = f"left out, but it can't be renamed: {error.strerror}"
    logger.warning("shard %s can't be read (%s); %s", path, problem, where)
