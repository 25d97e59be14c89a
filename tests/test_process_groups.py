"""What a killed process leaves behind: nothing."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from selfstudy_engine.engine import process_groups
from selfstudy_engine.engine.process_groups import Reaper, group_exists, kill_tree

DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); {}; time.sleep(600)"
"""As vLLM is at some moments of its start."""
PARENT = """
import subprocess, sys, time
from selfstudy_engine.data.parent_death import end_with_parent
from selfstudy_engine.engine import process_groups

process_groups.GRACE_SECONDS = 1
child = subprocess.Popen(
    [sys.executable, "-c", sys.argv[1]],
    start_new_session=True,
    stdout=subprocess.PIPE,
    preexec_fn=end_with_parent,
)
reaper = process_groups.Reaper(child.pid)
child.stdout.readline()
print(child.pid, flush=True)
time.sleep(600)
"""


TRAINING_BENCHMARK = """
import sys
from pathlib import Path
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.engine.bench_training import measure_training

sys.executable = sys.argv[1]
measure_training(RunConfig(), "a model", 1, 1, Path(sys.argv[1]).parent)
"""


def wait_until_gone(group: int, seconds: float = 20) -> None:
    deadline = time.monotonic() + seconds
    while group_exists(group):
        assert time.monotonic() < deadline, f"group {group} is left"
        time.sleep(0.05)


def wait_until_ended(process: psutil.Process, seconds: float = 20) -> None:
    """It stays a zombie until process 1 collects it."""
    deadline = time.monotonic() + seconds
    with suppress(psutil.NoSuchProcess):
        while process.status() != psutil.STATUS_ZOMBIE:
            assert time.monotonic() < deadline, f"{process} still runs"
            time.sleep(0.05)


def reaper_of(group: int, seconds: float = 20) -> psutil.Process:
    """Its launcher ends before it is what it will be."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        for process in psutil.process_iter(["cmdline"]):
            if (process.info["cmdline"] or [])[3:5] == ["reaper", str(group)]:
                return process
        time.sleep(0.05)
    raise AssertionError(f"no reaper of {group}")


def test_a_child_that_loses_the_signal_doesnt_outlive_a_killed_parent() -> None:
    deaf = DEAF.format("print(flush=True)")
    command = [sys.executable, "-c", PARENT, deaf]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        group = int(parent.stdout.readline())
        reaper = reaper_of(group)
        for child in psutil.Process(parent.pid).children():
            if child.pid != group:
                child.kill()  # as Ray does before it kills a worker
        parent.kill()
    wait_until_gone(group)
    wait_until_ended(reaper)


def test_without_a_reaper_it_does() -> None:
    """Else the test above would show nothing."""
    lonely = PARENT.replace("reaper = process_groups.Reaper(child.pid)", "")
    command = [sys.executable, "-c", lonely, DEAF.format("print(flush=True)")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout
        group = int(parent.stdout.readline())
        parent.kill()
    time.sleep(2)
    assert group_exists(group)
    os.killpg(group, signal.SIGKILL)


def test_a_dismissed_reaper_is_gone_and_kills_nobody(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(process_groups, "GRACE_SECONDS", 1)
    with subprocess.Popen(["sleep", "600"], start_new_session=True) as child:
        try:
            reaper = Reaper(child.pid)
            shell = reaper_of(child.pid)
            reaper.dismiss()
            wait_until_ended(shell)
            assert child.poll() is None
        finally:
            child.kill()


def test_a_killed_tree_leaves_nobody_in_a_session_of_its_own() -> None:
    """As the workers of torch's launcher are."""
    script = (
        "import subprocess, time; "
        "child = subprocess.Popen(['sleep', '600'], start_new_session=True); "
        "print(child.pid, flush=True); time.sleep(600)"
    )
    command = [sys.executable, "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as leader:
        assert leader.stdout
        worker = psutil.Process(int(leader.stdout.readline()))
        kill_tree(leader)
        leader.wait()
    psutil.wait_procs([worker], timeout=10)
    assert not worker.is_running()
    kill_tree(leader)  # which is nobody any more


def test_a_benchmarks_training_doesnt_outlive_it(tmp_path: Path) -> None:
    python = tmp_path / "python"
    python.write_text('#!/bin/sh\necho $$ > "$0.new"; mv "$0.new" "$0.pid"; exec sleep 60\n')
    python.chmod(0o755)
    benchmark = subprocess.Popen([sys.executable, "-c", TRAINING_BENCHMARK, str(python)])
    deadline = time.monotonic() + 20
    while not (pid := tmp_path / "python.pid").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    training = psutil.Process(int(pid.read_text()))
    benchmark.kill()
    benchmark.wait()
    try:
        wait_until_ended(training, 5)
    finally:
        with suppress(psutil.NoSuchProcess):
            training.kill()
