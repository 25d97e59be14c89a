"""Rounds that another program measured in (CSV), the original article's plot of each run out.

The reference is the original's own log: run, round, split, mae; other columns are left alone.
Without answers of single molecules there are no intervals, and the page says so.
"""

import csv
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from selfstudy_engine.data.errors import TableError, shown, shown_text
from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.engine.report_charts import TEST, TRAIN, Figure
from selfstudy_engine.engine.report_original import error_by_round
from selfstudy_engine.engine.report_page import render_page

_COLUMNS = ("run", "round", "split", "mae")
_ROUND = re.compile(r"\s*[0-9]{1,9}\s*")
_SERIES = {"test": TEST, "train": TRAIN}


@dataclass(frozen=True, slots=True)
class ImportedRound:
    """One measurement: a run's round on one split."""

    run: str
    round: int
    split: str
    """"test" or "train"."""
    mae: float


@dataclass(frozen=True, slots=True)
class ImportedRun:
    """What a run's measurements come to."""

    name: str
    rounds: list[ImportedRound]

    def _test(self) -> list[float]:
        tested = [found for found in self.rounds if found.split == "test"]
        return [found.mae for found in sorted(tested, key=lambda found: found.round)]

    @property
    def num_rounds(self) -> int:
        """Rounds that were measured on the test set."""
        return len(self._test())

    @property
    def first_mae(self) -> float | None:
        """Test MAE of the first round."""
        return self._test()[0] if self._test() else None

    @property
    def mean_later_mae(self) -> float | None:
        """Mean test MAE of the rounds after the first."""
        later = self._test()[1:]
        return sum(later) / len(later) if later else None


def load_rounds(path: Path) -> list[ImportedRun]:
    """Read the runs of a CSV file, in its order.

    Raises:
        TableError: not such a file; the line and column are named.
    """
    rounds: dict[tuple[str, int, str], ImportedRound] = {}
    try:
        with path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            missing = [name for name in _COLUMNS if name not in (reader.fieldnames or ())]
            if missing:
                raise TableError(
                    f"{path} has no column {', '.join(missing)}; it needs {', '.join(_COLUMNS)}"
                )
            for row in reader:
                where = f"{path}, line {reader.line_num}"
                found = _parse(row, where)
                key = (found.run, found.round, found.split)
                if key in rounds:
                    raise TableError(
                        f"{where}: round {found.round} of run {shown(found.run)} has a "
                        f"{found.split} MAE above already; keep one of them"
                    )
                rounds[key] = found
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise TableError(
            f"can't read {path}: {shown_text(str(error))}; give a CSV file in UTF-8"
        ) from error
    if not rounds:
        raise TableError(f"{path} has no line below its header; give one for each round and split")
    runs: dict[str, list[ImportedRound]] = {}
    for found in rounds.values():
        runs.setdefault(found.run, []).append(found)
    return [ImportedRun(name, of_run) for name, of_run in runs.items()]


def write_imported(path: Path, out: Path) -> list[Figure]:
    """Write a page with the original article's plot of each run of a CSV file.

    Returns:
        The figures of the page.

    Raises:
        TableError: see `load_rounds`.
    """
    runs = load_rounds(path)
    prop = find_property("melting_point")
    figures = [_figure(run, index, prop) for index, run in enumerate(runs)]
    page = render_page(
        "report_import.html.jinja",
        title=f"Imported rounds: {path.name}",
        figures=figures,
        runs=runs,
        unit=prop.unit,
    )
    write_atomic(out, page)
    return figures


def _figure(run: ImportedRun, index: int, prop: Property) -> Figure:
    rows = [
        {"round": found.round, "series": _SERIES[found.split], "value": found.mae}
        for found in run.rounds
    ]
    return error_by_round(
        rows, f"imported-{index}", run.name, prop, ["imported; labels and test set as there"]
    )


def _parse(row: Mapping[str, str | None], where: str) -> ImportedRound:
    split = row["split"] or ""
    if split not in _SERIES:
        raise TableError(f"{where}: split {shown(split)} is none of {', '.join(_SERIES)}")
    try:
        return ImportedRound(
            run=row["run"] or "",
            round=_round(row["round"] or ""),
            split=split,
            mae=_finite(row["mae"] or ""),
        )
    except ValueError as error:
        raise TableError(f"{where}: {shown_text(str(error))}; correct this line") from error


def _round(text: str) -> int:
    if not _ROUND.fullmatch(text):
        raise ValueError(f"round {text!r} isn't a whole number from 0 on of up to 9 digits")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not 0 <= value < float("inf"):
        raise ValueError(f"MAE {text!r} isn't a finite number from 0 on")
    return value
