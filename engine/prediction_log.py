"""Predictions on the disk as they come: the same command goes on where it was cut off."""

import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.files import fsync_path, lock
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.predict import Prediction

_SECONDS_BETWEEN_FSYNCS = 1.0


class PredictionLog:
    """A file of JSON lines: what was asked for, then a line for each prediction.

    Use it as a context manager.

    Args:
        path: of the file; one that exists is continued.
        call: what the predictions depend on, apart from the molecules.

    Raises:
        UsageError: the file is of another call, or another process is writing it.
    """

    def __init__(self, path: Path, call: Mapping[str, Any]) -> None:
        self._path = path
        self._call = orjson.loads(orjson.dumps(call))
        self.predictions: list[Prediction] = []
        """Those of earlier calls."""
        self._last_fsync = time.monotonic()
        self._file: BinaryIO

    def __enter__(self) -> Self:
        """Read what is there, without a last line that was cut off."""
        self._file = self._path.open("a+b")
        try:
            self._lock()
            fsync_path(self._path.parent)
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Keep what has been added."""
        self._sync()
        self._file.close()

    def add(self, prediction: Prediction) -> None:
        """Append a prediction: this process may die now, and a second later the machine.

        The last before a pause is on the disk with the next one.
        """
        self._write(asdict(prediction))
        if time.monotonic() - self._last_fsync >= _SECONDS_BETWEEN_FSYNCS:
            self._sync()

    def _lock(self) -> None:
        try:
            lock(self._file)
        except BlockingIOError as error:
            raise UsageError(
                f"another `selfstudy-engine predict` is writing {self._path}; wait for its end, or "
                "name another --out"
            ) from error

    def _read(self) -> None:
        self._file.seek(0)
        lines = self._file.readlines()
        cut_off = lines.pop() if lines and not lines[-1].endswith(b"\n") else b""
        if lines or not _to_line(self._call).startswith(cut_off):
            self._parse(lines or [cut_off])
        self._file.truncate(sum(map(len, lines)))
        if not lines:
            self._write(self._call)

    def _parse(self, lines: list[bytes]) -> None:
        try:
            call, *predictions = map(orjson.loads, lines)
            self.predictions = [_prediction_of(content) for content in predictions]
            differing = sorted(
                f"{key}: {call.get(key)} -> {self._call.get(key)}"
                for key in call.keys() | self._call.keys()
                if call.get(key) != self._call.get(key)
            )
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise UsageError(
                f"{self._path} holds something else than predictions ({error}); remove it, or name "
                "another --out"
            ) from error
        if differing:
            raise UsageError(
                f"{self._path} holds the beginning of other predictions ({'; '.join(differing)}); "
                "repeat that call, remove the file, or name another --out"
            )

    def _write(self, content: Any) -> None:
        self._file.write(_to_line(content))
        self._file.flush()

    def _sync(self) -> None:
        os.fsync(self._file.fileno())
        self._last_fsync = time.monotonic()


def _prediction_of(content: dict[str, Any]) -> Prediction:
    molecule = Molecule(**content["molecule"] | {"value": float("nan")})
    return Prediction(**content | {"molecule": molecule})


def _to_line(content: Any) -> bytes:
    return orjson.dumps(content, option=orjson.OPT_APPEND_NEWLINE)
