"""`selfstudy-engine predict`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfstudy_engine.cli.options import (
    ROUND_OPTION,
    SERVER_OPTIONS,
    NewFile,
    apply,
    existing_run_options,
    server_option,
)
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE

if TYPE_CHECKING:
    from selfstudy_engine.data.config import RunConfig
    from selfstudy_engine.data.properties import Property


@click.command()
@click.option("--smiles", multiple=True, help="SMILES of a molecule; may be repeated.")
@click.option("--name", "names", multiple=True, help="Name of a molecule of the run's table.")
@click.option(
    "--table",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV, TSV, Parquet or SDF file of molecules; all its columns are kept.",
)
@click.option("--smiles-column", default="smiles", show_default=True, help="Its SMILES column.")
@click.option("--name-column", help="Its column of names [default: none].")
@existing_run_options
@ROUND_OPTION
@click.option(
    "--num-answers",
    type=click.IntRange(1, 128),
    default=8,
    show_default=True,
    help="Answers behind each median; 1 is the greedy answer.",
)
@click.option(
    "--out",
    type=NewFile(),
    help="File to write: .csv, .tsv, .parquet, .jsonl or .sdf [default: the screen].",
)
@server_option
@SERVER_OPTIONS
def predict(
    smiles: tuple[str, ...],
    names: tuple[str, ...],
    table: Path | None,
    smiles_column: str,
    name_column: str | None,
    run_name: str,
    runs: Path,
    round_index: int | None,
    num_answers: int,
    out: Path | None,
    **values: Any,
) -> None:
    """Predict molecules with a run's adapter: value, spread, reason, and what the reason claims.

    Molecules that can't be read become rows with an error. With --out, a call that was cut off is
    continued by the same command.
    """
    from selfstudy_engine.cli.console import make_reporter
    from selfstudy_engine.data.errors import UsageError, counted
    from selfstudy_engine.data.prediction_files import SUFFIXES, check_columns, write_rows
    from selfstudy_engine.data.run_folder import find_run, read_config
    from selfstudy_engine.data.table_files import read_columns
    from selfstudy_engine.engine.predict_table import predict_rows
    from selfstudy_engine.engine.prediction_rows import COLUMNS

    if bool(table) == bool(smiles or names):
        raise UsageError("say what to predict: either --table, or --smiles and --name")
    if out and (out.exists() or out.suffix.lower() not in SUFFIXES):
        raise UsageError(f"--out {out} must be a new file that ends in {', '.join(SUFFIXES)}")
    folder = find_run(runs, run_name)
    config = apply(read_config(folder), values)
    if table:
        columns = read_columns(table, [smiles_column, *filter(None, [name_column])])
        check_columns(columns.column_names, COLUMNS, table)
        rows = columns.to_pylist()
    else:
        smiles_column, name_column = "smiles", "name"
        rows = [{"name": "", "smiles": text} for text in smiles] + _rows_named(names, config)
    with make_reporter(config, to_stderr=True) as reporter:
        found = predict_rows(
            rows,
            folder,
            config,
            smiles_column=smiles_column,
            name_column=name_column,
            round_index=round_index,
            num_answers=num_answers,
            partial=out.with_name(f"{out.name}.partial.jsonl") if out else None,
            progress=reporter,
            server_key=os.environ.get(SERVER_KEY_VARIABLE, ""),
        )
    if out:
        write_rows(out, found.rows, smiles_column, COLUMNS)
        found.forget()
        click.echo(f"{counted(len(rows), 'molecule')}: {out}")
    else:
        _show(found.rows, smiles_column, name_column, config.property)


def _rows_named(names: tuple[str, ...], config: "RunConfig") -> list[dict[str, Any]]:
    """Look molecules up in the run's table."""
    if not names:
        return []
    from selfstudy_engine.data.errors import UsageError, listed
    from selfstudy_engine.data.molecules import by_name
    from selfstudy_engine.data.task import load_table

    known = by_name(load_table(config).molecules)
    missing = [name for name in names if name.lower() not in known]
    if missing:
        raise UsageError(f"the run's table has no molecule named {missing}; use --smiles")
    for name in names:
        same = [molecule.smiles for molecule in known[name.lower()]]
        if len(same) > 1:
            raise UsageError(
                f"the run's table has {len(same)} molecules named {name!r} ({listed(same)}); say "
                "which with --smiles"
            )
    found = [known[name.lower()][0] for name in names]
    return [{"name": molecule.name, "smiles": molecule.smiles} for molecule in found]


def _show(
    rows: list[dict[str, Any]], smiles_column: str, name_column: str | None, prop: "Property"
) -> None:
    from selfstudy_engine.data.errors import printable

    for row in rows:
        value = row["error"]
        if row["predicted"] is not None:
            spread = f" +- {prop.format(row['spread'])}" if row["spread"] is not None else ""
            value = f"{prop.format(row['predicted'])}{spread} {prop.unit}"
        name = row[name_column] if name_column else ""
        click.echo(f"{printable(str(name or row[smiles_column]))}: {value}")
        if row["reason"]:
            click.echo(f"  {printable(row['reason'])}")
        if row["claims"]:
            click.echo(f"  claims: {printable(row['claims'])}")
        if row["similarity"] is not None:
            click.echo(f"  similarity to what was trained on: {row['similarity']:.2f}")
