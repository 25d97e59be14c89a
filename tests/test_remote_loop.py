"""Whole runs that lie in S3, each of their lives on a machine with an empty disk."""

import multiprocessing
import os
from collections.abc import Callable, Iterator
from multiprocessing.context import ForkServerProcess
from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from conftest import MakeConfig, QuietReporter, loop, train_here
from fake_vllm import FakeVllm
from s3_server import BUCKET, S3Server, answer, go_on, kill
from stored_samples import Content, content_of

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import RunFolderError, SelfStudyError, StoreError
from selfstudy_engine.data.lease import Owner
from selfstudy_engine.data.objects import Objects
from selfstudy_engine.data.remote_address import RemoteAddress
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import load_records

REMOTE = f"s3://{BUCKET}/runs"
ROUNDS, BATCH = 1, 8
_MACHINES = multiprocessing.get_context("forkserver")


@pytest.fixture
def objects(s3: S3Server) -> Objects:
    return Objects(RemoteAddress.parse(REMOTE) / "test", retry_seconds=2)


@pytest.fixture
def config(small_config: MakeConfig) -> RunConfig:
    return small_config(remote=REMOTE, rounds=ROUNDS)


def train_nothing(*args: object) -> Any:
    raise AssertionError("it was trained already")


def live(config: RunConfig, runs: Path, fake: FakeVllm, train: Any = train_here) -> RunFolder:
    """Run the loop in this process."""
    loop(config, runs, fake, start_training=train)
    return RunFolder(runs / "test")


def in_s3(objects: Objects, scratch: Path) -> tuple[Content, dict[str, bytes]]:
    """Return the samples that are in S3 now, and the manifests."""
    store, manifests = RunFolder(scratch), {}
    for name in [meta["path"] for meta in objects.list()]:
        if name.endswith("manifest.json"):
            manifests[name] = objects.read(name)
        elif name.startswith("samples/"):
            path = scratch / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(objects.read(name))
    return content_of(store), manifests


def _live(config: RunConfig, runs: Path, key: str, environment: dict[str, str]) -> None:
    os.environ.update(environment)
    run_loop(config, runs, QuietReporter(), key, start_training=train_here)


@pytest.fixture(scope="module")
def start_elsewhere() -> Iterator[Callable[..., ForkServerProcess]]:
    """Start loops in processes of their own, which have loaded everything."""
    _MACHINES.set_forkserver_preload(["conftest", "selfstudy_engine.train.trainer"])
    begun: list[ForkServerProcess] = []

    def start(config: RunConfig, runs: Path, fake: FakeVllm, s3: S3Server) -> ForkServerProcess:
        server = config.server.model_copy(update={"url": [fake.url]})
        config = config.model_copy(update={"server": server})
        arguments = (config, runs, fake.api_key, s3.environment())
        process = _MACHINES.Process(target=_live, args=arguments)
        process.start()
        begun.append(process)
        return process

    yield start
    for process in begun:
        process.kill()
        process.join()


BOUNDARIES = [
    ("exemplars.jsonl", False),
    ("adapters/round-0000/manifest.json", False),
    ("evaluations/round-0000", True),
    ("samples/round-0000", True),
    ("evaluations/round-0001", False),
]
"""Part of a name whose first PUT kills the loop, and whether it is done before that."""


def test_a_loop_that_is_killed_at_its_writes_ends_elsewhere_as_if_it_hadnt_been(
    s3: S3Server,
    objects: Objects,
    config: RunConfig,
    fake: FakeVllm,
    start_elsewhere: Callable[..., ForkServerProcess],
    tmp_path: Path,
) -> None:
    unharmed = content_of(live(config.model_copy(update={"remote": None}), tmp_path, fake))
    fake.latency_seconds = 0.3  # so that a round has several shards
    for life, (name, after) in enumerate(BOUNDARIES):
        process: list[ForkServerProcess] = []
        s3.fail(kill(lambda: process[0].pid or 0, after=after), path=name)  # noqa: B023
        before, manifests = in_s3(objects, tmp_path / f"before-{life}")
        process.append(start_elsewhere(config, tmp_path / f"machine-{life}", fake, s3))
        process[0].join(300)
        assert (process[0].exitcode, s3.faults) == (-9, []), name
        samples, now = in_s3(objects, tmp_path / f"after-{life}")
        assert before.items() <= samples.items()
        assert manifests.items() <= now.items()
    fake.latency_seconds = 0
    stored, manifests = in_s3(objects, tmp_path / "stored")
    assert len(stored) == BATCH
    final = live(config, tmp_path / "last", fake, train_nothing)
    assert content_of(final) == unharmed
    assert [record.round for record in load_records(final)] == [0, 1]
    sha256 = {read_adapter(final.adapter(index)).sha256 for index in (0, 1)}
    assert {sample[2] for sample in stored.values()} <= sha256


