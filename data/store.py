"""The store: Parquet shards of samples, one folder a round; a round's last grows until it is full.

A sample is durable at most `FLUSH_SECONDS` and one write after `SampleWriter.add`, and in the store
once: its key, not its text, decides. Readers stream, so memory doesn't grow with the store.
"""

import hashlib
import logging
import re
import threading
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, BinaryIO, Self

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from selfstudy_engine.data.errors import StoreError
from selfstudy_engine.data.files import ON_DISK, Files, make_folder
from selfstudy_engine.data.growing_shard import FULL_BYTES, GrowingShard
from selfstudy_engine.data.schema import SAMPLE_SCHEMA, Molecule, Sample, to_table
from selfstudy_engine.data.shards import (
    SET_ASIDE,
    keep_beside,
    load_shard,
    read_shard,
    to_shard,
)

FLUSH_SECONDS = 1.0
"""Longest time that a sample stays in memory only."""

_ROW_GROUP_BYTES = 32 << 20
_ROUND = re.compile(r"round-([0-9]{4,})")
logger = logging.getLogger(__name__)


class SampleStore:
    """All samples of a run, in `folder`/round-NNNN/*.parquet; `files` is where they are written."""

    def __init__(self, folder: Path, files: Files = ON_DISK) -> None:
        self.folder = folder
        self.files = files

    def writer(self, round_index: int) -> "SampleWriter":
        """Open the round for writing; use it as a context manager."""
        return SampleWriter(self, round_index)

    def round_folder(self, round_index: int) -> Path:
        """Return where a round's shards lie."""
        return self.folder / f"round-{round_index:04d}"

    def rounds(self) -> list[int]:
        """Return the rounds that have a folder, ascending."""
        found = (_ROUND.fullmatch(path.name) for path in self.folder.glob("*/"))
        return sorted(int(match[1]) for match in found if match)

    def shards(self, round_index: int | None = None) -> list[Path]:
        """Return the shards' paths, oldest first; they may turn out to be damaged."""
        folders = self.rounds() if round_index is None else [round_index]
        return [
            path for index in folders for path in sorted(self.round_folder(index).glob("*.parquet"))
        ]

    def batches(
        self,
        round_index: int | None = None,
        columns: Sequence[str] | None = None,
        where: pc.Expression | None = None,
        *,
        whole: bool = True,
    ) -> Iterator[pa.RecordBatch]:
        """Stream record batches of `SAMPLE_SCHEMA`, narrowed to columns and rows.

        One shard is in memory at a time. A truncated, damaged or alien one is set aside under
        another name, with a warning that names it, and the others are read all the same.

        Args:
            round_index: only this round.
            columns: only these.
            where: only rows that this holds for.
            whole: decode whole shards; False decodes nothing but `columns`, in a third of the time,
                and takes no `where`.

        Raises:
            StoreError: a shard can't be opened (permissions, a failing disk).
        """
        names = SAMPLE_SCHEMA.names if whole else list(columns or SAMPLE_SCHEMA.names)
        for path in self.shards(round_index):
            table = read_shard(path, names)
            if table is None:
                continue
            if where is not None:
                table = table.filter(where)
            yield from (table.select(list(columns)) if columns else table).to_batches()

    def samples(
        self, round_index: int | None = None, where: pc.Expression | None = None
    ) -> Iterator[Sample]:
        """Stream samples in the order in which they were written."""
        for batch in self.batches(round_index, where=where):
            yield from map(Sample.from_row, batch.to_pylist())

    def accepted(self, before_round: int | None = None) -> Iterator[Sample]:
        """Stream accepted samples, of the rounds before `before_round` only if that is given."""
        for index in self.rounds():
            if before_round is None or index < before_round:
                yield from self.samples(index, where=pc.field("accepted"))

    def fingerprint(self, before_round: int | None = None) -> str:
        """Return the digest of those that are accepted (see `SamplesDigest`).

        An adapter that was trained when it was another one knows what has been corrected since.
        """
        digest = SamplesDigest()
        for index in self.rounds():
            if before_round is not None and index >= before_round:
                break
            columns = ("accepted", "round", "molecule_id", "sample_index", "measured")
            for accepted, *row in self.rows(index, *columns):
                if accepted:
                    digest.add(*row)
        return digest.hexdigest()

    def accepted_reasons(self) -> Iterator[tuple[str, str]]:
        """Stream molecule id and reason of accepted samples, in the order of `samples`."""
        for index in self.rounds():
            for accepted, *row in self.rows(index, "accepted", "molecule_id", "reason"):
                if accepted:
                    yield row[0], row[1]

    def accepted_molecules(self, round_index: int) -> dict[str, Molecule]:
        """Return a round's molecules with accepted samples, by their ids."""
        rows = self.rows(round_index, "accepted", "molecule_id", "name", "smiles", "measured")
        return {row[0]: Molecule(*row) for accepted, *row in rows if accepted}

    def rows(self, round_index: int | None, *columns: str) -> Iterator[tuple[Any, ...]]:
        """Stream some values of each sample, of one round or of all; nothing else is decoded."""
        for batch in self.batches(round_index, columns, whole=False):
            yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)

    def read_shard(self, path: Path) -> list[Sample]:
        """Return the samples of one shard; none if it is damaged, and was set aside."""
        table = read_shard(path, SAMPLE_SCHEMA.names)
        return [] if table is None else [Sample.from_row(row) for row in table.to_pylist()]

    def load_shard(self, path: Path) -> list[Sample]:
        """Return the samples of one shard, which stays where it is.

        Raises:
            DamagedShardError: with what is wrong.
            StoreError: it can't be opened.
        """
        table = load_shard(path, SAMPLE_SCHEMA.names)
        return [Sample.from_row(row) for row in table.to_pylist()]

    def set_aside(self) -> list[Path]:
        """Return what readers have found damaged, and renamed."""
        return sorted(self.folder.glob(f"round-*/*{SET_ASIDE}*"))

    def supersede(self, path: Path, samples: Sequence[Sample]) -> None:
        """Put samples with other verdicts in the place of a shard, which is kept beside it.

        Raises:
            OSError: the folder can't be written; the shard is as it was.
        """
        keep_beside(path)
        self.files.replace(path, to_shard(to_table(samples)))

    def molecule_indices(self, round_index: int) -> set[tuple[str, int]]:
        """Return the (molecule id, sample index) pairs that a round has already."""
        return set(self.rows(round_index, "molecule_id", "sample_index"))

    def molecules(self, round_index: int) -> dict[str, bool]:
        """Return the ids of a round's molecules, and whether their samples are hinted."""
        return dict(self.rows(round_index, "molecule_id", "hinted"))

    def count(self, round_index: int | None = None, where: pc.Expression | None = None) -> int:
        """Return the number of samples."""
        whole = where is not None
        batches = self.batches(round_index, ["round"], where, whole=whole)
        return sum(batch.num_rows for batch in batches)


