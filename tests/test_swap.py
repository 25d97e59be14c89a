"""Swaps against the fake: the order of the calls, and that no wrong adapter passes."""

import asyncio
from typing import Any

import pytest
from conftest import MakeAdapter
from fake_vllm import FakeVllm
from swapping import swap, swap_to_base

from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.errors import AdapterError, SelfStudyError, ServerError, SwapError
from selfstudy_engine.engine.canary import Served
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.server_client import ServerClient
from selfstudy_engine.engine.swap import AdminApi, make_swapper

ROUTE = "/v1/completions"
BASE = "owner/tiny"


def test_a_merged_swap_drains_swaps_resets_resumes_and_then_proves(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter("round-0001")
    [(served, result)] = swap(fake, adapter)
    assert served == Served("tiny", "round-0001", adapter.sha256, merged=True)
    assert result.distance == pytest.approx(0)
    assert result.distance_to_base == pytest.approx(2)
    order = [request.kind for request in fake.requests]
    assert order == [
        *("/pause", "/collective_rpc", "/reset_prefix_cache", "/resume", "/health", "/metrics"),
        *("next", "next", "score", "score"),
    ]
    pause, rpc = fake.requests[:2]
    assert pause.params == {"mode": "wait", "clear_cache": "false"}
    assert rpc.body == {
        "method": "serve_merged",
        "kwargs": {"adapter_folder": str(adapter.folder.resolve())},
    }
    assert fake.merged == adapter.folder.resolve()


@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_each_of_several_engines_is_proven(
    fake: FakeVllm, make_adapter: MakeAdapter, mode: str
) -> None:
    fake.num_engines = 3
    swap(fake, make_adapter("a"), mode=mode)
    asked = [r.params.get("engine") for r in fake.requests if r.kind in {"next", "score"}]
    assert sorted(map(str, asked)) == ["0"] * 4 + ["1"] * 4 + ["2"] * 4
    assert asked[0] == "0"
    fake.stuck_engine = 2
    with pytest.raises(SwapError, match=r"the server \(engine 2\) doesn't answer from adapter b"):
        swap(fake, make_adapter("b"), mode=mode)


def test_a_server_without_metrics_has_one_engine_and_one_that_stumbles_is_not_believed(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    fake.num_engines = 2
    fake.fail_next("/metrics", status=404)
    swap(fake, make_adapter("a"))
    assert all("engine" not in request.params for request in fake.requests)
    fake.fail_next("/metrics", status=503)
    with pytest.raises(ServerError, match=r"answered 503.* how many copies"):
        swap(fake, make_adapter("b"))


def test_a_swap_waits_for_completions_in_flight(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    from selfstudy_engine.engine.generation import GenerationRequest, SamplingParams

    first, second = make_adapter("first"), make_adapter("second", logprob=-3.0)
    swap(fake, first)
    fake.latency_seconds = 0.3
    params = SamplingParams(n=1, temperature=1, top_p=1, max_tokens=8)
    request = GenerationRequest(0, "prompt", params)

    async def run() -> list[str]:
        events = []
        admin = AdminApi(fake.endpoint)
        async with ServerClient(fake.endpoint, 4, 10) as client:

            async def generate() -> None:
                await client.ask("tiny", request)
                events.append("answered")

            asking = asyncio.create_task(generate())
            await asyncio.sleep(0.1)
            await make_swapper("merged", admin, "tiny").swap(second)
            events.append("swapped")
            await asking
        await admin.close()
        return events

    assert asyncio.run(run()) == ["answered", "swapped"]


def test_each_weights_questions_have_a_salt_of_their_own(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    """So that what others left in the prefix cache is nothing to them."""
    swap(fake, make_adapter("a"), make_adapter("b"))
    salts = [r.body["cache_salt"] for r in fake.requests if r.path == "/v1/completions"]
    assert len(salts) == 8
    assert salts == [salts[0]] * 4 + [f"{fake.process}.{fake.num_merges}"] * 4
    assert salts[0] != salts[-1]


def test_back_to_the_base_model_only_when_asked(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    swap(fake, make_adapter("a"))
    assert swap_to_base(fake) == Served("tiny")
    assert fake.merged is None
    assert fake.requests[-3].body["kwargs"] == {"adapter_folder": None}


def test_a_runtime_swap_loads_a_name_that_says_which_bytes(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter("round-0001")
    [(served, _)] = swap(fake, adapter, mode="runtime")
    name = f"round-0001-{adapter.sha256[:12]}"
    assert served == Served(name, "round-0001", adapter.sha256)
    load = fake.requests[0]
    assert load.path == "/v1/load_lora_adapter"
    assert load.body == {"lora_name": name, "lora_path": str(adapter.folder.resolve())}
    assert fake.requests[1].path == "/health"
    assert {request.body["model"] for request in fake.requests if request.path == ROUTE} == {name}


def test_a_runtime_swap_keeps_two_adapters_and_unloads_the_oldest(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    adapters = [make_adapter(name, logprob=-1.0 - i) for i, name in enumerate("abc")]
    found = swap(fake, *adapters, mode="runtime")
    names = [served.model for served, _ in found]
    assert list(fake.loaded) == names[1:]
    unload = next(r for r in fake.requests if r.path == "/v1/unload_lora_adapter")
    assert unload.body == {"lora_name": names[0]}


def test_a_runtime_swap_unloads_the_one_that_answered_longest_ago(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    a, b, c = (make_adapter(name, logprob=-1.0 - i) for i, name in enumerate("abc"))
    found = swap(fake, a, b, a, c, mode="runtime")
    assert list(fake.loaded) == [found[2][0].model, found[3][0].model]


def test_a_runtime_swap_takes_what_an_earlier_loop_loaded(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter("a")
    first = swap(fake, adapter, mode="runtime")
    assert swap(fake, adapter, mode="runtime")[0][0] == first[0][0]


def test_the_base_model_needs_no_call_in_runtime_mode(fake: FakeVllm) -> None:
    assert swap_to_base(fake, "runtime") == Served("tiny")
    assert fake.requests == []


def test_a_cache_that_cant_be_reset_ends_the_swap(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    fake.cache_reset_fails = True
    with pytest.raises(SwapError, match=r"couldn't reset its prefix cache.*end other clients"):
        swap(fake, make_adapter("a"))
    assert ROUTE not in fake.paths


def test_after_a_failed_swap_the_same_swap_can_be_tried_again(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter("a")
    fake.fail_next("/collective_rpc", status=500)
    with pytest.raises(SwapError, match=r"/collective_rpc failed with 500: .*failed on command"):
        swap(fake, adapter)
    assert swap(fake, adapter)[0][0].adapter == "a"
    assert not fake.paused


@pytest.mark.parametrize("path", ["/pause", "/collective_rpc", "/reset_prefix_cache", "/resume"])
def test_a_route_that_isnt_there_says_how_to_start_the_server(
    fake: FakeVllm, make_adapter: MakeAdapter, path: str
) -> None:
    fake.missing_routes = {path}
    with pytest.raises(SwapError, match=f"{fake.url} has no {path}; start it with .*serve"):
        swap(fake, make_adapter("a"))
    assert ROUTE not in fake.paths


def test_a_runtime_route_that_isnt_there(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    fake.missing_routes = {"/v1/load_lora_adapter"}
    with pytest.raises(SwapError, match=r"has no /v1/load_lora_adapter.*same --adapter-mode"):
        swap(fake, make_adapter("a"), mode="runtime")


def test_a_server_that_was_started_for_the_other_way(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    text = "Worker failed with error ''CPUWorker' object has no attribute 'serve_merged''"
    fake.fail_next("/collective_rpc", status=500, text=text)
    with pytest.raises(SwapError, match=r"has no serve_merged; start it .*the same --adapter-mode"):
        swap(fake, make_adapter("a"))


def test_a_refused_lora_is_named(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    fake.fail_next("/v1/load_lora_adapter", status=500, text="LoRA rank 64 is greater than 16")
    with pytest.raises(SwapError, match="500: LoRA rank 64"):
        swap(fake, make_adapter("a"), mode="runtime")


@pytest.mark.parametrize("how", [{"refuse": True}, {"cut": True}], ids=["refuse", "cut"])
def test_an_admin_route_that_doesnt_answer(
    fake: FakeVllm, make_adapter: MakeAdapter, how: dict[str, Any]
) -> None:
    fake.fail_next("/collective_rpc", **how)
    with pytest.raises(SwapError, match=f"no answer from {fake.url}/collective_rpc"):
        swap(fake, make_adapter("a"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"results": []}', r"merged \[\]"),
        ('{"results": ["%s", "0000"]}', "0000"),
        ('{"results": [null]}', "None"),
        ("{}", r"merged \[\]"),
        (" ", r"merged \[\]"),  # vLLM's answer where there are no results
    ],
    ids=["none", "one rank differs", "null", "no results", "empty"],
)
def test_workers_that_merged_something_else(
    fake: FakeVllm, make_adapter: MakeAdapter, text: str, message: str
) -> None:
    adapter = make_adapter("a")
    fake.fail_next("/collective_rpc", text=text.replace("%s", adapter.sha256))
    with pytest.raises(SwapError, match=message):
        swap(fake, adapter)
    assert "/resume" not in fake.paths


def test_an_unknown_name_is_an_error_not_the_base_model(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter("a")
    fake.fail_next("/v1/load_lora_adapter", text="Success")  # a lie: nothing was loaded
    with pytest.raises(ServerError, match=r"model `a-.*does not exist"):
        swap(fake, adapter, mode="runtime")


@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_a_server_without_a_key_can_swap(make_adapter: MakeAdapter, mode: str) -> None:
    with FakeVllm(api_key="") as fake:
        assert swap(fake, make_adapter("a"), mode=mode)[0][0].adapter == "a"


def test_a_wrong_key_is_an_error(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    config = load_config(None, {"model.dtype": "float32", "server.url": fake.url})
    with (
        Connection(config, BASE, (), "wrong") as connection,
        pytest.raises(SelfStudyError, match="refuses the key"),
    ):
        connection.connect()


@pytest.mark.parametrize("mode", ["merged", "runtime"])
@pytest.mark.parametrize("suffix", ["", "/", "/v1"])
def test_a_connection_to_a_running_server_swaps_and_proves(
    fake: FakeVllm, make_adapter: MakeAdapter, mode: str, suffix: str
) -> None:
    settings = {"model.dtype": "float32", "server.adapter_mode": mode}
    config = load_config(None, settings | {"server.url": fake.url + suffix})
    adapter = make_adapter("a")
    with Connection(config, BASE, (), fake.endpoint.api_key) as connection:
        connection.connect()
        assert connection.swap_to(adapter) > 0
        assert connection.served.adapter_sha256 == adapter.sha256
    assert [request.kind for request in fake.requests[-4:]] == ["next", "next", "score", "score"]


def test_an_adapter_of_another_base_is_refused_before_the_swap(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    config = load_config(None, {"model.dtype": "float32", "server.url": fake.url})
    with Connection(config, "owner/other", (), fake.endpoint.api_key) as connection:
        connection.connect()
        with pytest.raises(AdapterError, match="not on owner/other"):
            connection.swap_to(make_adapter("a"))
    assert not [request for request in fake.requests if request.path == "/collective_rpc"]
