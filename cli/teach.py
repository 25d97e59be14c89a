"""`selfstudy-engine teach`."""

import asyncio
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfstudy_engine.cli.loop import teacher_key
from selfstudy_engine.cli.options import (
    BASE_OPTIONS,
    SERVER_OPTIONS,
    TABLE_OPTIONS,
    TEACHER_OPTIONS,
    NewFile,
    config_file_option,
    config_options,
    resolve,
    server_option,
    tolerance_option,
    vllm_arguments,
)
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE

if TYPE_CHECKING:
    from selfstudy_engine.data.schema import Exemplar, Molecule
    from selfstudy_engine.engine.teacher import Lessons, Rejection


@click.command()
@click.option(
    "--out",
    type=NewFile(),
    required=True,
    help="JSONL file of exemplars to write, for loop --exemplars; the answers behind it are kept "
    "beside it.",
)
@TEACHER_OPTIONS
@config_options("seed")
@tolerance_option
@TABLE_OPTIONS
@BASE_OPTIONS
@server_option
@SERVER_OPTIONS
@config_file_option("TOML file with any of the options, e.g. [teacher] max_cost = 2.5.")
@vllm_arguments
def teach(out: Path, config_path: Path | None, **values: Any) -> None:
    """Have a teacher explain molecules, and keep the reasons that stand every check.

    The teacher is any OpenAI-compatible server (--teacher-url, its key in OPENAI_API_KEY), or,
    without a URL, the local model itself. A reason is kept only if it doesn't give the value away,
    states nothing false of the structure, and leads to the value again when name, SMILES and
    value are masked.

    Every answer is kept, so that the same command continues after a stop and pays for nothing
    twice. --max-cost counts all calls of the same teacher.
    """
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.exemplars import to_lines
    from selfstudy_engine.data.files import write_atomic
    from selfstudy_engine.engine.teacher import teach as teach_molecules
    from selfstudy_engine.engine.teacher import teach_locally
    from selfstudy_engine.engine.teacher_client import Teacher

    config = resolve(config_path, values)
    answers = out.with_suffix(".answers.jsonl")
    if out.exists() and not answers.exists():
        raise UsageError(f"--out {out} exists, and isn't of an earlier call; name another file")
    progress = _Progress(config.teacher.num_exemplars)
    if config.teacher.url:
        settings = config.teacher
        teacher = Teacher(config.teacher.url, settings.model, teacher_key(settings.url))
        lessons = asyncio.run(teach_molecules(config, teacher, answers, progress.on_decided))
    else:
        log = out.with_suffix(".server.log")
        key = os.environ.get(SERVER_KEY_VARIABLE, "")
        lessons = teach_locally(config, answers, log, key, progress.on_decided)
    lines = to_lines(lessons.exemplars)
    kept = set(out.read_bytes().splitlines()) if out.exists() and lines else set()
    is_changed = not kept <= set(lines.splitlines())
    if lines and not is_changed:
        write_atomic(out, lines)
    _print_outcome(lessons, config.teacher.num_exemplars, out, answers)
    if lessons.failure:
        raise lessons.failure
    if is_changed:
        raise UsageError(
            f"{out} has lines that these answers don't give (changed by hand, or of a call with "
            "other settings), and stays as it is; move it away to have it made anew, which asks "
            "nothing again"
        )


class _Progress:
    """A line on stderr for every molecule that is decided."""

    def __init__(self, num_wanted: int) -> None:
        self._num_wanted = num_wanted
        self._num_explained = 0
        self._started = time.monotonic()

    def on_decided(self, molecule: "Molecule", outcome: "Exemplar | Rejection") -> None:
        """See `OnDecided`."""
        verdict = f"rejected ({outcome})" if isinstance(outcome, str) else "explained"
        self._num_explained += verdict == "explained"
        click.echo(
            f"[{time.monotonic() - self._started:6.0f} s] {self._num_explained} of "
            f"{self._num_wanted}: {molecule.name or molecule.smiles} {verdict}",
            err=True,
        )


def _print_outcome(lessons: "Lessons", num_wanted: int, out: Path, answers: Path) -> None:
    from selfstudy_engine.engine.teacher import describe_rejections

    kept = f"{len(lessons.exemplars)} of {num_wanted} molecules explained"
    click.echo(f"{kept}: {out}" if lessons.exemplars else kept)
    click.echo(f"rejected reasons: {describe_rejections(lessons.rejections)}")
    click.echo(f"asked: {lessons.spent}; {lessons.num_known} answers were known")
    click.echo(f"answers: {answers}")
