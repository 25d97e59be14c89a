"""`selfstudy-engine evaluate`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import click

from selfstudy_engine.cli.options import (
    BASE_OPTIONS,
    SERVER_OPTIONS,
    TABLE_OPTIONS,
    NewFile,
    apply,
    config_options,
    resolve,
    run_options,
    server_option,
)
from selfstudy_engine.data.privacy import SERVER_KEY_VARIABLE
from selfstudy_engine.data.prompts import Hidden
from selfstudy_engine.data.scratch import scratch_folder

if TYPE_CHECKING:
    from selfstudy_engine.engine.held_out import HeldOut

_OF_A_TABLE = ("table__", "model__", "property", "seed")
"""Options that begin so mean a test set without a run: a run brings them along."""


@click.command()
@click.option(
    "--run",
    "run_name",
    help="The run [default: default; none with --config, or options of table or model].",
)
@click.option(
    "--adapter",
    "which",
    default="last",
    show_default=True,
    metavar="ROUND|last|best|base|DIR",
    help="What is measured: a round of the run (last: the last one that passed --gate), the base "
    "model, or an adapter's folder.",
)
@click.option(
    "--against",
    multiple=True,
    metavar="ROUND|last|best|base|DIR",
    help="Compare with this, molecule by molecule; may be repeated.",
)
@click.option(
    "--samples",
    "num_answers",
    type=click.IntRange(1, 128),
    help="Answers behind each median, whose spread is checked as an uncertainty; 1 is greedy "
    "[default: as the run's loop; 1].",
)
@click.option(
    "--hide",
    type=click.Choice(get_args(Hidden)),
    help="Leave this out of the question; with the SMILES go the facts.",
)
@click.option(
    "--swap-reasons",
    is_flag=True,
    help="Begin each answer with another molecule's reason: does the value follow it?",
)
@click.option(
    "--out",
    type=NewFile(),
    help="Parquet file for the answers; must not exist.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of tables.")
@TABLE_OPTIONS
@BASE_OPTIONS
@config_options(
    "seed",
    "generation.template",
    "generation.prompt_exemplars",
    "generation.max_tokens",
    "generation.temperature",
    "generation.top_p",
    "generation.concurrency",
)
@server_option
@SERVER_OPTIONS
@run_options
def evaluate(
    run_name: str | None,
    which: str,
    against: tuple[str, ...],
    num_answers: int | None,
    hide: Hidden | None,
    swap_reasons: bool,
    out: Path | None,
    as_json: bool,
    config_path: Path | None,
    runs: Path,
    **values: Any,
) -> None:
    """Measure an adapter on a test set, with bootstrap 95% intervals and paired comparisons.

    The test set is the run's; without a run, that of --table (and --seed, --test-size), as a loop
    would split it. Questions without a well-formed answer are scored as the training median. A
    round's answers that the run has kept are not asked for again.
    """
    from selfstudy_engine.cli.console import make_reporter
    from selfstudy_engine.cli.examination import show_examination
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.evaluations import save_evaluation
    from selfstudy_engine.engine.base_model import choose_base_model
    from selfstudy_engine.engine.board import Board
    from selfstudy_engine.engine.examination import Asking, check_asking, to_json
    from selfstudy_engine.engine.examiner import Examiner

    if out and (out.exists() or out.suffix != ".parquet"):
        raise UsageError(f"--out {out} must be a new file that ends in .parquet")
    with scratch_folder() as scratch:
        held_out, log = _held_out(run_name, runs, config_path, values, [which, *against], scratch)
        plain = Asking(held_out.config.test_answers)
        asking = Asking(num_answers or plain.num_answers, hide, swap_reasons)
        check_asking(asking, held_out.config.generation)
        model, config = choose_base_model(held_out.config)
        key = os.environ.get(SERVER_KEY_VARIABLE, "")
        with (
            make_reporter(config, to_stderr=True) as reporter,
            Examiner(
                config, model, held_out.shown, log=log, server_key=key, progress=reporter
            ) as examiner,
        ):
            board = Board(examiner, held_out.split, config.property, config.seed, plain)
            subject, *others = held_out.subjects
            found = board.examine(subject, asking, others)
    if out:
        save_evaluation(out, found.answers)
    if as_json:
        click.echo(to_json(found), nl=False)
    else:
        show_examination(found, config.property)


def _held_out(
    run_name: str | None,
    runs: Path,
    config_path: Path | None,
    values: dict[str, Any],
    names: list[str],
    scratch: Path,
) -> tuple["HeldOut", Path]:
    """Return what is asked and of whom, and where an own server's output goes."""
    from selfstudy_engine.data.errors import UsageError
    from selfstudy_engine.data.run_folder import find_run, read_config
    from selfstudy_engine.engine.held_out import HeldOut

    of_a_table = ["config"] if config_path else []
    of_a_table += [
        name.replace("__", ".")
        for name, value in values.items()
        if value is not None and name.startswith(_OF_A_TABLE)
    ]
    if run_name is None and of_a_table:
        return HeldOut.of_table(resolve(config_path, values), names), scratch / "server.log"
    if of_a_table:
        raise UsageError(
            f"run {run_name} brings its own {', '.join(of_a_table)}: leave out --run, or them"
        )
    folder = find_run(runs, run_name or "default")
    config = apply(read_config(folder), values)
    return HeldOut.of_run(folder, config, names), folder.logs / "evaluate-server.log"
