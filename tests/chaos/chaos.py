"""Kill a loop again and again, then look whether it kept its promises: `make chaos MINUTES=30`.

Each life of a run is killed at boundaries of its files, in the loop and in training
(site/sitecustomize.py), and at random moments from outside; the same command goes on each time, and
the end is held against a run that nobody killed. The server is a fake; test_real_vllm.py kills the
real one.
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
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from conftest import small_molecules
from fake_vllm import FakeVllm
from tiny_model import make_tiny_model

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.audit import audit
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
"""Each start comes so far at least, while anything is left to do: a life takes many of them."""
_KINDS = ("loop", "loop", "loop", "train", "train", "moment", "trainer")
_AT_BOUNDARIES = frozenset({"loop", "train"})
_IN_LOOP = frozenset({"loop", "moment"})
"""Orders that the loop dies of; of the others its training does, which the loop says."""
_SETTINGS = f"""
name = "chaos"
rounds = {ROUNDS}
report = "off"
train_evaluation_size = 4
[model]
dtype = "float32"
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
    """

    def __init__(self, folder: Path) -> None:
        self.tally = Tally()
        self._folder = folder
        model = make_tiny_model(folder / "model")
        table = folder / "table.csv"
        rows = [f"{smiles},{value}" for smiles, value in small_molecules()]
        table.write_text("smiles,value\n" + "\n".join(rows) + "\n")
        self._config = folder / "loop.toml"
        paths = f'[table]\npath = "{table}"', f'[model]\npath = "{model}"'
        text = _SETTINGS.replace("[table]", paths[0]).replace("[model]", paths[1])
        self._config.write_text(text)
        self._expected = self._unharmed()

    def _unharmed(self) -> dict[Key, tuple[str, bool]]:
        runs = self._folder / "unharmed"
        with FakeVllm() as fake:
            code, output = self._run(runs, fake, None)
        assert code == 0, output
        return _content(_read(_run_of(runs)))

    def life(self, orders: Iterable[str]) -> None:
        """Take one run from nothing to its end, killing it on the way.

        Args:
            orders: PROCESS:CALL:NUMBER as in site/sitecustomize.py, moment:SECONDS (the loop) or
                trainer:SECONDS (its training), one for each start; then it may end.
        """
        self.tally.lives += 1
        runs = self._folder / f"life-{self.tally.lives:04d}"
        seen: dict[Key, Sample] = {}
        adapters: dict[str, str] = {}
        left, code = iter(orders), -1
        with FakeVllm() as fake:
            while code != 0:
                order = next(left, None)
                code, output = self._run(runs, fake, order)
                assert not _left_behind(runs), f"processes outlive the loop: {_left_behind(runs)}"
                if code == 0:
                    self.tally.missed += order is not None
                elif order and ":full-" in order:
                    assert code == 2, f"{order}: {code}\n{output}"
                    assert "No space left on device; free disk space" in output, output
                    assert "Traceback" not in output, output
                    self.tally.full += 1
                else:
                    assert order, output
                    victim = order.split(":")[0]
                    by_itself = code != -signal.SIGKILL if victim in _IN_LOOP else code != 1
                    assert not by_itself, f"{order}: {code}\n{output}"
                    assert victim in _IN_LOOP or "exit code -9" in output, output
                    self.tally.kills[victim] += 1
                if (_run_of(runs).path / "samples").exists():
                    self._check_kept(runs, seen, adapters)
        self._check_end(runs)

    def _run(self, runs: Path, fake: FakeVllm, order: str | None) -> tuple[int, str]:
        command = [sys.executable, "-m", "selfstudy_engine.cli", "loop"]
        command += ["--config", str(self._config), "--runs", str(runs), "--server", fake.url]
        environment = os.environ | {"SELFSTUDY_SERVER_KEY": fake.api_key, _MARK: str(runs)}
        kind, _, rest = (order or "").partition(":")
        if kind in _AT_BOUNDARIES:
            paths = [str(Path(__file__).parent / "site"), os.environ.get("PYTHONPATH")]
            path = os.pathsep.join(filter(None, paths))
            environment |= {"CHAOS_KILL": order or "", "PYTHONPATH": path}
        with tempfile.TemporaryFile("w+") as output:
            process = subprocess.Popen(command, env=environment, stdout=output, stderr=output)
            try:
                if kind in {"moment", "trainer"}:
                    self._kill_later(process, kind, float(rest))
                code = process.wait(_LONGEST_SECONDS)
            finally:
                process.kill()
            output.seek(0)
            return code, output.read()

    @staticmethod
    def _kill_later(process: subprocess.Popen[bytes], kind: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
        victims = [process.pid] if kind == "moment" else _trainers(process.pid)
        for victim in victims:
            with suppress(ProcessLookupError):  # it was faster
                os.kill(victim, signal.SIGKILL)

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
        assert _content(stored) == self._expected
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


def _left_behind(runs: Path) -> list[str]:
    """Return processes of a run that still live, after the kernel had its time to end them."""
    deadline = time.monotonic() + 10
    while found := [pid for pid in _processes() if _has(pid, "environ", f"{_MARK}={runs}")]:
        if time.monotonic() > deadline:
            return found
        time.sleep(0.05)
    return []


def _trainers(parent: int) -> list[int]:
    status = f"PPid:\t{parent}\n"
    return [
        int(pid)
        for pid in _processes()
        if _has(pid, "status", status) and _has(pid, "cmdline", "selfstudy_engine.train")
    ]


def _processes() -> list[str]:
    return [path.name for path in Path("/proc").glob("[0-9]*")]


def _has(pid: str, file: str, text: str) -> bool:
    try:
        return text.encode() in Path("/proc", pid, file).read_bytes()
    except OSError:
        return False


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


def main() -> None:
    """Live and die for so many minutes, and say how often."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--minutes", type=float, default=30)
    parser.add_argument("--seed", type=int, default=0)
    values = parser.parse_args()
    deadline = time.monotonic() + 60 * values.minutes
    with tempfile.TemporaryDirectory(prefix="selfstudy-chaos-") as folder:
        chaos, generator = Chaos(Path(folder)), random.Random(values.seed)
        while time.monotonic() < deadline:
            chaos.life(random_orders(generator, _MOST_ORDERS))
            tally = chaos.tally
            sys.stdout.write(
                f"{tally.lives} lives, {tally.kills.total()} kills ({dict(tally.kills)}), "
                f"{tally.full} full disks ({tally.missed} orders missed), "
                f"{tally.samples} samples checked\n"
            )
            sys.stdout.flush()


if __name__ == "__main__":
    main()
