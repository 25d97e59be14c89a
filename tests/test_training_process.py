"""How the training process ends before it is done: killed, too slow, hanging, or with an error."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import MakeConfig
from tiny_training import main_here, train_here
from waiting import wait_for

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.engine.launching import launch_here
from selfstudy_engine.engine.training import TimeLimits, TrainingProcess, run_training


def test_a_killed_process_leaves_no_adapter(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    """Killed at the worst moment: while it writes the adapter's folder."""
    (tmp_path / "run.toml").write_text(small_config().to_toml(), "utf-8")
    adapters = tmp_path / "adapters"
    adapters.mkdir()
    output = adapters / "round-0000"
    command: list[str | Path] = [sys.executable, "-m", "selfstudy_engine.train"]
    command += ["--config", tmp_path / "run.toml", "--model", tiny_model, "--output", output]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: any(adapters.iterdir()) or process.poll() is not None, 0.0005)
        process.send_signal(signal.SIGKILL)
    if output.exists():
        read_adapter(output)  # it was faster: then the folder is whole
        pytest.skip("the process was done before it could be killed")
    # The next try isn't disturbed by what lies there, and clears it away.
    train_here(small_config(), tiny_model, output)
    read_adapter(output)
    assert [path.name for path in adapters.iterdir()] == ["round-0000"]


def test_a_training_that_takes_too_long_is_ended(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(small_config().to_toml(), "utf-8")
    arguments: dict[str, object] = {
        "config": tmp_path / "run.toml",
        "model": tiny_model,
        "output": tmp_path / "a",
    }
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"longer than 0\.3 s and was ended; raise train\.time"):
        run_training(arguments, tmp_path / "train.log", TimeLimits(0.3, 60))
    assert time.monotonic() - started < 5
    assert not (tmp_path / "a").exists()


def test_a_training_that_hangs_is_ended_and_one_that_shows_progress_isnt(
    tmp_path: Path,
) -> None:
    """Four signs half a second apart are no hang of a second; what follows is one."""
    script = """if True:
    import time
    for step in range(4):
        print('{"event": "step", "step": %d, "max_steps": 9}' % step, flush=True)
        time.sleep(0.5)
    time.sleep(600)
    """
    steps: list[int] = []
    launch = replace(launch_here(), command=(sys.executable, "-c", script))
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"no sign of life for 1 s .*train\.stall_seconds"):
        run_training(
            {},
            tmp_path / "train.log",
            TimeLimits(60, 1),
            lambda step, _: steps.append(step),
            launch,
        )
    assert steps == [0, 1, 2, 3]
    assert 2.4 < time.monotonic() - started < 30


def test_a_process_that_the_system_killed_says_that_memory_may_have_run_out(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    (tmp_path / "run.toml").write_text(small_config().to_toml(), "utf-8")
    arguments: dict[str, object] = {"config": tmp_path / "run.toml", "model": tiny_model}
    arguments["output"] = tmp_path / "a"
    with TrainingProcess(arguments, tmp_path / "train.log", TimeLimits(60, 60)) as training:
        os.kill(training._process.pid, signal.SIGKILL)
        with pytest.raises(TrainingError, match=r"exit code -9; if nobody killed it, .*memory"):
            training.result()


def test_a_process_that_fails_otherwise_shows_its_last_lines(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"exit code 2.*train\.log:\n(.*\n)*.*--config"):
        run_training({"samples": tmp_path}, tmp_path / "logs" / "train.log", TimeLimits(60, 60))


def test_the_process_says_what_is_wrong_in_one_line(
    tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "run.toml").write_text("rounds = 0\n", "utf-8")
    code, last = main_here(
        capsys, "--config", tmp_path / "run.toml", "--model", tiny_model, "--output", tmp_path / "a"
    )
    assert (code, last["event"]) == (2, "error")
    assert "rounds: Input should be greater than or equal to 1" in last["message"]
