"""Shards that are damaged, and writes that fail: no sample is lost without a word."""

import errno
import logging
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from samples import make_rejected, make_sample
from stored_samples import fill
from waiting import wait_for

from selfstudy_engine.data.errors import StoreError
from selfstudy_engine.data.schema import Sample
from selfstudy_engine.data.store import SampleStore, SampleWriter


def add_until_it_fails(writer: SampleWriter, sample: Sample) -> None:
    """Meanwhile the writer's thread fails; `add` never returns less than nothing."""
    wait_for(lambda: writer.add([sample]) < 0)


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    return SampleStore(tmp_path / "samples")


def damage(path: Path, how: str) -> None:
    content = path.read_bytes()
    table = pq.read_table(path)
    if how == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "text":
        path.write_text("hello\n")
    elif how == "one column less":
        pq.write_table(table.drop_columns(["reason"]), path)
    elif how == "another type":
        texts = pa.array(["x"] * len(table))
        pq.write_table(table.set_column(1, "round", texts), path)
    elif how == "no round":
        nulls = pa.array([None] * len(table), pa.int32())
        pq.write_table(table.set_column(1, "round", nulls), path)
    elif how == "flipped bytes":
        middle = content.index(b"default") - 8
        path.write_bytes(content[:middle] + b"\xff" * 24 + content[middle + 24 :])


HOW = ["truncated", "empty", "text", "one column less", "another type", "no round", "flipped bytes"]


@pytest.mark.parametrize("how", HOW)
def test_a_damaged_shard_is_set_aside_by_name_and_the_others_read(
    store: SampleStore, how: str, caplog: pytest.LogCaptureFixture
) -> None:
    fill(store, [make_sample("A")], [make_sample("B")], [make_sample("C")])
    damaged = store.shards()[1]
    damage(damaged, how)
    with caplog.at_level(logging.WARNING):
        assert [sample.molecule_id for sample in store.samples()] == ["A", "C"]
    assert str(damaged) in caplog.text
    assert not damaged.exists()
    assert [path.name for path in damaged.parent.glob("*.damaged*")] != []
    with store.writer(0) as writer:
        assert writer.add([make_sample("B", completion="anew"), make_sample("D")]) == 2
    assert [sample.molecule_id for sample in store.samples()] == ["A", "C", "B", "D"]


@pytest.mark.parametrize("offset", range(4, 3000, 450))
def test_a_flipped_byte_never_changes_what_is_read_without_a_word(
    store: SampleStore, offset: int, caplog: pytest.LogCaptureFixture
) -> None:
    samples = [make_sample(f"KEY-{index}", completion=f"{index} " * 20) for index in range(100)]
    fill(store, samples)
    [path] = store.shards()
    content = bytearray(path.read_bytes())
    assert len(content) > 3000
    content[offset] ^= 0xFF
    path.write_bytes(content)
    with suppress(StoreError):
        read = list(store.samples())
        assert read == samples or str(path) in caplog.text


def test_two_damaged_shards_of_one_name_are_both_kept(store: SampleStore) -> None:
    fill(store, [make_sample("A")])
    [path] = store.shards()
    for text in ("first", "second"):
        path.write_text(text)
        assert list(store.samples()) == []
    kept = {file.read_text() for file in path.parent.iterdir()}
    assert kept == {"first", "second"}


def test_alien_names_do_no_harm(store: SampleStore) -> None:
    fill(store, [make_sample("A")])
    folder = store.round_folder(0)
    shutil.copyfile(store.shards()[0], folder / "part-0.parquet")
    (folder / "notes.txt").write_text("mine")
    (folder / ".part-000001.parquet.99.tmp").write_text("left by a killed process")
    (store.folder / "round-0000.bak").mkdir()
    (store.folder / "README").write_text("mine")
    assert store.rounds() == [0]
    with store.writer(0) as writer:
        assert writer.add([make_sample("B")]) == 1
    assert {sample.molecule_id for sample in store.samples()} == {"A", "B"}
    assert (folder / "notes.txt").read_text() == "mine"


@contextmanager
def gone(folder: Path) -> Iterator[None]:
    """Make writing into a folder fail for real, until the block ends."""
    aside = folder.rename(folder.with_name("aside"))
    try:
        yield
    finally:
        aside.rename(folder)


