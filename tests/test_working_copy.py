"""A run's folder and S3: what goes there first, what comes back, and what is refused."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import MakeAdapter
from s3_server import BUCKET, S3Server, answer, hang_up_after
from samples import make_sample
from stored_samples import fill

from selfstudy_engine.data.adapters import MANIFEST, WEIGHTS, read_adapter
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import AdapterError, ConflictError, RunFolderError, StoreError
from selfstudy_engine.data.lease import Lease
from selfstudy_engine.data.objects import Objects
from selfstudy_engine.data.pull import pull
from selfstudy_engine.data.remote_address import RemoteAddress
from selfstudy_engine.data.run_folder import RunFolder, open_run, read_config
from selfstudy_engine.data.schema import Sample
from selfstudy_engine.data.store import SampleStore, SampleWriter
from selfstudy_engine.data.working_copy import held_run

REMOTE = f"s3://{BUCKET}/runs"
SHARD = "samples/round-0000/part-000000.parquet"


def config_of(name: str = "test", remote: str | None = REMOTE) -> RunConfig:
    values = {"name": name} | ({"remote": remote} if remote else {})
    return load_config(None, values)


@contextmanager
def machine(path: Path) -> Iterator[RunFolder]:
    """A run's folder on a machine, held and begun."""
    with held_run(path / "test", REMOTE) as folder:
        yield open_run(path, config_of(), files=folder.files)


def stored(folder: RunFolder) -> list[str]:
    return [sample.molecule_id for sample in SampleStore(folder.samples).samples()]


def write(folder: RunFolder, *samples: Sample) -> None:
    """Write a shard that grows no more."""
    fill(SampleStore(folder.samples, folder.files), [*samples])


