"""What a benchmark asks, and what is counted of the answers."""

from dataclasses import replace

import pytest
from conftest import MakeConfig

from selfstudy_engine.data.errors import BenchmarkError
from selfstudy_engine.data.schema import Completion
from selfstudy_engine.engine.bench_workloads import Pass, Workload, measure


def answer(text: str, num_tokens: int = 6, reason: str = "stop") -> Completion:
    return Completion(text, reason, num_prompt_tokens=10, num_output_tokens=num_tokens)


def test_workloads_ask_for_as_many_completions(workloads: dict[str, Workload]) -> None:
    assert workloads["fixed"].params.ignore_eos
    assert [len(w.prompts) * w.params.n for w in workloads.values()] == [8, 20, 4]
    assert len(set(workloads["fixed"].prompts)) == 8
    long = workloads["long"]
    assert long.one_by_one
    assert long.params.max_tokens == 1
    prefixes = {prompt[:200] for prompt in long.prompts}
    assert len(prefixes) > 1, "they share no prefix that a cache could know"


def test_a_subset_and_a_short_form_keep_the_rest(workloads: dict[str, Workload]) -> None:
    fixed = workloads["fixed"]
    assert fixed.first(3).prompts == fixed.prompts[:3]
    assert fixed.first(None) == fixed
    assert fixed.shortened(2).params.max_tokens == 2
    assert fixed.shortened(2).prompts == fixed.prompts


def test_tokens_and_distinct_accepted_texts_are_counted(
    workloads: dict[str, Workload], small_config: MakeConfig
) -> None:
    asked = workloads["real"].first(2)
    values = [molecule.value for molecule in asked.molecules]
    right = f" It is a flat ring.\nMelting point (°C): {values[0]:.0f}"
    wrong = f" It is a flat ring.\nMelting point (°C): {values[1] + 500:.0f}"
    done = Pass(2.0, [[answer(right), answer(right)], [answer(wrong, 3), answer("babble", 1)]])
    found = measure(asked, done, small_config())
    assert found.num_completions == 4
    assert found.num_output_tokens == 16
    assert found.num_prompt_tokens == 20
    assert found.num_accepted_distinct == 1, "the same text twice is one sample"
    assert found.output_tokens_per_second == 8
    assert found.completions_per_second == 2
    assert found.accepted_distinct_per_second == 0.5


def test_no_more_texts_of_a_molecule_count_than_a_loop_keeps(
    workloads: dict[str, Workload], small_config: MakeConfig
) -> None:
    asked = replace(workloads["real"].first(1), params=replace(workloads["real"].params, n=8))
    value = asked.molecules[0].value
    texts = [f" It has {n} rings.\nMelting point (°C): {value:.0f}" for n in range(8)]
    config = small_config(verdict__max_accepted_per_molecule=3, verdict__reject=["no value"])
    done = Pass(1.0, [[answer(text) for text in texts]])
    assert measure(asked, done, config).num_accepted_distinct == 3


@pytest.mark.parametrize(
    ("completions", "message"),
    [
        ([[answer("x")]] * 7, "asked were 8 x 1 completions"),
        ([[answer("x"), answer("x")]] * 8, "asked were 8 x 1 completions"),
        ([[answer("x", 5)]] * 8, r"must have 6 tokens, given \[5\]"),
    ],
)
def test_an_answer_to_something_else_is_refused(
    workloads: dict[str, Workload],
    small_config: MakeConfig,
    completions: list[list[Completion]],
    message: str,
) -> None:
    with pytest.raises(BenchmarkError, match=message):
        measure(workloads["fixed"], Pass(1.0, completions), small_config())
