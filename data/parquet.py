"""Parquet as bytes, and a SHA-256 of a whole file kept in it: any reader of Parquet passes over it.

Parquet's own checksums cover the pages' bytes alone. A flipped bit in a page's header or in the
footer, which names the columns, would go unseen: a column that has another name now is "missing".

The seal lies between the last page and the footer, where nothing points to.
"""

import hashlib
from typing import Any

import pyarrow as pa
import pyarrow.parquet

from selfstudy_engine.data.errors import DamagedShardError

_MARK = b"selfstudy sha256"
_LENGTH = len(_MARK) + hashlib.sha256().digest_size
_TAIL = 8
"""Bytes behind the footer: its length, and "PAR1"."""


def to_parquet(table: pa.Table, **options: Any) -> bytes:
    """Return a table as a Parquet file's content; for the options see `write_table` of pyarrow."""
    sink = pa.BufferOutputStream()
    pa.parquet.write_table(table, sink, **options)
    return sink.getvalue().to_pybytes()


def seal(content: bytes) -> bytes:
    """Return a Parquet file with its seal."""
    at = _footer(content)
    return content[:at] + _MARK + hashlib.sha256(content).digest() + content[at:]


def check_seal(content: bytes) -> bool:
    """Make sure that a Parquet file is what was sealed; one without a seal is an older one.

    Returns:
        Whether it has a seal.

    Raises:
        DamagedShardError: it isn't.
    """
    end = _footer(content)
    start = end - _LENGTH
    if start < 0 or not content.startswith(_MARK, start):
        return False
    digest = hashlib.sha256(content[:start])
    digest.update(content[end:])
    if digest.digest() != content[start + len(_MARK) : end]:
        raise DamagedShardError("its SHA-256 isn't the one that it was written with")
    return True


def _footer(content: bytes) -> int:
    """Return where the footer begins; below nought or anywhere, if the length is damaged."""
    return len(content) - _TAIL - int.from_bytes(content[-_TAIL : -_TAIL + 4], "little")
