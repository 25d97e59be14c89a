"""How often this process looks for garbage that holds itself (Python's cyclic collector)."""

import gc
from collections.abc import Iterator
from contextlib import contextmanager

_NEW_OBJECTS = 100_000
"""Before the youngest are looked through; Python's own 700 suit programs that keep less."""


@contextmanager
def collected_rarely() -> Iterator[None]:
    """Look for such garbage a hundred times more rarely inside the block.

    A loop keeps what is on its way and what it has accepted, and makes next to no cycles: looking
    through it all was a third of its core under load. The price is some ten MB.
    """
    before = gc.get_threshold()
    gc.set_threshold(_NEW_OBJECTS, *before[1:])
    try:
        yield
    finally:
        gc.set_threshold(*before)
