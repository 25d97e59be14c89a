"""`selfstudy-engine table prepare|describe`."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfstudy_engine.cli.options import (
    TABLE_OPTIONS,
    NewFile,
    config_file_option,
    config_options,
    resolve,
)

if TYPE_CHECKING:
    from selfstudy_engine.data.schema import Molecule

_CONFIG = config_file_option("TOML file with any of the options, e.g. a [property] of your own.")


def _table_arguments(function: Callable[..., None]) -> Callable[..., None]:
    options = config_options(
        ("property", "--property"), "seed", ("teacher.exemplars", "--exemplars")
    )
    return TABLE_OPTIONS(options(_CONFIG(function)))


@click.group()
def table() -> None:
    """Turn a table into canonical molecules, and say what is in it."""


@table.command()
@_table_arguments
@click.option(
    "--out",
    type=NewFile(),
    required=True,
    help=".csv, .tsv or .parquet file to write: molecule_id, name, smiles, value. Must not exist.",
)
@click.option(
    "--dropped",
    "dropped_path",
    type=NewFile(),
    help="CSV file that lists every dropped row with its reason [default: OUT.dropped.csv].",
)
def prepare(config_path: Path | None, out: Path, dropped_path: Path | None, **values: Any) -> None:
    """Write a table's canonical molecules, and list every row that was left out.

    The result is a table for --table (with --name-column name), in the property's own unit.
    """
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.table_output import SUFFIXES, write_dropped, write_molecules
    from selfstudy_engine.data.task import load_table

    if out.suffix.lower() not in SUFFIXES:
        raise UsageError(f"--out {out} must end in {', '.join(SUFFIXES)}")
    dropped_path = dropped_path or out.with_name(f"{out.name}.dropped.csv")
    if dropped_path.absolute() == out.absolute():
        raise UsageError(f"--dropped {dropped_path} is --out, too; name another file")
    for path in (out, dropped_path):
        if path.exists():
            raise UsageError(f"{path} exists already; name another file")
    read = load_table(resolve(config_path, values))
    write_molecules(out, read.molecules)
    try:
        write_dropped(dropped_path, read.dropped)
    except OSError:
        out.unlink()  # so that the same command can be run again
        raise
    _print_counts(read)
    click.echo(f"molecules: {out}\ndropped rows: {dropped_path}")


@table.command()
@_table_arguments
def describe(config_path: Path | None, **values: Any) -> None:
    """Say how many molecules a table has, how their values lie, and how it would be split."""
    from selfstudy_engine.data.table_output import describe_split, describe_values
    from selfstudy_engine.data.task import load_table, split_table

    config = resolve(config_path, values)
    read = load_table(config)
    prop = config.property
    _print_counts(read)

    def described(molecules: Sequence["Molecule"]) -> str:
        return describe_values([molecule.value for molecule in molecules], prop.error_decimals)

    click.echo(f"{prop.name} ({prop.unit}): {described(read.molecules)}")
    parts, _ = split_table(read, config)
    click.echo(f"split by {config.table.split}: {describe_split(len(read.molecules), parts)}")
    click.echo(f"  pool: {described(parts.pool)}")
    click.echo(f"  test: {described(parts.test)}")


def _print_counts(read: Any) -> None:
    from selfstudy_engine.data.errors import counted

    click.echo(counted(len(read.molecules), "molecule"))
    if read.num_merged:
        merged = counted(read.num_merged, "further row")
        click.echo(f"{merged} of the same molecules went into their medians")
    if read.num_cas_names:
        click.echo(f"left out as bare CAS numbers: {counted(read.num_cas_names, 'name')}")
    for reason, rows in read.dropped.items():
        click.echo(f"{counted(len(rows), 'row')} dropped, {reason}: {'; '.join(rows[:3])}")
