"""Several servers that answer as one: swapped together, and left out alone.

A swap has two phases: the adapter is published to all and proven on each, and only then does any
request go to the new one. A server that fails its canary, its health check or a request is
quarantined: it is asked nothing until a new swap on it was proven, which is tried again and again.
"""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import NoReturn, TypeVar

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.errors import (
    SelfStudyError,
    ServerDiedError,
    ServerError,
    UsageError,
    WorkerError,
)
from selfstudy_engine.engine.canary import Served
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.replica import Replica
from selfstudy_engine.engine.server_client import ServerClient

RETRY_SECONDS = 5.0
"""Pause before a quarantined server is tried again."""
ALLOWANCE_SECONDS = 3600.0
"""After so long, servers that only answer may be started again as often as at first."""
GRACE_SECONDS = 60.0
"""How long the servers that have swapped wait for one that hasn't."""
Result = TypeVar("Result")
logger = logging.getLogger(__name__)


class Replicas:
    """All servers of a loop, at least one."""

    def __init__(self, replicas: Iterable[Replica]) -> None:
        self._replicas = list(replicas)
        self._adapter: Adapter | None = None
        self._quarantined: dict[Replica, asyncio.Task[None] | None] = {}
        self.client = GenerationClient([])
        """Asks those that are proven."""
        self.beside_training = False
        """Whether an adapter is trained now: see `Server.shares_training_gpu`."""
        self.served: Served
        """What answers, on each server that does."""

    def __len__(self) -> int:
        return len(self._replicas)

    @property
    def first(self) -> Replica:
        """The first, whether it answers or not."""
        return self._replicas[0]

    @property
    def answering(self) -> list[Replica]:
        """Those that aren't quarantined."""
        return [replica for replica in self._replicas if replica not in self._quarantined]

    async def connect(self) -> None:
        """Reach all servers; those that can't be reached are quarantined.

        Raises:
            ServerError: none can.
            UsageError: they serve models of different names.
        """
        reached = await self._on_each(self._replicas, Replica.connect)
        check_one_model({replica.endpoint.url: replica.served.model for replica in reached})
        self._flip()

    async def swap(self, adapter: Adapter) -> float:
        """Make an adapter the one that answers on all servers, each proven by its canary.

        Returns:
            The longest time from call to proof, in seconds.

        Raises:
            SelfStudyError: no server answers from it; the first one's reason.
        """
        await self._stop_returning()
        for replica in self._replicas:
            replica.allow_restarts()
        self.client = GenerationClient([])  # should it fail, nothing is asked of half a swap
        swapped = await self._on_each(self.answering, lambda replica: replica.swap(adapter))
        for replica, (canary, seconds) in swapped.items():
            where = f" on {replica.endpoint.url}" if len(self) > 1 else ""
            logger.info("swapped to %s%s in %.2f s, %s", adapter.name, where, seconds, canary)
        self._adapter = adapter
        self._flip()
        return max(seconds for _, seconds in swapped.values())

    async def swap_to_base(self) -> None:
        """Make the base model the one that answers on all servers."""
        await self._stop_returning()
        self.client = GenerationClient([])
        await self._on_each(self.answering, Replica.swap_to_base)
        self._adapter = None
        self._flip()

    async def finish_starts(self) -> None:
        """Wait for servers that are just being started on the GPU of a training to come."""
        await asyncio.gather(
            *(
                replica.finish_start()
                for replica in self._quarantined
                if replica.server and replica.server.shares_training_gpu
            )
        )

    async def keep_answering(self) -> NoReturn:
        """Look after servers of our own that nobody here asks; those that die are brought back.

        Raises:
            ServerDiedError: the last one died.
        """
        allowed_at = time.monotonic()
        while True:
            await asyncio.sleep(RETRY_SECONDS)
            if time.monotonic() - allowed_at > ALLOWANCE_SECONDS:
                allowed_at = time.monotonic()
                self._forgive()
            for replica in self.answering:
                assert replica.server, "a server of our own"
                assert replica.client, "it answers"
                try:
                    await asyncio.to_thread(replica.server.check_healthy)
                except ServerDiedError as error:
                    if len(self.answering) == 1:
                        raise
                    self.client.lose(replica.client, error)

    async def close(self) -> None:
        """Close all sessions; who was quarantined is as the others when they are opened again."""
        await self._stop_returning()
        self._quarantined.clear()
        await asyncio.gather(*(replica.close() for replica in self._replicas))

    async def _on_each(
        self, replicas: Iterable[Replica], work: Callable[[Replica], Awaitable[Result]]
    ) -> Mapping[Replica, Result]:
        """Do something on several servers at once; those that fail are quarantined.

        Raises:
            SelfStudyError: all fail, or one for a reason that isn't a server's; the first reason.
        """
        tasks = {replica: asyncio.ensure_future(work(replica)) for replica in replicas}
        try:
            await _wait_with_grace(tasks.values())
        finally:
            for task in tasks.values():
                task.cancel()
            await asyncio.gather(*tasks.values(), return_exceptions=True)
        done = {replica: task.result() for replica, task in tasks.items() if not _failure(task)}
        failures = {replica: error for replica, task in tasks.items() if (error := _failure(task))}
        for error in failures.values():
            is_the_servers = isinstance(error, SelfStudyError) and not isinstance(
                error, WorkerError
            )
            if not done or not is_the_servers:
                raise error
        for replica, error in failures.items():
            self._quarantine(replica, error)
        return done

    def _flip(self) -> None:
        """Ask the servers that are proven from now on, and try to bring the others back."""
        self.served = self.answering[0].served
        clients = [replica.client for replica in self.answering if replica.client]
        self.client = GenerationClient(clients, self._lose)
        for replica in self._quarantined:
            self._bring_back(replica)

    def _forgive(self) -> None:
        """Let all be started again, those that were given up at once."""
        for replica in self._replicas:
            stays_away = replica.given_up
            replica.allow_restarts()
            if stays_away:
                self._bring_back(replica)

    def _bring_back(self, replica: Replica) -> None:
        self._quarantined[replica] = asyncio.create_task(self._return(replica))

    def _lose(self, lost: ServerClient, error: ServerError) -> None:
        replica = next(one for one in self._replicas if one.client is lost)
        self._quarantine(replica, error)
        self._bring_back(replica)

    def _quarantine(self, replica: Replica, error: BaseException) -> None:
        url = replica.endpoint.url
        logger.warning("the server at %s is quarantined: %s; others get its prompts", url, error)
        self._quarantined[replica] = None

    async def _return(self, replica: Replica) -> None:
        """Try, until it works, to have a quarantined server answer from the adapter again."""
        url = replica.endpoint.url
        while True:
            await replica.close()
            await asyncio.sleep(RETRY_SECONDS)
            try:
                await replica.revive(beside_training=self.beside_training)
                await replica.connect()
                if self._adapter:
                    await replica.swap(self._adapter)
                break
            except (SelfStudyError, OSError) as error:
                # Our own processes die again and again: that doesn't pass by asking every 5 s.
                replica.given_up |= isinstance(error, WorkerError)
                if replica.given_up:
                    logger.warning("the server at %s stays away: %s", url, error)
                    return
                logger.info("the server at %s isn't back: %s", url, error)
        assert replica.client, "it is connected"
        logger.warning("the server at %s answers again, proven", replica.endpoint.url)
        del self._quarantined[replica]
        self.client.add(replica.client)

    async def _stop_returning(self) -> None:
        tasks = [task for task in self._quarantined.values() if task]
        for task in tasks:
            task.cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome  # what nobody foresaw


def check_one_model(served: Mapping[str, str]) -> None:
    """Refuse servers that couldn't answer as one.

    Args:
        served: name of the model at each URL.

    Raises:
        UsageError: there are several names.
    """
    names = {name: url for url, name in served.items()}
    if len(names) > 1:
        listed = ", ".join(f"{name!r} at {url}" for name, url in sorted(names.items()))
        raise UsageError(
            f"the servers serve different models ({listed}); start them all with one --model"
        )


async def _wait_with_grace(tasks: Iterable["asyncio.Future[Result]"]) -> None:
    """Wait for all; once one has succeeded, for the others `GRACE_SECONDS` at most."""
    pending = set(tasks)
    succeeded = False
    while pending and not succeeded:
        done, pending = await asyncio.wait(pending, return_when=asyncio.FIRST_COMPLETED)
        succeeded = any(not task.exception() for task in done)
    if pending:
        await asyncio.wait(pending, timeout=GRACE_SECONDS)


def _failure(task: "asyncio.Future[Result]") -> BaseException | None:
    if task.cancelled():
        return ServerError(f"it took {GRACE_SECONDS:g} s longer than the others")
    return task.exception()
