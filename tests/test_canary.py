"""The canary against the fake: no wrong adapter passes, and no answer that can't be read."""

from collections.abc import Callable
from typing import Any

import pytest
from conftest import MakeAdapter
from fake_vllm import FakeVllm
from swapping import swap, swap_to_base

from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.errors import ServerError, SwapError
from selfstudy_engine.engine.canary import distance
from selfstudy_engine.engine.connection import Connection

ROUTE = "/v1/completions"


def test_the_canary_asks_for_next_tokens_before_whole_texts(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    """The other order would fill the prefix cache with right values."""
    swap(fake, make_adapter("a"))
    kinds = [request.kind for request in fake.requests if request.path == ROUTE]
    assert kinds == ["next", "next", "score", "score"]
    asked = [request.body for request in fake.requests[-4:]]
    assert [body["max_tokens"] for body in asked] == [4, 4, 1, 1]
    lengths = [len(body["prompt"]) for body in asked]
    assert sorted(lengths[2:]) == [length + 4 for length in sorted(lengths[:2])]


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


def test_a_round_before_that_is_near_is_noticed(fake: FakeVllm, make_adapter: MakeAdapter) -> None:
    """Within the tolerance; what is answered is the one's, not the other's."""
    first, second = make_adapter("first", -2.0), make_adapter("second", -2.01)
    config = load_config(None, {"server.url": fake.url, "model.dtype": "float32"})
    with Connection(config, "owner/tiny", (), fake.api_key) as connection:
        connection.connect()
        connection.swap_to(first)
        fake.keeps_old_adapter = True
        with pytest.raises(
            SwapError, match=r"still answers from adapter first: .* 0 nats .*0\.01 "
        ):
            connection.swap_to(second)
        fake.keeps_old_adapter = False
        connection.swap_to(second)
        connection.swap_to(second)
        connection.swap_to(make_adapter("third", -2.01001))


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


def test_weights_that_only_prompts_are_computed_with_are_noticed(
    fake: FakeVllm, make_adapter: MakeAdapter
) -> None:
    """Recorded graphs of a GPU's decoding steps that read the memory of the weights before."""
    swap(fake, make_adapter("first", -2.0))
    fake.keeps_old_graphs = True
    with pytest.raises(SwapError, match=r"decodes with other weights .* second: .* 0\.5 nats "):
        swap(fake, make_adapter("second", -2.5))


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
        (_next_value({"token_logprobs": []}), "with 4 tokens and 0 log-probabilities"),
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
        (_next_value({"token_logprobs": [float("nan")] * 4}), _is_next),
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
