"""What the tests share: a fake server, a tiny model, made-up adapters, and a small table."""

import io
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from fake_vllm import FakeVllm
from safetensors.numpy import save_file

from selfstudy_engine.data.adapters import (
    PEFT_CONFIG,
    WEIGHTS,
    Adapter,
    Probe,
    manifest_probes,
    publish_adapter,
    read_adapter,
)
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.loop import run_loop
from selfstudy_engine.engine.rounds import RoundRecord
from selfstudy_engine.engine.server import VllmServer

if TYPE_CHECKING:
    from s3_server import S3Server

    from selfstudy_engine.engine.bench_workloads import Workload
    from selfstudy_engine.engine.report_facts import RunFacts


def _keep_to_own_cores() -> None:
    """Give each of several test processes its own cores: threads that wait for others' spin."""
    worker = os.environ.get("PYTEST_XDIST_WORKER")
    if worker:
        index, count = int(worker.removeprefix("gw")), int(os.environ["PYTEST_XDIST_WORKER_COUNT"])
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, cores[index::count] or cores)


_keep_to_own_cores()


_LONGEST_FIRST = [
    *("test_real_vllm.py", "test_real_loop.py", "test_real_bench.py", "test_families.py"),
    *("test_gpu_check.py", "test_docs.py", "test_restart.py", "test_chaos.py", "test_two_runs.py"),
]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest, so that all processes end at about the same time."""
    rank = {name: number for number, name in enumerate(_LONGEST_FIRST)}
    items.sort(key=lambda item: rank.get(item.path.name, len(rank)))


MakeAdapter = Callable[..., Adapter]
MakeConfig = Callable[..., RunConfig]


@pytest.fixture
def fake() -> Iterator[FakeVllm]:
    """A fake vLLM server."""
    with FakeVllm() as server:
        yield server


@pytest.fixture(scope="session")
def s3_server() -> "Iterator[S3Server]":
    """A real S3 server of this machine."""
    from s3_server import S3Server

    with S3Server() as server:
        yield server


@pytest.fixture
def s3(s3_server: "S3Server", monkeypatch: pytest.MonkeyPatch) -> "S3Server":
    """The server with an empty bucket; this process's environment names it."""
    s3_server.begin()
    for name, value in s3_server.environment().items():
        monkeypatch.setenv(name, value)
    return s3_server


@pytest.fixture
def own_sigterm() -> Iterator[None]:
    """Take back the handler that the command installs."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)


@contextmanager
def running(server: VllmServer) -> Iterator[None]:
    """Start a server, wait until it is ready, and stop it whatever happens."""
    try:
        server.start()
        server.wait_ready()
        yield
    finally:
        server.stop()


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a tiny random checkpoint."""
    from tiny_model import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def make_adapter(tmp_path: Path) -> MakeAdapter:
    """Make up adapters that were never trained: `make_adapter("a", logprob=-2.0)`.

    The base model's log-probabilities are -4 everywhere.
    """
    import numpy as np

    def make(name: str, logprob: float = -2.0, next_logprob: float = -1.0) -> Adapter:
        probes = [
            Probe(ids, [logprob] * (len(ids) - 1), [-4.0] * (len(ids) - 1), next_logprob)
            for ids in ([1, 2, 3, 4], [5, 6, 7])
        ]
        manifest = {
            "name": name,
            "base_model": "owner/tiny",
            "base_fingerprint": "hub:owner/tiny",
            "canary": manifest_probes(probes),
            "training": {"num_samples": 0, "loss": 1.0},
        }
        peft = {"peft_type": "LORA", "r": 8, "lora_alpha": 16}
        with publish_adapter(tmp_path / "adapters" / name, manifest) as folder:
            (folder / PEFT_CONFIG).write_bytes(orjson.dumps(peft))
            save_file({"weights": np.array([logprob, next_logprob])}, folder / WEIGHTS)
        return read_adapter(tmp_path / "adapters" / name)

    return make


def small_molecules() -> list[tuple[str, float]]:
    """Forty SMILES of forty skeletons, with values from 15 to 95."""
    ends = ("Br", "Cl", "N", "S", "C#N", "C=C", "I", "F")
    return [
        ("C" * (length + 3) + end, 15.0 + (index * 37 + length * 16) % 81)
        for length in range(5)
        for index, end in enumerate(ends)
    ]


