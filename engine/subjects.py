"""Words of a command line in, what they name out: a round of a run, an adapter, the base model."""

import logging
from dataclasses import dataclass
from pathlib import Path

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.errors import AdapterError, UsageError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.rounds import load_records

BASE, LAST, BEST = "base", "last", "best"
logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is evaluated."""

    label: str
    adapter: Adapter | None
    """None is the base model."""
    kept: Path | None = None
    """Where its answers to the run's test set may be."""
    note: str = ""
    """What a reader of its figures must know."""


def find_subject(which: str, folder: RunFolder | None) -> Subject:
    """Return what is named.

    Args:
        which: "base"; "last" (see `finished_round`), "best" or a number for a round of the run; or
            an adapter's folder.
        folder: of the run; None where there is none.

    Raises:
        UsageError: it names nothing that there is.
        AdapterError: the adapter is damaged.
    """
    if which == BASE:
        return Subject("base model", None)
    if which in (LAST, BEST) or which.isdecimal():
        return _round(which, folder)
    path = Path(which)
    if not path.is_dir():
        raise UsageError(
            f"{which!r} is neither {LAST}, {BEST}, {BASE}, a round's number nor the folder of an "
            "adapter"
        )
    return Subject(f"adapter {path}", read_adapter(path))


def _round(which: str, folder: RunFolder | None) -> Subject:
    if folder is None:
        raise UsageError(f"{which!r} names a round, but no run is given; add --run NAME")
    records = load_records(folder)
    if not records:
        raise UsageError(
            f"run {folder.path} has no finished round yet; continue it with `selfstudy-engine loop`"
        )
    note = ""
    if which == BEST:
        index = min(records, key=lambda record: record.test_mae.value).round
        note = (
            f"Round {index} is the best of {len(records)} by its error on this test set: chosen by "
            "it, it looks better here than it is. An honest figure is the last round's."
        )
    else:
        index = finished_round(folder) if which == LAST else int(which)
    known = [record.round for record in records]
    if index not in known:
        raise UsageError(
            f"run {folder.path} has no round {index}; its finished rounds are {known[0]} to "
            f"{known[-1]}"
        )
    adapter = read_adapter(folder.adapter(index))
    return Subject(f"round {index}", adapter, folder.evaluation(index), note)


def finished_round(folder: RunFolder, wanted: int | None = None) -> int:
    """Return the round whose adapter a run's user gets; says so if it isn't the last one.

    Args:
        folder: of the run.
        wanted: None is the last one whose adapter passed (see `Gate`). The one with the lowest test
            MAE would be chosen by the test set, whose error then says too little about new
            molecules.

    Raises:
        AdapterError: no round of the run is finished, or not this one.
    """
    records = load_records(folder)
    finished = [record.round for record in records]
    if not finished:
        raise AdapterError(
            f"run {folder.path} has no finished round yet; continue it with `selfstudy-engine loop`"
        )
    if wanted is not None and wanted not in finished:
        raise AdapterError(
            f"run {folder.path} has no finished round {wanted}; choose --round from "
            f"{finished[0]} to {finished[-1]}"
        )
    if wanted is not None:
        return wanted
    passed = max(record.round for record in records if record.passed)
    if passed != finished[-1]:
        logger.warning(
            "run %s: this takes round %d, the last whose adapter passed --gate; name round %d for "
            "the last one",
            *(folder.path, passed, finished[-1]),
        )
    return passed