def test_other_commands_read_the_folder_that_pull_makes(
    s3: S3Server, objects: Objects, config: RunConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    first = live(config, tmp_path / "one", fake)
    num_asked = len(fake.generations)
    again = live(config, tmp_path / "two", fake, train_nothing)
    assert len(fake.generations) == num_asked
    assert again.metrics.read_bytes() == first.metrics.read_bytes()

    def call(*arguments: str) -> str:
        command = [*arguments, "--run", "test", "--runs", str(tmp_path / "three")]
        result = CliRunner().invoke(cli, command, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    refused = CliRunner().invoke(cli, ["store", "ls", "--run", "test", "--runs", str(tmp_path)])
    assert "get it from S3 with `selfstudy-engine store pull`" in " ".join(refused.output.split())
    call("store", "pull", "--remote", REMOTE)
    call("store", "pull")
    checked = orjson.loads(call("store", "fsck", "--json"))
    assert (checked["num_samples"], checked["num_adapters"], checked["left"]) == (BATCH, 2, [])
    call("store", "export", "--out", str(tmp_path / "samples.jsonl"))
    call("store", "fsck", "--repair")
    assert content_of(RunFolder(tmp_path / "three" / "test")) == content_of(first)
    texts = [objects.read(meta["path"]) for meta in objects.list()]
    texts += [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(b"secret-of-the-bucket" in text for text in texts)


@pytest.mark.usefixtures("s3")
def test_the_runs_name_and_address_are_enough_to_go_on(
    config: RunConfig, fake: FakeVllm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On an empty disk, where a copy is stale or damaged: it is S3 that tells what the run is."""
    monkeypatch.setenv("SELFSTUDY_SERVER_KEY", fake.api_key)
    first = live(config, tmp_path / "one", fake)
    live(config, tmp_path / "two", fake)
    plan = ["loop", "--run", "test", "--remote", REMOTE, "--dry-run", "--runs", str(tmp_path / "0")]
    assert f"{first.path.name}\n# kept in: {REMOTE}/test" in CliRunner().invoke(cli, plan).output
    more = live(config.model_copy(update={"rounds": 2}), tmp_path / "one", fake)
    (tmp_path / "two" / "test" / "run.json").write_bytes(b"damaged")
    for machine in ("two", "three"):
        arguments = ["loop", "--run", "test", "--remote", REMOTE, "--server", fake.url]
        result = CliRunner().invoke(cli, [*arguments, "--runs", str(tmp_path / machine)])
        assert result.exit_code == 0, result.output
        found = RunFolder(tmp_path / machine / "test")
        assert f"Continues {found.path}" in result.output
        assert found.metrics.read_bytes() == more.metrics.read_bytes()
        assert read_config(found).kept() == read_config(first).kept()


def test_a_damaged_run_in_s3_is_named_there(objects: Objects, tmp_path: Path) -> None:
    for key, content, said in (
        ("run.json", b"damaged", "/run.json is damaged"),
        ("run.json", b'{"format": 1}', "invalid configuration in"),
    ):
        objects.replace(key, content)
        objects.replace("run.toml", b"nothing = 1")
        arguments = ["loop", "--run", "test", "--remote", REMOTE, "--runs", str(tmp_path)]
        result = CliRunner().invoke(cli, arguments)
        assert result.exit_code == 2
        shown = " ".join(result.output.split())
        assert said in shown
        assert f"{REMOTE}/test/run." in shown


def test_a_loop_ends_when_s3_does_not_take_its_samples_and_goes_on_elsewhere(
    s3: S3Server, objects: Objects, config: RunConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    fake.latency_seconds = 0.7
    shown: list[str] = []

    class Shown(QuietReporter):
        def advance(self, done: int, detail: str = "") -> None:
            shown.append(detail)

    s3.fail(go_on, path="part-")
    s3.fail(answer("403 Forbidden"), path="part-", times=100)
    server = config.server.model_copy(update={"url": [fake.url]})
    with pytest.raises(StoreError, match=rf"can't write {REMOTE}/test/samples/.*AWS_ACCESS_KEY_ID"):
        run_loop(
            config.model_copy(update={"server": server}),
            *(tmp_path / "one", Shown(), fake.api_key),
            start_training=train_here,
        )
    stored, _ = in_s3(objects, tmp_path / "stored")
    num_accepted = sum(accepted for _, accepted, _ in stored.values())
    assert 0 < len(stored) < BATCH
    assert max(int(detail.split()[0]) for detail in shown if "accepted" in detail) <= num_accepted
    s3.faults.clear()
    fake.latency_seconds = 0
    final = content_of(live(config, tmp_path / "two", fake))
    assert stored.items() <= final.items()
    assert len(final) == BATCH


def test_a_damaged_shard_is_asked_again(
    s3: S3Server, objects: Objects, config: RunConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    whole = content_of(live(config, tmp_path / "one", fake))
    shard = next(meta["path"] for meta in objects.list() if "part-" in meta["path"])
    content = bytearray(objects.read(shard))
    content[100] ^= 4
    objects.replace(shard, bytes(content))
    assert content_of(live(config, tmp_path / "two", fake)) == whole


def test_a_second_loop_is_refused_before_anything_is_done(
    objects: Objects, config: RunConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    owner = {
        "host": "elsewhere",
        "process": 7,
        "machine": "another",
        "token": "t",
        "seconds": 60.0,
        "renewals": 1,
        "released": False,
    }
    assert set(owner) == set(Owner.__dataclass_fields__)
    objects.create("lease.json", orjson.dumps(owner))
    with pytest.raises(RunFolderError, match="in use by process 7 on elsewhere"):
        live(config, tmp_path, fake, train_nothing)
    assert list(tmp_path.iterdir()) == []


def test_a_run_stays_where_it_was_begun(
    s3: S3Server, config: RunConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    s3.fail(answer("403 Forbidden"), path="adapters/")
    with pytest.raises(SelfStudyError):
        live(config, tmp_path, fake)
    local = config.model_copy(update={"remote": None})
    with pytest.raises(RunFolderError, match=rf"remote: '{REMOTE}' -> None"):
        live(local, tmp_path, fake, train_nothing)
