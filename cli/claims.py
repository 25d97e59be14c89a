"""`selfstudy-engine claims`."""

from pathlib import Path
from typing import Any

import click

from selfstudy_engine.cli.options import NewFile


@click.command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--out",
    type=NewFile(),
    help="JSONL file to write [default: FILE with the ending .claims.jsonl].",
)
@click.option("--swap", is_flag=True, help="Hold each reason against another row's molecule, too.")
@click.option("--seed", default=0, show_default=True, help="Seed of the swap.")
@click.option(
    "--values/--no-values",
    default=True,
    show_default=True,
    help="Check melting points of named compounds against the embedded table.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def claims(
    file: Path, out: Path | None, swap: bool, seed: int, values: bool, as_json: bool
) -> None:
    """Check what reasons claim about their molecules.

    FILE has one JSON object per line with smiles and reason, and name where there is one; other
    columns are kept. Each line is written with its claims: kind, text, place, truth and what was
    found. Unverifiable claims never count as true.
    """
    import orjson

    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.files import write_atomic
    from selfstudy_engine.engine.claim_report import (
        ClaimReport,
        check_rows,
        read_reasons,
        swap_molecules,
    )

    target = out or file.with_suffix(".claims.jsonl")
    if target.exists():
        raise UsageError(f"{target} exists already; name another file with --out")
    rows = read_reasons(file)
    known = _known_values() if values else None
    report, lines = ClaimReport(), []
    for row, found in zip(rows, check_rows(rows, known), strict=True):
        report.add(found)
        lines.append(orjson.dumps(row.columns | {"claims": found}))
    write_atomic(target, b"\n".join(lines) + b"\n")
    summary = report.as_dict() | {"file": str(target)}
    if swap:
        swapped = ClaimReport()
        for found in check_rows(swap_molecules(rows, seed), known):
            swapped.add(found)
        summary["swapped"] = swapped.as_dict()
    click.echo(orjson.dumps(summary, option=orjson.OPT_INDENT_2) if as_json else _lines(summary))


def _known_values() -> Any:
    from selfstudy_engine.data.embedded import embedded_table
    from selfstudy_engine.data.properties import find_property
    from selfstudy_engine.engine.known_values import KnownValues

    return KnownValues.from_molecules(embedded_table().molecules, find_property("melting_point"))


def _lines(summary: dict[str, Any]) -> str:
    lines = [_line("own molecule", summary)]
    if "swapped" in summary:
        lines.append(_line("another's", summary["swapped"]))
    return "\n".join([*lines, f"Claims: {summary['file']}"])


def _line(label: str, figures: dict[str, Any]) -> str:
    from selfstudy_engine.data.errors import counted

    share = figures["reasons_with_false_fraction"]
    unparsable = figures["num_unparsable"]
    return (
        f"{label}: {counted(figures['num_reasons'], 'reason')}, "
        f"{counted(figures['num_claims'], 'claim')}: "
        f"{figures['num_true']} true, {figures['num_false']} false, "
        f"{figures['num_unverifiable']} unverifiable; "
        f"reasons with a false claim: {'-' if share is None else f'{share:.1%}'}"
        + (f"; {unparsable} without a molecule (SMILES can't be parsed)" if unparsable else "")
    )
