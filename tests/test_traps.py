"""vLLM's traps: what no request of ours has, and that each is noticed by a test that exists."""

import re
from pathlib import Path

import pytest
from conftest import MakeAdapter, MakeConfig
from fake_vllm import FakeVllm

from selfstudy_engine.data.adapters import MAX_PROBE_TOKENS
from selfstudy_engine.engine.connection import Connection

TESTS = Path(__file__).parent
ROOT = TESTS.parent
ROUTES = {
    *("/health", "/v1/models", "/v1/completions", "/metrics"),
    *("/pause", "/resume", "/is_paused", "/reset_prefix_cache", "/collective_rpc"),
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter"),
}
FIELDS = {
    *("model", "prompt", "n", "temperature", "top_p", "max_tokens", "stop", "stream"),
    *("logprobs", "prompt_logprobs", "cache_salt", "ignore_eos", "return_token_ids"),
}
"""Of a completion; vLLM ignores what it doesn't know, so each was tried with a real server."""


@pytest.fixture(params=["merged", "runtime"])
def asked(
    request: pytest.FixtureRequest,
    fake: FakeVllm,
    make_adapter: MakeAdapter,
    small_config: MakeConfig,
) -> FakeVllm:
    """A fake that was asked all that swapping and generating ask."""
    from asking import generate

    config = small_config(server__url=fake.url, server__adapter_mode=request.param)
    with Connection(config, "owner/tiny", (), fake.api_key) as connection:
        connection.connect()
        for name in "abc":
            connection.swap_to(make_adapter(name))
    generate(fake)
    return fake


def test_only_known_routes_are_asked(asked: FakeVllm) -> None:
    """No sleeping, above all."""
    assert {request.path for request in asked.requests} <= ROUTES


def test_requests_have_no_field_that_vllm_ignores(asked: FakeVllm) -> None:
    completions = [r.body for r in asked.requests if r.path == "/v1/completions"]
    assert completions
    assert {field for body in completions for field in body} <= FIELDS
    loads = [r.body for r in asked.requests if r.path == "/v1/load_lora_adapter"]
    assert all(set(body) == {"lora_name", "lora_path"} for body in loads)


def test_a_connection_warms_up_with_what_a_canary_asks(asked: FakeVllm) -> None:
    first = [request for request in asked.requests if request.path == "/v1/completions"][:2]
    assert [request.kind for request in first] == ["next", "score"], "before any swap"
    assert len(first[0].body["prompt"]) == MAX_PROBE_TOKENS


@pytest.mark.parametrize("page", ["docs/traps.md", "SECURITY.md"])
def test_each_test_that_a_page_names_exists(page: str) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (ROOT / page).read_text("utf-8"))
    assert len(named) > 10
    missing = [
        f"{file}::{test}"
        for file, test in named
        if f"def {test}(" not in (TESTS / file).read_text("utf-8")
    ]
    assert missing == []


def test_each_trap_has_a_test() -> None:
    table = (ROOT / "docs" / "traps.md").read_text("utf-8")
    numbered = {int(n): row for n, row in re.findall(r"^\| (\d+) \|(.*)$", table, re.MULTILINE)}
    assert sorted(numbered) == list(range(1, 12))
    rows = [line for line in table.splitlines() if line.startswith("|")]
    rows = [line for line in rows if not re.fullmatch(r"[|\- ]+|.*\| noticed by \|", line)]
    assert len(rows) > 20
    assert [row for row in rows if "::test_" not in row] == []
