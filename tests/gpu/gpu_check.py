"""What a CUDA host must show, in one table: `make gpu-check`, or gpu_check.py OUT [STEP ...].

Each step is a command of the engine, with a time limit. One that fails stops no other, and what it
had by then stays in OUT/STEP. The table is of all that OUT holds, and is written anew after each
step. Without names a call runs the steps that haven't ended well, those that were never run first.
No network and no git is needed.
"""

import argparse
import math
import os
import shlex
import subprocess
import sys
import threading
import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path
from typing import TextIO

import orjson
from gpu_aims import ENDING, HOST, TABLE, Ending, ending_of, make_table
from gpu_steps import FULL, SHORT, SMALL, STEPS, Command, command_of

from selfstudy_engine.data.hardware import describe_host
from selfstudy_engine.data.parent_death import end_with_parent

_GRACE_SECONDS = 60
"""For a command to end its servers and write what it has."""
_LEAST_SECONDS = 60
"""A step that has less than that isn't begun."""
_SIZES = {"full": FULL, "short": SHORT, "small": SMALL}


def run_step(step: str, command: list[str], until: str | None, out: Path, limit: float) -> Ending:
    """Run one command, show what it prints and keep it.

    Args:
        step: its name; what it prints goes to OUT/STEP/output.txt.
        command: the whole command line.
        until: see `Command`.
        out: folder of all steps.
        limit: seconds after which it is ended.
    """
    started = time.monotonic()
    ready = False
    last = ""
    with ExitStack() as stack:
        output = stack.enter_context((out / step / "output.txt").open("w", encoding="utf-8"))
        _show(f"$ {shlex.join(command)}", output)
        process = stack.enter_context(
            subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                errors="replace",
                env=os.environ | {"HF_HUB_OFFLINE": "1"},
                # Whoever lends the GPU for minutes may end this program, and call it again.
                preexec_fn=end_with_parent,  # noqa: PLW1509 - one system call, no locks
            )
        )
        stack.callback(process.terminate)  # also if this program is ended
        for seconds, end in ((limit, process.terminate), (limit + _GRACE_SECONDS, process.kill)):
            timer = threading.Timer(seconds, end)
            timer.start()
            stack.callback(timer.cancel)
        assert process.stdout
        for line in process.stdout:
            _show(line.rstrip(), output)
            last = line.strip() or last
            if until and line.startswith(until):
                ready = True
                process.terminate()
        process.wait()
    seconds = time.monotonic() - started
    if ready or process.returncode == 0:
        return Ending("ok", seconds)
    if seconds >= limit:
        return Ending("out of time", seconds, last)
    return Ending("failed", seconds, last)


def _show(line: str, output: TextIO) -> None:
    for stream in (sys.stdout, output):
        stream.write(f"{line}\n")
        stream.flush()


def steps_left(out: Path, size: str) -> list[str]:
    """Return the steps that haven't ended well in this size, those that were never run first."""

    def ended(step: str) -> tuple[str, str] | None:
        ending = ending_of(out / step)
        return (ending.how, ending.size) if ending else None

    left = [step for step in STEPS if ended(step) != ("ok", size)]
    return sorted(left, key=lambda step: ended(step) is not None)


def main(arguments: list[str]) -> int:
    """Run steps and print the table; 0 if all of them ended well, whatever their figures."""
    parser = argparse.ArgumentParser(prog="gpu_check.py", description=__doc__)
    parser.add_argument("out", type=Path, help="folder of the results")
    parser.add_argument("steps", nargs="*", metavar="STEP", help=f"of {', '.join(STEPS)}")
    sizes = parser.add_mutually_exclusive_group()
    for name, what in (
        ("short", "for a GPU that is there for minutes"),
        ("small", "a little of everything, on a CPU too"),
    ):
        sizes.add_argument(f"--{name}", dest="size", action="store_const", const=name, help=what)
    parser.set_defaults(size="full")
    parser.add_argument("--minutes", type=float, default=math.inf, help="of all steps together")
    parser.add_argument("--step-seconds", type=float, default=3600, help="of each step (3600)")
    parser.add_argument(
        "--engine",
        default=f"{shlex.quote(sys.executable)} -m selfstudy_engine.cli",
        help="the command that is checked (this Python's selfstudy-engine)",
    )
    asked = parser.parse_intermixed_args(arguments)
    if unknown := set(asked.steps) - set(STEPS):
        parser.error(f"no step {', '.join(sorted(unknown))}; choose from {', '.join(STEPS)}")
    out = asked.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    (out / HOST).write_bytes(orjson.dumps(describe_host()))
    end = time.monotonic() + 60 * asked.minutes
    steps = asked.steps or steps_left(out, asked.size)
    all_well = True
    for number, step in enumerate(steps):
        left = end - time.monotonic() - _GRACE_SECONDS
        if left < _LEAST_SECONDS:
            sys.stdout.write(f"no time is left for {', '.join(steps[number:])}\n")
            all_well = False
            break
        (out / step).mkdir(exist_ok=True)
        (out / step / ENDING).unlink(missing_ok=True)
        command: Command = command_of(step, out, _SIZES[asked.size])
        # With -v it says how far each canary was from the trainer.
        whole = [*shlex.split(asked.engine), "-v", *command.arguments]
        ending = run_step(step, whole, command.until, out, min(left, asked.step_seconds))
        (out / step / ENDING).write_bytes(orjson.dumps(asdict(ending) | {"size": asked.size}))
        all_well &= ending.how == "ok"
        (out / TABLE).write_text(make_table(out), "utf-8")
    sys.stdout.write(f"\n{make_table(out)}")
    return 0 if all_well else 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
