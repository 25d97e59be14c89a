"""`selfstudy-engine predict`."""

import os
from pathlib import Path
from typing import Any

import click

from selfstudy_engine.cli.loop import SERVER_KEY_VARIABLE
from selfstudy_engine.cli.options import SERVER_OPTIONS, config_options, existing_run_options


@click.command()
@click.option("--smiles", multiple=True, help="SMILES of a molecule; may be repeated.")
@click.option("--name", "names", multiple=True, help="Name of a molecule of the run's table.")
@click.option(
    "--table",
    type=click.Path(path_type=Path, exists=True, dir_okay=False),
    help="CSV, TSV or Parquet file with a SMILES column.",
)
@click.option("--smiles-column", default="smiles", show_default=True, help="Its SMILES column.")
@click.option("--name-column", help="Its column of names [default: none].")
@existing_run_options
@click.option(
    "--num-answers",
    type=click.IntRange(1, 128),
    default=8,
    show_default=True,
    help="Answers behind each median; 1 is the greedy answer.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    help="CSV or JSONL file to write [default: a table on the screen].",
)
@config_options(("server.url", "--server"))
@SERVER_OPTIONS
def predict(
    smiles: tuple[str, ...],
    names: tuple[str, ...],
    table: Path | None,
    smiles_column: str,
    name_column: str | None,
    run_name: str,
    runs: Path,
    num_answers: int,
    out: Path | None,
    **values: Any,
) -> None:
    """Predict molecules with a run's best adapter: value, spread and reason.

    Unparsable molecules become rows with an error.
    """
    from selfstudy_engine.cli.options import apply
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.molecules import to_molecule
    from selfstudy_engine.data.run_folder import find_run, read_config
    from selfstudy_engine.data.table_files import read_smiles
    from selfstudy_engine.data.task import load_table
    from selfstudy_engine.engine.predict import predict as predict_molecules

    if not (smiles or names or table):
        raise UsageError("nothing to predict; give --smiles, --name or --table")
    if out and (out.exists() or out.suffix not in {".csv", ".jsonl"}):
        raise UsageError(f"--out {out} must be a new file that ends in .csv or .jsonl")
    folder = find_run(runs, run_name)
    config = apply(read_config(folder), values)
    asked = [("", text) for text in smiles]
    if names:
        known = {m.name.lower(): m for m in load_table(config).molecules if m.name}
        missing = [name for name in names if name.lower() not in known]
        if missing:
            raise UsageError(f"the run's table has no molecule named {missing}; use --smiles")
        asked += [(known[name.lower()].name, known[name.lower()].smiles) for name in names]
    if table:
        asked += read_smiles(table, smiles_column, name_column)
    parsed = [to_molecule(text, name) for name, text in asked]
    molecules = [molecule for molecule in parsed if molecule is not None]
    if not molecules:
        raise UsageError(f"none of {len(asked)} SMILES can be parsed (first: {asked[0][1]!r})")
    with click.progressbar(length=len(molecules), label="Predicting", show_pos=True) as bar:
        predictions = predict_molecules(
            config,
            folder,
            molecules,
            num_answers=num_answers,
            log=folder.logs / "predict-server.log",
            server_key=os.environ.get(SERVER_KEY_VARIABLE, ""),
            on_done=lambda done: bar.update(done - bar.pos),
        )
    found = iter(predictions)
    rows = []
    for (name, text), molecule in zip(asked, parsed, strict=True):
        prediction = next(found) if molecule else None
        rows.append(
            {
                "name": name,
                "smiles": text,
                "value": prediction.value if prediction else None,
                "spread": prediction.spread if prediction else None,
                "num_answers": prediction.num_answers if prediction else 0,
                "reason": prediction.reason if prediction else "",
                "error": "" if prediction else "unparsable SMILES",
            }
        )
    if out:
        _write(out, rows)
    else:
        _show(rows, config.property.unit)


def _write(out: Path, rows: list[dict[str, Any]]) -> None:
    import csv
    import io

    import orjson

    from selfstudy_engine.data.files import write_atomic

    if out.suffix == ".jsonl":
        content = b"".join(orjson.dumps(row, option=orjson.OPT_APPEND_NEWLINE) for row in rows)
    else:
        text = io.StringIO()
        writer = csv.DictWriter(text, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
        content = text.getvalue().encode()
    write_atomic(out, content)
    click.echo(f"{len(rows)} molecules: {out}")


def _show(rows: list[dict[str, Any]], unit: str) -> None:
    for row in rows:
        value = row["error"] or "no value"
        if row["value"] is not None:
            spread = f" +- {row['spread']:.0f}" if row["spread"] is not None else ""
            value = f"{row['value']:.0f}{spread} {unit}"
        click.echo(f"{row['name'] or row['smiles']}: {value}")
        if row["reason"]:
            click.echo(f"  {row['reason']}")
