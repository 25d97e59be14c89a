"""How a loop's progress looks: a bar and tables in a terminal, plain lines elsewhere."""

import sys
import time
from typing import Self

import click
from rich.box import SIMPLE
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.table import Table

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.properties import Property
from selfstudy_engine.engine.metric_texts import gathered, ranged, signed, verdict_of
from selfstudy_engine.engine.reason_quality import REASONS_COMPARED
from selfstudy_engine.engine.rounds import RoundRecord

_SECONDS_BETWEEN_LINES = 10.0
_PLAIN_WIDTH = 10_000
"""Of a log's lines: every cell of a round on one."""
_DROPPED_FIRST = (
    *("4-grams", "tokens/s", "compl./s", "seconds*", "train MAE", "false claims", "loss"),
    *("parsed", "test RMSE", "answered", "accepted", "samples"),
)
"""Columns that a narrow terminal goes without, in this order."""
_NOTES = {
    "false claims": "false claims: share of the answers with a value",
    "4-grams": f"4-grams: distinct among {REASONS_COMPARED} accepted reasons",
    "seconds*": "* train + swap + evaluate + generate + wait for the server",
}
"""What columns mean."""
_SPARE = "acceptance: with what only texts accepted before kept out (+ in accepted)"


def make_reporter(config: RunConfig, to_stderr: bool = False) -> "PlainReporter | TerminalReporter":
    """Return a progress bar for a terminal, a plain log otherwise.

    Args:
        config: of the run.
        to_stderr: leave stdout to the command's result.
    """
    stream = sys.stderr if to_stderr else sys.stdout
    return (TerminalReporter if stream.isatty() else PlainReporter)(config, to_stderr)


def plain_console() -> Console:
    """Return a console as wide as the terminal; in a log, wide enough for any table."""
    return Console(
        width=None if sys.stdout.isatty() else _PLAIN_WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
    )


def figures_table(*columns: str, title: str | None = None) -> Table:
    """Return an empty table: the first column names what the others count."""
    table = Table(title=title, box=SIMPLE)
    for number, name in enumerate(columns):
        table.add_column(name, justify="left" if number == 0 else "right")
    return table


def rounds_table(
    records: list[RoundRecord], config: RunConfig, console: Console
) -> tuple[Table, list[str]]:
    """Return a table of all rounds with the columns that fit, and the names of the others."""
    unit, digits = config.property.unit, config.property.error_decimals
    rows = [_cells(record, digits) for record in records]
    columns = {name: [row[name] for row in rows] for name in (rows[0] if rows else ())}
    left_out: list[str] = []
    while True:
        table = Table(title=f"Run {config.name}: {config.property.name}", box=SIMPLE)
        for name in columns:
            table.add_column(f"{name}, {unit}" if name.endswith("E") else name, justify="right")
        for cells in zip(*columns.values(), strict=True):
            table.add_row(*cells)
        unlimited = console.options.update(max_width=_PLAIN_WIDTH)
        fits = console.measure(table, options=unlimited).maximum <= console.width
        if fits or len(left_out) == len(_DROPPED_FIRST) or not rows:
            return table, left_out
        left_out.append(_DROPPED_FIRST[len(left_out)])
        del columns[left_out[-1]]


class _Reporter:
    def __init__(self, config: RunConfig, to_stderr: bool = False) -> None:
        self._config = config
        self._to_stderr = to_stderr
        self._console = plain_console()

    def print_summary(self, records: list[RoundRecord]) -> None:
        """Print a table of all rounds, and what they come to."""
        table, left_out = rounds_table(records, self._config, self._console)
        self._console.print(table)
        for column, note in _NOTES.items():
            if column not in left_out:
                self._console.print(note)
        if any(record.num_spare for record in records):
            self._console.print(_SPARE)
        if left_out:
            self._console.print(f"left out, as the terminal is narrow: {', '.join(left_out)}")
        for line in conclusion(records, self._config):
            self._console.print(line)

    def __enter__(self) -> Self:
        """Begin to show."""
        return self

    def __exit__(self, *error: object) -> None:
        """Stop showing."""


def conclusion(records: list[RoundRecord], config: RunConfig) -> list[str]:
    """Return what a run's rounds show, in sentences."""
    if not records:
        return []
    last, prop = records[-1], config.property
    change = last.test_change
    if len(records) > 1:
        lines = [
            f"Test MAE since round 0: {signed(change, prop.error_decimals)} {prop.unit}: "
            f"{verdict_of(change)}."
        ]
    else:
        lines = []
    if last.commonest_value is not None and last.commonest_share is not None:
        commonest = last.commonest_value, last.commonest_share
        if same := gathered(commonest, config.test_answers, prop):
            lines.append(same)
    asked = [record for record in records if record.acceptance is not None] or [last]
    tolerances = [prop.tolerance if r.tolerance is None else r.tolerance for r in asked]
    at = f" on round {asked[-1].round}'s molecules"
    if len(set(tolerances)) > 1:
        at += f" at its tolerance of {tolerances[-1]:.4g} {prop.unit}"
    chance = asked[-1].chance
    lines.append(f"Acceptance of the best constant guess (lift 1){at}: {chance:.1%}.")
    return lines


