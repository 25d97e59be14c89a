"""Requests per minute of each client, by a clock that the test turns."""

import pytest

from selfstudy_engine.engine.rate_limit import RateLimit, network_of


class Clock:
    now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_a_minutes_worth_passes_at_once_and_then_as_time_goes_by() -> None:
    clock = Clock()
    limit = RateLimit(60, clock)
    assert [limit.seconds_to_wait("a") for _ in range(60)] == [0] * 60
    assert limit.seconds_to_wait("a") == pytest.approx(1)
    assert limit.seconds_to_wait("a") == pytest.approx(1), "a refused one isn't counted"
    clock.now += 1
    assert limit.seconds_to_wait("a") == 0
    assert limit.seconds_to_wait("a") == pytest.approx(1)
    clock.now += 30
    passed = [limit.seconds_to_wait("a") for _ in range(31)]
    assert passed[:30] == [0] * 30
    assert passed[30] > 0


def test_no_more_than_twice_the_rate_passes_in_any_minute() -> None:
    """A full bucket, and what flows in meanwhile."""
    clock = Clock()
    limit, passed = RateLimit(30, clock), []
    for _ in range(3000):
        clock.now += 0.1
        if not limit.seconds_to_wait("a"):
            passed.append(clock.now)
    in_a_minute = [sum(start <= one < start + 60 for one in passed) for start in passed]
    assert max(in_a_minute) <= 60
    assert len(passed) == pytest.approx(30 + 300 / 2, abs=1)


def test_clients_dont_wait_for_each_other() -> None:
    limit = RateLimit(1, Clock())
    assert limit.seconds_to_wait("192.0.2.1") == 0
    assert limit.seconds_to_wait("192.0.2.2") == 0
    assert limit.seconds_to_wait("192.0.2.1") == pytest.approx(60)


@pytest.mark.parametrize(
    ("client", "network"),
    [
        ("2001:db8::1", "2001:db8::/64"),
        ("2001:db8:0:0:ffff::", "2001:db8::/64"),
        ("2001:db8:0:1::1", "2001:db8:0:1::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("unix:", "unix:"),
    ],
)
def test_an_ipv6_network_is_one_client(client: str, network: str) -> None:
    assert network_of(client) == network


def test_clients_are_forgotten_when_they_would_pass_anyway() -> None:
    clock = Clock()
    limit = RateLimit(60, clock)
    for number in range(5000):
        limit.seconds_to_wait(f"client-{number}")
        clock.now += 0.01
    assert len(limit._next) < 2048, "those of the last seconds, and what the next sweep takes"
