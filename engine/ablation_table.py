"""An ablation study as a table: cells for a terminal, Markdown for a page, JSON for a program."""

from pathlib import Path

import orjson

from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.properties import Property
from selfstudy_engine.engine.ablations import Ablated, AblationStudy, Repeated
from selfstudy_engine.engine.metric_texts import ranged, ranged_share, signed, verdict_of


def columns_of_study(prop: Property) -> list[str]:
    """Return the headings over `cells_of_row`."""
    unit = prop.unit
    return [
        "trained on",
        "samples",
        "steps",
        "loss",
        f"test MAE, {unit}",
        f"minus the loop's, {unit}",
        "",
        f"within {prop.tolerance:g} {unit}",
        "answered",
        "false claims",
    ]


def cells_of_row(row: Ablated, prop: Property) -> list[str]:
    """Return one line of the table."""
    loss = row.training.get("loss")
    return [
        row.title,
        str(row.training.get("num_samples", "–")),
        str(row.training.get("steps", "–")),
        "–" if loss is None else f"{loss:.3f}",
        ranged(row.metrics.mae, prop.error_decimals),
        signed(row.change.mae, prop.error_decimals) if row.change else "–",
        verdict_of(row.change.mae) if row.change else "",
        ranged_share(row.metrics.within_tolerance),
        ranged_share(row.metrics.answered),
        "–" if row.false_claims is None else f"{row.false_claims:.0%}",
    ]


def describe_study(study: AblationStudy) -> str:
    """Return what a reader of the table must know, in sentences."""
    how = "greedily" if study.test_answers == 1 else f"{study.test_answers} times (median)"
    return (
        f"Run {study.run}, round {study.round}, base model {Path(study.base_model).name}: each "
        f"adapter is trained on the run's {study.num_samples} accepted samples, unless its line "
        f"says otherwise, and on the exemplars, and answers the same {study.num_test} test "
        f"molecules {how}. False claims: share of the answers with a value whose reason states "
        "something false of the molecule. Brackets are bootstrap "
        "95% intervals, differences are paired by molecule, and several comparisons are made: an "
        "interval that barely misses 0 proves little. Each line is one training: intervals tell of "
        "other test molecules, not of what another seed's training gets. Unanswered questions are "
        f"scored as the training median ({study.fallback:g} {study.unit})."
    )


def columns_of_repeats(prop: Property) -> list[str]:
    """Return the headings over `cells_of_repeats`."""
    unit = prop.unit
    return [
        "trained on",
        "trainings",
        f"mean test MAE, {unit}",
        f"SD of trainings, {unit}",
        f"minus the loop's, {unit}",
        "",
    ]


def cells_of_repeats(row: Repeated, prop: Property) -> list[str]:
    """Return one line of the table of repeated trainings."""
    digits = prop.error_decimals
    return [
        row.title,
        str(row.num_trainings or "–"),
        ranged(row.mae, digits),
        "–" if row.spread is None else f"{row.spread:.{digits}f}",
        signed(row.change, digits) if row.change else "–",
        verdict_of(row.change) if row.change else "",
    ]


DESCRIBE_REPEATS = (
    "Means of trainings from several seeds: brackets are 95% intervals of what other trainings on "
    "the same samples would get on other test molecules (both variances added, Student's t)."
)


def to_markdown(study: AblationStudy, prop: Property) -> str:
    """Return the study as a Markdown table with what must be known about it."""
    rows = [cells_of_row(row, prop) for row in study.rows]
    lines = [describe_study(study), "", *_markdown_table(columns_of_study(prop), rows), ""]
    if study.repeated:
        means = [cells_of_repeats(row, prop) for row in study.repeated]
        lines += [DESCRIBE_REPEATS, "", *_markdown_table(columns_of_repeats(prop), means), ""]
    return "\n".join(lines)


def _markdown_table(columns: list[str], rows: list[list[str]]) -> list[str]:
    head, *lines = [f"| {' | '.join(cells)} |" for cells in (columns, *rows)]
    return [head, "|---" * len(columns) + "|", *lines]


def save_study(folder: Path, study: AblationStudy, prop: Property) -> list[Path]:
    """Write ablations.md and ablations.json; returns their paths."""
    texts = {"ablations.md": to_markdown(study, prop).encode(), "ablations.json": to_json(study)}
    for name, content in texts.items():
        write_atomic(folder / name, content)
    return [folder / name for name in texts]


def to_json(study: AblationStudy) -> bytes:
    """Return everything as JSON."""
    return orjson.dumps(study, option=orjson.OPT_INDENT_2 | orjson.OPT_APPEND_NEWLINE)
