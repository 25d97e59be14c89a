"""What is asked of a server, and what none would answer."""

from pathlib import Path

import pytest
from conftest import MakeConfig, loop
from fake_vllm import FakeVllm

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.engine.generation import SamplingParams


@pytest.mark.parametrize(("n", "temperature"), [(1, 0.0), (1, 1e-6), (8, 1e-5), (2, 0.7)])
def test_what_vllm_takes(n: int, temperature: float) -> None:
    SamplingParams(n=n, temperature=temperature, top_p=1, max_tokens=8)


@pytest.mark.parametrize("temperature", [0.0, 1e-6])
def test_several_greedy_answers_are_refused(temperature: float) -> None:
    """VLLM answers 400: "n must be 1 when using greedy sampling"."""
    with pytest.raises(UsageError, match=r"8 answers at temperature .* would be all alike"):
        SamplingParams(n=8, temperature=temperature, top_p=1, max_tokens=8)


def test_a_loop_that_would_ask_for_them_is_refused_before_it_begins(
    small_config: MakeConfig, fake: FakeVllm, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match="2 answers at temperature 0 "):
        loop(small_config(generation__temperature=0), tmp_path, fake)
    assert list(tmp_path.iterdir()) == []
    assert fake.requests == []
