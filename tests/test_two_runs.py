"""Two loops at once on one host, and two on one run."""

import os
import subprocess
import sys
import time
from pathlib import Path

from conftest import MakeConfig
from fake_vllm import FakeVllm

from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore

PROGRAM = """
from conftest import train_here
from selfstudy_engine.cli.main import cli
from selfstudy_engine.engine.loop import run_loop

run_loop.__kwdefaults__["start_training"] = train_here
cli()
"""
"""The command, training in its own process, which imports torch once."""


def start(config: Path, runs: Path, cache: Path, fake: FakeVllm) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PROGRAM, "loop", "--config", str(config)]
    command += ["--runs", str(runs), "--server", fake.url]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join(sys.path),
        "SELFSTUDY_SERVER_KEY": fake.api_key,
        "XDG_CACHE_HOME": str(cache),
    }
    return subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )


def test_two_first_runs_at_once_come_to_the_same_and_a_second_on_one_is_refused(
    small_config: MakeConfig, tmp_path: Path
) -> None:
    """Both make the cached table, and each has its own run folder; a third disturbs neither."""
    runs, cache = tmp_path / "runs", tmp_path / "cache"
    paths = []
    for name in ("one", "other"):
        paths.append(tmp_path / f"{name}.toml")
        changes = {"table__path": None, "rounds": 1, "name": name}
        changes["generation__request_timeout_seconds"] = 120
        paths[-1].write_text(small_config(**changes).to_toml(), "utf-8")
    with (
        FakeVllm() as fake,
        FakeVllm() as fake_of_other,
        start(paths[0], runs, cache, fake) as first,
        start(paths[1], runs, cache, fake_of_other) as other,
    ):
        while not fake.generations:
            assert first.poll() is None
            time.sleep(0.02)
        fake.answer("/pause", {}, {})  # the first is still asking when the third comes
        third = start(paths[0], runs, cache, fake)
        refusal, _ = third.communicate(timeout=120)
        fake.answer("/resume", {}, {})
        assert third.returncode == 1  # the same call may be right once the first has ended
        assert f"is in use by process {first.pid} on {os.uname().nodename}" in refusal
        for process in (first, other):
            output, _ = process.communicate(timeout=300)
            assert process.returncode == 0, output
    stores = [SampleStore(RunFolder(runs / name).samples) for name in ("one", "other")]
    answers = [{s.key[1:]: s.completion for s in store.samples()} for store in stores]
    assert len(answers[0]) == 8
    assert answers[0] == answers[1]
    assert not list(cache.rglob("*.tmp"))
