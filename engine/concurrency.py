"""How many completions to keep in flight: the server's own metrics in, a number out.

The aim is a server that never idles: a short queue waits in front of a full batch, without
preemptions (which throw work away) and without a queue that only ages. Grows while nothing waits,
shrinks when the queue is long or the KV cache is full (AIMD, as TCP's congestion control).
"""

import math
from dataclasses import dataclass

from selfstudy_engine.engine.vllm_metrics import parse_metrics

START = 64
"""Completions in flight before the first look at the server."""
MINIMUM = 8
MAXIMUM = 4096
"""No server keeps more sequences in a batch (vLLM on an H200: 1024); the rest would only wait."""
_FULL_CACHE = 0.95
_GOOD_CACHE = 0.9
"""Share of the KV cache up to which the batch may grow: sequences in it still get longer."""

_SEEN = 0.75
"""Share of what is in flight that the server must show before more is asked: the metrics lag."""


@dataclass(frozen=True, slots=True)
class ServerLoad:
    """One look at a server; counts are completions (n of a request), not requests."""

    running: int
    waiting: int
    kv_cache_usage: float
    """Share of the blocks that are in use, 0 to 1."""
    num_preemptions: int
    """Since the server started."""


def parse_load(metrics: str) -> ServerLoad | None:
    """Read vLLM's /metrics page; several engines are added up. None if it isn't vLLM's.

    >>> parse_load('vllm:num_requests_running{engine="0"} 3.0\\nvllm:num_requests_waiting 1.0')
    ServerLoad(running=3, waiting=1, kv_cache_usage=0.0, num_preemptions=0)
    >>> parse_load("python_info 1.0")
    """
    found = parse_metrics(metrics)
    if not {"num_requests_running", "num_requests_waiting"} <= found.keys():
        return None
    return ServerLoad(
        running=int(sum(found["num_requests_running"])),
        waiting=int(sum(found["num_requests_waiting"])),
        kv_cache_usage=min(max(found.get("kv_cache_usage_perc", [0.0])), 1.0),
        num_preemptions=int(sum(found.get("num_preemptions_total", [0.0]))),
    )


def wanted_queue(running: int) -> int:
    """Return how many completions should wait: enough to fill the batch until the next look."""
    return max(4, math.ceil(running / 8))


class ConcurrencyController:
    """Pure: it looks at nothing and waits for nothing."""

    def __init__(self) -> None:
        self.limit = START
        """Completions to keep in flight."""
        self._doubling = True  # as long as no limit of the server has shown itself
        self._filling = True  # the batch still grows, prompt by prompt
        self._last: ServerLoad | None = None

    def update(self, load: ServerLoad, *, in_flight: int, held_back: bool) -> int:
        """Return the new limit.

        Args:
            load: the server's, at the end of its last step, which may be seconds ago on a CPU.
            in_flight: completions that the client waits for.
            held_back: whether the limit, and nothing else, keeps the client from asking for more.
        """
        before, self._last = self._last or load, load
        preempted = load.num_preemptions > before.num_preemptions
        if load != before:
            self._filling = load.running > before.running
        excess = load.waiting - wanted_queue(load.running)
        if preempted or load.kv_cache_usage >= _FULL_CACHE:
            self._doubling = False
            self._set(min(self.limit, load.running - math.ceil(load.running / 8)))
        elif excess > wanted_queue(load.running):
            if not self._filling:  # else the queue gets shorter by itself
                self._doubling = False
                # From what is there, not from the limit: a queue takes time to get shorter.
                self._set(min(self.limit, load.running + load.waiting - math.ceil(excess / 2)))
        elif (
            held_back
            and load.waiting < math.ceil(wanted_queue(load.running) / 2)
            and load.running + load.waiting >= _SEEN * in_flight
        ):
            self._grow(load)
        return self.limit

    def _grow(self, load: ServerLoad) -> None:
        step = self.limit if self._doubling else math.ceil(self.limit / 16)
        wanted = self.limit + step
        if load.kv_cache_usage > 0:
            # What runs now takes this much of the cache; more would take proportionally more.
            wanted = min(wanted, int(load.running * _GOOD_CACHE / load.kv_cache_usage))
        self._set(max(self.limit, wanted))

    def _set(self, limit: int) -> None:
        self.limit = min(max(limit, MINIMUM), MAXIMUM)
