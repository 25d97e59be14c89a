"""Swaps against the fake: the order of the calls, and that no wrong adapter passes."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from conftest import MakeAdapter
from fake_vllm import FakeVllm

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.errors import AdapterError, SelfStudyError, ServerError, SwapError
from selfstudy_engine.engine.canary import CanaryResult, Served, distance
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.server_client import ServerClient
from selfstudy_engine.engine.swap import AdminApi, make_swapper, swap_and_prove

ROUTE = "/v1/completions"
BASE = "owner/tiny"


def swap(
    fake: FakeVllm, *adapters: Adapter, mode: Any = "merged", dtype: str = "float32"
) -> list[tuple[Served, CanaryResult]]:
    """Swap to one adapter after the other, with one swapper, and prove each."""

    async def run() -> list[tuple[Served, CanaryResult]]:
        admin = AdminApi(fake.endpoint)
        found = []
        try:
            async with ServerClient(fake.endpoint, 4, 10) as client:
                swapper = make_swapper(mode, admin, fake.model)
                for adapter in adapters:
                    served, result, seconds = await swap_and_prove(swapper, client, adapter, dtype)
                    assert seconds > 0
                    found.append((served, result))
        finally:
            await admin.close()
        return found

    return asyncio.run(run())


def swap_to_base(fake: FakeVllm, mode: Any = "merged") -> Served:
    async def run() -> Served:
        admin = AdminApi(fake.endpoint)
        try:
            return await make_swapper(mode, admin, fake.model).swap(None)
        finally:
            await admin.close()

    return asyncio.run(run())


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


def test_the_canary_asks_for_the_next_token_before_whole_texts(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    """The other order would fill the prefix cache with right values."""
    swap(fake, make_adapter("a"))
    kinds = [request.kind for request in fake.requests if request.path == ROUTE]
    assert kinds == ["next", "next", "score", "score"]
    assert all(request.body["max_tokens"] == 1 for request in fake.requests[-4:])


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


def test_a_swap_that_changed_nothing_is_noticed(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    """The server answers 200 and stays with the base model."""
    fake.keeps_old_adapter = True
    with pytest.raises(SwapError, match=r"from adapter a.* 2 nats .*float32: 0\.02.* 0 from the b"):
        swap(fake, make_adapter("a"))


def test_the_adapter_before_is_noticed(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    first, second = make_adapter("first", -2.0), make_adapter("second", -2.5)
    swap(fake, first)
    fake.keeps_old_adapter = True
    with pytest.raises(SwapError, match=r"adapter second.*0\.5 nats from the trainer's"):
        swap(fake, second)


def test_an_adapter_near_the_base_model_still_differs_from_it(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    """Within the tolerance of the number format, but nearer to the base model."""
    near = make_adapter("near", logprob=-4.0 + 0.01)
    assert swap(fake, near)[0][1].distance_to_base == pytest.approx(0.01)
    swap_to_base(fake)
    fake.keeps_old_adapter = True
    with pytest.raises(SwapError, match="doesn't answer from adapter near"):
        swap(fake, near)


def test_a_stale_prefix_cache_is_noticed(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    """Whole texts are right, the next token comes from the adapter before."""
    first = make_adapter("first", -2.0, next_logprob=-1.0)
    second = make_adapter("second", -2.5, next_logprob=-1.5)
    swap(fake, first)
    fake.cache_reset_lies = True
    with pytest.raises(SwapError, match=r"adapter second are 0\.5 nats.*prefix cache is stale"):
        swap(fake, second)


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


def _scores(change: Callable[[list[Any]], Any]) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        choice = answer["choices"][0]
        choice["prompt_logprobs"] = change(choice["prompt_logprobs"])
        return answer

    return edit


def _with_nan(entries: list[Any]) -> list[Any]:
    for entry in entries[1:]:
        for value in entry.values():
            value["logprob"] = float("nan")
    return entries


def _is_score(body: dict[str, Any]) -> bool:
    return "prompt_logprobs" in body


def _is_next(body: dict[str, Any]) -> bool:
    return "logprobs" in body


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_scores(lambda entries: None), "no log-probabilities for the canary"),
        (_scores(lambda entries: entries[:-1]), "no log-probabilities for the canary"),
        (_scores(lambda entries: [None, *({"999": {"logprob": 0}} for _ in entries[1:])]), "canar"),
        (lambda a: a | {"model": "other"}, "canary.*other"),
        (lambda a: a | {"choices": []}, "canary"),
    ],
    ids=["null", "too few", "other tokens", "model", "no choices"],
)
def test_a_canary_that_cant_be_read_is_no_proof(
    fake: FakeVllm, make_adapter: MakeAdapter, edit: Any, message: str
) -> None:
    fake.fail_next(ROUTE, times=2, edit=edit, matching=_is_score)
    with pytest.raises(SwapError, match=message):
        swap(fake, make_adapter("a"))


def _next_value(value: Any) -> Callable[[dict[str, Any]], dict[str, Any]]:
    def edit(answer: dict[str, Any]) -> dict[str, Any]:
        answer["choices"][0]["logprobs"] = value
        return answer

    return edit


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (_next_value(None), "no log-probability for the canary"),
        (_next_value({"token_logprobs": []}), "no log-probability for the canary"),
        (lambda a: a | {"model": "other"}, "canary.*other"),
        (lambda a: a | {"choices": []}, "canary"),
    ],
    ids=["null", "empty", "model", "no choices"],
)
def test_a_next_token_that_cant_be_read_is_no_proof(
    fake: FakeVllm, make_adapter: MakeAdapter, edit: Any, message: str
) -> None:
    fake.fail_next(ROUTE, times=2, edit=edit, matching=_is_next)
    with pytest.raises(SwapError, match=message):
        swap(fake, make_adapter("a"))


@pytest.mark.parametrize(
    ("edit", "matching"),
    [
        (_scores(_with_nan), _is_score),
        (_next_value({"token_logprobs": [float("nan")]}), _is_next),
    ],
    ids=["score", "next"],
)
def test_a_canary_that_isnt_a_number_is_no_proof(
    fake: FakeVllm, make_adapter: MakeAdapter, edit: Any, matching: Any
) -> None:
    """Python's server writes NaN; JSON has none, and a comparison with it is always false."""
    fake.fail_next(ROUTE, times=2, edit=edit, matching=matching)
    with pytest.raises(ServerError, match="isn't JSON"):
        swap(fake, make_adapter("a"))


