"""Keeps a running loop's report fresh, from a process of its own that never fails the loop."""

import logging
import os
import subprocess
import sys
from types import TracebackType
from typing import Literal, Self

from selfstudy_engine.data.parent_death import end_with_parent
from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.data.run_folder import RunFolder

_LAST_TIMEOUT_SECONDS = 900.0
"""Longest wait for the last report: its baselines may be fitted to many labels."""
_MODULE = "selfstudy_engine.engine.report"
logger = logging.getLogger(__name__)


class ReportRefresher:
    """Use it as a context manager around the rounds; leaving it writes the last report.

    Args:
        folder: of the run.
        when: see the configuration's `report`.
    """

    def __init__(self, folder: RunFolder, when: Literal["round", "end", "off"]) -> None:
        self._folder = folder
        self._when = when
        self._process: subprocess.Popen[bytes] | None = None
        self._is_stale = False

    def refresh(self) -> None:
        """Begin to write the report anew; while one is being written, once more at the end."""
        self._is_stale = self._when != "off"
        if self._when == "round" and (self._process is None or self._process.poll() is not None):
            self._collect()
            self._start()

    @property
    def is_due(self) -> bool:
        """Whether leaving takes a while: a report is being written, or one is left to write."""
        return self._is_stale or (self._process is not None and self._process.poll() is None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if error is not None:
            self._end()
            return
        self._wait()
        if self._is_stale:
            self._start()
            self._wait()

    def _start(self) -> None:
        self._is_stale = False
        path = self._folder.logs / "report.log"
        try:
            with path.open("ab") as log:
                self._process = subprocess.Popen(
                    [sys.executable, "-m", _MODULE, str(self._folder.path)],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    env=child_environment(),
                    preexec_fn=_yield_to_the_loop,  # noqa: PLW1509 - system calls, no locks
                )
        except OSError as error:
            logger.warning("the report can't be written: %s", error)

    def _wait(self) -> None:
        if self._process is None:
            return
        try:
            self._process.wait(_LAST_TIMEOUT_SECONDS)
        except subprocess.TimeoutExpired:
            logger.warning("the report isn't ready after %.0f s: left out", _LAST_TIMEOUT_SECONDS)
        self._collect()

    def _collect(self) -> None:
        """Say so if the last report failed."""
        if self._process is None:
            return
        code = self._process.poll()
        if code is None:
            self._end()
        elif code:
            log = self._folder.logs / "report.log"
            logger.warning("the report wasn't written (exit code %d; log: %s)", code, log)
        self._process = None

    def _end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _yield_to_the_loop() -> None:
    os.nice(19)
    end_with_parent()
