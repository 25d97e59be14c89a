"""Run the training process and follow what it says; the loop and training meet through files."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.devices import device_environment
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.engine.server import end_with_parent

_LOG_LINES = 12


def run_training(
    arguments: dict[str, object],
    log: Path,
    timeout_seconds: float,
    on_step: Callable[[int, int], None] = lambda step, num_steps: None,
    gpus: Sequence[Gpu] | None = None,
) -> dict[str, Any]:
    """Train one adapter in a process of its own.

    Args:
        arguments: of `python -m selfstudy_engine.train`; those that are None are left out.
        log: receives everything that the process writes.
        timeout_seconds: after that long the process is ended.
        on_step: called with the optimiser steps done and in all.
        gpus: that it sees, one at most; an empty sequence is the CPU, None what we see.

    Returns:
        The training's figures (see TrainingJob's `train_adapter`).

    Raises:
        TrainingError: the process failed or ran out of time; with its message or last lines.
    """
    command = [sys.executable, "-m", "selfstudy_engine.train"]
    for key, value in arguments.items():
        if value is not None:
            command += [f"--{key.replace('_', '-')}", str(value)]
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("ab") as file:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=file,
            env=training_environment(gpus),
            start_new_session=True,
            preexec_fn=end_with_parent,  # noqa: PLW1509 - one system call, no locks
        )
        timed_out = threading.Event()

        def end() -> None:
            timed_out.set()
            _kill_group(process)

        timer = threading.Timer(timeout_seconds, end)
        timer.start()
        last: dict[str, Any] = {}
        try:
            assert process.stdout is not None
            with process.stdout as output:
                for line in output:
                    file.write(line)
                    file.flush()
                    record = _parse(line)
                    if record and record["event"] == "log":
                        on_step(record["step"], record["max_steps"])
                    last = record or last
            code = process.wait()
        finally:
            timer.cancel()
            _kill_group(process)
            process.wait()
    if code == 0 and last.get("event") == "done":
        return {key: value for key, value in last.items() if key != "event"}
    if timed_out.is_set():
        raise TrainingError(
            f"training took longer than {timeout_seconds:g} s and was ended; raise "
            f"train.timeout_seconds or lower train.epochs (log: {log})"
        )
    if last.get("event") == "error":
        error = TrainingError(f"training failed: {last['message']} (log: {log})")
        error.exit_code = last["exit_code"]
        raise error
    lines = log.read_text("utf-8", errors="replace").splitlines()[-_LOG_LINES:]
    raise TrainingError(
        f"the training process ended with exit code {code}; the last lines of {log}:\n"
        + "\n".join(f"  {line[:300]}" for line in lines)
    )


def training_environment(gpus: Sequence[Gpu] | None) -> dict[str, str]:
    """Return the child's environment: ours, with these GPUs (None: as we see them)."""
    devices = {} if gpus is None else device_environment(gpus)
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return os.environ | devices | quiet


def _kill_group(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def _parse(line: bytes) -> dict[str, Any] | None:
    with suppress(orjson.JSONDecodeError):
        record = orjson.loads(line)
        if isinstance(record, dict) and "event" in record:
            return record
    return None
