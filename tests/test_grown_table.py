"""A pool that every round asks whole, and that grows between two calls."""

from pathlib import Path

from conftest import MakeConfig, loop
from fake_vllm import FakeVllm

from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore


def test_new_rows_are_asked_by_rounds_to_come_alone(
    small_config: MakeConfig, fake: FakeVllm, table: Path, tmp_path: Path
) -> None:
    """The adapters after a recorded round were trained on what it had then."""
    own = tmp_path / "own.csv"
    own.write_text(table.read_text())
    settings = {"table__path": str(own), "generation__batch": 256}
    loop(small_config(rounds=1, **settings), tmp_path, fake)
    store = SampleStore(RunFolder(tmp_path / "test").samples)
    num_before = store.count(0)
    assert num_before == 2 * 34
    with own.open("a", encoding="utf-8") as file:
        file.writelines(f"C1CCCCC1{'C' * length}O,{20 + length}\n" for length in range(10))
    records, reporter = loop(small_config(rounds=2, **settings), tmp_path, fake)
    assert (store.count(0), store.count(1)) == (num_before, num_before + 2 * 10)
    assert reporter.rounds == [1, 2]
    assert [record.num_completions for record in records] == [num_before, num_before + 20, 0]


def test_what_was_lost_is_asked_again_though_the_table_grew(
    small_config: MakeConfig, fake: FakeVllm, table: Path, tmp_path: Path
) -> None:
    own = tmp_path / "own.csv"
    own.write_text(table.read_text())
    config = small_config(rounds=1, table__path=str(own))
    [first, _], _ = loop(config, tmp_path, fake)
    store = SampleStore(RunFolder(tmp_path / "test").samples)
    [shard] = store.shards(0)
    samples = store.read_shard(shard)
    shard.write_bytes(b"damaged")
    with store.writer(0) as writer:  # half of them are left
        writer.add(samples[: len(samples) // 2])
    with own.open("a", encoding="utf-8") as file:
        file.write("C1CCCCC1CCO,20\n")
    records, reporter = loop(config, tmp_path, fake)
    assert reporter.rounds == [0]
    assert store.count(0) == records[0].num_completions == first.num_completions
