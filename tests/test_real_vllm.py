"""Real vLLM, embedded model: swaps proven, a killed loop continued, nothing left behind."""

import asyncio
import json
import os
import re
import signal
import socket
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
from conftest import train_here
from openai import BadRequestError, OpenAI
from quarantine import refusal_of_quarantine, run_quarantined

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.config import RunConfig, load_config, override
from selfstudy_engine.data.embedded import embedded_model
from selfstudy_engine.data.errors import ServerError, SwapError
from selfstudy_engine.data.evaluations import load_evaluation
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.hardware import device
from selfstudy_engine.data.prompts import render_question
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.canary import Served, check_canary
from selfstudy_engine.engine.evaluate import Manner
from selfstudy_engine.engine.examiner import Examiner
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.server import VllmServer, free_port, served_model
from selfstudy_engine.engine.server_client import ServerClient
from selfstudy_engine.engine.swap import AdminApi, make_swapper, swap_and_prove
from selfstudy_engine.engine.teacher_cache import TeacherAnswer

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
QUESTION = render_question(Molecule("", "phenol", "Oc1ccccc1", 40.9), "facts")
DTYPE = "float32"
"""On every host: greedy tokens don't hang on how a product is rounded."""
SERVE_KEY = "a-key-of-this-test-alone"
GREEDY = SamplingParams(n=1, temperature=0, top_p=1, max_tokens=12)


@pytest.fixture(scope="module")
def adapters(tmp_path_factory: pytest.TempPathFactory) -> tuple[Adapter, Adapter]:
    """Two adapters of the embedded model that a few real training steps made, with two seeds."""
    folder = tmp_path_factory.mktemp("adapters")
    found = []
    for seed in (0, 1):
        config = folder / f"{seed}.toml"
        model = f'dtype = "{DTYPE}"\n'
        settings = "epochs = 0.01\nmin_steps = 4\ntokens_per_step = 128\nlearning_rate = 1e-3\n"
        config.write_text(f"seed = {seed}\n[model]\n{model}[train]\nrank = 8\n{settings}")
        output = folder / f"round-{seed:04d}"
        with train_here({"config": config, "model": embedded_model(), "output": output}):
            pass
        found.append(read_adapter(output))
    return found[0], found[1]


def server_config(mode: str) -> RunConfig:
    values = {
        "server.adapter_mode": mode,
        "server.api_server_count": 2,  # where vLLM allows them; the loop below has one
        "server.kv_cache_gib": 1,
        "server.max_model_len": 512,
        "model.dtype": DTYPE,
        "train.rank": 8,
    }
    return load_config(None, values)


@pytest.fixture(scope="module", params=["merged", "runtime"])
def server(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[VllmServer, RunConfig]]:
    config = server_config(request.param)
    log = tmp_path_factory.mktemp("server") / "server.log"
    started = VllmServer(config, str(embedded_model()), log)
    with started.running():
        yield started, config


async def answer(client: ServerClient, served: Served) -> str:
    generated = await client.ask(served.model, GenerationRequest(0, QUESTION, GREEDY))
    return generated.completions[0].text


def test_swaps_are_proven_and_the_base_comes_back(
    server: tuple[VllmServer, RunConfig], adapters: tuple[Adapter, Adapter]
) -> None:
    process, config = server
    first, second = adapters

    async def story() -> None:
        admin = AdminApi(process.endpoint)
        model = str(served_model(process.endpoint)["id"])
        swapper = make_swapper(config.server.adapter_mode, admin, model)
        async with ServerClient(process.endpoint, 8, 300) as client:
            base = Served(model)
            with pytest.raises(SwapError, match="doesn't answer from adapter round-0000"):
                await check_canary(client, base, first, DTYPE)
            before = await answer(client, base)

            served_first, canary, _ = await swap_and_prove(swapper, client, first, DTYPE)
            assert canary.distance < 0.01 < canary.distance_to_base
            with_first = await answer(client, served_first)
            assert with_first != before

            served_second, _, _ = await swap_and_prove(swapper, client, second, DTYPE)
            assert served_second.adapter_sha256 == second.sha256 != first.sha256
            with pytest.raises(SwapError):
                await check_canary(client, served_second, first, DTYPE)
            assert await answer(client, served_second) != before

            again, _, _ = await swap_and_prove(swapper, client, first, DTYPE)
            assert await answer(client, again) == with_first
            assert await answer(client, await swapper.swap(None)) == before
        await admin.close()

    asyncio.run(story())
    process.check_alive()


class Silent:
    """Progress that nobody looks at."""

    def phase(self, name: str, total: int | None = None) -> None:
        """Nothing is shown."""

    def advance(self, done: int, detail: str = "") -> None:
        """Nothing is shown."""


