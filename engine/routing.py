"""Which of several servers a prompt goes to: where its beginning is cached, unless that is busy.

Rendezvous hashing (Thaler and Ravishankar 1998) gives each beginning its own order of servers;
bounded loads (Mirrokni et al. 2018, arXiv 1608.01350) go on to the next where one has far more than
its share. Pure: it asks nothing.
"""

from collections.abc import Sequence
from typing import Protocol, TypeVar

PREFIX_CHARACTERS = 512
"""A prompt's beginning: prompts that share it share whole blocks of the KV cache."""
SLACK = 1.25
"""A server may have so many times its share of what is in flight before the next one is asked."""


class Target(Protocol):
    """A server, as far as routing goes."""

    @property
    def url(self) -> str:
        """Tells it from the others."""

    @property
    def in_flight(self) -> int:
        """Completions that it is asked for now."""

    @property
    def concurrency(self) -> int:
        """Completions that it should be asked for at most, by its own metrics."""


AnyTarget = TypeVar("AnyTarget", bound=Target)


def choose(prompt: str, size: int, targets: Sequence[AnyTarget]) -> AnyTarget:
    """Return the server that a prompt of `size` completions goes to.

    The first, in the order of the prompt's beginning, that has room and would have at most `SLACK`
    times the average share of its limit in flight; else the one with the smallest share.
    """
    if len(targets) == 1:
        return targets[0]
    capacity = sum(target.concurrency for target in targets)
    share = min(SLACK * (sum(target.in_flight for target in targets) + size) / capacity, 1)
    fitting = [t for t in targets if t.in_flight + size <= share * t.concurrency]
    if not fitting:  # e.g. the first prompts of a pass
        return min(targets, key=lambda target: (target.in_flight + size) / target.concurrency)
    beginning = prompt[:PREFIX_CHARACTERS]
    return max(fitting, key=lambda target: hash((beginning, target.url)))
