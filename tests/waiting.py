"""Waiting for what a thread or another process does; how long that takes is no matter."""

import time
from collections.abc import Callable


def wait_for(what: Callable[[], bool], pause_seconds: float = 0.02) -> None:
    """Look again and again, for two minutes at most."""
    deadline = time.monotonic() + 120
    while not what():
        assert time.monotonic() < deadline, "it didn't happen in time"
        time.sleep(pause_seconds)