def test_an_examiner_asks_adapters_and_the_base_in_any_manner(
    server: tuple[VllmServer, RunConfig], adapters: tuple[Adapter, Adapter], tmp_path: Path
) -> None:
    process, config = server
    asked = override(config, {"server.url": process.endpoint.url, "generation.max_tokens": 16})
    molecules = [Molecule("A", "phenol", "Oc1ccccc1", 41.0), Molecule("B", "", "CCO", -114.0)]
    begun = Manner(reasons={"A": "A ring.", "B": "A chain."})
    with Examiner(
        asked,
        str(embedded_model()),
        [],
        log=tmp_path / "server.log",
        server_key=process.endpoint.api_key,
        progress=Silent(),
    ) as examiner:
        plain = examiner.ask(adapters[0], molecules)
        base = examiner.ask(None, molecules)
        with_reasons = examiner.ask(adapters[0], molecules, begun)
        several = examiner.ask(adapters[0], molecules, Manner(num_answers=3))
    assert [answer.adapter_sha256 for answer in plain + base] == [adapters[0].sha256] * 2 + [""] * 2
    assert [answer.molecule_id for answer in plain] == ["A", "B"]
    assert [answer.completion for answer in plain] != [answer.completion for answer in base]
    for answer, reason in zip(with_reasons, ("A ring.", "A chain."), strict=True):
        assert answer.reason == reason
        assert answer.completion.startswith(f" {reason}\nMelting point (°C):")
    assert {answer.num_answers for answer in several} == {3}


async def scores(client: ServerClient, model: str) -> list[float]:
    """Return the log-probability of each token of a text after the first."""
    text = list(range(100, 140))
    answered: Any = await client.complete(
        model=model, prompt=text, max_tokens=1, temperature=0, prompt_logprobs=0
    )
    found = answered["choices"][0]["prompt_logprobs"][1:]
    return [entry[str(token)]["logprob"] for token, entry in zip(text[1:], found, strict=True)]


@pytest.mark.skipif(device() != "cpu", reason="a GPU takes vLLM's own kernels")
@pytest.mark.parametrize("server", ["runtime"], indirect=True)
def test_grouped_products_of_runtime_adapters(
    server: tuple[VllmServer, RunConfig], adapters: tuple[Adapter, Adapter]
) -> None:
    """The tokens of vLLM's own products; and in batches of several models, which those get wrong.

    There vLLM 0.32 gives base rows an adapter's weights, and ends at the second prompt_logprobs.
    """
    process, _ = server

    async def story() -> None:
        admin = AdminApi(process.endpoint)

        async def use_fast_lora(enabled: bool) -> None:
            call = {"method": "use_fast_lora", "kwargs": {"enabled": enabled}}
            response = await admin.post("/collective_rpc", json=call)
            assert response.json() == {"results": [str(enabled)]}, "is the plugin installed?"
            await admin.reset_prefix_cache()

        model = str(served_model(process.endpoint)["id"])
        swapper = make_swapper("runtime", admin, model)
        models = [model, *[(await swapper.swap(adapter)).model for adapter in adapters]]
        async with ServerClient(process.endpoint, 64, 300) as client:

            async def answers(wanted: list[str]) -> list[str]:
                return await asyncio.gather(*(answer(client, Served(name)) for name in wanted))

            await use_fast_lora(False)
            stock = [await answer(client, Served(name)) for name in models]
            assert stock[0] not in stock[1:]
            stock_scores = [await scores(client, name) for name in models]
            assert stock_scores[1] != pytest.approx(stock_scores[2], abs=0.1), "two adapters"
            await use_fast_lora(True)
            assert [await answer(client, Served(name)) for name in models] == stock
            assert await answers(models * 4) == stock * 4
            assert await answers(models[::-1] * 4) == stock[::-1] * 4
            together = await asyncio.gather(*(scores(client, name) for name in models * 2))
            for found, expected in zip(together, stock_scores * 2, strict=True):
                assert found == pytest.approx(expected, abs=1e-3)
        await admin.close()

    asyncio.run(story())
    process.check_alive()


@pytest.mark.parametrize("server", ["merged"], indirect=True)
def test_the_local_model_is_its_own_teacher(
    server: tuple[VllmServer, RunConfig], tmp_path: Path
) -> None:
    """It may explain little or nothing; each answer is real, checked, and asked for once."""
    process, _ = server
    out, answers = tmp_path / "own.jsonl", tmp_path / "own.answers.jsonl"
    command = [
        *(sys.executable, "-m", "selfstudy_engine.cli", "teach", "--out", str(out)),
        *("--server", process.endpoint.url, "--teacher-exemplars", "3", "--tolerance", "400"),
        *("--teacher-max-tokens", "96", "--teacher-temperature", "0"),
    ]
    environment = os.environ | {"SELFSTUDY_SERVER_KEY": process.endpoint.api_key}

    def teach() -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command, capture_output=True, text=True, env=environment, timeout=300, check=False
        )

    first = teach()
    told = first.stdout + first.stderr
    kept = [TeacherAnswer(**json.loads(line)) for line in answers.read_text("utf-8").splitlines()]
    assert len(kept) >= 3
    assert all(answer.text and answer.num_output_tokens > 0 for answer in kept)
    assert not any(answer.lost for answer in kept)
    if first.returncode == 0:
        exemplars = load_exemplars(out)
        assert 1 <= len(exemplars) <= 3
        assert {exemplar.source for exemplar in exemplars} == {embedded_model().name}
        said = [" ".join(answer.text.split()) for answer in kept]
        assert all(exemplar.reason in said for exemplar in exemplars)
        assert f"{len(exemplars)} of 3 molecules explained" in told
    else:
        assert first.returncode == 2, told
        assert "gave no reason that stands the checks" in told
        assert not out.exists()
    before = answers.read_bytes()
    again = teach()
    assert (again.returncode, answers.read_bytes()) == (first.returncode, before)
    assert process.endpoint.api_key not in told + answers.read_text("utf-8")
    process.check_alive()


