"""A process of ours that speaks HTTP for another one, until that ends: see `http_process`.

    python -m selfstudy_engine.engine.http_worker

has a socket as its standard input; servers and their keys come through it.
"""

import asyncio
import socket
import sys
from asyncio import Task, TaskGroup
from typing import Any

from selfstudy_engine.data.errors import SelfStudyError
from selfstudy_engine.engine.batched_messages import BatchedMessages
from selfstudy_engine.engine.garbage import collected_rarely
from selfstudy_engine.engine.http_session import HttpSession


class HttpWorker:
    """Does what messages ask for, inside one event loop.

    A message is a tuple: its kind, the number of the session or request that it is about, and the
    rest. An answer has the request's number, the `Answer`, and an error where there is none.
    """

    def __init__(self) -> None:
        self._sessions: dict[int, HttpSession] = {}
        self._requests: dict[int, Task[None]] = {}
        self._tasks: TaskGroup
        self._messages: BatchedMessages

    async def work(self, messages: socket.socket) -> None:
        """Work until the other end is closed.

        Raises:
            ExceptionGroup: a request failed by a bug of ours; none is answered any more.
        """
        loop = asyncio.get_running_loop()
        async with TaskGroup() as self._tasks:
            _, self._messages = await loop.create_unix_connection(
                lambda: BatchedMessages(self._take), sock=messages
            )
            await self._messages.ended
            for task in self._requests.values():
                task.cancel()
        for session in self._sessions.values():
            await session.close()

    def _take(self, message: tuple[Any, ...]) -> None:
        match message:
            case ("send", number, session, *request):
                work = self._send(number, self._sessions[session], *request)
                task = self._requests[number] = self._tasks.create_task(work)
                task.add_done_callback(lambda _: self._requests.pop(number))
            case ("cancel", number):
                if number in self._requests:
                    self._requests[number].cancel()
            case ("open", session, *arguments):
                self._sessions[session] = HttpSession(*arguments)
            case ("close", session):
                self._tasks.create_task(self._sessions.pop(session).close())

    async def _send(self, number: int, session: HttpSession, *request: Any) -> None:
        try:
            answer = await session.send(*request)
        except SelfStudyError as error:
            self._messages.send((number, None, error))
        else:
            self._messages.send((number, answer, None))


def main() -> None:
    """Work for the process that started this one."""
    with collected_rarely(), socket.socket(fileno=sys.stdin.fileno()) as messages:
        asyncio.run(HttpWorker().work(messages))


if __name__ == "__main__":
    main()
