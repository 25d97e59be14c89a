"""Predictions on the disk as they come: the same command goes on where it was cut off."""

import fcntl
import os
import time
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.predict import Prediction

_SECONDS_BETWEEN_FSYNCS = 1.0


class PredictionLog:
    """A file of JSON lines: what was asked for, then a line for each prediction.

    Use it as a context manager; `remove` it when the predictions lie elsewhere.

    Args:
        path: of the file; one that exists is continued.
        call: what the predictions depend on, apart from the molecules.

    Raises:
        UsageError: the file is of another call, or another process is writing it.
    """

    def __init__(self, path: Path, call: Mapping[str, Any]) -> None:
        self._path = path
        self._call = orjson.loads(orjson.dumps(call))
        self._known: dict[tuple[str, str], Prediction] = {}
        self._last_fsync = time.monotonic()
        self._file: BinaryIO

    def __enter__(self) -> Self:
        """Read what is there, without a last line that was cut off."""
        self._file = self._path.open("a+b")
        try:
            self._lock()
            self._read()
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        """Keep what has been added."""
        if not self._file.closed:
            self._sync()
            self._file.close()

    @property
    def num_known(self) -> int:
        """Predictions in the file."""
        return len(self._known)

    def known(self, molecule: Molecule) -> Prediction | None:
        """Return a molecule's prediction; its name counts, since prompts state it."""
        return self._known.get((molecule.smiles, molecule.name))

    def add(self, prediction: Prediction) -> None:
        """Append a prediction; it is on the disk within about a second."""
        molecule = prediction.molecule
        self._known[molecule.smiles, molecule.name] = prediction
        self._write(asdict(prediction))
        if time.monotonic() - self._last_fsync >= _SECONDS_BETWEEN_FSYNCS:
            self._sync()

    def remove(self) -> None:
        """Delete the file."""
        self._file.close()
        self._path.unlink()

    def _lock(self) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UsageError(
                f"another `selfstudy-engine predict` is writing {self._path}; wait for its end, or "
                "name another --out"
            ) from error

    def _read(self) -> None:
        self._file.seek(0)
        whole = 0
        for number, line in enumerate(self._file):
            if not line.endswith(b"\n"):  # the machine stopped while it was written
                break
            whole += len(line)
            content = orjson.loads(line)
            if number == 0:
                self._check_call(content)
                continue
            prediction = Prediction(**content | {"molecule": Molecule(**content["molecule"])})
            self._known[prediction.molecule.smiles, prediction.molecule.name] = prediction
        self._file.truncate(whole)
        if whole == 0:
            self._write(self._call)

    def _check_call(self, found: dict[str, Any]) -> None:
        differing = [
            f"{key}: {found.get(key)} -> {self._call.get(key)}"
            for key in sorted(found.keys() | self._call.keys())
            if found.get(key) != self._call.get(key)
        ]
        if differing:
            raise UsageError(
                f"{self._path} holds the beginning of other predictions ({'; '.join(differing)}); "
                "repeat that call, remove the file, or name another --out"
            )

    def _write(self, content: Any) -> None:
        options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_SERIALIZE_NUMPY
        self._file.write(orjson.dumps(content, option=options))

    def _sync(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._last_fsync = time.monotonic()
