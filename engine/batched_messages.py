"""Messages between two processes of ours over one socket, many at a time.

What is sent in one turn of the event loop goes as one pickle: under load a process is woken, and
the other one's kernel called, once for dozens of messages. Unpickling runs code, so that both ends
must be ours and nobody else's.
"""

import asyncio
import pickle
import struct
from collections.abc import Callable
from typing import Any, cast

_LENGTH = struct.Struct("<Q")
"""Stands before each pickle."""


class BatchedMessages(asyncio.Protocol):
    """One end; `asyncio.create_unix_connection` makes it from a socket.

    Args:
        take: is given each message that arrives.
    """

    def __init__(self, take: Callable[[Any], None]) -> None:
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.WriteTransport
        self._unsent: list[Any] = []
        self._received = bytearray()
        self.ended: asyncio.Future[None] = self._loop.create_future()
        """Done when either end is closed."""

    def send(self, message: Any) -> None:
        """Send a message; it is lost if the other end is closed."""
        if not self._unsent:
            self._loop.call_soon(self._flush)
        self._unsent.append(message)

    def _flush(self) -> None:
        messages, self._unsent = self._unsent, []
        if self._transport.is_closing():
            return
        try:
            pickled = pickle.dumps(messages, pickle.HIGHEST_PROTOCOL)
            self._transport.write(_LENGTH.pack(len(pickled)) + pickled)
        except BaseException:
            self._transport.abort()  # rather the end than a silence in which somebody waits
            raise

    def close(self) -> None:
        """Close this end."""
        self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.BaseProtocol`."""
        self._transport = cast(asyncio.WriteTransport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        """See `asyncio.BaseProtocol`."""
        if not self.ended.done():
            self.ended.set_result(None)

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._received += data
        while len(self._received) >= _LENGTH.size:
            [length] = _LENGTH.unpack_from(self._received)
            end = _LENGTH.size + length
            if len(self._received) < end:
                return
            pickled = self._received[_LENGTH.size : end]
            del self._received[:end]
            for message in pickle.loads(pickled):
                self._take(message)
