"""`selfstudy-engine export adapter|samples`."""

from pathlib import Path

import click

from selfstudy_engine.cli.options import ROUND_OPTION, existing_run_options

_OUT = click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="Folder to make; must not exist.",
)


@click.group()
def export() -> None:
    """Hand on what a run made, as a folder with a card that says what it is."""


@export.command()
@existing_run_options
@ROUND_OPTION
@_OUT
def adapter(run_name: str, runs: Path, round_index: int | None, out: Path) -> None:
    """Copy a round's adapter, which PEFT and vLLM load as it is, with a model card."""
    from selfstudy_engine.data.run_folder import find_run
    from selfstudy_engine.engine.exports import export_adapter

    export_adapter(find_run(runs, run_name), round_index, out)
    click.echo(f"adapter with its card: {out}")


@export.command()
@existing_run_options
@_OUT
@click.option(
    "--all/--accepted", "everything", default=False, help="All samples, or accepted ones [default]."
)
def samples(run_name: str, runs: Path, out: Path, everything: bool) -> None:
    """Write a run's samples as a Parquet folder that `datasets` loads, with a card."""
    from selfstudy_engine.data.errors import counted
    from selfstudy_engine.data.run_folder import find_run
    from selfstudy_engine.engine.exports import export_samples

    count = export_samples(find_run(runs, run_name), out, accepted_only=not everything)
    click.echo(f"{counted(count, 'sample')} with a card: {out}")
