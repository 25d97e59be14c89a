"""Words of a command line in, what they name out: a round of a run, an adapter, the base model."""

from dataclasses import dataclass
from pathlib import Path

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.rounds import load_records

BASE, LAST, BEST = "base", "last", "best"


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
        which: "base"; "last", "best" or a number for a round of the run; or an adapter's folder.
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
        index = records[-1].round if which == LAST else int(which)
    known = [record.round for record in records]
    if index not in known:
        raise UsageError(
            f"run {folder.path} has no round {index}; its finished rounds are {known[0]} to "
            f"{known[-1]}"
        )
    adapter = read_adapter(folder.adapter(index))
    return Subject(f"round {index}", adapter, folder.evaluation(index), note)
