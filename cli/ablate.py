"""`selfstudy-engine ablate`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfstudy_engine.cli.options import (
    SERVER_OPTIONS,
    TRAIN_DEVICE_OPTIONS,
    apply,
    existing_run_options,
    server_option,
)
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE

if TYPE_CHECKING:
    from selfstudy_engine.data.properties import Property
    from selfstudy_engine.engine.ablations import AblationStudy


@click.command()
@existing_run_options
@click.option(
    "--only",
    multiple=True,
    metavar="KEY",
    help="Only this one beside the loop's way, e.g. direct-answer-as-many-steps. May be repeated "
    "[default: all].",
)
@click.option(
    "--repeats",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Trainings of each, from as many seeds; several tell a difference from a training's luck.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@server_option
@SERVER_OPTIONS
@TRAIN_DEVICE_OPTIONS
def ablate(
    run_name: str, runs: Path, only: tuple[str, ...], repeats: int, as_json: bool, **values: Any
) -> None:
    """Find out what a finished run's reasons and labels were worth, by training otherwise.

    On the samples of its last round: exemplars only, direct answers without a reason, reasons of
    other molecules, the other labels and weights, and all answers within the tolerance; all
    measured on the run's test set, each against the adapter that was trained as the loop did. The
    same command continues where it was stopped; adapters, answers, a Markdown table and JSON lie
    in the run's folder.
    """
    from selfstudy_engine.cli.console import make_reporter
    from selfstudy_engine.data.run_folder import find_run, read_config
    from selfstudy_engine.engine.ablation_table import save_study, to_json
    from selfstudy_engine.engine.ablations import run_ablations

    folder = find_run(runs, run_name)
    config = apply(read_config(folder), values)
    with make_reporter(config, to_stderr=True) as reporter:
        key = os.environ.get(SERVER_KEY_VARIABLE, "")
        study = run_ablations(folder, config, reporter, key, repeats=repeats, only=only)
    paths = save_study(folder.ablations(study.round), study, config.property)
    if as_json:
        click.echo(to_json(study), nl=False)
    else:
        _show(study, config.property)
        click.echo("Tables: " + ", ".join(map(str, paths)))


def _show(study: "AblationStudy", prop: "Property") -> None:
    from selfstudy_engine.cli.console import figures_table, plain_console
    from selfstudy_engine.engine.ablation_table import (
        DESCRIBE_REPEATS,
        cells_of_repeats,
        cells_of_row,
        columns_of_repeats,
        columns_of_study,
        describe_study,
    )

    console = plain_console()

    def show(columns: list[str], rows: list[list[str]], words: str) -> None:
        table = figures_table(*columns)
        for row in rows:
            table.add_row(*row)
        console.print(table)
        console.print(words)

    rows = [cells_of_row(row, prop) for row in study.rows]
    show(columns_of_study(prop), rows, describe_study(study))
    if study.repeated:
        means = [cells_of_repeats(row, prop) for row in study.repeated]
        show(columns_of_repeats(prop), means, DESCRIBE_REPEATS)
