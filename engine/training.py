"""Run the training process and follow what it says; the loop and training meet through files."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Protocol, Self

import orjson

from selfstudy_engine.data.devices import device_environment
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.engine.server import end_with_parent

_LOG_LINES = 12
OnStep = Callable[[int, int], None]
"""Called with the optimiser steps done and in all, from another thread."""


class Training(Protocol):
    """A training that runs."""

    def result(self) -> dict[str, Any]:
        """Wait for its end and return its figures."""


class StartTraining(Protocol):
    """Starts a training; leaving the context ends one that still runs."""

    def __call__(
        self,
        arguments: dict[str, object],
        log: Path,
        timeout_seconds: float,
        on_step: OnStep,
        gpus: Sequence[Gpu] | None,
    ) -> AbstractContextManager[Training]:
        """See `TrainingProcess`."""


class TrainingProcess:
    """One adapter's training in a process of its own; use it as a context manager.

    Args:
        arguments: of `python -m selfstudy_engine.train`; those that are None are left out.
        log: receives everything that the process writes.
        timeout_seconds: after that long the process is ended.
        on_step: see `OnStep`.
        gpus: that it sees, one at most; an empty sequence is the CPU, None what we see.
    """

    def __init__(
        self,
        arguments: dict[str, object],
        log: Path,
        timeout_seconds: float,
        on_step: OnStep = lambda step, num_steps: None,
        gpus: Sequence[Gpu] | None = None,
    ) -> None:
        self._command = [sys.executable, "-m", "selfstudy_engine.train"]
        for key, value in arguments.items():
            if value is not None:
                self._command += [f"--{key.replace('_', '-')}", str(value)]
        self._log = log
        self._timeout_seconds = timeout_seconds
        self._on_step = on_step
        self._environment = training_environment(gpus)
        self._last: dict[str, Any] = {}
        self._timed_out = threading.Event()
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        """Start the process."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - one system call, no locks
            )
        self._timer = threading.Timer(self._timeout_seconds, self._end_late)
        self._timer.daemon = True
        self._timer.start()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, if it still runs, and all that it started."""
        self._timer.cancel()
        self._kill_group()
        self._process.wait()
        self._reader.join()

    def result(self) -> dict[str, Any]:
        """Wait for the process.

        Returns:
            The training's figures (see the trainer's `train_adapter`).

        Raises:
            TrainingError: it failed or ran out of time; with its message or last lines.
        """
        self._reader.join()
        code = self._process.wait()
        last = self._last
        if code == 0 and last.get("event") == "done":
            return {key: value for key, value in last.items() if key != "event"}
        if self._timed_out.is_set():
            raise TrainingError(
                f"training took longer than {self._timeout_seconds:g} s and was ended; raise "
                f"train.timeout_seconds or lower train.epochs (log: {self._log})"
            )
        if last.get("event") == "error":
            error = TrainingError(f"training failed: {last['message']} (log: {self._log})")
            error.exit_code = last["exit_code"]
            raise error
        lines = self._log.read_text("utf-8", errors="replace").splitlines()[-_LOG_LINES:]
        raise TrainingError(
            f"the training process ended with exit code {code}; the last lines of {self._log}:\n"
            + "\n".join(f"  {line[:300]}" for line in lines)
        )

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output, self._log.open("ab") as log:
            for line in output:
                log.write(line)
                log.flush()
                record = _parse(line)
                if record and record["event"] == "log":
                    self._on_step(record["step"], record["max_steps"])
                self._last = record or self._last

    def _end_late(self) -> None:
        self._timed_out.set()
        self._kill_group()

    def _kill_group(self) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)


def run_training(
    arguments: dict[str, object],
    log: Path,
    timeout_seconds: float,
    on_step: OnStep = lambda step, num_steps: None,
    gpus: Sequence[Gpu] | None = None,
) -> dict[str, Any]:
    """Train one adapter and wait for it; see `TrainingProcess`."""
    with TrainingProcess(arguments, log, timeout_seconds, on_step, gpus) as training:
        return training.result()


def training_environment(gpus: Sequence[Gpu] | None) -> dict[str, str]:
    """Return the child's environment: ours, with these GPUs (None: as we see them)."""
    devices = {} if gpus is None else device_environment(gpus)
    quiet = {"TOKENIZERS_PARALLELISM": "false", "HF_HUB_DISABLE_TELEMETRY": "1"}
    return os.environ | devices | quiet


def _parse(line: bytes) -> dict[str, Any] | None:
    with suppress(orjson.JSONDecodeError):
        record = orjson.loads(line)
        if isinstance(record, dict) and "event" in record:
            return record
    return None
