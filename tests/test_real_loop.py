"""A whole loop on real vLLM: killed and continued, in secret, and its adapter asked by others."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from openai import BadRequestError, OpenAI
from quarantine import refusal_of_quarantine, run_quarantined
from test_real_vllm import DTYPE, other_addresses

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.evaluations import load_evaluation
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.server import free_port

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(900)]
SERVE_KEY = "a-key-of-this-test-alone"


def loop_command(runs: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "selfstudy_engine.cli", "loop", "--runs", str(runs)),
        *("--run", "killed", "--batch", "16", "--rounds", "2", "--test-size", "4"),
        *("--samples-per-molecule", "2", "--tolerance", "200", "--max-tokens", "48"),
        # One request at a time, so that the kill comes between two of them.
        *("--concurrency", "2", "--train-evaluation-size", "0", "--report", "off"),
        *("--min-steps", "4", "--epochs", "0.5", "--max-model-len", "512", "--dtype", DTYPE),
        *("--kv-cache-gib", "1"),
    ]


def processes_of(folder: Path) -> dict[int, str]:
    """Return the loop's processes and those in groups of theirs, as process id -> command line.

    vLLM's engine writes its name over its environment: only its group says whose it is.
    """
    groups, found = set(), {}
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if str(folder).encode() in (path / "environ").read_bytes():
                groups.add(os.getpgid(int(path.name)))
    for path in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if os.getpgid(int(path.name)) in groups:
                found[int(path.name)] = (path / "cmdline").read_text()
    return found


def wait_for_samples(
    store: SampleStore, round_index: int, process: subprocess.Popen[bytes], folder: Path
) -> None:
    deadline = time.monotonic() + 500
    while not list(store.round_folder(round_index).glob("*.parquet")):
        assert process.poll() is None, (folder / "first.log").read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_a_killed_loop_continues_loses_nothing_and_can_be_asked(tmp_path: Path) -> None:
    """The engine is killed first, which the loop survives by itself."""
    runs = tmp_path / "runs"
    folder = RunFolder(runs / "killed")
    store = SampleStore(folder.samples)
    environment = os.environ | {"SELFSTUDY_TEST": str(tmp_path)}
    with (tmp_path / "first.log").open("wb") as log:
        process = subprocess.Popen(
            loop_command(runs), stdout=log, stderr=log, env=environment, start_new_session=True
        )
        try:
            wait_for_samples(store, 0, process, tmp_path)
            running = processes_of(tmp_path)
            [engine] = [pid for pid, name in running.items() if "EngineCore" in name]
            os.kill(engine, signal.SIGKILL)
            wait_for_samples(store, 1, process, tmp_path)
            assert "starting it again, 1 of 3 times" in (tmp_path / "first.log").read_text()
            running = processes_of(tmp_path)
        finally:
            process.kill()
            process.wait()
    before = {sample.key: sample for sample in store.samples()}
    assert 16 < len(before) < 32, "the kill came in the middle of round 1"
    adapter = read_adapter(folder.adapter(1))

    deadline = time.monotonic() + 60
    while any(map(psutil.pid_exists, running)) and time.monotonic() < deadline:
        time.sleep(0.2)
    left = {pid: name for pid, name in running.items() if psutil.pid_exists(pid)}
    assert left == {}, "the kernel ends server and workers with the loop"

    said = run_in_secret(loop_command(runs), tmp_path, environment)
    after = list(store.samples())
    assert len(after) == len({sample.key for sample in after}) == 32
    assert {key: sample for sample in after if (key := sample.key) in before} == before
    assert read_adapter(folder.adapter(1)) == adapter, "a finished adapter isn't made again"
    assert {s.adapter_sha256 for s in after if s.round == 1} == {adapter.sha256}
    records = load_records(folder)
    assert [record.round for record in records] == [0, 1, 2]
    assert sum(record.num_completions for record in records) == 32
    assert "Results:" in said
    assert processes_of(tmp_path) == {}

    started = time.monotonic()
    again = subprocess.run(loop_command(runs), capture_output=True, text=True, check=False)
    assert again.returncode == 0
    assert time.monotonic() - started < 30, "a finished run starts no server"

    evaluated = next(a for a in load_evaluation(folder.evaluation(2)) if a.split == "test")
    served = read_adapter(folder.adapter(2))
    question = f"Name: {evaluated.name}\nSMILES: {evaluated.smiles}"
    asked = question if evaluated.name else evaluated.smiles
    with serving(runs, "--public", "--requests-per-minute", "60") as (client, url, model):
        assert model.startswith("round-0002-")
        assert chat(client, model, asked) == evaluated.completion
        with pytest.raises(BadRequestError, match="is no molecule"):
            chat(client, model, "no molecule")
        assert_only_questions_pass(url, model)
    assert read_adapter(folder.adapter(2)) == served


def run_in_secret(command: list[str], folder: Path, environment: dict[str, str]) -> str:
    """Return what a command prints that must succeed, and send nothing but to loopback."""
    if refusal_of_quarantine():
        result = subprocess.run(
            command, capture_output=True, text=True, env=environment, check=False
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout
    ended = run_quarantined(command, folder, environment)
    assert ended.returncode == 0, ended.output
    assert (ended.num_sent, ended.packets) == (0, [])
    return ended.output


@contextmanager
def serving(runs: Path, *more: str) -> Iterator[tuple[OpenAI, str, str]]:
    """Serve the run; yields a client as anyone would have it, the URL, and the model's name."""
    port = free_port()
    command = [sys.executable, "-m", "selfstudy_engine.cli", "serve", "--runs", str(runs)]
    command += ["--run", "killed", "--port", str(port), "--log", str(runs / "serve.log")]
    environment = os.environ | {"SELFSTUDY_SERVER_KEY": SERVE_KEY}
    with subprocess.Popen(
        [*command, *more], stdout=subprocess.PIPE, text=True, env=environment
    ) as process:
        try:
            assert process.stdout
            shown: list[str] = []
            while not shown or not shown[-1].startswith("Try:"):
                line = process.stdout.readline()
                assert line, (runs / "serve.log").read_text()
                shown.append(line)
            assert SERVE_KEY not in "".join(shown) + (runs / "serve.log").read_text()
            model = next(line for line in shown if line.startswith("Model:")).split()[1]
            url = f"http://127.0.0.1:{port}"
            with OpenAI(base_url=f"{url}/v1", api_key=SERVE_KEY, max_retries=0) as client:
                yield client, url, model
        finally:
            process.terminate()