class SampleWriter:
    """Writes one round's samples; a thread makes them durable every `FLUSH_SECONDS`.

    Leaving the `with` block flushes what is left.

    Args:
        store: to write into.
        round_index: of the samples.
        full_bytes: of a shard; see `FULL_BYTES`.
    """

    def __init__(self, store: SampleStore, round_index: int, full_bytes: int = FULL_BYTES) -> None:
        folder = store.round_folder(round_index)
        self._round = round_index
        make_folder(folder)
        self._known = store.molecule_indices(round_index)
        if store.files.restore_shards(folder):
            self._known = store.molecule_indices(round_index)
        self._shard = GrowingShard(folder, store.files, full_bytes)
        self._pending: list[Sample] = []
        self._in_flight: list[Sample] = []
        """Those of the next write; one that failed may have been done, so it is done again."""
        self._lock = threading.Lock()
        self._flush_lock = threading.Lock()
        self._closed = threading.Event()
        self._failure: Exception | None = None
        self._thread = threading.Thread(target=self._flush_regularly, name="store", daemon=True)
        self.num_durable_accepted = 0
        """Accepted samples of this writer that are durable."""

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._closed.set()
        self._thread.join()
        self.flush()

    def add(self, samples: Iterable[Sample]) -> int:
        """Take samples into the store; what it has already is left out.

        Samples of one call become durable together or not at all.

        Returns:
            How many were new.

        Raises:
            StoreError: an earlier flush failed, or a sample belongs to another round.
        """
        new: dict[tuple[str, int], Sample] = {}
        for sample in samples:
            if sample.round != self._round:
                raise StoreError(f"sample of round {sample.round} given to round {self._round}")
            key = (sample.molecule_id, sample.sample_index)
            if key not in self._known:
                new.setdefault(key, sample)
        with self._lock:
            if self._failure:
                raise self._failure
            self._pending.extend(new.values())
            self._known.update(new)
        return len(new)

    def flush(self) -> None:
        """Make all samples durable that were added so far.

        Raises:
            StoreError: the disk is full or read-only, S3 doesn't take them, or a sample isn't valid
                text; the samples stay pending.
        """
        with self._flush_lock:
            self._write_in_flight()
            with self._lock:
                self._in_flight, self._pending = self._pending, []
            self._write_in_flight()

    def _write_in_flight(self) -> None:
        samples = self._in_flight
        if not samples:
            return
        try:
            self._shard.append(samples)
        except StoreError:  # which says what to do
            raise
        except Exception as error:
            cause = getattr(error, "strerror", None) or error
            raise StoreError(
                f"can't write {len(samples)} samples to {self._shard.path}: {cause}; free disk "
                "space or make the folder writable, then run the same command again"
            ) from error
        self._in_flight = []
        self.num_durable_accepted += sum(sample.accepted for sample in samples)

    def _flush_regularly(self) -> None:
        while not self._closed.wait(FLUSH_SECONDS):
            try:
                self.flush()
            except StoreError as error:
                self._failure = error
                return


class SamplesDigest:
    """SHA-256 of which samples there are, and of their measured values."""

    def __init__(self) -> None:
        self._digest = hashlib.sha256()

    def add(self, round_index: int, molecule_id: str, sample_index: int, measured: float) -> None:
        """Take in the next one."""
        self._digest.update(f"{[round_index, molecule_id, sample_index, measured]}\n".encode())

    def of(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """Yield samples as they come, each taken in."""
        for sample in samples:
            self.add(sample.round, sample.molecule_id, sample.sample_index, sample.measured)
            yield sample

    def hexdigest(self) -> str:
        """Return what it is so far."""
        return self._digest.hexdigest()


def write_parquet(file: Path | BinaryIO, batches: Iterable[pa.RecordBatch]) -> int:
    """Write batches of `SAMPLE_SCHEMA` into one Parquet file, and return how many rows they have.

    Small ones are gathered: a row group takes 40 kB of memory until the end, and a slow server's
    store has hundreds of thousands of batches.
    """
    num_rows = 0
    with pa.parquet.ParquetWriter(file, SAMPLE_SCHEMA) as writer:
        for group in _gathered(batches):
            writer.write_table(group)
            num_rows += group.num_rows
    return num_rows


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    group: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        group.append(batch)
        size += batch.nbytes
        if size >= _ROW_GROUP_BYTES:
            yield pa.Table.from_batches(group)
            group, size = [], 0
    if group:
        yield pa.Table.from_batches(group)
