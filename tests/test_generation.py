"""What is asked of a server, and what none would answer."""

import pytest

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
