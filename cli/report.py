"""`selfstudy-engine report`."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import click

from selfstudy_engine.cli.options import RUNS_OPTION, NewFile

if TYPE_CHECKING:
    from selfstudy_engine.engine.report_charts import Figure


@click.command()
@click.argument("run_name", metavar="[RUN]", required=False)
@RUNS_OPTION
@click.option(
    "--compare",
    nargs=2,
    metavar="RUN_A RUN_B",
    help="Put two runs side by side, instead of one run's report.",
)
@click.option(
    "--import-metrics",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV of rounds (run, round, split, mae, ...) that another program measured: the "
    "original's plot of each of its runs, instead of a run's report.",
)
@click.option(
    "--out",
    type=NewFile(),
    help="HTML file to write. [default: report.html in the run's folder, else in this one]",
)
@click.option(
    "--figures",
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for each figure as SVG and PNG. [default: none are written]",
)
def report(
    run_name: str | None,
    runs: Path,
    compare: tuple[str, str] | None,
    import_metrics: Path | None,
    out: Path | None,
    figures: Path | None,
) -> None:
    """Show what a run learned, in one HTML file that needs no network.

    The loop writes it after each round; this command writes it again, or elsewhere.
    """
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.run_folder import find_run
    from selfstudy_engine.engine.report_page import check_replaceable

    if compare and import_metrics:
        raise UsageError("--compare and --import-metrics make different pages; give one of them")
    option = "--compare" if compare else "--import-metrics" if import_metrics else None
    if option and run_name:
        raise UsageError(f"{option} makes no report of run {run_name}; leave out {run_name}")
    folder = None if option else find_run(runs, run_name or "default")
    target = out or (folder.report if folder else Path("report.html"))
    check_replaceable(target)
    if import_metrics:
        from selfstudy_engine.engine.report_import import write_imported

        drawn = write_imported(import_metrics, target)
    elif compare:
        from selfstudy_engine.engine.report_compare import write_comparison

        drawn = write_comparison([find_run(runs, name) for name in compare], target)
    elif folder:
        from selfstudy_engine.engine.report import write_report

        drawn = write_report(folder, target)
    if figures:
        _export(drawn, figures)
    click.echo(f"Report: {target.resolve()}")


def _export(figures: "Sequence[Figure]", folder: Path) -> None:
    from selfstudy_engine.engine.report_export import export_figures

    paths = export_figures(figures, folder)
    click.echo(f"{len(paths)} figures: {folder.resolve()}")
