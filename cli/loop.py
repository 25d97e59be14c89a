"""`selfstudy-engine loop`."""

import math
import os
import shlex
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import click

from selfstudy_engine.cli.options import (
    BASE_OPTIONS,
    SERVER_OPTIONS,
    TABLE_OPTIONS,
    TEACHER_OPTIONS,
    TRAIN_DEVICE_OPTIONS,
    TRAIN_OPTIONS,
    config_options,
    reject_option,
    resolve_run,
    run_options,
    server_option,
    tolerance_option,
    track_option,
    vllm_arguments,
)
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE, TEACHER_KEY_VARIABLE
from selfstudy_engine.data.remote_address import RemoteAddress

if TYPE_CHECKING:
    from selfstudy_engine.data.run_folder import RunFolder

_ON_THIS_MACHINE = {"127.0.0.1", "localhost", "::1"}
_MAX_SHOWN = 5


@click.command()
@config_options("generation.batch", "rounds", "generation.samples_per_molecule")
@tolerance_option
@TABLE_OPTIONS
@BASE_OPTIONS
@config_options(("teacher.exemplars", "--exemplars"))
@TEACHER_OPTIONS
@config_options(
    ("name", "--run"),
    "remote",
    "seed",
    "overlap",
    "gate",
)
@server_option
@SERVER_OPTIONS
@config_options(
    "generation.temperature",
    "generation.top_p",
    "generation.max_tokens",
    "generation.template",
    "generation.prompt_exemplars",
    "generation.concurrency",
    "sampler.strategy",
    "sampler.num_value_bands",
    "verdict.max_accepted_per_molecule",
    "verdict.similarity",
    "verdict.tolerance_rule",
    "verdict.tolerance_quantile",
    "verdict.min_tolerance",
    ("rationalize.enabled", "--rationalize"),
    ("rationalize.fraction", "--rationalize-fraction"),
    ("rationalize.after_rounds", "--rationalize-after"),
    ("rationalize.prompt_exemplars", "--rationalize-exemplars"),
)
@TRAIN_OPTIONS
@config_options("train.start_from", "test_answers", "train_evaluation_size", "report")
@TRAIN_DEVICE_OPTIONS
@reject_option
@track_option
@run_options
@click.option(
    "--dry-run", is_flag=True, help="Print the resolved plan and its cost; start nothing."
)
@vllm_arguments
def loop(
    config_path: Path | None,
    runs: Path,
    dry_run: bool,
    **values: Any,
) -> None:
    """Run the self-study loop, or continue it.

    Each round the model answers molecules that it hasn't seen; answers within the tolerance are
    kept, and the next adapter is trained on them. `loop --run NAME` continues a run that was
    stopped: what decides its results, and isn't given, stays as it was. A higher --rounds continues
    a finished one. Arguments after -- go to vLLM.

    The key of a server given with --server comes from SELFSTUDY_SERVER_KEY, a teacher's from
    OPENAI_API_KEY.
    """
    from selfstudy_engine.data.run_folder import RunFolder

    config, begun = resolve_run(config_path, values, runs)
    folder = RunFolder(runs / config.name)
    if dry_run:
        _print_plan(config, begun, folder)
        return
    click.echo(
        f"Continues {folder.path}; what decides its results, and isn't given, is as in its run.toml"
        if begun
        else f"Begins {folder.path}"
    )
    from selfstudy_engine.cli.console import make_reporter
    from selfstudy_engine.engine.loop import run_loop

    with make_reporter(config) as reporter:
        records = run_loop(
            config,
            runs,
            reporter,
            os.environ.get(SERVER_KEY_VARIABLE, ""),
            teacher_key=teacher_key(config.teacher.url),
            command=shlex.join(["selfstudy-engine", *sys.argv[1:]]),
        )
    reporter.print_summary(records)
    click.echo("A higher --rounds goes on with this run, another --run begins one.")
    click.echo(f"Results: {folder.path.resolve()}")
    if folder.report.exists():
        click.echo(f"Report:  {folder.report.resolve()}")


def teacher_key(url: str | None) -> str:
    """Return the key for a teacher: a server of ours on this machine may be one."""
    own = os.environ.get(SERVER_KEY_VARIABLE)
    if own and url and urlsplit(url).hostname in _ON_THIS_MACHINE:
        return own
    return os.environ.get(TEACHER_KEY_VARIABLE, "")


