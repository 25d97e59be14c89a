"""Kill a loop again and again, then look whether it kept its promises: `make chaos MINUTES=30`.

Each life of a run is killed at boundaries of its files, in the loop and in training
(site/sitecustomize.py), and at random moments from outside; the same command goes on each time, and
the end is held against a run that nobody killed. The server is a fake; with --real it is vLLM with
the embedded model, which dies too, and whose answers no other run gives again.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
from conftest import loop, small_molecules
from fake_vllm import FakeVllm
from tiny_model import make_tiny_model

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.audit import audit
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Sample
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.rounds import load_records

ROUNDS, BATCH = 2, 8
_MARK = "SELFSTUDY_CHAOS"
_LONGEST_SECONDS = 120
_MOST_ORDERS = 20
"""In one life, which ends when nothing is left to do."""
_WHEN = ("", "", "after-", "after-", "full-")
"""A kill before the call, one after it, or a full disk."""
_CALLS = {
    ("loop", "fsync"): 8,
    ("loop", "rename"): 4,
    ("train", "fsync"): 7,
    ("train", "rename"): 1,
}
"""Most starts come so far while anything is left to do; one that doesn't ends the life."""
_KINDS = ("loop", "loop", "loop", "train", "train", "moment", "trainer")
_AT_BOUNDARIES = frozenset({"loop", "train"})
_OF_SERVER = frozenset({"server", "engine"})
_NAMES = {"trainer": "selfstudy_engine.train", "server": "vllm.entrypoints", "engine": "EngineCore"}
"""Found in the command line of whom to kill."""
_IN_LOOP = frozenset({"loop", "moment"})
"""Orders that the loop dies of; of the others its training does, which the loop says."""
_SETTINGS = f"""
name = "chaos"
rounds = {ROUNDS}
report = "off"
train_evaluation_size = 4
[table]
test_size = 6
[generation]
batch = {BATCH}
concurrency = 4
request_timeout_seconds = 20
[train]
rank = 4
alpha = 8
learning_rate = 1e-2
epochs = 1
min_steps = 4
"""

Key = tuple[str, int, str, int]


@dataclass
class Tally:
    """What was done so far."""

    lives: int = 0
    samples: int = 0
    """Held against those of the run that nobody killed."""
    kills: Counter[str] = field(default_factory=Counter[str])
    full: int = 0
    """Calls that found the disk full."""
    missed: int = 0
    """Orders for a boundary that the process didn't come to."""


