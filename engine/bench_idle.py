"""Watches a server from outside: for how much of the time did nothing run in it?"""

import logging
import threading
import time
from typing import Self

import httpx

from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.vllm_metrics import parse_metrics

_MANY_MISSED = 0.1
logger = logging.getLogger(__name__)


class IdleWatch:
    """Looks at a server's metrics again and again; use it as a context manager.

    A look that gets no answer says nothing of the server, and is left out. Many such are warned of.

    What counts is the time from the first look that finds something running to the last.

    Args:
        endpoint: the server.
        seconds_between_looks: ten looks a second cost a server on two cores 7% of its speed.
    """

    def __init__(self, endpoint: Endpoint, seconds_between_looks: float) -> None:
        self._endpoint = endpoint
        self._pause = seconds_between_looks
        self._looks: list[tuple[float, bool]] = []
        self._num_missed = 0
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="idle", daemon=True)

    def __enter__(self) -> Self:
        """Begin to look."""
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        """Stop looking."""
        self._closed.set()
        self._thread.join()
        if self.missed_share > _MANY_MISSED:
            logger.warning(
                "the server at %s didn't answer %.0f%% of the looks at its metrics: its idle share "
                "is that of the others",
                self._endpoint.url,
                100 * self.missed_share,
            )

    @property
    def missed_share(self) -> float:
        """Share of the looks that got no answer, 0 to 1."""
        num_looks = len(self._looks) + self._num_missed
        return self._num_missed / num_looks if num_looks else 0.0

    @property
    def idle_share(self) -> float | None:
        """Share of the answered looks that found nothing running, 0 to 1.

        None if none found anything: all that ran did so between two of them.
        """
        busy = self._between_first_and_last()
        return 1 - sum(busy) / len(busy) if busy else None

    @property
    def seconds(self) -> float:
        """Time that `idle_share` speaks of."""
        times = [when for when, running in self._looks if running]
        return times[-1] - times[0] if times else 0.0

    def _between_first_and_last(self) -> list[bool]:
        states = [running for _, running in self._looks]
        if not any(states):
            return []
        return states[states.index(True) : len(states) - states[::-1].index(True)]

    def _watch(self) -> None:
        with httpx.Client(
            base_url=self._endpoint.url, headers=self._endpoint.headers, trust_env=False
        ) as http:
            while not self._closed.wait(self._pause):
                try:
                    page = http.get("/metrics").raise_for_status().text
                except httpx.HTTPError:
                    self._num_missed += 1
                    continue
                running = sum(parse_metrics(page)["num_requests_running"])
                self._looks.append((time.monotonic(), running > 0))