def _print_plan(config: RunConfig, begun: RunConfig | None, folder: "RunFolder") -> None:
    from selfstudy_engine.data.devices import placement_of, replica_configs
    from selfstudy_engine.data.exemplars import load_exemplars
    from selfstudy_engine.data.hardware import resolve_dtype
    from selfstudy_engine.data.table_output import describe_split
    from selfstudy_engine.data.task import load_task
    from selfstudy_engine.engine.base_model import choose_base_model
    from selfstudy_engine.engine.loop import check_answers

    check_answers(config)
    placement, num_servers = placement_of(config), config.server.replicas
    if config.model.path is not None:  # the embedded one would be converted
        _, config = choose_base_model(config)
    _check_start(config, begun, folder)
    teacher = config.teacher
    kept = folder.exemplars()
    exemplars = load_exemplars(kept) if kept.exists() else None
    will_ask = teacher.url is not None and exemplars is None
    task = load_task(config, [] if will_ask else exemplars)  # a plan asks no teacher
    generation = config.generation
    num_molecules = generation.batch // generation.samples_per_molecule
    num_asked = min(num_molecules, len(task.split.pool))
    completions = config.rounds * num_asked * generation.samples_per_molecule
    evaluations = (config.rounds + 1) * len(task.split.test)
    evaluations += config.rounds * config.train_evaluation_size
    evaluations *= config.test_answers
    tokens = (completions + evaluations) * generation.max_tokens
    passes = num_asked * config.rounds / len(task.split.pool)
    click.echo(f"# run folder: {folder.path.resolve()}")
    if config.remote:
        click.echo(f"# kept in: {RemoteAddress.parse(config.remote) / config.name}")
    if config.server.ray != "off":
        click.echo(f"# Ray ({config.server.ray}) places training, and servers: {num_servers}")
    elif num_servers > 1 and not config.server.url:
        devices = [each.devices.server for each in replica_configs(config)]
        click.echo(f"# servers: {num_servers}, on {' and '.join(devices)}")
    here = (
        ("serves", placement.server_kind, placement.server),
        ("trains", placement.train_kind, placement.train),
    )
    for what, kind, gpus in here if config.server.ray == "off" else ():
        where = ", ".join(f"{gpu.name} ({gpu.key})" for gpu in gpus) or "cpu"
        click.echo(f"# {what} on: {where} in {resolve_dtype(config.model.dtype, kind)}")
    num_rows = len(task.table.molecules)
    click.echo(
        f"# table: {num_rows} molecules = {describe_split(num_rows, task.split)}"
        + (", less what becomes exemplars and their relatives" if will_ask else "")
    )
    for reason, rows in task.table.dropped.items():
        click.echo(f"# dropped, {reason}: {len(rows)} ({'; '.join(rows[:_MAX_SHOWN])})")
    click.echo(
        f"# cost: {completions} completions and up to {evaluations} evaluations, at most "
        f"{tokens:,} output tokens; {config.rounds + 1} trainings; the pool "
        f"{passes:.2f} times over"
    )
    per_second = 20_000 if placement.server else 200
    minutes = math.ceil(tokens / 2 / per_second / 60)
    click.echo(
        f"# about {minutes} min of generating at {per_second:,} output tokens/s, plus training"
    )
    click.echo(f"# teacher: {_teacher_calls(teacher.num_exemplars) if will_ask else 'none'}")
    click.echo(config.to_toml())


def _check_start(config: RunConfig, begun: RunConfig | None, folder: "RunFolder") -> None:
    """Refuse a folder and trackers that the loop would refuse."""
    from selfstudy_engine.data.files import check_writable
    from selfstudy_engine.data.run_folder import check_configuration, check_unused
    from selfstudy_engine.engine.trackers import check_installed

    check_writable(folder.path)
    if begun:
        check_configuration(folder, begun, config)
    elif not config.remote:  # of which this folder is a copy, perhaps half made
        check_unused(folder, config)
    for tracker in config.track:
        check_installed(tracker)


def _teacher_calls(num_exemplars: int) -> str:
    from selfstudy_engine.engine.teacher import CANDIDATES_PER_EXEMPLAR

    num_calls = 2 * CANDIDATES_PER_EXEMPLAR * num_exemplars
    return f"up to {num_calls} calls when the loop begins, for {num_exemplars} exemplars"
