"""Requests per minute of each client: may this one pass now, or how long must it wait?"""

import ipaddress
import time
from collections.abc import Callable

_PERIOD_SECONDS = 60.0
_FIRST_SWEEP = 1024


class RateLimit:
    """A token bucket for each client: a minute's worth at once, then evenly (GCRA, ITU-T I.371).

    Args:
        per_minute: requests of one client.
        clock: in seconds, never going back.
    """

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._interval = _PERIOD_SECONDS / per_minute
        self._clock = clock
        self._next: dict[str, float] = {}
        """When each client's bucket is full again."""
        self._sweep_at = _FIRST_SWEEP

    def seconds_to_wait(self, client: str) -> float:
        """Count a request of a client.

        Returns:
            0 if it may pass; else the seconds until one may, and it isn't counted.
        """
        now, bucket = self._clock(), network_of(client)
        full_at = max(self._next.get(bucket, now), now) + self._interval
        # The tolerance is for sums of intervals, which aren't exact.
        too_early = full_at - now - _PERIOD_SECONDS
        if too_early > self._interval / 1000:
            return too_early
        self._next[bucket] = full_at
        if len(self._next) >= self._sweep_at:
            self._next = {name: when for name, when in self._next.items() if when > now}
            self._sweep_at = max(_FIRST_SWEEP, 2 * len(self._next))
        return 0.0


def network_of(client: str) -> str:
    """Return whose bucket a client's address takes from.

    One IPv6 network of 64 bits is one client: whoever has one, has all its addresses.

    >>> network_of("192.0.2.7"), network_of("::ffff:192.0.2.7"), network_of("2001:db8::1:2")
    ('192.0.2.7', '192.0.2.7', '2001:db8::/64')
    """
    try:
        address = ipaddress.ip_address(client.partition("%")[0])
    except ValueError:  # what a proxy on this machine says
        return client
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    if address.ipv4_mapped:
        return str(address.ipv4_mapped)
    return str(ipaddress.ip_network((address, 64), strict=False))
