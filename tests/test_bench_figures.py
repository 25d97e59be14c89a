"""A benchmark's table and document say what the turns say."""

from types import SimpleNamespace
from typing import Any

import pytest
from conftest import MakeConfig

from selfstudy_engine.cli.bench import _cells
from selfstudy_engine.engine.bench_reference import TransformersReference
from selfstudy_engine.engine.bench_results import Results
from selfstudy_engine.engine.bench_workloads import Measurement


def test_the_table_shows_the_ratios_within_turns() -> None:
    """They are the medians of the ratios, not the ratios of the medians."""

    def facts(*turns: float) -> dict[str, Any]:
        rate = {"median": sorted(turns)[1], "low": min(turns), "high": max(turns), "turns": turns}
        return {"label": "", "workloads": {"fixed": {"output_tokens_per_second": rate}}}

    contenders = {"3": facts(100, 200, 300), "5": facts(150, 190, 330)}
    assert _cells("5", contenders["5"], contenders)[2:4] == ["1.10", "1.1"]


@pytest.mark.parametrize(
    ("ids", "text", "num_tokens", "reason"),
    [
        ("ab\n\n..", "ab", 4, "stop"),
        ("abc...", "abc", 4, "stop"),
        ("abcdef", "abcdef", 6, "length"),
        ("abcd\n\n", "abcd", 6, "stop"),
    ],
)
def test_transformers_padding_isnt_output(
    ids: str, text: str, num_tokens: int, reason: str
) -> None:
    """A dot ends a text, and fills up what was stopped before the others of its batch."""
    reference: Any = object.__new__(TransformersReference)
    reference._ends = {ord(".")}
    reference._tokenizer = SimpleNamespace(decode=lambda ids, **how: "".join(map(chr, ids)))
    params = {"stop": ["\n\n"], "ignore_eos": False, "max_tokens": 6}
    found = reference._to_completion(list(map(ord, ids)), 3, params)
    assert (found["text"], found["num_output_tokens"]) == (text, num_tokens)
    assert found["finish_reason"] == reason


def test_turns_that_nobody_saw_have_no_idle_share(small_config: MakeConfig) -> None:
    results = Results({}, small_config())
    for key, shares in (("4", (None, 0.25)), ("5", (None, None))):
        results.contenders[key] = {"label": ""}
        results.measurements["long"][key] = [
            Measurement(1.0, 1, 1, 1, 900, 0, idle_share=share, prefix_hit_share=0.0)
            for share in shares
        ]
    found = results.to_json()["contenders"]
    assert found["4"]["workloads"]["long"]["idle_share"]["turns"] == [0.25]
    assert "idle_share" not in found["5"]["workloads"]["long"]