class Chaos:
    """Runs and their murderer.

    Args:
        folder: for everything.
        real: each loop starts a vLLM server of its own.
    """

    def __init__(self, folder: Path, real: bool = False) -> None:
        self.tally = Tally()
        self._folder = folder
        self._real = real
        table = folder / "table.csv"
        rows = [f"{smiles},{value}" for smiles, value in small_molecules()]
        table.write_text("smiles,value\n" + "\n".join(rows) + "\n")
        text = _SETTINGS.replace("[table]", f'[table]\npath = "{table}"')
        if not real:
            text += f'[model]\npath = "{make_tiny_model(folder / "model")}"\ndtype = "float32"\n'
        self._config = folder / "loop.toml"
        self._config.write_text(text)
        self._expected = None if real else self._unharmed()

    def _unharmed(self) -> dict[Key, tuple[str, bool]]:
        runs = self._folder / "unharmed"
        with FakeVllm() as fake:
            loop(load_config(self._config), runs, fake)
        return _content(_read(_run_of(runs)))

    def life(self, orders: Iterable[str]) -> None:
        """Take one run from nothing to its end, killing it on the way.

        Args:
            orders: PROCESS:CALL:NUMBER as in site/sitecustomize.py, or PROCESS:SECONDS (see
                `_victims`), one for each start; then it may end.
        """
        self.tally.lives += 1
        runs = self._folder / f"life-{self.tally.lives:04d}"
        seen: dict[Key, Sample] = {}
        adapters: dict[str, str] = {}
        left, code = iter(orders), -1
        with nullcontext() if self._real else FakeVllm() as fake:
            while code != 0:
                order = next(left, None)
                code, output = self._run(runs, fake, order)
                victim = (order or "").split(":")[0]
                if code == 0 and victim in _OF_SERVER and "starting it again" in output:
                    self.tally.kills[victim] += 1  # and the loop went on
                elif code == 0:
                    self.tally.missed += order is not None
                elif order and ":full-" in order:
                    assert code == 2, f"{order}: {code}\n{output}"
                    assert "No space left on device; free disk space" in output, output
                    assert "Traceback" not in output, output
                    self.tally.full += 1
                else:
                    assert order, output
                    by_itself = code != -signal.SIGKILL if victim in _IN_LOOP else code != 1
                    assert not by_itself, f"{order}: {code}\n{output}"
                    assert victim in _IN_LOOP or "exit code" in output, output
                    self.tally.kills[victim] += 1
                if (_run_of(runs).path / "samples").exists():
                    self._check_kept(runs, seen, adapters)
        self._check_end(runs)

    def _run(self, runs: Path, fake: FakeVllm | None, order: str | None) -> tuple[int, str]:
        command = [sys.executable, "-m", "selfstudy_engine.cli", "loop"]
        command += ["--config", str(self._config), "--runs", str(runs)]
        environment = os.environ | {_MARK: str(runs)}
        if fake:
            command += ["--server", fake.url]
            environment["SELFSTUDY_SERVER_KEY"] = fake.api_key
        kind, _, rest = (order or "").partition(":")
        if kind in _AT_BOUNDARIES:
            paths = [str(Path(__file__).parent / "site"), os.environ.get("PYTHONPATH")]
            path = os.pathsep.join(filter(None, paths))
            environment |= {"CHAOS_KILL": order or "", "PYTHONPATH": path}
        groups: set[int] = set()
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                if kind and kind not in _AT_BOUNDARIES:
                    groups = self._kill_later(process, kind, float(rest))
                code = process.wait(_LONGEST_SECONDS * (4 if self._real else 1))
            finally:
                process.kill()
            left = _left_behind(runs, groups)
            assert not left, f"processes outlive the loop: {left}"
            output.seek(0)
            return code, output.read()

    @staticmethod
    def _kill_later(process: subprocess.Popen[bytes], kind: str, seconds: float) -> set[int]:
        """Kill one after so many seconds; returns the process groups of all that there were."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        groups: set[int] = set()
        for victim in _victims(process.pid, kind, groups):
            with suppress(ProcessLookupError):  # it was faster
                os.kill(victim, signal.SIGKILL)
        return groups

    @staticmethod
    def _check_kept(runs: Path, seen: dict[Key, Sample], adapters: dict[str, str]) -> None:
        folder = _run_of(runs)
        stored = _read(folder)
        for key, sample in seen.items():
            assert stored.get(key) == sample, f"{key} was stored, and is lost or changed"
        seen |= stored
        for path in sorted(folder.adapters.glob("round-*")):
            sha256 = read_adapter(path).sha256
            assert adapters.setdefault(path.name, sha256) == sha256, f"{path.name} was made again"

    def _check_end(self, runs: Path) -> None:
        folder = _run_of(runs)
        found = audit(folder)
        assert not found.problems, found.problems
        assert not found.set_aside, "a kill never halves a shard"
        stored = _read(folder)
        if self._expected is not None:
            assert _content(stored) == self._expected
        assert len(stored) == ROUNDS * BATCH
        by_name = {path.name: read_adapter(path).sha256 for path in folder.adapters.glob("round-*")}
        assert all(sample.adapter_sha256 == by_name[sample.adapter] for sample in stored.values())
        records = load_records(folder)
        assert [record.round for record in records] == list(range(ROUNDS + 1))
        for record in records:
            samples = [s for s in stored.values() if s.round == record.round]
            assert record.num_completions == len(samples)
            assert record.num_accepted == sum(sample.accepted for sample in samples)
        left = list(folder.path.rglob(".*.tmp"))
        assert not left, f"left behind: {left}"
        self.tally.samples += len(stored)


def _run_of(runs: Path) -> RunFolder:
    return RunFolder(runs / "chaos")


def _read(folder: RunFolder) -> dict[Key, Sample]:
    samples = list(SampleStore(folder.samples).samples())
    by_key = {sample.key: sample for sample in samples}
    assert len(by_key) == len(samples), "a sample is there twice"
    return by_key


def _content(samples: dict[Key, Sample]) -> dict[Key, tuple[str, bool]]:
    return {key: (sample.completion, sample.accepted) for key, sample in samples.items()}


def _left_behind(runs: Path, groups: set[int]) -> list[int]:
    """Return processes of a run that still live, after they had their time to end."""
    deadline = time.monotonic() + 30
    while found := [one.pid for one in psutil.process_iter() if _is_of(one, runs, groups)]:
        if time.monotonic() > deadline:
            return found
        time.sleep(0.05)
    return []


def _is_of(process: psutil.Process, runs: Path, groups: set[int]) -> bool:
    with suppress(psutil.Error, ProcessLookupError):
        # vLLM's engine writes over its environment.
        ours = os.getpgid(process.pid) in groups or process.environ().get(_MARK) == str(runs)
        return ours and bool(process.status() != psutil.STATUS_ZOMBIE)
    return False


def _victims(loop: int, kind: str, groups: set[int]) -> list[int]:
    """Return whom an order of a loop means: itself, its training, its server or vLLM's engine."""
    found = [loop] if kind == "moment" else []
    with suppress(psutil.Error, ProcessLookupError):
        for child in psutil.Process(loop).children(recursive=True):
            groups.add(os.getpgid(child.pid))
            if kind != "moment" and _NAMES[kind] in " ".join(child.cmdline()):
                found.append(child.pid)
    return found


