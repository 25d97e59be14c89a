"""Samples are durable soon, there once, and never lost without a word."""

import itertools
from pathlib import Path
from types import UnionType
from typing import get_args, get_type_hints

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from samples import make_rejected, make_sample
from stored_samples import fill
from waiting import wait_for

from selfstudy_engine.data.errors import StoreError
from selfstudy_engine.data.schema import SAMPLE_SCHEMA, Molecule, Sample, to_table
from selfstudy_engine.data.store import FLUSH_SECONDS, SampleStore, write_parquet


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    return SampleStore(tmp_path / "samples")


def test_schema_and_samples_agree() -> None:
    kinds = {str: pa.string(), int: pa.int32(), float: pa.float64(), bool: pa.bool_()}
    hints = get_type_hints(Sample)
    assert SAMPLE_SCHEMA.names == [*Sample._fields]
    for column in SAMPLE_SCHEMA:
        hint = hints[column.name]
        optional = isinstance(hint, UnionType)
        if hint == tuple[str, ...]:
            assert column.type.value_type == pa.string()
            continue
        assert column.type == kinds[get_args(hint)[0] if optional else hint], column.name
        assert column.nullable is optional, column.name
    for name in ("measured", "predicted", "error", "num_output_tokens", "created_at"):
        assert b"unit" in (SAMPLE_SCHEMA.field(name).metadata or {})


def test_rows_read_back_as_they_were(store: SampleStore) -> None:
    samples = [
        make_sample("A"),
        make_rejected("B", rejections=("no value", "no reason")),
        make_sample("C", name="", completion="\n\x00 µ€😀", predicted=1e-300, sample_index=7),
    ]
    fill(store, samples)
    assert list(store.samples()) == samples
    [row] = to_table(samples[1:2]).to_pylist()
    assert Sample.from_row(row | {"later": 3}) == samples[1]
    assert samples[2].key == ("default", 0, "C", 7)


def test_an_empty_store_has_nothing(store: SampleStore) -> None:
    assert (store.rounds(), store.shards(), list(store.samples()), store.count()) == ([], [], [], 0)
    assert store.molecule_indices(0) == set()
    assert list(store.accepted(before_round=3)) == []


def test_a_sample_becomes_durable_without_closing(store: SampleStore) -> None:
    assert FLUSH_SECONDS <= 1.5, "and a write: two seconds are promised"
    with store.writer(0) as writer:
        writer.add([make_sample("A"), make_rejected("B")])
        wait_for(lambda: store.count() == 2)
        wait_for(lambda: writer.num_durable_accepted == 1)


def test_a_key_is_stored_once(store: SampleStore) -> None:
    with store.writer(0) as writer:
        first = make_sample("A", completion="first")
        assert writer.add([first, make_sample("A", completion="again")]) == 1
        assert writer.add([make_sample("A"), make_sample("A", sample_index=1)]) == 1
    assert next(store.samples()).completion == "first"
    assert store.count() == 2


def test_a_reopened_round_goes_on(store: SampleStore) -> None:
    fill(store, [make_sample("A")], [make_sample("B")])
    with store.writer(0) as writer:
        assert writer.add([make_sample("A"), make_sample("B"), make_sample("C")]) == 1
    assert [sample.molecule_id for sample in store.samples()] == ["A", "B", "C"]
    assert store.molecule_indices(0) == {("A", 0), ("B", 0), ("C", 0)}


def test_rounds_and_filters(store: SampleStore) -> None:
    fill(store, [make_sample("A"), make_rejected("B")])
    fill(store, [make_sample("A", round=2)], round_index=2)
    assert store.rounds() == [0, 2]
    assert (store.count(), store.count(0), store.count(2), store.count(1)) == (3, 2, 1, 0)
    assert [s.round for s in store.accepted()] == [0, 2]
    [later] = store.shards(2)
    later.write_bytes(later.read_bytes()[:-9])
    assert [s.round for s in store.accepted(before_round=2)] == [0]
    assert store.set_aside() == [], "no later shard is opened"
    sample = make_sample("A")
    molecule = Molecule("A", sample.name, sample.smiles, sample.measured)
    assert store.accepted_molecules(0) == {"A": molecule}
    later.unlink()
    fill(store, [make_sample("A", round=2)], round_index=2)
    assert store.count(where=~pc.field("accepted")) == 1
    [batch] = store.batches(2, ["molecule_id", "round"])
    assert batch.to_pylist() == [{"molecule_id": "A", "round": 2}]


def test_a_sample_of_another_round_is_refused_and_takes_nothing_with_it(
    store: SampleStore,
) -> None:
    with store.writer(0) as writer:
        with pytest.raises(StoreError, match="round 1 given to round 0"):
            writer.add([make_sample("A"), make_sample("B", round=1)])
        assert writer.add([make_sample("A")]) == 1
    assert store.count() == 1


def test_reading_streams(store: SampleStore) -> None:
    text = "x" * 1000
    shards = [[make_sample(f"{i}-{j}", completion=text) for j in range(50)] for i in range(40)]
    fill(store, *shards)
    before = pa.total_allocated_bytes()
    stream = store.samples()
    assert next(stream).molecule_id == "0-0"
    assert pa.total_allocated_bytes() - before < 1_000_000
    assert [sample.molecule_id for sample in stream][-1] == "39-49"


def test_many_small_batches_become_few_row_groups(tmp_path: Path) -> None:
    """One each would take a reader and a writer 40 kB of memory: 6 GB for a million samples."""
    [small] = to_table([make_sample(str(index)) for index in range(7)]).to_batches()
    assert write_parquet(tmp_path / "a.parquet", itertools.repeat(small, 1000)) == 7000
    with pq.ParquetFile(tmp_path / "a.parquet") as file:
        assert (file.metadata.num_rows, file.metadata.num_row_groups) == (7000, 1)
    [large] = to_table([make_sample("A", completion="x" * (20 << 20))]).to_batches()
    assert write_parquet(tmp_path / "b.parquet", [large] * 4) == 4
    with pq.ParquetFile(tmp_path / "b.parquet") as file:
        assert file.metadata.num_row_groups == 2
    assert write_parquet(tmp_path / "c.parquet", []) == 0
    assert pq.read_table(tmp_path / "c.parquet").schema.names == SAMPLE_SCHEMA.names
