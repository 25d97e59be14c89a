"""`selfstudy-engine doctor`."""

import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import orjson

from selfstudy_engine.cli.options import config_option

_COLORS = {"ok": "green", "warn": "yellow", "FAIL": "red"}


@click.command()
@click.option(
    "--runs",
    type=click.Path(path_type=Path),
    default=Path("runs"),
    show_default=True,
    help="Folder of all runs.",
)
@config_option("model.path", "--model")
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    default=8000,
    show_default=True,
    help="Port on 127.0.0.1 that serve would listen on.",
)
@click.option("--json", "as_json", is_flag=True, help="One JSON object instead of lines.")
def doctor(runs: Path, port: int, as_json: bool, **values: Any) -> None:
    """Say whether this machine can run it, and what to do if not.

    Writes nothing that stays, and takes about 5 seconds. Exit code 1 if a check says FAIL.
    """
    from selfstudy_engine.engine.doctor import diagnose

    checks = []
    for check in diagnose(runs, values["model__path"], port):
        checks.append(check)
        if not as_json:
            click.echo(_line(check))
    failed = [check.name for check in checks if check.status == "FAIL"]
    if as_json:
        report = {"ok": not failed, "checks": [asdict(check) for check in checks]}
        click.echo(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    elif failed:
        click.echo(f"This machine can't run it yet: {', '.join(failed)}.")
    else:
        click.echo("This machine can run it: try `selfstudy-engine loop`.")
    if failed:
        sys.exit(1)


def _line(check: Any) -> str:
    mark = click.style(f"{check.status:<4}", fg=_COLORS[check.status], bold=check.status != "ok")
    remedy = f" -> {check.remedy}" if check.remedy else ""
    return f"{mark}  {check.name:<13}  {check.found}{remedy}"
