"""A round's last shard: samples are added until it is full, then to the next one.

It is written anew as a whole each time, in its own place: a reader finds it as it was or as it is,
and never a sample twice or not at all.
"""

import re
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa

from selfstudy_engine.data.files import Files
from selfstudy_engine.data.schema import SAMPLE_SCHEMA, Sample, to_table
from selfstudy_engine.data.shards import read_shard, to_shard

FULL_BYTES = 256 << 10
"""Size from which on a shard doesn't grow: what each write costs stays bounded."""
_SHARD = re.compile(r"part-([0-9]{6})\.parquet.*")


class GrowingShard:
    """The shard that a writer adds to: the folder's last one, whoever made it, unless it is full.

    In S3 that keeps two writers apart: each must have seen what the other wrote there.

    Args:
        folder: of a round.
        files: how it is written.
        full_bytes: see `FULL_BYTES`.
    """

    def __init__(self, folder: Path, files: Files, full_bytes: int = FULL_BYTES) -> None:
        self._folder = folder
        self._files = files
        self._full_bytes = full_bytes
        names = (_SHARD.fullmatch(path.name) for path in folder.iterdir())
        last = max((int(match[1]) for match in names if match), default=-1)
        self._content: bytes | None
        self._begin(last)
        content = self.path.read_bytes() if self.path.exists() else b""
        table = read_shard(self.path, SAMPLE_SCHEMA.names) if content else None
        if table is None or len(content) >= full_bytes:
            self._begin(last + 1)
        else:
            self._table, self._content = table.cast(SAMPLE_SCHEMA), content

    @property
    def path(self) -> Path:
        """Where the next samples go."""
        return self._folder / f"part-{self._number:06d}.parquet"

    def append(self, samples: Sequence[Sample]) -> None:
        """Make samples durable; doing it again after a failure is as good as once.

        Raises:
            OSError: the disk is full or read-only.
            StoreError: S3 doesn't take them.
            ValueError: one isn't valid text.
        """
        table = pa.concat_tables([self._table, to_table(samples)]).combine_chunks()
        content = to_shard(table)
        self._files.put(self.path, content, self._content)
        self._table, self._content = table, content
        if len(content) >= self._full_bytes:
            self._begin(self._number + 1)

    def _begin(self, number: int) -> None:
        self._number = number
        self._table = SAMPLE_SCHEMA.empty_table()
        self._content = None