BEYOND_OPENAPI = ["/metrics", "/docs", "/openapi.json", "/sleep", "/wake_up", "/adapters", "/"]


def test_no_route_but_health_is_reached_without_the_key(
    server: tuple[VllmServer, RunConfig],
) -> None:
    """Each route that vLLM itself names, by each of its methods."""
    process, config = server
    with httpx.Client(base_url=process.endpoint.url, trust_env=False) as client:
        schema = client.get("/openapi.json", headers=process.endpoint.headers).json()
        known = [(m.upper(), path) for path, methods in schema["paths"].items() for m in methods]
        admin = ["/collective_rpc", "/pause", "/resume", "/reset_prefix_cache"]
        if config.server.adapter_mode == "runtime":
            admin += ["/v1/load_lora_adapter", "/v1/unload_lora_adapter"]
        assert {("POST", path) for path in admin} <= set(known)
        known += [(method, path) for path in BEYOND_OPENAPI for method in ("GET", "POST")]
        for method, path in known:
            for headers in ({}, {"Authorization": "Bearer wrong"}):
                filled = re.sub(r"{\w+}", "x", path)
                status = client.request(method, filled, headers=headers, json={}).status_code
                assert status == (200 if path == "/health" else 401), (method, path)
    process.check_alive()


def test_no_other_interface_reaches_it(server: tuple[VllmServer, RunConfig]) -> None:
    """Neither the server's own port nor one of those by which its processes meet."""
    process, _ = server
    listening = {
        (connection.laddr.ip, connection.laddr.port)
        for member in psutil.process_iter()
        if belongs_to(member, process.process_group)
        for connection in member.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    port = int(process.endpoint.url.rpartition(":")[2])
    assert ("127.0.0.1", port) in listening
    assert {ip for ip, _ in listening} <= {"127.0.0.1", "::1"}
    for address in other_addresses():
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection((address, port), timeout=5)


def belongs_to(process: psutil.Process, group: int) -> bool:
    try:
        return os.getpgid(process.pid) == group
    except ProcessLookupError:
        return False


def other_addresses() -> list[str]:
    """Return this host's IPv4 addresses but loopback's; none on a host without a network."""
    found = [one for interface in psutil.net_if_addrs().values() for one in interface]
    addresses = [one.address for one in found if one.family == socket.AF_INET]
    return [address for address in addresses if not address.startswith("127.")]


def test_the_key_is_neither_logged_nor_in_a_process_list(
    server: tuple[VllmServer, RunConfig],
) -> None:
    process, _ = server
    key = process.endpoint.api_key
    members = [one for one in psutil.process_iter() if belongs_to(one, process.process_group)]
    assert len(members) > 1
    assert not any(key in word for member in members for word in member.cmdline())
    log = process.log.read_text("utf-8")
    assert "vllm" in log
    assert key not in log


def test_a_server_that_dies_says_so_with_its_log(server: tuple[VllmServer, RunConfig]) -> None:
    process, _ = server
    group = process.process_group
    os.killpg(group, signal.SIGKILL)
    deadline = time.monotonic() + 30
    while process.alive and time.monotonic() < deadline:
        time.sleep(0.1)
    with pytest.raises(ServerError, match="ended with exit code -9; the last lines of"):
        process.check_alive()


def loop_command(runs: Path) -> list[str]:
    return [
        *(sys.executable, "-m", "selfstudy_engine.cli", "loop", "--runs", str(runs)),
        *("--run", "killed", "--batch", "16", "--rounds", "2", "--test-size", "4"),
        *("--samples-per-molecule", "2", "--tolerance", "200", "--max-tokens", "48"),
        # One request at a time, so that the kill comes between two of them.
        *("--concurrency", "2", "--train-evaluation-size", "0", "--report", "off"),
        *("--min-steps", "8", "--epochs", "0.5", "--max-model-len", "512", "--dtype", DTYPE),
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


@pytest.mark.timeout(900)
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
            *([({"seed": 1}, 400)] if device() == "cpu" else []),
        ):
            assert client.post("/v1/completions", json=question | changed).status_code == status
        for address in other_addresses():
            port = url.rpartition(":")[2]
            assert httpx.get(f"http://{address}:{port}/v1/models").status_code == 401
        codes = [client.get("/v1/models").status_code for _ in range(61)]
        assert codes[-1] == 429
        assert client.get("/health").status_code == 200