def test_a_folder_that_cannot_be_written_costs_no_sample(store: SampleStore) -> None:
    with store.writer(0) as writer:
        with gone(store.round_folder(0)):
            writer.add([make_sample("A"), make_sample("B")])
            message = r"can't write 2 samples .*part-000000"
            with pytest.raises(StoreError, match=message) as caught:
                writer.flush()
            assert isinstance(caught.value, OSError)
        assert writer.num_durable_accepted == 0
        writer.flush()
        assert writer.num_durable_accepted == 2
    assert [sample.molecule_id for sample in store.samples()] == ["A", "B"]
    assert [path.name for path in store.round_folder(0).iterdir()] == ["part-000000.parquet"]


def test_samples_are_judged_anew_where_there_are_no_hard_links(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On SMB and exFAT, say."""
    fill(store, [make_sample("A")])
    [path] = store.shards()
    before = path.read_bytes()

    def refuse(*args: object) -> None:
        raise PermissionError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(os, "link", refuse)
    store.supersede(path, [make_rejected("A")])
    assert [sample.accepted for sample in store.samples()] == [False]
    assert path.with_name(f"{path.name}.superseded").read_bytes() == before


def test_a_failure_of_the_writer_surfaces_at_the_next_add(store: SampleStore) -> None:
    with store.writer(0) as writer, gone(store.round_folder(0)):
        writer.add([make_sample("A")])
        with pytest.raises(StoreError, match="free disk space or make the folder writable"):
            add_until_it_fails(writer, make_sample("B"))
    assert "A" in [sample.molecule_id for sample in store.samples()]


def test_a_sample_that_cannot_be_written_is_an_error_and_not_a_loss(store: SampleStore) -> None:
    def write_one_bad() -> None:
        with store.writer(0) as writer:
            writer.add([make_sample("A")])
            writer.add([make_sample("B", completion="\ud800")])
            add_until_it_fails(writer, make_sample("C"))

    with pytest.raises((StoreError, UnicodeEncodeError)):
        write_one_bad()


HEADER = """
import logging, resource, sys
from pathlib import Path
from samples import make_sample
from selfstudy_engine.data.errors import StoreError
from selfstudy_engine.data.store import SampleStore

logging.basicConfig()
store = SampleStore(Path(sys.argv[1]))
folder = store.round_folder(0)
"""
FULL_DISK = """
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
with store.writer(0) as writer:
    writer.add([make_sample("A")])
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        writer.flush()
    except StoreError as error:
        print(error)
    print([path.name for path in folder.iterdir()])
    resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
print(store.count())
"""
READ_ONLY = """
with store.writer(0) as writer:
    writer.add([make_sample("A")])
    folder.chmod(0o555)
    try:
        writer.flush()
    except StoreError as error:
        print(error)
    print([path.name for path in folder.iterdir()])
    folder.chmod(0o755)
print(store.count())
"""
UNREADABLE = """
with store.writer(0) as writer:
    writer.add([make_sample("A")])
[shard] = store.shards()
shard.chmod(0)
try:
    print(store.count())
except (StoreError, OSError) as error:
    print(error)
shard.chmod(0o644)
print(shard.exists(), store.count())
"""
LITTLE_MEMORY = """
import re
import pyarrow as pa

pa.set_memory_pool(pa.system_memory_pool())
with store.writer(0) as writer:
    writer.add([make_sample(str(i), completion=f"{i}" + "x" * 10_000) for i in range(8000)])
[shard] = store.shards()
used = int(re.search(r"VmSize:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) * 1024
soft, hard = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + 40_000_000, hard))
try:
    print(store.count(where=pa.compute.field("accepted")))
except StoreError as error:
    print(error)
resource.setrlimit(resource.RLIMIT_AS, (soft, hard))
print(shard.exists(), store.count())
"""
needs_modes = pytest.mark.skipif(
    os.geteuid() == 0 and shutil.which("setpriv") is None,
    reason="root ignores modes, and setpriv isn't there to take that right away",
)


def run_apart(script: str, folder: Path) -> list[str]:
    """Run a script in a process of its own that obeys modes, and return its lines."""
    command = [sys.executable, "-c", HEADER + script, str(folder)]
    if os.geteuid() == 0 and shutil.which("setpriv"):
        rights = "-dac_override,-dac_read_search"
        command = ["setpriv", f"--inh-caps={rights}", f"--bounding-set={rights}", *command]
    here = Path(__file__).parent
    result = subprocess.run(command, capture_output=True, text=True, cwd=here, check=False)
    assert result.returncode == 0, result.stderr
    return result.stdout.splitlines()


@pytest.mark.parametrize(
    ("script", "reason"),
    [
        (FULL_DISK, "File too large"),
        pytest.param(READ_ONLY, "Permission denied", marks=needs_modes),
    ],
    ids=["full disk", "read-only"],
)
def test_a_write_that_fails_leaves_no_half_shard_and_costs_no_sample(
    store: SampleStore, script: str, reason: str
) -> None:
    message, left, count = run_apart(script, store.folder)
    assert "can't write 1 samples" in message
    assert reason in message
    assert (left, count) == ("[]", "1")


@needs_modes
def test_a_shard_that_cannot_be_opened_now_is_not_taken_for_damaged(store: SampleStore) -> None:
    *_, last = run_apart(UNREADABLE, store.folder)
    assert last == "True 1"


def test_a_shard_that_does_not_fit_into_memory_is_not_taken_for_damaged(
    store: SampleStore,
) -> None:
    message, last = run_apart(LITTLE_MEMORY, store.folder)
    assert "too little memory to read samples" in message
    assert last == "True 8000"


def test_a_shard_that_another_reader_sets_aside_meanwhile_is_left_out(
    store: SampleStore,
) -> None:
    """As the report's process beside the loop's: both come upon it."""
    fill(store, [make_sample("A")], [make_sample("B")], [make_sample("C")])
    damaged = store.shards()[1]
    damage(damaged, "truncated")
    slower = store.samples()
    assert next(slower).molecule_id == "A"
    assert store.count() == 2
    assert [sample.molecule_id for sample in slower] == ["C"]
    damaged.symlink_to("an unmounted disk")
    with pytest.raises(StoreError, match="can't open shard"):
        store.count()


def test_a_shard_is_never_written_over(store: SampleStore) -> None:
    with store.writer(0) as writer:
        alien = store.round_folder(0) / "part-000000.parquet"
        alien.write_bytes(b"from elsewhere")
        writer.add([make_sample("A")])
        with pytest.raises(StoreError, match="exists already"):
            writer.flush()
        assert alien.read_bytes() == b"from elsewhere"
        alien.unlink()
    assert store.count() == 1


def test_a_shard_that_came_although_its_writing_failed_is_taken_for_written(
    store: SampleStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The disk gave up after the rename: only the folder's names weren't flushed."""
    flush, failures = os.fsync, 1

    def fail_once(descriptor: int) -> None:
        nonlocal failures
        if failures and stat.S_ISDIR(os.fstat(descriptor).st_mode):
            failures -= 1
            raise OSError(errno.EIO, "Input/output error")
        flush(descriptor)

    writer = store.writer(0)
    writer.add([make_sample("A")])
    monkeypatch.setattr(os, "fsync", fail_once)
    with pytest.raises(StoreError, match="Input/output error"):
        writer.flush()
    writer.flush()
    assert (writer.num_durable_accepted, store.count()) == (1, 1)


def test_shards_of_an_earlier_version_are_read(tmp_path: Path) -> None:
    """They lack columns that were added since; what rejected a sample was found in it."""
    store = SampleStore(tmp_path)
    with store.writer(0) as writer:
        writer.add([make_sample("A"), make_rejected("B")])
    [path] = store.shards()
    table = pq.read_table(path, partitioning=None)
    pq.write_table(table.drop_columns(["findings", "tolerance", "hinted"]), path)
    [accepted, rejected] = store.samples()
    assert (accepted.findings, accepted.tolerance) == ((), None)
    assert (rejected.findings, rejected.tolerance) == (("no value",), None)
    assert (accepted.hinted, rejected.hinted) == (False, False)
    assert store.count(where=pc.field("hinted")) == 0
    assert store.molecules(0) == {"A": False, "B": False}
    assert store.molecule_indices(0) == {("A", 0), ("B", 0)}
    assert (store.count(), set(store.accepted_molecules(0))) == (2, {"A"})
    assert store.shards() == [path]
