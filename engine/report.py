"""A run's folder in, its report out: one HTML file, and each figure as SVG and PNG if wanted."""

import sys
from collections.abc import Sequence
from pathlib import Path

from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.false_claims import claims_check
from selfstudy_engine.engine.metric_texts import ranged
from selfstudy_engine.engine.reason_quality import CheckReason
from selfstudy_engine.engine.report_charts import Figure
from selfstudy_engine.engine.report_examples import choose_examples, likely_label_errors
from selfstudy_engine.engine.report_facts import RunFacts, gather_facts
from selfstudy_engine.engine.report_groups import error_by_similarity, error_by_value
from selfstudy_engine.engine.report_headline import headline
from selfstudy_engine.engine.report_learning import learning_by_labels, learning_by_round
from selfstudy_engine.engine.report_original import original_error, original_parity
from selfstudy_engine.engine.report_page import render_page
from selfstudy_engine.engine.report_parity import parity
from selfstudy_engine.engine.report_progress import acceptance, molecules, reasons, time_spent


def write_report(folder: RunFolder, out: Path, check: CheckReason | None = None) -> list[Figure]:
    """Write a run's report.

    Args:
        folder: with at least one finished round.
        out: HTML file, replaced if it exists.
        check: marks the claims of reasons; None takes the check of the run.

    Returns:
        The figures of the page.

    Raises:
        RunFolderError: no round is finished yet.
    """
    run = gather_facts(folder)
    check = check or claims_check(run.split, run.exemplars, run.config.property)
    found = figures_of(run, check)
    examples = choose_examples(run, check)
    page = render_page(
        "report_run.html.jinja",
        title=f"Self-study run {run.name}: {run.prop.name}",
        figures=found,
        run=run,
        headline=headline(run),
        parity_rounds=_slider(run, next(figure for figure in found if figure.key == "parity")),
        examples=examples,
        kinds=list(dict.fromkeys(example.kind for example in examples)),
        suspects=likely_label_errors(run),
        command=run.identity.get("command") or f"selfstudy-engine loop --config {folder.config}",
        behind=_behind(run),
        toml=run.config.to_toml(),
    )
    write_atomic(out, page)
    return found


def figures_of(run: RunFacts, check: CheckReason) -> list[Figure]:
    """Return all figures that a run's facts allow."""
    found = [
        learning_by_round(run),
        learning_by_labels(run),
        parity(run),
        error_by_value(run),
        error_by_similarity(run),
        acceptance(run),
        molecules(run),
        reasons(run, check),
        time_spent(run),
        original_error(run),
        original_parity(run),
    ]
    return [figure for figure in found if figure]


def main() -> None:
    """Write the report of the run folder that the command line names; see `ReportRefresher`."""
    folder = RunFolder(Path(sys.argv[1]))
    write_report(folder, folder.report)


def _slider(run: RunFacts, figure: Figure) -> list[dict[str, object]]:
    """Return what the slider stops at: a round, and the text that it shows."""
    drawn = {row["round"] for row in figure.rows}
    return [
        {
            "round": facts.index,
            "text": f"round {facts.index}: test MAE "
            f"{ranged(facts.test_mae, run.prop.error_decimals)} {run.unit}, answered "
            f"{facts.answered:.0%}",
        }
        for facts in run.rounds
        if facts.index in drawn
    ]


def _behind(run: RunFacts) -> Sequence[tuple[str, str]]:
    identity, config = run.identity, run.config
    host = identity.get("host", {})
    pool, test = run.split.pool, run.split.test
    return [
        ("base model", config.model.path or f"{run.base_model} (embedded)"),
        ("table", config.table.path or f"embedded {run.prop.name}s (package chemicals)"),
        ("molecules", f"{len(pool)} pool, {len(test)} test, {len(run.exemplars)} exemplars"),
        ("task, SHA-256", identity.get("task", "")),
        (
            "answers behind each test value",
            str(config.test_answers) if config.test_answers > 1 else "1, greedy",
        ),
        ("seed", str(config.seed)),
        (
            "adapter of the last round",
            f"{run.last.record.adapter} ({run.last.record.adapter_sha256})",
        ),
        ("host", f"{host.get('processor', '')}, {host.get('num_cpus', '')} CPUs"),
        *((f"version of {name}", text) for name, text in identity.get("versions", {}).items()),
    ]


if __name__ == "__main__":
    main()
