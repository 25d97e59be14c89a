"""Run a loop for long and watch its memory, its open files and its speed: `make load`.

Without --minutes 100,000 prompts go to a fake server; with it a loop on the embedded model and a
real vLLM server runs for that long, swapping all the while.
"""

import argparse
import os
import random
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from fake_vllm import FakeVllm
from made_answers import make_answer
from tiny_model import make_tiny_model

from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.rounds import RoundRecord, load_records

MAX_GROWTH = 1.05
"""Memory in the last third over that in the second: in the first, what is remembered of molecules
and the server's KV cache fill, which have their limits."""
MAX_MORE_FILES = 8
MIN_SPEED = 0.9
"""Completions per second in the last third of the rounds over those in the second."""
_LOOK_SECONDS = 5
_RUN = "load"
_FAKE = f"""
name = "{_RUN}"
rounds = 11
report = "off"
train_evaluation_size = 10
[model]
path = "MODEL"
dtype = "float32"
[table]
test_size = 100
[generation]
batch = 10000
samples_per_molecule = 1
[train]
rank = 4
epochs = 0.01
min_steps = 4
tokens_per_step = 1024
"""
_REAL = f"""
name = "{_RUN}"
rounds = 1000
report = "off"
train_evaluation_size = 10
[table]
path = "TABLE"
test_size = 20
[generation]
batch = 512
# Fixed, so that what is in flight, and with it connections and used cache, is the same throughout.
concurrency = 128
[server]
kv_cache_gib = 1
[train]
epochs = 0.01
min_steps = 10
"""


@dataclass
class Watched:
    """What was seen of one part of the engine."""

    mib: list[float] = field(default_factory=list)
    files: list[int] = field(default_factory=list)


def thirds(values: Sequence[float]) -> tuple[float, float, float]:
    """Return the medians of the three thirds."""
    size = len(values) // 3
    parts = (values[:size], values[size : 2 * size], values[2 * size :])
    first, second, third = (statistics.median(part) for part in parts)
    return first, second, third


def look(loop: psutil.Process, parts: dict[str, Watched]) -> None:
    """Add one look at the loop, its judges and its server; trainings come and go."""
    with suppress(psutil.Error):
        processes: dict[str, list[psutil.Process]] = {"loop": [loop], "judges": [], "server": []}
        for child in loop.children(recursive=True):
            command = child.cmdline()
            if "selfstudy_engine.engine.worker" in command:
                processes["judges"].append(child)
            elif (
                os.getsid(child.pid) != os.getsid(loop.pid)
                and "selfstudy_engine.train" not in command
            ):
                processes["server"].append(child)
        for name, those in processes.items():
            if those:
                mib = sum(one.memory_info().rss for one in those) / 2**20
                files = sum(one.num_fds() for one in those)
                parts.setdefault(name, Watched()).mib.append(mib)
                parts[name].files.append(files)


def run(config: Path, runs: Path, minutes: float | None, server: FakeVllm | None) -> list[str]:
    """Run a loop to its end, or for so many minutes; returns what isn't as it should be."""
    command = [sys.executable, "-m", "selfstudy_engine.cli", "loop"]
    command += ["--config", str(config), "--runs", str(runs)]
    environment = dict(os.environ)
    if server:
        command += ["--server", server.url]
        environment["SELFSTUDY_SERVER_KEY"] = server.api_key
    parts: dict[str, Watched] = {}
    folder = RunFolder(runs / _RUN)
    started = time.monotonic()
    with (runs / "output.log").open("wb") as log:
        process = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    loop = psutil.Process(process.pid)
    while process.poll() is None:
        if folder.metrics.exists():  # a round is done: everything that is loaded once is loaded
            look(loop, parts)
        if minutes and time.monotonic() - started > 60 * minutes:
            process.send_signal(signal.SIGTERM)
            process.wait()
            break
        time.sleep(_LOOK_SECONDS)
    if process.returncode and not minutes:
        return [f"the loop failed: {(runs / 'output.log').read_text()[-2000:]}"]
    return judge(parts, load_records(folder), time.monotonic() - started)


def judge(parts: dict[str, Watched], records: list[RoundRecord], seconds: float) -> list[str]:
    """Print what was seen; returns what isn't as it should be."""
    wrong = []
    completions = sum(record.num_completions for record in records)
    _say(f"{len(records)} rounds, {completions} completions, {seconds / 60:.1f} min")
    for name, watched in parts.items():
        if len(watched.mib) < 3:
            continue  # judges that came at the end
        mib, files = thirds(watched.mib), thirds(watched.files)
        shown = [" ".join(f"{value:.0f}" for value in values) for values in (mib, files)]
        _say(f"{name}: MiB by thirds {shown[0]}, files {shown[1]}")
        if mib[2] > MAX_GROWTH * mib[1]:
            wrong.append(f"{name}: memory grew from {mib[1]:.0f} to {mib[2]:.0f} MiB")
        if files[2] > files[1] + MAX_MORE_FILES:
            wrong.append(f"{name}: open files grew from {files[1]:.0f} to {files[2]:.0f}")
    speeds = [r.completions_per_second for r in records if r.timing.num_generated]
    if len(speeds) < 3:
        return [*wrong, f"{len(speeds)} rounds are too few to tell whether it slows down"]
    _say(f"completions/s of the rounds: {' '.join(f'{speed:.0f}' for speed in speeds)}")
    first, second, last = thirds(speeds)
    _say(f"completions/s by thirds of the rounds: {first:.1f} {second:.1f} {last:.1f}")
    if last < MIN_SPEED * second:
        wrong.append(f"speed fell from {second:.1f} to {last:.1f} completions/s")
    return wrong


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> int:
    """Run, print a table, and say what isn't flat."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, help="a real vLLM server, for so long")
    minutes = parser.parse_args().minutes
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="selfstudy-load-")))
        config = place / "loop.toml"
        server = None
        if minutes:
            table = place / "table.csv"
            rows = [f"{m.smiles},{m.value}" for m in embedded_table().molecules[:1000]]
            table.write_text("\n".join(["smiles,value", *rows]) + "\n")
            config.write_text(_REAL.replace("TABLE", str(table)))
        else:
            server = stack.enter_context(FakeVllm())
            generator = random.Random(0)
            server.script = lambda prompt, *which: make_answer(generator, prompt)
            config.write_text(_FAKE.replace("MODEL", str(make_tiny_model(place / "model"))))
        wrong = run(config, place, minutes, server)
    _say("\n".join(wrong) or "flat")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
