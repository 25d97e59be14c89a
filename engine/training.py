"""Run the training process and follow what it says; the loop and training meet through files."""

import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, Self

import orjson

from selfstudy_engine.data.config_training import TrainConfig
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.data.parent_death import end_with_parent
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.engine.launching import Launch, launch_here
from selfstudy_engine.engine.process_groups import kill_tree
from selfstudy_engine.engine.training_failure import explain_failure

OnStep = Callable[[int, int], None]
"""Called with the optimiser steps done and in all, from another thread."""


@dataclass(frozen=True, slots=True)
class TimeLimits:
    """How long a training may take, in seconds."""

    total: float
    stall: float
    """Without a sign of life."""

    @classmethod
    def of(cls, train: TrainConfig) -> Self:
        """Return those of a configuration."""
        return cls(train.timeout_seconds, train.stall_seconds)


class Training(Protocol):
    """A training that runs."""

    def has_ended(self, within_seconds: float) -> bool:
        """Wait for its end for a while, and tell whether it has come."""

    def result(self) -> dict[str, Any]:
        """Wait for its end and return its figures."""


class StartTraining(Protocol):
    """Starts a training; leaving the context ends one that still runs."""

    def __call__(
        self,
        arguments: dict[str, object],
        log: Path,
        limits: TimeLimits,
        on_step: OnStep,
        launch: Launch,
        /,
    ) -> AbstractContextManager[Training]:
        """See `TrainingProcess`."""


class TrainingProcess:
    """One adapter's training in a process of its own; use it as a context manager.

    Args:
        arguments: of `python -m selfstudy_engine.train`; those that are None are left out.
        log: receives everything that the process writes.
        limits: a process that reaches one is ended.
        on_step: see `OnStep`.
        launch: how it is started, and what it sees; None: alone, with what we see.
    """

    def __init__(
        self,
        arguments: dict[str, object],
        log: Path,
        limits: TimeLimits,
        on_step: OnStep = lambda step, num_steps: None,
        launch: Launch | None = None,
    ) -> None:
        launch = launch or launch_here()
        self._command = [*launch.command]
        for key, value in arguments.items():
            if value is not None:
                self._command += [f"--{key.replace('_', '-')}", str(value)]
        self._log = log
        self._limits = limits
        self._on_step = on_step
        self._environment = launch.environment
        self._cleanup = ExitStack()
        self._last: dict[str, Any] = {}
        self._over: str | None = None
        self._ended = threading.Event()
        self._process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        """Start the process."""
        self._log.parent.mkdir(parents=True, exist_ok=True)
        # What a killed process leaves behind goes with it.
        scratch = self._cleanup.enter_context(scratch_folder())
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=log,
                env=self._environment | {"TMPDIR": str(scratch)},
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - one system call, no locks
            )
        self._started = self._last_sign = time.monotonic()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        self._watcher.start()
        self._reader = threading.Thread(target=self._follow, daemon=True)
        self._reader.start()
        return self

    def __exit__(self, *error: object) -> None:
        """End the process, if it still runs, and all that it started."""
        self._ended.set()
        self._watcher.join()
        kill_tree(self._process)
        self._process.wait()
        self._reader.join()
        self._cleanup.close()

    def has_ended(self, within_seconds: float) -> bool:
        """See `Training`: whether the process has said its last word."""
        self._reader.join(within_seconds)
        return not self._reader.is_alive()

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
        if self._over:
            raise TrainingError(f"training {self._over} (log: {self._log})")
        if last.get("event") == "error":
            error = TrainingError(f"training failed: {last['message']} (log: {self._log})")
            error.exit_code = last["exit_code"]
            raise error
        raise TrainingError(explain_failure(code, self._log))

    def _follow(self) -> None:
        assert self._process.stdout is not None
        with self._process.stdout as output, self._log.open("ab") as log:
            for line in output:
                log.write(line)
                log.flush()
                self._last_sign = time.monotonic()
                record = _parse(line)
                if record and record["event"] in {"log", "step"}:
                    self._on_step(record["step"], record["max_steps"])
                # What another process says while it is ended explains nothing.
                if record and self._last.get("event") != "error":
                    self._last = record

    def _watch(self) -> None:
        """End the process when it reaches a limit."""
        limits = self._limits
        while not self._over:
            late, silent = self._started + limits.total, self._last_sign + limits.stall
            if self._ended.wait(max(min(late, silent) - time.monotonic(), 0)):
                return
            now = time.monotonic()
            if now >= late:
                self._over = (
                    f"took longer than {limits.total:g} s and was ended; raise "
                    "train.timeout_seconds or lower train.epochs"
                )
            elif now >= self._last_sign + limits.stall:
                self._over = (
                    f"gave no sign of life for {limits.stall:g} s and was ended; run the same "
                    "command again, or raise train.stall_seconds where a step takes longer"
                )
        kill_tree(self._process)


def run_training(
    arguments: dict[str, object],
    log: Path,
    limits: TimeLimits,
    on_step: OnStep = lambda step, num_steps: None,
    launch: Launch | None = None,
) -> dict[str, Any]:
    """Train one adapter and wait for it; see `TrainingProcess`."""
    with TrainingProcess(arguments, log, limits, on_step, launch) as training:
        return training.result()


def _parse(line: bytes) -> dict[str, Any] | None:
    with suppress(orjson.JSONDecodeError):
        record = orjson.loads(line)
        if isinstance(record, dict) and "event" in record:
            return record
    return None
