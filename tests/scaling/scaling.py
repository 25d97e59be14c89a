"""How many servers one loop can use: the real loop, store and checks, against simulated servers.

    make scaling ARGS="--profile h200-7b --replicas 1,2,4,8,16,32,64"

Each number of servers has a loop of its own, whose rounds ask so many completions of each server;
training is played. The second round is measured: in the first one processes start that the later
ones have. `--slower 8` has servers compute in slow motion, so that two cores
do for them what sixteen would do at full speed; all columns but the last are in terms of that full
speed. What counts then is how much of a core the loop's own process takes: beyond 1 it would be
what limits the rest, and the efficiency is divided by it.
"""

import argparse
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import psutil
from safetensors.numpy import save_file
from simulated_servers import PROFILES

from selfstudy_engine.data import store
from selfstudy_engine.data.adapters import (
    PEFT_CONFIG,
    WEIGHTS,
    Probe,
    base_fingerprint,
    manifest_probes,
    publish_adapter,
)
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.embedded import embedded_model
from selfstudy_engine.engine import http_worker, judging
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import RoundRecord
from selfstudy_engine.engine.server_client import ServerClient

_SERVERS = Path(__file__).with_name("simulated_servers.py")
_MEASURED = 1
"""Round, from 0."""
_PER_MOLECULE = 8
_JUDGES = 4
"""In slow motion, where the loop itself would see no need for any."""


class Watch:
    """A loop's reporter that notes what generating took of this process and of the servers'."""

    def __init__(self, servers: psutil.Process) -> None:
        self._servers = servers
        self._total: int | None = None
        self.started: tuple[float, ...] = ()
        self.ended: tuple[float, ...] = ()
        self.record: RoundRecord

    def phase(self, name: str, total: int | None = None) -> None:
        if "generate" in name and name.startswith(f"round {_MEASURED}:"):
            self._total = total
            self.started = self._clocks()

    def advance(self, done: int, detail: str = "") -> None:
        if done == self._total and not self.ended:
            self.ended = self._clocks()

    def finish_round(self, record: RoundRecord) -> None:
        if record.round == _MEASURED:
            self.record = record

    def _clocks(self) -> tuple[float, ...]:
        workers = [one for one in psutil.Process().children() if one != self._servers]
        senders = [one for one in workers if http_worker.__name__ in one.cmdline()]
        sent = sum(map(_cpu_seconds, senders))
        judged = sum(map(_cpu_seconds, workers)) - sent
        return time.monotonic(), time.process_time(), sent, judged, _cpu_seconds(self._servers)


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


@contextmanager
def played_training(arguments: dict[str, object], *rest: object) -> Iterator[Any]:
    """Publish a made-up adapter at once."""
    output = Path(str(arguments["output"]))
    ids = list(range(1, 65))
    probe = Probe(ids, [-2.0] * 63, [-4.0] * 63, -1.0)
    manifest = {
        "name": output.name,
        "base_model": "embedded",
        "base_fingerprint": base_fingerprint(str(arguments["model"])),
        "canary": manifest_probes([probe]),
        "training": {"num_samples": 0, "loss": 1.0},
    }
    with publish_adapter(output, manifest) as folder:
        peft = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
        (folder / PEFT_CONFIG).write_bytes(orjson.dumps(peft))
        save_file({"weights": np.zeros(1)}, folder / WEIGHTS)

    class Played:
        def has_ended(self, within_seconds: float) -> bool:
            return True

        def result(self) -> dict[str, Any]:
            return {}

    yield Played()


def config_of(urls: list[str], per_replica: int) -> RunConfig:
    batch = per_replica * len(urls)
    values = {
        "name": "scaling",
        "rounds": _MEASURED + 1,
        "report": "off",
        "train_evaluation_size": 0,
        "table.test_size": 10,
        "generation.batch": batch // _PER_MOLECULE * _PER_MOLECULE,
        "generation.samples_per_molecule": _PER_MOLECULE,
        "server.url": urls,
    }
    return load_config(None, values)


def slow_down(factor: float) -> None:
    """Have the loop do in slow motion, too, what it does by the clock: each costs it the same."""
    defaults = ServerClient.__init__.__kwdefaults__
    assert defaults
    defaults["look_seconds"] *= factor
    store.FLUSH_SECONDS *= factor
    judging.CHUNK_SECONDS *= factor


def measure(
    num_replicas: int, profile: str, per_replica: int, slower: float, num_judges: int | None
) -> dict[str, Any]:
    """Run one loop in this process; the servers have one of their own."""
    slow_down(slower)
    command = [sys.executable, str(_SERVERS), str(num_replicas), profile, str(slower)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as servers:
        assert servers.stdout
        urls = [f"http://127.0.0.1:{port}" for port in orjson.loads(servers.stdout.readline())]
        watch = Watch(psutil.Process(servers.pid))
        with tempfile.TemporaryDirectory(prefix="selfstudy-scaling-") as runs:
            config = config_of(urls, per_replica)
            embedded_model()
            run_loop(
                config,
                Path(runs),
                watch,
                start_training=played_training,
                num_judges=num_judges,
            )
        assert servers.stdin
        servers.stdin.close()
    record = watch.record
    wall, loop, http, judges, theirs = (
        ended - started for started, ended in zip(watch.started, watch.ended, strict=True)
    )
    return {
        "replicas": num_replicas,
        "completions": record.num_completions,
        "seconds": round(wall / slower, 1),
        "completions per second": round(record.completions_per_second * slower, 1),
        "accepted per second": round(record.num_accepted / record.timing.generate * slower, 1),
        "loop cores": round(loop / wall * slower, 2),
        "HTTP cores": round(http / wall * slower, 2),
        "judges cores": round(judges / wall * slower, 2),
        "servers cores": round(theirs / wall * slower, 2),
        "loop peak MB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
    }


def main() -> None:
    """Measure each number of servers in a process of its own, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--profile", choices=PROFILES, default="h200-7b")
    parser.add_argument("--replicas", default="1,2,4,8,16,32,64")
    parser.add_argument("--per-replica", type=int, default=1400, help="completions of each server")
    parser.add_argument("--slower", type=float, default=1, help="slow motion, so many times")
    parser.add_argument("--judges", type=int, help="processes that judge [default: by the load]")
    parser.add_argument("--one", type=int, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.judges is None and given.slower > 1:
        given.judges = _JUDGES
    if given.one:
        found = measure(given.one, given.profile, given.per_replica, given.slower, given.judges)
        sys.stdout.write(orjson.dumps(found).decode() + "\n")
        return
    sys.stdout.write(f"{given.profile}: {PROFILES[given.profile].source}\n\n")
    first = None
    for number in map(int, given.replicas.split(",")):
        command = [sys.executable, __file__, "--one", str(number), *sys.argv[1:]]
        output = subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout
        row = orjson.loads(output.splitlines()[-1])
        if first is None:
            first = row["completions per second"] / number
            sys.stdout.write("| " + " | ".join([*row, "efficiency"]) + " |\n")
            sys.stdout.write("|" + "---|" * (len(row) + 1) + "\n")
        efficiency = row["completions per second"] / number / first / max(1, row["loop cores"])
        note = " (the loop's core is full)" if row["loop cores"] > 1 else ""
        row["efficiency"] = f"{efficiency:.2f}{note}"
        sys.stdout.write("| " + " | ".join(map(str, row.values())) + " |\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
