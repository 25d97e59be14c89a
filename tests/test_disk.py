"""A loop whose disk is full at every stage, or read-only, or whose clock goes backwards."""

import itertools
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner
from conftest import MakeConfig, QuietReporter, train_here
from fake_vllm import FakeVllm
from stored_samples import Content, content_of

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.audit import audit
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.data.os_errors import explain
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.loop import run_loop

KIB = 1024
STEP = 48 * KIB
"""By so much the disk grows after each failure: less than an adapter or a log of the tiny run."""


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mounting = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", str(place)]
    if subprocess.run(mounting, capture_output=True, check=False).returncode:
        pytest.skip("mounting a small disk takes root")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def leave(disk: Path, num_bytes: int) -> None:
    """Fill the disk but for so many bytes."""
    ballast = disk / "ballast"
    ballast.write_bytes(b"")
    status = os.statvfs(disk)
    ballast.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - num_bytes)))


def try_until_done(config: RunConfig, disk: Path, fake: FakeVllm) -> list[str]:
    """Run the loop again and again, each time with more room; returns what it said."""
    said: list[str] = []
    folder, room = RunFolder(disk / "test"), 0
    kept: Content = {}
    while True:
        leave(disk, room)
        try:
            run_loop(config, disk, QuietReporter(), fake.api_key, start_training=train_here)
            return said
        except OSError as error:
            said.append(explain(error))
        except TrainingError as error:
            said.append(str(error))
        now = content_of(folder) if folder.samples.exists() else {}
        assert now.items() >= kept.items(), "a stored sample was lost"
        kept, room = now, room + STEP
        assert room < 8 * KIB * KIB, said


def test_a_loop_on_a_full_disk_goes_on_wherever_it_was_filled(
    fake: FakeVllm, small_config: MakeConfig, disk: Path, tmp_path: Path
) -> None:
    config = small_config(server__url=fake.url)
    run_loop(config, tmp_path, QuietReporter(), fake.api_key, start_training=train_here)
    said = try_until_done(config, disk, fake)
    assert len(said) > 3
    for message in said:
        assert "No space left on device" in message
        assert "free disk space" in message
        assert "\n" not in message
    for stage in ("run.toml", "adapter_model.safetensors", ".parquet"):
        assert any(stage in message for message in said), f"never full at {stage}: {said}"
    folder, unharmed = RunFolder(disk / "test"), RunFolder(tmp_path / "test")
    assert content_of(folder) == content_of(unharmed)
    assert audit(folder).problems == []
    assert not list(folder.path.rglob("*.tmp"))


def test_a_read_only_folder_is_named_with_what_to_do(
    fake: FakeVllm, small_config: MakeConfig, disk: Path, tmp_path: Path
) -> None:
    config = small_config(server__url=fake.url)
    path = tmp_path / "loop.toml"
    path.write_text(config.to_toml(), "utf-8")
    subprocess.run(["mount", "-o", "remount,ro", str(disk)], check=True)
    arguments = ["loop", "--config", str(path), "--runs", str(disk)]
    result = CliRunner().invoke(cli, arguments, env={"SELFSTUDY_SERVER_KEY": fake.api_key})
    assert result.exit_code == 2
    [line] = result.stderr.splitlines()
    assert "Read-only file system" in line
    assert str(disk) in line
    assert "make it writable" in line
    assert fake.requests == []


def test_an_error_of_the_system_without_a_known_remedy_is_told_as_it_is() -> None:
    assert explain(OSError(5, "Input/output error", "/x/y")) == "/x/y: Input/output error"
    assert explain(OSError("odd")) == "odd"


def test_a_clock_that_goes_backwards_changes_nothing(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing is ordered or waited for by the time of day."""
    config = small_config(server__url=fake.url)
    run_loop(config, tmp_path / "a", QuietReporter(), fake.api_key, start_training=train_here)
    now = itertools.count(2_000_000_000.0, -3600.0)
    monkeypatch.setattr(time, "time", lambda: next(now))
    run_loop(config, tmp_path / "b", QuietReporter(), fake.api_key, start_training=train_here)
    folders = [RunFolder(tmp_path / name / "test") for name in ("a", "b")]
    times = [sample.created_at for sample in SampleStore(folders[1].samples).samples()]
    assert times[-1] < times[0], "the clock went backwards"
    first, second = (sorted(content_of(folder)) for folder in folders)
    assert first == second
    assert audit(folders[1]).problems == []
    monkeypatch.undo()
    assert run_loop(config, tmp_path / "b", QuietReporter(), fake.api_key)