def test_a_canary_survives_a_passing_failure(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    fake.fail_next(ROUTE, status=503, times=2)
    assert swap(fake, make_adapter("a"))[0][0].adapter == "a"


def test_an_unknown_name_is_an_error_not_the_base_model(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    adapter = make_adapter("a")
    fake.fail_next("/v1/load_lora_adapter", text="Success")  # a lie: nothing was loaded
    with pytest.raises(ServerError, match=r"model `a-.*does not exist"):
        swap(fake, adapter, mode="runtime")


@pytest.mark.parametrize(
    ("dtype", "off", "passes"),
    [("float32", 0.01, True), ("float32", 0.05, False), ("bfloat16", 0.05, True)],
)
def test_the_number_format_decides_how_near_is_near(
    fake: FakeVllm, make_adapter: MakeAdapter, dtype: str, off: float, passes: bool
) -> None:
    def shifted(entries: list[Any]) -> list[Any]:
        for entry in entries[1:]:
            for value in entry.values():
                value["logprob"] += off
        return entries

    fake.fail_next(ROUTE, times=2, edit=_scores(shifted), matching=_is_score)
    if passes:
        assert swap(fake, make_adapter("a"), dtype=dtype)[0][1].distance == pytest.approx(off)
    else:
        with pytest.raises(SwapError, match="allowed in float32"):
            swap(fake, make_adapter("a"), dtype=dtype)


def test_tokens_that_nobody_expects_say_nothing() -> None:
    trained = [[-0.1, -8.0], [-0.5, -12.0, -7.0]]
    rounded = [[-0.11, -8.6], [-0.49, -11.0, -7.5]]
    assert distance(rounded, trained) == pytest.approx(0.01)


@pytest.mark.parametrize(("expected", "found"), [(-0.1, -9.0), (-9.0, -0.1)])
def test_a_token_that_one_side_expects_counts(expected: float, found: float) -> None:
    assert distance([[found, -9.0]], [[expected, -8.0]]) == pytest.approx(8.9)


def test_all_tokens_count_where_none_is_expected() -> None:
    assert distance([[-9.0, -8.0]], [[-9.5, -8.0]]) == pytest.approx(0.25)


@pytest.mark.parametrize("mode", ["merged", "runtime"])
def test_a_server_without_a_key_can_swap(make_adapter: MakeAdapter, mode: str) -> None:
    with FakeVllm(api_key="") as fake:
        assert swap(fake, make_adapter("a"), mode=mode)[0][0].adapter == "a"


def test_a_wrong_key_is_an_error(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    config = load_config(None, {"model.dtype": "float32", "server.url": fake.url})
    with (
        Connection(config, BASE, (), "wrong") as connection,
        pytest.raises(SelfStudyError, match="401"),
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
