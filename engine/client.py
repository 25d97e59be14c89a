"""Prompts -> completions through the servers that can answer, as many at once as they can use."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from typing import Any, Self, TypeVar

from selfstudy_engine.data.errors import ServerError
from selfstudy_engine.engine.admission import Admission
from selfstudy_engine.engine.generation import Generated, GenerationRequest
from selfstudy_engine.engine.routing import choose
from selfstudy_engine.engine.server_client import HEALTH_SECONDS, ServerClient

MAX_UNREAD = 1024
"""Answered requests that wait for a slow reader before no new ones are asked."""
MAX_SERVERS = 3
"""Servers that one prompt is sent to, one after the other, before it counts as the one to blame."""
Item = TypeVar("Item")


class GenerationClient:
    """Speaks to servers that answer alike; use it as an async context manager.

    A server that fails is left out from then on, and what it was asked is asked of the others; only
    the failure of the last one is the caller's.

    Args:
        servers: that can answer; they are closed with it.
        on_lost: told of each server that is left out, and why; closing it is the caller's part, and
            has what is in flight there asked of the others at once.
    """

    def __init__(
        self,
        servers: Iterable[ServerClient],
        on_lost: Callable[[ServerClient, ServerError], None] = lambda server, error: None,
    ) -> None:
        self._servers = list(servers)
        self._on_lost = on_lost
        self._passes: list[_Pass] = []
        self.concurrency = 0
        """Completions that may be in flight now; added up when it changes, not for each prompt."""
        self.count_room()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *error: object) -> None:
        await self.close()

    async def close(self) -> None:
        """Close the connections."""
        await asyncio.gather(*(server.close() for server in self._servers))

    @property
    def servers(self) -> Sequence[ServerClient]:
        """Those that can answer now."""
        return self._servers

    def count_room(self) -> None:
        """Notice that the servers, or what one may have in flight, have changed."""
        self.concurrency = sum(server.concurrency for server in self._servers)

    def add(self, server: ServerClient) -> None:
        """Have one more server answer, also in a pass that runs."""
        self._servers.append(server)
        self.count_room()
        for each in self._passes:
            each.watch(server)
            each.admission.admit()

    async def generate(
        self,
        model: str,
        requests: Iterable[GenerationRequest[Item]],
        *,
        max_unread: int = MAX_UNREAD,
    ) -> AsyncIterator[Generated[Item]]:
        """Yield each prompt's completions as they arrive, in no particular order.

        Args:
            model: the served name; every answer must name it.
            requests: asked in their order, and drawn lazily: only when there is room for one more.
            max_unread: answers that may wait for the reader before nothing more is asked.

        Raises:
            ServerError: an answer that can't be used, or no answer after all retries. What was in
                flight is yielded first.
        """

        async def ask(request: GenerationRequest[Item]) -> Generated[Item]:
            return await self._ask(model, request)

        admission = Admission(
            ask,
            requests,
            size=lambda request: request.params.n,
            limit=lambda: self.concurrency,
            max_unread=max_unread,
        )
        running = _Pass(self, admission)
        self._passes.append(running)
        try:
            for server in self._servers:
                running.watch(server)
            async for generated in admission.results():
                yield generated
        finally:
            self._passes.remove(running)
            await admission.close()
            await running.close()

    async def _ask(self, model: str, request: GenerationRequest[Item]) -> Generated[Item]:
        num_asked = 0
        while True:
            server = choose(request.prompt, request.params.n, self._servers)
            try:
                return await server.ask(model, request)
            except ServerError as error:
                num_asked += 1
                if self._servers == [server] or num_asked == MAX_SERVERS:
                    raise
                self.lose(server, error)

    def lose(self, server: ServerClient, error: ServerError) -> None:
        """Leave a server out, unless it is the last one or was left out before."""
        if server in self._servers and len(self._servers) > 1:
            self._servers.remove(server)
            self.count_room()
            self._on_lost(server, error)


class _Pass:
    """One call of `generate`: looks at the servers while it lasts."""

    def __init__(self, client: GenerationClient, admission: Admission[Any, Any]) -> None:
        self.admission = admission
        self._client = client
        self._watching: list[asyncio.Task[None]] = []

    def watch(self, server: ServerClient) -> None:
        """Follow a server's metrics, and notice when it falls silent."""
        self._watching.append(asyncio.create_task(self._watch(server)))

    async def _watch(self, server: ServerClient) -> None:
        heard = time.monotonic()
        while server in self._client.servers:
            await asyncio.sleep(server.look_seconds)
            if not server.is_steered and len(self._client.servers) == 1:
                heard = time.monotonic()  # who wasn't asked wasn't silent
                continue  # nothing to steer, and nobody who could answer instead
            if await server.look(held_back=self.admission.held_back):
                heard = time.monotonic()
                self._client.count_room()
                self.admission.admit()
            elif time.monotonic() - heard > HEALTH_SECONDS:
                silence = f"the server at {server.url} has answered nothing for "
                self._client.lose(server, ServerError(f"{silence}{HEALTH_SECONDS:g} s"))

    async def close(self) -> None:
        """Stop looking; raises what went wrong in it."""
        for task in self._watching:
            task.cancel()
        for outcome in await asyncio.gather(*self._watching, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome
