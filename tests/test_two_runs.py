"""Two loops at once on one host, and two on one run."""

import os
import subprocess
import sys
from pathlib import Path

from conftest import MakeConfig
from fake_vllm import FakeVllm

from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore


def start(config: Path, runs: Path, cache: Path, fake: FakeVllm) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "selfstudy_engine.cli", "loop", "--config", str(config)]
    command += ["--runs", str(runs), "--server", fake.url]
    environment = os.environ | {
        "SELFSTUDY_SERVER_KEY": fake.api_key,
        "XDG_CACHE_HOME": str(cache),
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_first_runs_at_once_come_to_the_same(small_config: MakeConfig, tmp_path: Path) -> None:
    """Both make the cached table, and each has its own run folder."""
    folders = []
    with FakeVllm() as one, FakeVllm() as other:
        processes = []
        for name, fake in (("one", one), ("other", other)):
            changes = {"table__path": None, "rounds": 1, "name": name}
            path = tmp_path / f"{name}.toml"
            path.write_text(small_config(**changes).to_toml(), "utf-8")
            processes.append(start(path, tmp_path / "runs", tmp_path / "cache", fake))
            folders.append(RunFolder(tmp_path / "runs" / name))
        for process in processes:
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    first, second = (
        {sample.key[1:]: sample.completion for sample in SampleStore(folder.samples).samples()}
        for folder in folders
    )
    assert len(first) == 8
    assert first == second
    assert not list((tmp_path / "cache").rglob("*.tmp"))


def test_a_second_loop_on_a_run_is_refused(
    small_config: MakeConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    """It names who holds the run, and disturbs nothing."""
    path = tmp_path / "loop.toml"
    path.write_text(small_config(rounds=1).to_toml(), "utf-8")
    fake.latency_seconds = 3  # the first is still asking when the second comes
    with start(path, tmp_path / "runs", tmp_path / "cache", fake) as first:
        while not fake.generations:
            assert first.poll() is None
        second = start(path, tmp_path / "runs", tmp_path / "cache", fake)
        output, _ = second.communicate(timeout=120)
        assert second.returncode == 2
        assert f"is in use by process {first.pid} on {os.uname().nodename}" in output
        fake.latency_seconds = 0
        output, _ = first.communicate(timeout=120)
        assert first.returncode == 0, output
