"""`selfstudy-engine`: the group of commands, and where errors become exit codes.

Commands are imported when they are called, so that --help loads neither torch, vllm nor rdkit.
"""

import importlib
import logging
import signal
import sys
from typing import Any

import click

from selfstudy_engine import __version__
from selfstudy_engine.cli.interrupts import guard_interrupts
from selfstudy_engine.data.errors import SelfStudyError
from selfstudy_engine.data.os_errors import explain
from selfstudy_engine.data.privacy import turn_telemetry_off

_COMMANDS = {
    "serve": "Start a vLLM server that is ready for hot-swapped adapters.",
    "loop": "Run the self-study loop, or continue it.",
    "teach": "Have a teacher explain molecules: exemplars for a loop.",
    "train": "Train one adapter from a run's samples, or from files.",
    "table": "Turn a table into canonical molecules, and say what is in it.",
    "predict": "Predict molecules with a run's adapter.",
    "evaluate": "Measure an adapter on a test set, with intervals.",
    "ablate": "Find out what a run's reasons and labels were worth.",
    "report": "Show what a run learned: one HTML file, figures, comparisons.",
    "bench": "Measure throughput side by side: original, transformers, vLLM, this engine.",
    "export": "Hand on a run's adapter or samples, as folders with a card.",
    "store": "List, show, export and re-score the samples of a run.",
    "claims": "Check what reasons claim about their molecules.",
    "doctor": "Say whether this machine can run it, and what to do if not.",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        module = importlib.import_module(f"selfstudy_engine.cli.{name}")
        command: click.Command = getattr(module, name)
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl(list(_COMMANDS.items()))

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except SelfStudyError as error:
            raise _Failure(str(error), error.exit_code) from error
        except KeyboardInterrupt:
            click.echo("Stopped; what was finished is kept.", err=True)
            sys.exit(130)
        except BrokenPipeError:  # `... | head`
            raise
        except OSError as error:  # a full disk, a read-only folder
            raise _Failure(explain(error), 2) from error


class _Failure(click.ClickException):
    """A message and an exit code for the shell."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]  # click declares it on the class


@click.group(
    cls=_LazyGroup,
    commands={name: click.Command(name) for name in _COMMANDS},  # a wrong name is held against them
    context_settings={"help_option_names": ["-h", "--help"]},
)
@click.version_option(__version__)
@click.option("-v", "--verbose", count=True, help="Log what happens; twice also logs each request.")
def cli(verbose: int) -> None:
    """A local LLM teaches itself to predict a molecular property, with a reason.

    Start with `selfstudy-engine doctor`, then `selfstudy-engine loop --dry-run`.
    """
    turn_telemetry_off()
    level = (logging.WARNING, logging.INFO, logging.DEBUG)[min(verbose, 2)]
    logging.basicConfig(level=level, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    if verbose < 2:
        logging.getLogger("httpx").setLevel(logging.WARNING)
        logging.getLogger("httpx2").setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it prints what it logs itself
    # So that `finally` blocks run, and no server is left behind.
    signal.signal(signal.SIGTERM, _terminate)


def main() -> None:
    """Be the process of a command."""
    guard_interrupts()
    cli(prog_name="selfstudy-engine")


def _terminate(number: int, frame: object) -> None:
    del number, frame
    raise KeyboardInterrupt
