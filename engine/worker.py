"""A process of ours that does task after task, until the one that started it ends.

    python -m selfstudy_engine.engine.worker

reads pickles from standard input: first what all tasks need, then the tasks, functions of it; it
writes what came of each to standard output. It gets none of our keys, and no signal of a terminal.
"""

import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

from selfstudy_engine.data.privacy import child_environment

_GRACE_SECONDS = 5.0
Context = TypeVar("Context")
Result = TypeVar("Result")


class WorkerDiedError(Exception):
    """A worker ended before it answered; what it was sent can be sent to another."""


class Worker(Generic[Context]):
    """One such process; it is used by one thread at a time.

    Args:
        context: what all tasks need; sent once.
    """

    def __init__(self, context: Context) -> None:
        self._unsent = [context]
        self._process = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env=child_environment(),
            start_new_session=True,  # a Ctrl-C isn't for it: its input ends with our process
        )

    def do(self, task: Callable[[Context], Result]) -> Result:
        """Return what comes of a task.

        Raises:
            WorkerDiedError: the process ended before.
            Exception: whatever the task raised.
        """
        result: Result
        failure: Exception | None
        try:
            while self._unsent:
                self._send(self._unsent.pop())
            self._send(task)
            assert self._process.stdout
            result, failure = pickle.load(self._process.stdout)
        except (OSError, EOFError, pickle.UnpicklingError) as error:
            with suppress(subprocess.TimeoutExpired):  # else its code is that of our kill
                self._process.wait(_GRACE_SECONDS)
            self.end()
            code = self._process.returncode
            raise WorkerDiedError(f"process {self._process.pid} ended with {code}") from error
        if failure:
            raise failure
        return result

    def _send(self, value: Any) -> None:
        assert self._process.stdin
        pickle.dump(value, self._process.stdin, pickle.HIGHEST_PROTOCOL)
        self._process.stdin.flush()

    def end(self) -> None:
        """End the process; returns when it is gone."""
        self._process.kill()
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError):  # what was left to write
                if pipe:
                    pipe.close()
        self._process.wait()


def main() -> None:
    """Work until the input ends."""
    results = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a library prints isn't a result
    # Its parent may be gone at any moment, also while this process starts.
    with suppress(EOFError, BrokenPipeError):
        context = pickle.load(sys.stdin.buffer)
        while True:
            task = pickle.load(sys.stdin.buffer)
            result = failure = None
            try:
                result = task(context)
            except Exception as error:  # noqa: BLE001 - the caller's
                failure = error
            pickle.dump((result, failure), results, pickle.HIGHEST_PROTOCOL)
            results.flush()
    with suppress(BrokenPipeError):
        results.close()


if __name__ == "__main__":
    main()
