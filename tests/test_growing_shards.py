"""A round's last shard grows: whoever reads or is killed meanwhile, each sample is there once."""

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from samples import make_sample
from stored_samples import fill

from selfstudy_engine.data.errors import StoreError
from selfstudy_engine.data.growing_shard import FULL_BYTES
from selfstudy_engine.data.schema import Sample
from selfstudy_engine.data.store import SampleStore, SampleWriter

HERE = Path(__file__).parent


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    return SampleStore(tmp_path / "samples")


def flush(writer: SampleWriter, *samples: Sample) -> None:
    assert writer.add(samples) == len(samples)
    writer.flush()


def ids(store: SampleStore) -> list[str]:
    return [sample.molecule_id for sample in store.samples()]


def test_a_round_of_many_flushes_is_one_shard(store: SampleStore) -> None:
    """It was a shard a second: 86,400 a day, each of which every later training read."""
    names = [f"{number:03d}" for number in range(40)]
    for start in (0, 20):  # a loop that is started again goes on with it
        with store.writer(0) as writer:
            for name in names[start : start + 20]:
                flush(writer, make_sample(name))
    assert ids(store) == names
    assert [path.name for path in store.shards()] == ["part-000000.parquet"]


def test_a_full_shard_stays_as_it_is(store: SampleStore) -> None:
    with store.writer(0) as writer:
        flush(writer, *(make_sample(str(n), completion=os.urandom(900).hex()) for n in range(300)))
        [full] = store.shards()
        content = full.read_bytes()
        assert len(content) >= FULL_BYTES
        flush(writer, make_sample("A"))
        flush(writer, make_sample("B"))
    with store.writer(0) as writer:
        flush(writer, make_sample("C"))
    assert full.read_bytes() == content
    assert [path.name[-10:] for path in store.shards()] == ["00.parquet", "01.parquet"]
    assert ids(store)[300:] == ["A", "B", "C"]


def test_who_reads_meanwhile_finds_each_sample_once_and_loses_none(store: SampleStore) -> None:
    over, problems, num_reads = threading.Event(), list[str](), 0

    def read() -> None:
        nonlocal num_reads
        known: list[str] = []
        while not (over.is_set() and num_reads):
            now = ids(store)
            num_reads += 1
            if now[: len(known)] != known or len(set(now)) < len(now):
                problems.append(f"{known} became {now}")
            known = now

    thread = threading.Thread(target=read)
    with SampleWriter(store, 0, full_bytes=16_000) as writer:
        thread.start()
        for number in range(80):
            flush(writer, make_sample(str(number), completion=os.urandom(200).hex()))
    over.set()
    thread.join()
    assert problems == []
    assert num_reads > 5
    assert ids(store) == [str(number) for number in range(80)]
    assert len(store.shards()) > 2


def test_a_process_that_is_killed_at_any_step_of_a_write_loses_nothing(store: SampleStore) -> None:
    script = (
        "import sys; from pathlib import Path; from samples import make_sample\n"
        "from selfstudy_engine.data.store import SampleStore\n"
        "writer = SampleStore(Path(sys.argv[1])).writer(0)\n"
        "for name in sys.argv[2:]:\n"
        "    writer.add([make_sample(name)]); writer.flush(); print(name, flush=True)\n"
    )
    fill(store)  # makes the folder, once
    names, durable = [f"{number:02d}" for number in range(9)], list[str]()
    for order in ("fsync:3", "rename:2", "after-rename:2"):
        environment = {"CHAOS_KILL": f"loop:{order}", "PYTHONPATH": f"{HERE / 'chaos' / 'site'}"}
        environment["PYTHONPATH"] += f"{os.pathsep}{os.environ.get('PYTHONPATH', '')}"
        killed = subprocess.run(
            [sys.executable, "-c", script, str(store.folder), *names[len(ids(store)) :]],
            env=os.environ | environment,
            cwd=HERE,
            capture_output=True,
            text=True,
            check=False,
        )
        assert killed.returncode == -9, killed.stderr
        durable += killed.stdout.split()
        assert ids(store)[: len(durable)] == durable
        assert len(ids(store)) <= len(durable) + 1, "what was being written"
        durable = ids(store)
    with store.writer(0) as writer:
        writer.add(map(make_sample, names))
    assert ids(store) == names
    assert [path.name for path in store.round_folder(0).iterdir()] == ["part-000000.parquet"]


def test_a_shard_that_rots_while_it_grows_is_whole_with_the_next_write(store: SampleStore) -> None:
    with store.writer(0) as writer:
        flush(writer, make_sample("A"))
        [path] = store.shards()
        path.write_bytes(path.read_bytes()[:-40])
        assert ids(store) == [], "set aside"
        flush(writer, make_sample("B"))
    assert ids(store) == ["A", "B"]


def test_what_could_not_be_written_is_not_there_twice(store: SampleStore) -> None:
    with store.writer(0) as writer:
        flush(writer, make_sample("A"))
        folder = store.round_folder(0)
        aside = folder.rename(folder.with_name("aside"))
        writer.add([make_sample("B")])
        for _ in range(2):
            with pytest.raises(StoreError, match=r"can't write 1 samples to .*part-000000"):
                writer.flush()
        aside.rename(folder)
        flush(writer, make_sample("C"))
    assert ids(store) == ["A", "B", "C"]
    assert len(store.shards()) == 1
