"""So many at a time, in order, drawn lazily; a slow reader holds nothing up, to a bound."""

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from selfstudy_engine.engine.admission import Admission


class Asked:
    """Answers requests (their own size) when told to, and keeps count."""

    def __init__(self) -> None:
        self.order: list[int] = []
        self.open: dict[int, asyncio.Future[int]] = {}
        self.in_flight = self.most = 0

    async def ask(self, request: int) -> int:
        self.order.append(request)
        self.in_flight += request
        self.most = max(self.most, self.in_flight)
        self.open[request] = asyncio.get_running_loop().create_future()
        try:
            return await self.open[request]
        finally:
            self.in_flight -= request

    async def answer(self, *requests: int) -> None:
        """Answer requests, and let everything that follows from it happen."""
        for request in requests:
            self.open.pop(request).set_result(request)
        await settle()


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def make(asked: Asked, requests: Any, limit: Any = 4, max_unread: int = 100) -> Admission[int, int]:
    room = limit if callable(limit) else lambda: limit
    return Admission(asked.ask, requests, size=lambda r: r, limit=room, max_unread=max_unread)


def test_requests_go_out_in_order_as_room_comes_free() -> None:
    async def story() -> None:
        asked = Asked()
        admission = make(asked, iter([1, 3, 2]))
        reading = asyncio.create_task(read(admission))
        await settle()
        assert asked.order == [1, 3]
        assert admission.held_back
        await asked.answer(1)
        assert asked.order == [1, 3]  # 3 + 2 is over 4, and nothing overtakes
        await asked.answer(3)
        assert asked.order == [1, 3, 2]
        assert not admission.held_back  # nothing is left to be held back
        await asked.answer(2)
        assert await reading == [1, 3, 2]
        assert asked.most == 4

    asyncio.run(story())


async def read(admission: Admission[int, int]) -> list[int]:
    return [result async for result in admission.results()]


def test_a_request_larger_than_the_limit_goes_alone() -> None:
    async def story() -> None:
        asked = Asked()
        reading = asyncio.create_task(read(make(asked, iter([9, 1, 8]))))
        for request in (9, 1, 8):
            await settle()
            assert list(asked.open) == [request]
            await asked.answer(request)
        assert await reading == [9, 1, 8]

    asyncio.run(story())


def test_a_higher_limit_takes_effect_at_once() -> None:
    async def story() -> None:
        asked, limit = Asked(), [2]
        admission = make(asked, iter([2, 3, 4]), limit=lambda: limit[0])
        admission.admit()
        await settle()
        assert asked.order == [2]
        limit[0] = 5
        admission.admit()
        await settle()
        assert asked.order == [2, 3]
        await admission.close()
        assert asked.in_flight == 0

    asyncio.run(story())


def test_a_reader_that_is_busy_holds_up_nothing_until_enough_is_unread() -> None:
    async def story() -> None:
        asked = Asked()
        drawn: list[int] = []

        def requests() -> Iterator[int]:
            for request in range(1, 20):
                drawn.append(request)
                yield request

        admission = make(asked, requests(), limit=1, max_unread=3)
        results = admission.results()
        first = asyncio.ensure_future(anext(results))
        await settle()
        await asked.answer(1)
        assert await first == 1
        for request in (2, 3, 4):  # the reader reads nothing all the while
            assert list(asked.open) == [request]
            await asked.answer(request)
        assert asked.open == {}
        assert drawn == [1, 2, 3, 4]
        assert not admission.held_back  # by the reader, not by the limit
        assert await anext(results) == 2
        await settle()
        assert list(asked.open) == [5]
        await admission.close()

    asyncio.run(story())


def test_what_is_in_flight_at_a_failure_still_arrives() -> None:
    async def story() -> list[int]:
        asked = Asked()
        admission = make(asked, iter([1, 2, 3, 4]), limit=6)
        found = []

        async def run() -> None:
            async for result in admission.results():
                found.append(result)

        reading = asyncio.create_task(run())
        await settle()
        asked.open.pop(2).set_exception(ConnectionError("gone"))
        await settle()
        await asked.answer(1, 3)
        with pytest.raises(ConnectionError, match="gone"):
            await reading
        assert asked.order == [1, 2, 3]
        return found

    assert asyncio.run(story()) == [1, 3]


def test_requests_that_fail_to_come_are_an_error_after_the_others() -> None:
    def requests() -> Iterator[int]:
        yield 1
        raise ValueError("no more molecules")

    async def story() -> list[int]:
        asked = Asked()
        admission = make(asked, requests())
        results = admission.results()
        first = asyncio.ensure_future(anext(results))
        await settle()
        await asked.answer(1)
        found = [await first]
        with pytest.raises(ValueError, match="no more molecules"):
            await anext(results)
        return found

    assert asyncio.run(story()) == [1]


def test_closing_cancels_what_runs_and_starts_nothing() -> None:
    async def story() -> None:
        asked = Asked()
        admission = make(asked, iter([1, 2, 3]))
        admission.admit()
        await settle()
        asked.open[1].set_result(1)  # is done, but nobody has taken notice yet
        await admission.close()
        await settle()
        assert asked.order == [1, 2]
        assert asked.in_flight == 0
        assert asyncio.all_tasks() == {asyncio.current_task()}

    asyncio.run(story())