def flip_a_bit(objects: Objects, key: str) -> None:
    content = bytearray(objects.read(key))
    content[len(content) // 2] ^= 1
    objects.replace(key, bytes(content))


@pytest.fixture
def objects(s3: S3Server) -> Objects:
    return Objects(RemoteAddress.parse(REMOTE) / "test", retry_seconds=2)


def test_what_one_machine_stored_is_there_on_another(
    objects: Objects, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    made = make_adapter("a")
    with machine(tmp_path / "one") as one:
        write(one, make_sample("A"), make_sample("B"))
        shutil.copytree(made.folder, one.adapter(0))
        one.files.add_folder(one.adapter(0), MANIFEST)
        one.files.add_folder(one.adapter(0), MANIFEST)
        write(one, make_sample("C"))
    with machine(tmp_path / "two") as two:
        assert stored(two) == ["A", "B", "C"]
        assert read_adapter(two.adapter(0)).sha256 == made.sha256
        write(two, make_sample("D"))
    with machine(tmp_path / "one") as one:
        assert stored(one) == ["A", "B", "C", "D"]
    names = {path.relative_to(one.path).as_posix() for path in one.path.rglob("*.*")}
    assert names - {".lock"} | {"lease.json"} == {meta["path"] for meta in objects.list()}


def test_a_shard_that_rots_here_while_the_loop_goes_on_comes_back(
    tmp_path: Path, s3: S3Server
) -> None:
    """Its samples were asked for again: at the next start S3's shard made them twice."""
    with machine(tmp_path / "one") as one:
        write(one, make_sample("A"))
        write(one, make_sample("B"))
        for reader in (one, RunFolder(one.path)):  # the loop finds it, or its report
            shard = one.path / SHARD
            shard.write_bytes(shard.read_bytes()[:-40])
            assert stored(reader) == ["B"]
            with SampleStore(one.samples, one.files).writer(0) as writer:
                assert writer.add([make_sample("A")]) == 0
            assert stored(one) == ["A", "B"]
        write(one, make_sample("C"))
    with machine(tmp_path / "two") as two:
        assert stored(two) == ["A", "B", "C"]


def test_an_adapter_is_there_with_its_manifest_and_not_before(
    s3: S3Server, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    made = make_adapter("a")
    denied = answer("403 Forbidden")
    with machine(tmp_path / "one") as one:
        shutil.copytree(made.folder, one.adapter(0))
        s3.fail(denied, path=MANIFEST)
        with pytest.raises(StoreError, match=r"s3://bucket/runs/test/adapters/round-0000/manifest"):
            one.files.add_folder(one.adapter(0), MANIFEST)
    with machine(tmp_path / "two") as two:
        assert not two.adapter(0).exists()
        other = make_adapter("b")
        shutil.copytree(other.folder, two.adapter(0))  # trained there anew
        two.files.add_folder(two.adapter(0), MANIFEST)
    with machine(tmp_path / "one") as one:
        assert read_adapter(one.adapter(0)).name == "b"


def test_samples_that_s3_did_not_take_are_not_stored_and_not_lost(
    s3: S3Server, tmp_path: Path
) -> None:
    sample = make_sample()
    with (
        machine(tmp_path) as folder,
        SampleStore(folder.samples, folder.files).writer(0) as writer,
    ):
        writer.add([sample])
        s3.fail(answer("403 Forbidden"), path="part-")
        with pytest.raises(StoreError, match=f"can't write {REMOTE}/test/{SHARD}.*AWS_ACCESS_KEY"):
            writer.flush()
        assert (writer.num_durable_accepted, stored(folder)) == (0, [])
        writer.add([make_sample("B")])
        writer.flush()
        assert (writer.num_durable_accepted, len(stored(folder))) == (2, 2)


def test_a_write_that_was_done_and_reported_failed_is_not_done_twice(
    s3: S3Server, tmp_path: Path
) -> None:
    """The disk here fills up behind S3's back."""
    with (
        machine(tmp_path) as folder,
        SampleStore(folder.samples, folder.files).writer(0) as writer,
    ):
        writer.add([make_sample("A")])
        shutil.rmtree(folder.samples)
        folder.samples.write_bytes(b"")
        with pytest.raises(StoreError, match="make the folder writable"):
            writer.flush()
        folder.samples.unlink()
        SampleStore(folder.samples).round_folder(0).mkdir(parents=True)
        writer.add([make_sample("B")])
        writer.flush()
        assert (writer.num_durable_accepted, stored(folder)) == (2, ["A", "B"])


def test_two_writers_never_share_a_shard(objects: Objects, tmp_path: Path) -> None:
    """Whoever lost the run and doesn't know it yet can't write what he hasn't seen."""
    with machine(tmp_path / "one") as one:
        write(one, make_sample("A"))
        objects.delete("lease.json")
        with machine(tmp_path / "two") as two:
            write(two, make_sample("B"))
            with pytest.raises(ConflictError, match=r"part-000001.parquet was written by somebody"):
                write(one, make_sample("B", completion="another"))
    with machine(tmp_path / "three") as three:
        assert stored(three) == ["A", "B"]


@pytest.mark.parametrize("first", [0, 1], ids=["who lost the run", "who took it"])
def test_two_writers_never_add_to_one_shard(first: int, objects: Objects, tmp_path: Path) -> None:
    """The other one then can't: he hasn't seen what is there."""
    with machine(tmp_path / "one") as one:
        writers = [SampleWriter(SampleStore(one.samples, one.files), 0)]
        writers[0].add([make_sample("A")])
        writers[0].flush()
        objects.delete("lease.json")
        with machine(tmp_path / "two") as two:
            writers.append(SampleWriter(SampleStore(two.samples, two.files), 0))
            for name, writer in zip(("one", "two"), writers, strict=True):
                writer.add([make_sample("B", completion=name)])
            writers[first].flush()
            written = objects.read(SHARD)
            with pytest.raises(ConflictError, match=r"part-000000.parquet was written by somebody"):
                writers[1 - first].flush()
    assert objects.read(SHARD) == written


def test_a_shard_grows_there_first_by_one_request(
    s3: S3Server, objects: Objects, tmp_path: Path
) -> None:
    names = list("ABCDEF")
    with machine(tmp_path / "one") as one:
        writer = SampleWriter(SampleStore(one.samples, one.files), 0)
        for number, name in enumerate(names[:4]):
            if number == 2:  # done, and not said so
                s3.fail(hang_up_after, path=SHARD)
            writer.add([make_sample(name)])
            writer.flush()
            assert objects.read(SHARD) == (one.path / SHARD).read_bytes()
        requests = [method for method, path in s3.requests if path.endswith(SHARD)]
        assert requests.count("PUT") == 5
        assert stored(one) == names[:4]
        older = (one.path / SHARD).read_bytes()
    with machine(tmp_path / "two") as two:
        before = objects.read(SHARD)
        writer = SampleWriter(SampleStore(two.samples, two.files), 0)
        for name in names[4:]:
            writer.add([make_sample(name)])
            writer.flush()
        assert (older, stored(two)) == (before, names)
    pull(RunFolder(tmp_path / "one" / "test"), REMOTE)
    assert stored(one) == names
    assert [path.name for path in one.samples.rglob("*.*")] == [Path(SHARD).name]


def test_a_damaged_shard_is_set_aside_there_and_named(
    objects: Objects,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    with machine(tmp_path / "one") as one:
        write(one, make_sample("A"))
        write(one, make_sample("B"))
    flip_a_bit(objects, SHARD)
    pull(RunFolder(tmp_path / "looks" / "test"), REMOTE)  # changes nothing there
    assert objects.find(SHARD)
    for _ in range(2):
        with machine(tmp_path / "two") as two:
            assert stored(two) == ["B"]
            assert len(list(two.samples.rglob("*.damaged"))) == 1
    assert objects.find(f"{SHARD}.damaged")
    assert not objects.find(SHARD)
    assert f"{REMOTE}/test/{SHARD} can't be read (" in caplog.text
    with machine(tmp_path / "one") as one:  # two may have asked again for what was in it
        assert stored(one) == ["B"]
    assert f"isn't in {REMOTE}/test: no longer used" in caplog.text


def test_a_whole_copy_takes_the_place_of_a_damaged_shard(objects: Objects, tmp_path: Path) -> None:
    with machine(tmp_path / "one") as one:
        write(one, make_sample("A"))
    flip_a_bit(objects, SHARD)
    pull(one, REMOTE)
    assert stored(one) == ["A"]
    with machine(tmp_path / "one"):
        pass
    with machine(tmp_path / "two") as two:
        assert stored(two) == ["A"]


def test_a_damaged_adapter_is_named_with_what_to_do(
    objects: Objects, make_adapter: MakeAdapter, tmp_path: Path
) -> None:
    with machine(tmp_path / "one") as one:
        shutil.copytree(make_adapter("a").folder, one.adapter(0))
        one.files.add_folder(one.adapter(0), MANIFEST)
    flip_a_bit(objects, f"adapters/round-0000/{WEIGHTS}")
    with (
        pytest.raises(AdapterError, match=f"adapter {REMOTE}/test/adapters/round-0000: .*delete"),
        machine(tmp_path / "two"),
    ):
        pytest.fail("it was used")
    assert not (tmp_path / "two/test/adapters/round-0000").exists()


def test_what_is_damaged_here_comes_again(s3: S3Server, tmp_path: Path) -> None:
    with machine(tmp_path) as folder:
        write(folder, make_sample("A"))
        (folder.path / SHARD).write_bytes(b"damaged")
    with machine(tmp_path) as folder:
        assert stored(folder) == ["A"]


def test_verdicts_that_changed_are_there_too(s3: S3Server, tmp_path: Path) -> None:
    with machine(tmp_path / "one") as one:
        write(one, make_sample("A"))
        store = SampleStore(one.samples, one.files)
        store.supersede(one.path / SHARD, [make_sample("A", accepted=False)])
    with machine(tmp_path / "two") as two:
        assert [sample.accepted for sample in SampleStore(two.samples).samples()] == [False]


def test_another_run_is_not_touched(objects: Objects, tmp_path: Path) -> None:
    local = open_run(tmp_path / "local", config_of(remote=None))
    write(local, make_sample("mine"))
    with machine(tmp_path / "one") as one:
        write(one, make_sample("A"))
    with pytest.raises(RunFolderError, match=r"is another run than s3://bucket/runs/test"):
        held_run(local.path, REMOTE).__enter__()
    with pytest.raises(RunFolderError, match=r"is another run than s3://bucket/runs/test"):
        pull(local, REMOTE)
    assert stored(local) == ["mine"]
    with Lease(objects):
        """The refusals gave the hold back."""
    with pytest.raises(RunFolderError, match=r"no run in s3://bucket/runs/nobody"):
        pull(RunFolder(tmp_path / "nobody"), REMOTE)
    assert not (tmp_path / "nobody").exists()
    objects.delete("run.json")
    with pytest.raises(RunFolderError, match="there is none; restore what was there, copy the run"):
        held_run(one.path, REMOTE).__enter__()
    assert stored(one) == ["A"]


@pytest.mark.parametrize("remote", [REMOTE, None], ids=["within S3", "to S3"])
def test_a_run_that_was_copied_goes_on_where_it_is_now(
    remote: str | None, objects: Objects, tmp_path: Path
) -> None:
    """In its folder of before and in a new one; nobody has to edit run.toml."""
    elsewhere = f"s3://{BUCKET}/moved"
    with held_run(tmp_path / "old" / "test", remote) as held:
        before = open_run(tmp_path / "old", config_of(remote=remote), files=held.files)
        write(before, make_sample("A"))
    moved = Objects(RemoteAddress.parse(elsewhere) / "test", retry_seconds=2)
    with pytest.raises(RunFolderError, match=r"in s3://bucket/moved/test there is none"):
        held_run(before.path, elsewhere).__enter__()
    for path in filter(Path.is_file, before.path.rglob("*")):
        moved.replace(path.relative_to(before.path).as_posix(), path)
    for number, runs in enumerate((tmp_path / "old", tmp_path / "new", tmp_path / "old")):
        with held_run(runs / "test", elsewhere) as held:
            now = open_run(runs, config_of(remote=elsewhere), files=held.files)
            now.update_config(config_of(remote=elsewhere))
            write(now, make_sample(str(number)))
        assert len(stored(now)) == number + 2
    assert read_config(now).remote == elsewhere
    with pytest.raises(RunFolderError, match=rf"remote: '{elsewhere}' -> None"):
        open_run(tmp_path / "old", config_of(remote=None))
