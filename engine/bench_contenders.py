"""The contenders of a benchmark: each starts something, gets ready, and answers workloads.

References run in a process of their own (bench_reference); ours are a real server and the client
that the loop uses.
"""

import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import IO, Any, Protocol

import httpx
import orjson
import psutil

from selfstudy_engine.data.errors import BenchmarkError, last_lines
from selfstudy_engine.data.parent_death import end_with_parent
from selfstudy_engine.data.schema import Completion
from selfstudy_engine.engine.bench_idle import IdleWatch
from selfstudy_engine.engine.bench_reference import ReferenceSettings
from selfstudy_engine.engine.bench_workloads import Pass, Workload
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.generation import GenerationRequest
from selfstudy_engine.engine.vllm_metrics import parse_metrics

_STOP_SECONDS = 20
_LOOK_SECONDS = 0.5
"""As often as the client looks at the metrics anyway."""


class Contender(Protocol):
    """One way to complete prompts."""

    key: str
    """Its number on the command line."""
    label: str
    max_prompts: int | None
    """Prompts of a workload that it is asked at most; None: all."""
    one_by_one: bool
    """Whether it takes part in the workload that measures latency."""

    def prepare(self) -> None:
        """Get ready for the next pass; not timed."""

    def run(self, workload: Workload) -> Pass:
        """Complete a workload, timed."""


class ReferenceContender:
    """A reference in a child process; use it as a context manager, and `wait_ready` first.

    Args:
        key: see `Contender`.
        label: see `Contender`.
        kind: original, transformers or offline.
        settings: of the child.
        environment: of the child.
        log: receives what it prints.
        max_prompts: see `Contender`.
        one_by_one: see `Contender`.
    """

    def __init__(
        self,
        key: str,
        label: str,
        *,
        kind: str,
        settings: ReferenceSettings,
        environment: Mapping[str, str],
        log: Path,
        max_prompts: int | None = None,
        one_by_one: bool = True,
    ) -> None:
        self.key = key
        self.label = label
        self.max_prompts = max_prompts
        self.one_by_one = one_by_one
        self._log = log
        command = [sys.executable, "-m", "selfstudy_engine.engine.bench_reference", kind]
        self._command = [*command, orjson.dumps(asdict(settings)).decode()]
        self._environment = dict(environment)
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> "ReferenceContender":
        """Start the child; it loads while something else is done."""
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                self._command,
                env=self._environment,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                start_new_session=True,
                preexec_fn=end_with_parent,  # noqa: PLW1509 - one system call, no locks
            )
        return self

    def __exit__(self, *error: object) -> None:
        """End the child and its own children."""
        assert self._process
        end_tree(self._process.pid)
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream:
                with suppress(BrokenPipeError):
                    stream.close()

    def wait_ready(self) -> None:
        """Wait until the child has loaded.

        Raises:
            BenchmarkError: it ended instead; with its last lines.
        """
        self._receive()

    @property
    def process(self) -> int:
        """Process id of the child."""
        assert self._process
        return self._process.pid

    def prepare(self) -> None:
        """Nothing: it serves one set of weights."""

    def run(self, workload: Workload) -> Pass:
        """See `Contender`; timed inside the child, without the pipe."""
        assert self._process
        assert self._process.stdin
        asked = {
            "prompts": workload.prompts,
            "params": asdict(workload.params),
            "one_by_one": workload.one_by_one,
        }
        with suppress(BrokenPipeError):  # what ended it is in the log
            self._process.stdin.write(orjson.dumps(asked) + b"\n")
            self._process.stdin.flush()
        answer = self._receive()
        completions = [[Completion(**fields) for fields in one] for one in answer["completions"]]
        return Pass(answer["seconds"], completions)

    def _receive(self) -> dict[str, Any]:
        assert self._process
        stream: IO[bytes] | None = self._process.stdout
        assert stream
        line = stream.readline()
        if not line:
            code = self._process.wait()
            lines = self._log.read_text("utf-8", errors="replace").splitlines()
            raise BenchmarkError(
                f"contender {self.key} ({self.label}) ended with exit code {code}; leave it out "
                f"with --only, or look into {self._log}:\n{last_lines(lines)}"
            )
        answer: dict[str, Any] = orjson.loads(line)
        return answer


class ServerContender:
    """The loop's own server and client.

    Args:
        key: see `Contender`.
        label: see `Contender`.
        connection: open and connected; contenders may share one.
        serve: makes the connection answer from what this contender stands for.
    """

    def __init__(
        self, key: str, label: str, connection: Connection, serve: Callable[[], object]
    ) -> None:
        self.key = key
        self.label = label
        self.max_prompts: int | None = None
        self.one_by_one = True
        self._connection = connection
        self._serve = serve

    def prepare(self) -> None:
        """Swap to what it stands for, proven by the canary; no prompt stays cached."""
        self._serve()
        # A merged swap does so itself; a runtime adapter that is loaded already keeps its cache.
        self._connection.reset_prefix_cache()

    def run(self, workload: Workload) -> Pass:
        """See `Contender`."""
        before = self._prefix_cache()
        with IdleWatch(self._connection.endpoint, _LOOK_SECONDS) as watch:
            started = time.perf_counter()
            if workload.one_by_one:
                completions = [self._complete((one,), workload)[0] for one in workload.prompts]
            else:
                completions = self._complete(workload.prompts, workload)
            seconds = time.perf_counter() - started
        queried, hit = (new - old for new, old in zip(self._prefix_cache(), before, strict=True))
        return Pass(seconds, completions, watch.idle_share, hit / queried if queried else 0.0)

    def _prefix_cache(self) -> tuple[float, float]:
        """Return the prompt tokens that were looked up, and found, since the server started."""
        endpoint = self._connection.endpoint
        page = httpx.get(f"{endpoint.url}/metrics", headers=endpoint.headers, trust_env=False)
        metrics = parse_metrics(page.text)
        names = ("prefix_cache_queries_total", "prefix_cache_hits_total")
        queried, hit = (sum(metrics[name]) for name in names)
        return queried, hit

    def _complete(self, prompts: tuple[str, ...], workload: Workload) -> list[list[Completion]]:
        async def ask() -> dict[int, list[Completion]]:
            client, served = self._connection.client, self._connection.served
            requests = (
                GenerationRequest(index, prompt, workload.params)
                for index, prompt in enumerate(prompts)
            )
            answers = client.generate(served.model, requests)
            return {answer.item: answer.completions async for answer in answers}

        found = self._connection.run(ask())
        return [found[index] for index in range(len(prompts))]


def end_tree(process: int) -> None:
    """End a process and all that it started."""
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process)
        tree = [*parent.children(recursive=True), parent]
        for member in tree:
            with suppress(psutil.NoSuchProcess):
                member.terminate()
        _, left = psutil.wait_procs(tree, timeout=_STOP_SECONDS)
        for member in left:
            with suppress(psutil.NoSuchProcess):
                member.kill()


def peak_memory_gib(process: int) -> float:
    """Return the most memory that a process and its children have held so far, in GiB.

    The sum of each one's own peak (VmHWM), which counts pages that they share more than once.
    """
    total_kib = 0
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(process)
        for member in (parent, *parent.children(recursive=True)):
            with suppress(OSError):
                status = Path(f"/proc/{member.pid}/status").read_text("utf-8")
                fields = dict(line.split(":", 1) for line in status.splitlines())
                total_kib += int(fields.get("VmHWM", "0").split()[0])
    return total_kib / 2**20
