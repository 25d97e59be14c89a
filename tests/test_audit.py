"""`store fsck`: whatever happened to the bytes is found, named, and repaired without loss."""

import random
import shutil
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result
from samples import make_sample, write_adapter
from stored_samples import fill

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.adapters import WEIGHTS, read_adapter
from selfstudy_engine.data.audit import Audit, audit, repair
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.errors import RunFolderError
from selfstudy_engine.data.run_folder import RunFolder, open_run
from selfstudy_engine.data.schema import NO_ADAPTER, Sample
from selfstudy_engine.data.store import SampleStore

MOLECULES = ("A", "B", "C")


@pytest.fixture
def run(tmp_path: Path) -> RunFolder:
    """A run of two rounds; round 0 has two shards, and one sample of the base model."""
    config = load_config(None, {"name": "test"})
    folder = open_run(tmp_path / "runs", config, "fingerprint", "selfstudy-engine loop --run test")
    store = SampleStore(folder.samples)
    for index in range(2):
        adapter = read_adapter(write_adapter(folder.adapter(index)))
        shards = [MOLECULES[:2], MOLECULES[2:]] if index == 0 else [MOLECULES]
        made = [[made_by(adapter.name, adapter.sha256, key, index) for key in s] for s in shards]
        fill(store, *made, round_index=index)
    fill(store, [made_by(NO_ADAPTER, "", "D", 1)], round_index=1)
    return folder


def made_by(name: str, sha256: str, molecule_id: str, round_index: int) -> Sample:
    return make_sample(molecule_id, adapter=name, adapter_sha256=sha256, round=round_index)


def shards(run: RunFolder) -> list[Path]:
    return SampleStore(run.samples).shards()


def content(run: RunFolder) -> dict[str, bytes]:
    files = (path for path in run.path.rglob("*") if path.is_file())
    return {path.relative_to(run.path).as_posix(): path.read_bytes() for path in files}


def kinds(found: Audit) -> list[str]:
    return [problem.kind for problem in found.problems]


def call(run: RunFolder, *arguments: str) -> Result:
    command = ["store", "fsck", "--run", run.path.name, "--runs", str(run.path.parent)]
    return CliRunner().invoke(cli, [*command, *arguments])


def test_a_sound_run_has_no_problems(run: RunFolder) -> None:
    found = audit(run)
    assert (found.num_shards, found.num_samples, found.num_adapters) == (4, 7, 2)
    assert (found.problems, found.set_aside) == ([], [])
    result = call(run)
    assert result.exit_code == 0
    assert result.output == "7 samples in 4 shards, 2 adapters whole; 0 problems, 0 left\n"


def test_a_truncated_shard_is_found_wherever_it_ends(run: RunFolder) -> None:
    path = shards(run)[0]
    whole = path.read_bytes()
    for length in range(0, len(whole), 97):
        path.write_bytes(whole[:length])
        [problem] = audit(run).problems
        assert (problem.kind, run.path / problem.path) == ("damaged shard", path)
    path.write_bytes(whole)
    assert audit(run).problems == []


def test_a_flipped_bit_is_found_or_changes_nothing(run: RunFolder) -> None:
    path, store = shards(run)[0], SampleStore(run.samples)
    whole, samples = path.read_bytes(), store.load_shard(path)
    generator = random.Random(5)
    num_found = 0
    for place in generator.sample(range(len(whole)), 150):
        changed = bytearray(whole)
        changed[place] ^= 1 << generator.randrange(8)
        path.write_bytes(changed)
        found = kinds(audit(run))
        assert found or store.load_shard(path) == samples, place
        num_found += bool(found)
    assert num_found > 50


def test_looking_changes_nothing(run: RunFolder) -> None:
    shards(run)[0].write_bytes(b"not a shard")
    shutil.copy(shards(run)[1], shards(run)[1].with_name("part-000009.parquet"))
    before = content(run)
    assert call(run).exit_code == 1
    assert content(run) == before