def _cells(record: RoundRecord, digits: int) -> dict[str, str]:
    """Return a round's row by column."""
    timing = record.timing
    seconds = (timing.train, timing.swap, timing.evaluate, timing.generate, timing.wait)
    asked = record.num_completions > 0
    spare = f"+{record.num_spare}" if record.num_spare else ""
    return {
        "round": str(record.round),
        "samples": str(record.num_trained_samples),
        "loss": f"{record.train_loss:.3f}",
        "compl./s": f"{record.completions_per_second:.1f}" if asked else "-",
        "tokens/s": f"{record.output_tokens_per_second:.0f}" if asked else "-",
        "parsed": _share(record.parsed),
        "accepted": f"{record.num_accepted}{spare}/{record.num_completions}" if asked else "-",
        "acceptance": _acceptance(record),
        "false claims": _share(record.false_claims),
        "4-grams": _share(record.distinct_4grams),
        "test MAE": ranged(record.test_mae, digits),
        "test RMSE": ranged(record.test_rmse, digits),
        "answered": f"{record.answered:.0%}",
        "train MAE": f"{record.train_mae:.{digits}f}" if record.train_mae is not None else "-",
        "seconds*": "+".join(f"{part:.0f}" for part in seconds),
    }


def _share(share: float | None) -> str:
    return "-" if share is None else f"{share:.0%}"


def _acceptance(record: RoundRecord) -> str:
    if record.acceptable is None or record.lift is None:
        return "-"
    return f"{record.acceptable:.0%}, lift {record.lift:.2f}"


def round_line(record: RoundRecord, prop: Property) -> str:
    """Return one round as one line."""
    mae = f"test MAE {ranged(record.test_mae, prop.error_decimals)} {prop.unit}, "
    mae += f"answered {record.answered:.0%}"
    if not record.passed:
        mae += ", worse than the adapter before, which goes on answering"
    if record.parsed is None:
        return f"round {record.round}: {mae}"
    hinted = ""
    if record.num_hinted:
        hinted = f", hinted {record.num_hinted_accepted} of {record.num_hinted}"
    spare = f", {record.num_spare} more but for earlier texts" if record.num_spare else ""
    return (
        f"round {record.round}: {mae}; {record.num_accepted} of {record.num_completions} accepted"
        f"{spare} ({_acceptance(record)}){hinted}, parsed {record.parsed:.0%}, "
        f"false claims {_share(record.false_claims)}, "
        f"{record.completions_per_second:.1f} completions/s, "
        f"{record.output_tokens_per_second:.0f} output tokens/s"
    )


class PlainReporter(_Reporter):
    """One line for each phase and round, and one now and then in between."""

    def __init__(self, config: RunConfig, to_stderr: bool = False) -> None:
        super().__init__(config, to_stderr)
        self._started = time.monotonic()
        self._name = ""
        self._total: int | None = None
        self._last_line = 0.0

    def phase(self, name: str, total: int | None = None) -> None:
        """See `Reporter`."""
        self._name, self._total, self._last_line = name, total, time.monotonic()
        self._say(name + (f" ({total})" if total else ""))

    def advance(self, done: int, detail: str = "") -> None:
        """See `Reporter`."""
        if time.monotonic() - self._last_line >= _SECONDS_BETWEEN_LINES:
            self._last_line = time.monotonic()
            parts = [f"{done} of {self._total}", detail] if self._total else [f"{done} {detail}"]
            self._say(f"{self._name}: {', '.join(filter(None, parts))}".rstrip())

    def finish_round(self, record: RoundRecord) -> None:
        """See `Reporter`."""
        self._say(round_line(record, self._config.property))

    def _say(self, text: str) -> None:
        click.echo(f"[{time.monotonic() - self._started:6.0f} s] {text}", err=self._to_stderr)


class TerminalReporter(_Reporter):
    """A progress bar, above it a line for each finished round."""

    def __init__(self, config: RunConfig, to_stderr: bool = False) -> None:
        super().__init__(config, to_stderr)
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[detail]}"),
            console=Console(stderr=True) if to_stderr else self._console,
            transient=True,
        )
        self._task: TaskID | None = None

    def __enter__(self) -> Self:
        """Begin to show the bar."""
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Take the bar away."""
        self._progress.stop()

    def phase(self, name: str, total: int | None = None) -> None:
        """See `Reporter`."""
        if self._task is not None:
            self._progress.remove_task(self._task)
        self._task = self._progress.add_task(name, total=total, detail="")

    def advance(self, done: int, detail: str = "") -> None:
        """See `Reporter`."""
        if self._task is not None:
            self._progress.update(self._task, completed=done, detail=detail)

    def finish_round(self, record: RoundRecord) -> None:
        """See `Reporter`."""
        self._progress.console.print(round_line(record, self._config.property))