def random_orders(generator: random.Random, most: int) -> Iterator[str]:
    """Yield orders for one life."""
    for _ in range(most):
        kind = generator.choice(_KINDS)
        if kind in _AT_BOUNDARIES:
            call = generator.choice(["fsync", "rename"])
            number = generator.randint(1, _CALLS[kind, call])
            yield f"{kind}:{generator.choice(_WHEN)}{call}:{number}"
        else:
            yield f"{kind}:{generator.uniform(1, 12):.1f}"


def real_orders(generator: random.Random, most: int) -> Iterator[str]:
    """Yield orders for one life with a real server, which takes most of a minute to start.

    A loop outlives its server, so that those come last.
    """
    del most
    for _ in range(3):
        yield f"moment:{generator.uniform(3, 40):.1f}"
    yield f"loop:{generator.choice(_WHEN)}fsync:{generator.randint(1, 8)}"
    yield f"trainer:{generator.uniform(5, 12):.1f}"
    yield f"{generator.choice(['server', 'engine'])}:{generator.uniform(20, 60):.1f}"


def main() -> None:
    """Live and die for so many minutes, and say how often."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--real", action="store_true", help="a real vLLM server for each start")
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    values = parser.parse_args()
    deadline = time.monotonic() + 60 * values.minutes
    with tempfile.TemporaryDirectory(prefix="selfstudy-chaos-") as folder:
        chaos = Chaos(Path(folder), real=values.real)
        generator = random.Random(values.seed)
        orders = real_orders if values.real else random_orders
        while time.monotonic() < deadline:
            chaos.life(orders(generator, _MOST_ORDERS))
            tally = chaos.tally
            sys.stdout.write(
                f"{tally.lives} lives, {tally.kills.total()} kills ({dict(tally.kills)}), "
                f"{tally.full} full disks ({tally.missed} orders missed), "
                f"{tally.samples} samples checked\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
