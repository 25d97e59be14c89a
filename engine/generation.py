"""What is asked of a server, and what comes back: prompt, how to sample from it, completions."""

from dataclasses import dataclass
from typing import Generic, TypeVar

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.schema import Completion

GREEDY = 1e-5
"""Temperature below which vLLM takes the likeliest token, and refuses more than one completion."""
Item = TypeVar("Item")
Item_co = TypeVar("Item_co", covariant=True)


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How completions are drawn; no seed, which ends the CPU engine of a server that isn't ours.

    Raises:
        UsageError: several greedy completions, which would be all alike.
    """

    n: int
    temperature: float
    top_p: float
    max_tokens: int
    stop: tuple[str, ...] = ()
    ignore_eos: bool = False
    """Run to max_tokens whatever the model says: for benchmarks."""

    def __post_init__(self) -> None:
        """Refuse what no server answers."""
        if self.n > 1 and self.temperature < GREEDY:
            raise UsageError(
                f"{self.n} answers at temperature {self.temperature:g} would be all alike: ask for "
                "one, or at a higher temperature"
            )


@dataclass(frozen=True, slots=True)
class GenerationRequest(Generic[Item_co]):
    """A prompt, how to sample from it, and what comes back with the answer."""

    item: Item_co
    prompt: str
    params: SamplingParams


@dataclass(frozen=True, slots=True)
class Generated(Generic[Item]):
    """The n completions of one prompt, with what the caller sent along."""

    item: Item
    completions: list[Completion]