def chat(client: OpenAI, model: str, question: str) -> str:
    """Return the answer to one question."""
    messages: list[Any] = [{"role": "user", "content": question}]
    answer = client.chat.completions.create(model=model, messages=messages)
    return str(answer.choices[0].message.content)


def assert_only_questions_pass(url: str, model: str) -> None:
    """Try what a public server mustn't do, with its key, until its patience ends."""
    question: dict[str, Any] = {"model": model, "prompt": "CCO", "max_tokens": 1}
    key = {"Authorization": f"Bearer {SERVE_KEY}"}
    with httpx.Client(base_url=url, headers=key, trust_env=False) as client:
        for path in ("/collective_rpc", "/pause", "/reset_prefix_cache", "/v1/load_lora_adapter"):
            assert client.post(path, json={}).status_code == 404
        for path in ("/metrics", "/openapi.json", "/docs"):
            assert client.get(path).status_code == 404
        assert client.get("/health").status_code == 200
        without = {"Authorization": ""}
        assert client.post("/v1/completions", json=question, headers=without).status_code == 401
        base = next(one for one in client.get("/v1/models").json()["data"] if not one["parent"])
        for changed, status in (
            ({}, 200),
            ({"model": base["id"]}, 404),
            ({"prompt": "C" * 1_000_000}, 413),
            ({"seed": 1, "temperature": 1}, 200),
        ):
            assert client.post("/v1/completions", json=question | changed).status_code == status
        for address in other_addresses():
            port = url.rpartition(":")[2]
            assert httpx.get(f"http://{address}:{port}/v1/models").status_code == 401
        codes = [client.get("/v1/models").status_code for _ in range(61)]
        assert codes[-1] == 429
        assert client.get("/health").status_code == 200