def test_a_damaged_shard_is_set_aside_and_the_rest_stays(run: RunFolder) -> None:
    damaged = shards(run)[0]
    damaged.write_bytes(b"not a shard")
    result = call(run, "--repair")
    assert result.exit_code == 0
    assert "samples/round-0000/part-000000.parquet: damaged shard: " in result.output
    assert "(repaired)" in result.output
    assert "; 1 problem, 0 left" in result.output
    assert damaged.with_name(damaged.name + ".damaged").read_bytes() == b"not a shard"
    after = audit(run)
    assert (after.num_samples, after.problems, len(after.set_aside)) == (5, [], 1)
    assert "set aside before" in call(run).output


def test_a_sample_that_is_there_twice_is_kept_once(run: RunFolder) -> None:
    store = SampleStore(run.samples)
    first = store.load_shard(shards(run)[0])
    twice = shards(run)[0].with_name("part-000009.parquet")
    shutil.copy(shards(run)[0], twice)
    [problem] = audit(run).problems
    assert problem.kind == "sample twice"
    assert problem.detail == "2 samples, the first of A"
    before, after = repair(run)
    assert (before.problems, after.problems) == ([problem], [])
    assert store.load_shard(shards(run)[0]) == first
    assert [sample.molecule_id for sample in store.samples(0)] == ["A", "B", "C"]


def test_many_samples_that_are_there_twice_are_read_a_few_times(
    run: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each shard was read once for each copy: 200 copies took minutes."""
    for number in range(10, 30):
        shutil.copy(shards(run)[0], shards(run)[0].with_name(f"part-0000{number}.parquet"))
    num_read = 0
    read = Path.read_bytes

    def count(path: Path) -> bytes:
        nonlocal num_read
        num_read += path.suffix == ".parquet"
        return read(path)

    monkeypatch.setattr(Path, "read_bytes", count)
    before, after = repair(run)
    assert (len(before.problems), after.problems, after.num_samples) == (20, [], 7)
    assert num_read < 5 * len(shards(run))


def test_samples_of_another_round_are_named(run: RunFolder) -> None:
    shutil.move(shards(run)[-1], shards(run)[0].with_name("part-000009.parquet"))
    [problem] = audit(run).problems
    assert problem.kind == "alien sample"
    assert problem.detail == "samples of round 1 in the folder of round 0"
    assert repair(run)[1].problems == [problem]  # nothing that we may decide


def test_samples_of_an_adapter_that_isnt_there_are_named(run: RunFolder) -> None:
    shutil.rmtree(run.adapter(0))
    found = audit(run)
    assert kinds(found) == ["unproven adapter"] * 2
    assert "round-0000, which isn't there whole" in found.problems[0].detail


def test_an_adapter_with_other_weights_is_named(run: RunFolder) -> None:
    store = SampleStore(run.samples)
    [kept] = [path for path in shards(run) if path.parent == store.round_folder(1)][1:]
    store.supersede(kept, [made_by("round-0001", "cd" * 32, "D", 1)])
    [problem] = audit(run).problems
    assert problem.detail.startswith("samples name round-0001 with SHA-256 cdcdcdcdcdcd; it has")
    (run.adapter(0) / WEIGHTS).write_bytes(b"others")
    assert kinds(audit(run))[0] == "damaged adapter"
    assert "its SHA-256 differs" in audit(run).problems[0].detail


def test_a_running_loop_is_not_disturbed(run: RunFolder) -> None:
    shards(run)[0].write_bytes(b"not a shard")
    with run.locked(), pytest.raises(RunFolderError, match="is in use by process"):
        repair(run)
    assert shards(run)[0].read_bytes() == b"not a shard"


def test_json_has_the_same(run: RunFolder) -> None:
    shards(run)[0].write_bytes(b"not a shard")
    result = call(run, "--json")
    assert result.exit_code == 1
    shown = orjson.loads(result.output)
    assert (shown["num_shards"], shown["num_samples"]) == (4, 5)
    [problem] = shown["problems"]
    assert problem == shown["left"][0]
    assert problem["path"] == "samples/round-0000/part-000000.parquet"
