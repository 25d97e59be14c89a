"""Two or more runs in, one page out that puts them side by side."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from selfstudy_engine.data.errors import UsageError, counted
from selfstudy_engine.data.evaluations import compute_metrics, paired_change
from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.metrics import Interval, Metrics
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.engine.metric_texts import (
    ONE_TRAINING,
    cells_of,
    columns_of,
    outcome_of,
    signed,
)
from selfstudy_engine.engine.report_charts import (
    Figure,
    Row,
    coloured,
    figure,
    form_of_errors,
    interval_row,
    interval_tooltip,
    labels_axis,
    lines_with_intervals,
    number,
    rounds_axis,
    text,
)
from selfstudy_engine.engine.report_facts import RunFacts, gather_facts
from selfstudy_engine.engine.report_page import render_page


@dataclass(frozen=True, slots=True)
class Side:
    """One run of a comparison."""

    run: RunFacts
    label: str
    cells: list[str]
    learned: str
    """Change of its MAE since its round 0."""


def write_comparison(folders: Sequence[RunFolder], out: Path) -> list[Figure]:
    """Write the comparison of runs.

    Args:
        folders: of two runs or more, each with a finished round.
        out: HTML file, replaced if it exists.

    Returns:
        The figures of the page.

    Raises:
        RunFolderError: no round of one is finished yet.
        UsageError: they are of different properties or units.
    """
    _check_comparable(folders)
    runs = [gather_facts(folder) for folder in folders]
    labels, prop = _labels(runs), runs[0].prop
    sides = [
        Side(run, label, cells_of(_measured(run, prop), prop), _signed(run.change.mae, run))
        for run, label in zip(runs, labels, strict=True)
    ]
    figures = [
        _figure(sides, "compare-rounds", "Test error by round", rounds_axis()),
        _figure(sides, "compare-labels", "Test error by labels used", labels_axis()),
    ]
    page = render_page(
        "report_compare.html.jinja",
        title="Self-study runs " + " and ".join(labels),
        figures=figures,
        sides=sides,
        verdict=_verdict(runs[0], runs[-1], labels[0], labels[-1]),
        columns=columns_of(prop),
        differences=runs[0].config.differences(runs[-1].config),
    )
    write_atomic(out, page)
    return figures


def _check_comparable(folders: Sequence[RunFolder]) -> None:
    first, *others = (read_config(folder).property for folder in folders)
    for folder, prop in zip(folders[1:], others, strict=True):
        if (prop.name, prop.unit) != (first.name, first.unit):
            raise UsageError(
                f"{folders[0].path} is of {first.name} in {first.unit}, {folder.path} of "
                f"{prop.name} in {prop.unit}: their errors can't stand side by side; name runs of "
                "one property and unit"
            )


def _measured(run: RunFacts, prop: Property) -> Metrics:
    """Return a run's last metrics by the first run's tolerance, whichever its own is."""
    answers = run.last.answers
    metrics = compute_metrics(answers, "test", run.split.median, prop.tolerance)
    assert metrics is not None  # a test set has at least one molecule
    return metrics


def _labels(runs: Sequence[RunFacts]) -> list[str]:
    """Return the runs' names, numbered where two are the same."""
    names = [run.name for run in runs]
    return [
        name if names.count(name) == 1 else f"{name} ({index + 1})"
        for index, name in enumerate(names)
    ]


def _verdict(first: RunFacts, second: RunFacts, first_label: str, second_label: str) -> str:
    """Say which run's last round is better, where both were measured on the same molecules."""
    ids = [{(a.molecule_id, a.measured) for a in run.last.tested} for run in (first, second)]
    if ids[0] != ids[1]:
        return (
            f"{first_label} and {second_label} were measured on different test molecules: their "
            "errors can't be paired, and a difference may be the test sets'."
        )
    tolerance = first.config.property.tolerance
    change = paired_change(
        first.last.answers, second.last.answers, first.split.median, tolerance
    ).mae
    outcome = outcome_of(change)
    word = {
        "better": "is better than",
        "worse": "is worse than",
        "same": "can't be told from",
        "few": "can't be told from",
    }[outcome]
    too_few = ", too few for a verdict" if outcome == "few" else ""
    return (
        f"{second_label} {word} {first_label} on the same "
        f"{counted(len(ids[0]), 'test molecule')}{too_few}: "
        f"last round's MAE {_signed(change, first)} {first.unit} (paired bootstrap). {ONE_TRAINING}"
    )


def _signed(change: Interval, run: RunFacts) -> str:
    return signed(change, run.prop.error_decimals)


def _rows(sides: Sequence[Side]) -> list[Row]:
    return [
        interval_row(facts.index, side.label, facts.test_mae, labels=facts.num_labelled)
        for side in sides
        for facts in side.run.rounds
    ]


def _figure(sides: Sequence[Side], key: str, title: str, x: Any) -> Figure:
    y = f"test MAE, {sides[0].run.unit}"
    tooltip = [
        text("series", "run"),
        number("round", "round", "d"),
        number("labels", "labels", "d"),
    ]
    form = form_of_errors(sides[0].run.prop)
    tooltip += interval_tooltip(y, form)
    columns = {"series": "run", "round": "round", "labels": "labels", "value": y}
    return figure(
        key,
        title,
        lines_with_intervals(x, y, coloured("series", [side.label for side in sides]), tooltip),
        _rows(sides),
        alt_text=f"{title} of each run: "
        + "; ".join(
            f"{side.label} from {side.run.rounds[0].test_mae.value:{form}} to "
            f"{side.run.last.test_mae.value:{form}}"
            for side in sides
        ),
        caption="Bars are bootstrap 95% intervals of each run by itself; the paired difference is "
        "in the text.",
        subtitle=[
            f"{side.label}: {side.run.base_model}, {side.run.last.num_labelled} labels"
            for side in sides
        ],
        columns=columns | {"low": "from", "high": "to"},
    )
