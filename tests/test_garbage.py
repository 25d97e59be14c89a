"""The cyclic collector runs rarely inside the block, and as before after it."""

import gc
from collections.abc import Callable, Iterator

import pytest

from selfstudy_engine.engine.garbage import collected_rarely


@pytest.fixture(autouse=True)
def pythons_own() -> Iterator[None]:
    """Python's own thresholds, whatever a library has set in this process."""
    before = gc.get_threshold()
    gc.set_threshold(700, 10, 10)
    yield
    gc.set_threshold(*before)


def collections_during(work: Callable[[], object]) -> int:
    seen = []
    gc.callbacks.append(lambda phase, info: seen.append(phase))
    try:
        work()
    finally:
        gc.callbacks.pop()
    return seen.count("start")


def keep_many() -> list[list[int]]:
    return [[number] for number in range(250_000)]


def test_what_is_kept_is_looked_through_rarely() -> None:
    assert collections_during(keep_many) > 100
    with collected_rarely():
        assert 1 <= collections_during(keep_many) <= 5


def test_it_is_as_before_afterwards() -> None:
    with pytest.raises(ValueError, match="x"), collected_rarely():
        raise ValueError("x")
    assert gc.get_threshold() == (700, 10, 10)