@pytest.fixture(scope="session")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A CSV table of forty molecules."""
    path = tmp_path_factory.mktemp("table") / "molecules.csv"
    lines = [f"{smiles},{value}" for smiles, value in small_molecules()]
    path.write_text("smiles,value\n" + "\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture(scope="session")
def small_config(tiny_model: Path, table: Path) -> Callable[..., RunConfig]:
    """Resolve a configuration of the tiny model and table; dotted keys override."""

    def resolve(**overrides: Any) -> RunConfig:
        values: dict[str, Any] = {
            "name": "test",
            "rounds": 2,
            "report": "off",
            "train_evaluation_size": 4,
            "table.path": str(table),
            "table.test_size": 6,
            "model.path": str(tiny_model),
            "model.dtype": "float32",
            "generation.batch": 8,
            "generation.concurrency": 4,
            "generation.request_timeout_seconds": 20,
            "train.rank": 4,
            "train.alpha": 8,
            "train.learning_rate": 1e-2,
            "train.epochs": 1,
            "train.min_steps": 4,
            "train.timeout_seconds": 120,
        }
        changed = {key.replace("__", "."): value for key, value in overrides.items()}
        return load_config(None, values | changed)

    return resolve


class QuietReporter:
    """Remembers the phases."""

    def __init__(self) -> None:
        self.phases: list[str] = []
        self.rounds: list[int] = []

    def phase(self, name: str, total: int | None = None) -> None:
        self.phases.append(name)

    def advance(self, done: int, detail: str = "") -> None:
        """Nothing is shown."""

    def finish_round(self, record: RoundRecord) -> None:
        self.rounds.append(record.round)


class Trained:
    """A training of this process."""

    def __init__(self, end: Callable[[], None]) -> None:
        self._end = end

    def has_ended(self, within_seconds: float) -> bool:
        return True  # `result` waits

    def result(self) -> dict[str, Any]:
        self._end()
        return {}


def _train(arguments: dict[str, object]) -> None:
    from selfstudy_engine.train.__main__ import main

    command = [
        part
        for key, value in arguments.items()
        if value is not None
        for part in (f"--{key.replace('_', '-')}", str(value))
    ]
    with redirect_stdout(io.StringIO()) as output:
        code = main(command)
    if code:
        raise TrainingError(orjson.loads(output.getvalue().splitlines()[-1])["message"])


@contextmanager
def train_here(arguments: dict[str, object], *rest: object) -> Iterator[Trained]:
    """Start a training as `TrainingProcess` does, in this process, which has loaded torch."""
    _train(arguments)
    yield Trained(lambda: None)


@contextmanager
def train_beside(arguments: dict[str, object], *rest: object) -> Iterator[Trained]:
    """The same in a thread: it goes on while the loop does something else."""
    with ThreadPoolExecutor(1) as pool:
        yield Trained(pool.submit(_train, arguments).result)


def loop(
    config: RunConfig,
    runs: Path,
    fake: FakeVllm,
    start_training: Any = train_here,
    num_judges: int | None = None,
) -> tuple[list[RoundRecord], QuietReporter]:
    """Run a loop on the fake server; it trains in this process, which saves a process's imports."""
    reporter = QuietReporter()
    config = config.model_copy(
        update={"server": config.server.model_copy(update={"url": [fake.url]})}
    )
    records = run_loop(
        config,
        runs,
        reporter,
        fake.api_key,
        start_training=start_training,
        num_judges=num_judges,
    )
    return records, reporter


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, small_config: MakeConfig) -> RunFolder:
    """A run of two rounds."""
    runs = tmp_path_factory.mktemp("runs")
    with FakeVllm() as fake:
        records, reporter = loop(small_config(), runs, fake)
    assert [record.round for record in records] == reporter.rounds == [0, 1, 2]
    return RunFolder(runs / "test")


@pytest.fixture
def copied(finished: RunFolder, tmp_path: Path) -> RunFolder:
    """A copy of the finished run."""
    return RunFolder(Path(shutil.copytree(finished.path, tmp_path / "runs" / "test")))


@pytest.fixture
def before_generating(copied: RunFolder) -> RunFolder:
    """The run as it was when round 1 began to generate; its last adapter is there already."""
    shutil.rmtree(SampleStore(copied.samples).round_folder(1))
    copied.evaluation(2).unlink()
    lines = copied.metrics.read_bytes().splitlines(keepends=True)
    copied.metrics.write_bytes(lines[0])
    return copied


@pytest.fixture(scope="session")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A run of three rounds that no model made; its table and its cache lie above it."""
    from made_run import make_run, write_table

    root = tmp_path_factory.mktemp("report")
    return make_run(root / "runs", write_table(root / "table.csv"))


@pytest.fixture
def report_cache(made: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have reports find baselines that others of the same run have computed."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.path.parent.parent / "cache"))


@pytest.fixture(scope="session")
def facts(made: RunFolder) -> "RunFacts":
    """What the made-up run's report says."""
    from selfstudy_engine.engine.report_facts import gather_facts

    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(made.path.parent.parent / "cache"))
        return gather_facts(made)


@pytest.fixture(scope="session")
def workloads(small_config: MakeConfig) -> "dict[str, Workload]":
    """A benchmark's workloads, small ones."""
    from selfstudy_engine.data.task import load_task
    from selfstudy_engine.engine.bench_workloads import make_workloads

    config = small_config(generation__samples_per_molecule=2)
    return {
        w.name: w
        for w in make_workloads(
            config, load_task(config), num_prompts=8, num_real=20, max_tokens=6, num_long=4
        )
    }
