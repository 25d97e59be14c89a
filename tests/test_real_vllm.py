"""Real vLLM, embedded model: swaps proven, and nobody reaches a server without its key."""

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
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from conftest import running, train_here

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.config import RunConfig, load_config, override
from selfstudy_engine.data.embedded import embedded_model
from selfstudy_engine.data.errors import ServerError, SwapError
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.hardware import device
from selfstudy_engine.data.prompts import render_question
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.canary import Served, check_canary
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.evaluate import Manner
from selfstudy_engine.engine.examiner import Examiner
from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams
from selfstudy_engine.engine.server import VllmServer, served_model
from selfstudy_engine.engine.server_client import ServerClient
from selfstudy_engine.engine.swap import AdminApi, make_swapper, swap_and_prove
from selfstudy_engine.engine.teacher_cache import TeacherAnswer
from selfstudy_engine.engine.vllm_metrics import parse_metrics

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(600)]
QUESTION = render_question(Molecule("", "phenol", "Oc1ccccc1", 40.9), "facts")
DTYPE = "float32"
"""On every host: greedy tokens don't hang on how a product is rounded."""
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
        "server.api_server_count": 2,  # where vLLM allows them; test_real_loop.py has one
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
    with running(started):
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
            base = await swapper.swap(None)
            if config.server.adapter_mode == "merged":  # whichever of its processes answers
                refused = [answer(client, base) for _ in range(8)]
                for error in await asyncio.gather(*refused, return_exceptions=True):
                    assert "was given other weights by another client" in str(error)
                await client.follow_origin()
            assert await answer(client, base) == before
        await admin.close()

    asyncio.run(story())
    process.check_alive()


@pytest.mark.parametrize("server", ["merged"], indirect=True)
def test_what_other_weights_left_in_the_prefix_cache_isnt_read(
    server: tuple[VllmServer, RunConfig],
    adapters: tuple[Adapter, Adapter],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Even where a reset does nothing."""
    process, _ = server
    first, second = adapters

    async def keep(_: AdminApi) -> None:
        """Say that the cache is empty."""

    monkeypatch.setattr(AdminApi, "reset_prefix_cache", keep)

    def num_read() -> float:
        page = httpx.get(
            f"{process.endpoint.url}/metrics", headers=process.endpoint.headers, trust_env=False
        )
        return sum(parse_metrics(page.text)["prefix_cache_hits_total"])

    async def story() -> None:
        admin = AdminApi(process.endpoint)
        model = str(served_model(process.endpoint)["id"])
        swapper = make_swapper("merged", admin, model)
        async with ServerClient(process.endpoint, 8, 300) as client:
            for adapter in (first, second):
                served, _, _ = await swap_and_prove(swapper, client, adapter, DTYPE)
                before = num_read()
                await answer(client, served)
                assert num_read() == before, adapter.name
                await answer(client, served)
                assert num_read() > before
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


@pytest.mark.parametrize("server", ["merged"], indirect=True)
def test_a_server_that_an_interrupted_swap_left_paused_is_reached_again(
    server: tuple[VllmServer, RunConfig], adapters: tuple[Adapter, Adapter]
) -> None:
    process, config = server

    async def interrupt() -> None:
        admin = AdminApi(process.endpoint)
        assert not await admin.is_paused()
        await admin.drain()
        assert await admin.is_paused()
        await admin.close()

    asyncio.run(interrupt())
    asked = override(config, {"server.url": process.endpoint.url})
    with Connection(asked, str(embedded_model()), (), process.endpoint.api_key) as connection:
        connection.connect()
        connection.swap_to(adapters[0])
        assert connection.served.adapter_sha256 == adapters[0].sha256


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


def test_requests_with_seeds_are_answered_alike_alone_and_in_a_crowd(
    server: tuple[VllmServer, RunConfig],
) -> None:
    """In a crowd prompts are computed in parts, where vLLM 0.32 ends on a CPU."""
    process, _ = server
    asked = [
        {"prompt": [*range(seed * 400, seed * 400 + 400)], "seed": seed, "max_tokens": 12}
        for seed in range(32)
    ]

    async def story() -> tuple[list[str], list[str]]:
        headers = {"Authorization": f"Bearer {process.endpoint.api_key}"}
        url, timeout = process.endpoint.url, 300
        async with httpx.AsyncClient(base_url=url, headers=headers, timeout=timeout) as client:

            async def text(question: dict[str, Any]) -> str:
                response = await client.post("/v1/completions", json=question)
                return str(response.raise_for_status().json()["choices"][0]["text"])

            crowd = await asyncio.gather(*map(text, asked))
            return crowd, [await text(question) for question in asked]

    crowd, alone = asyncio.run(story())
    process.check_alive()
    assert crowd == alone
    assert len(set(crowd)) == len(asked)


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
