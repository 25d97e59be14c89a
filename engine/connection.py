"""Servers with their clients and swappers, for callers that aren't asynchronous.

The loop, `predict` and `serve` all reach a model through this: start, connect, swap, run.
"""

import asyncio
import itertools
from collections.abc import Coroutine, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NoReturn, Self, TypeVar

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import SelfStudyError, ServerError, SwapError
from selfstudy_engine.engine.canary import Served
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.http_process import HttpProcess, num_processes
from selfstudy_engine.engine.http_session import HttpSession
from selfstudy_engine.engine.places import open_places
from selfstudy_engine.engine.ray_session import find_ray
from selfstudy_engine.engine.replica import Replica, Server
from selfstudy_engine.engine.replicas import Replicas, check_one_model
from selfstudy_engine.engine.server import served_model

_SPARE_THREADS = 4
Result = TypeVar("Result")


class Connection:
    """Use it as a context manager: entering starts own servers, leaving stops them.

    Where a server and training share a GPU, all start when they are asked for: vLLM measures the
    free memory as it starts, and gives up if that grows meanwhile (a training that ends).

    Args:
        config: of the run.
        model: folder or hub id of the base model.
        servers: to be started; none uses the running ones at config.server.url.
        server_key: API key of those.
    """

    def __init__(
        self, config: RunConfig, model: str, servers: Sequence[Server] = (), server_key: str = ""
    ) -> None:
        self._config = config
        self._servers = list(servers)
        self._started = False
        self.has_answered = False
        """Whether the servers were ready once: those that never were need another configuration."""
        urls = [] if servers else config.server.url
        self._running = [Endpoint(url, server_key) for url in urls]
        places = [*((one, None) for one in servers), *((None, one) for one in self._running)]
        self._http_processes = [HttpProcess() for _ in range(num_processes(len(places)))]
        sessions = [process.open_session for process in self._http_processes] or [HttpSession]
        self._replicas = Replicas(
            Replica(config, model, *place, alone=len(places) == 1, open_session=open_session)
            for place, open_session in zip(places, itertools.cycle(sessions), strict=False)
        )
        self._runner = asyncio.Runner()
        self._cleanup = ExitStack()
        self._connected = False

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._runner)
            # Each server may have a thread wait for its start, and another publish to it.
            threads = ThreadPoolExecutor(2 * len(self._replicas) + _SPARE_THREADS, "connection")
            self._runner.get_loop().set_default_executor(threads)
            for server in self._servers:
                stack.callback(server.stop)
            if not placement_of(self._config).shared:
                self.start()
            stack.callback(self._disconnect)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    @property
    def endpoint(self) -> Endpoint:
        """Where the first server is reached."""
        return self._replicas.first.endpoint

    @property
    def client(self) -> GenerationClient:
        """Asks the servers that answer now."""
        return self._replicas.client

    @property
    def served(self) -> Served:
        """What answers."""
        return self._replicas.served

    @property
    def replicas(self) -> Sequence[Replica]:
        """The servers that answer."""
        return self._replicas.answering

    def start(self) -> None:
        """Start own servers, without waiting for them; does nothing the second time."""
        if not self._started:
            for server in self._servers:
                server.start()
            self._started = True

    def note_training(self, *, runs: bool) -> None:
        """Have none of our servers that died started, meanwhile, on the GPU of a training.

        One that is being started is waited for: it takes what training allots or frees for its own.
        """
        self._replicas.beside_training = runs
        if runs and self._connected:
            self.run(self._replicas.finish_starts())

    def check_first_start(self) -> None:
        """Look whether own servers that never answered yet still can; doesn't wait.

        Raises:
            SelfStudyError: what one's start has failed with.
        """
        if self._started and not self.has_answered:
            for server in self._servers:
                server.check_alive()

    def restart(self) -> None:
        """Replace own servers by new ones; nothing is served or proven yet.

        Raises:
            ServerError: there are no own servers.
        """
        if not self._servers:
            raise ServerError(f"the server at {self.endpoint.url} isn't ours to start")
        self._disconnect()
        for server in self._servers:
            server.stop()
        self._started = False
        self.start()

    def _disconnect(self) -> None:
        self._connected = False
        self._runner.run(self._end())

    async def _end(self) -> None:
        # What a signal left unfinished: it has nobody any more to tell of its failure.
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        await self._replicas.close()
        await asyncio.gather(*(process.close() for process in self._http_processes))

    def connect(self) -> None:
        """Wait until the servers answer, and warm them up; does nothing the second time.

        Raises:
            ServerError: one doesn't start, or nobody answers.
        """
        if self._connected:
            return
        self.start()
        for server in self._servers:
            server.wait_ready()
        self.run(self._replicas.connect())
        self._connected = self.has_answered = True

    def swap_to(self, adapter: Adapter) -> float:
        """Make an adapter the one that answers, and prove it; see `swap`."""
        return self.run(self.swap(adapter))

    async def swap(self, adapter: Adapter) -> float:
        """Make an adapter the one that answers, and prove it on each server.

        Returns:
            The longest time from call to proof, in seconds.

        Raises:
            AdapterError: it can't be served with this base model or configuration.
            SwapError: no server answers from it.
        """
        assert self._connected, "connect() comes first"
        return await self._replicas.swap(adapter)

    def swap_to_base(self) -> None:
        """Make the base model the one that answers, because somebody asks for it."""
        assert self._connected, "connect() comes first"
        self.run(self._replicas.swap_to_base())

    def keep_answering(self) -> NoReturn:
        """Look after the servers, which others ask; returns never.

        Raises:
            ServerDiedError: the last one died.
        """
        self.run(self._replicas.keep_answering())

    def reset_prefix_cache(self) -> None:
        """Have the servers forget the prompts before, so that a benchmark's turns are alike.

        Raises:
            SwapError: one couldn't.
        """
        for replica in self.replicas:
            self.run(replica.admin.reset_prefix_cache())

    def use_fast_lora(self, enabled: bool) -> None:
        """Choose between our way to compute runtime adapters and vLLM's, for a benchmark.

        Raises:
            ServerError: a server didn't do it.
        """
        for replica in self.replicas:
            found = self.run(replica.admin.call_workers("use_fast_lora", enabled=enabled))
            # vLLM's route turns what isn't text into text.
            if not found or any(str(one) != str(enabled) for one in found):
                raise ServerError(
                    f"the server's workers answered {found} when asked to turn fast LoRA "
                    f"{'on' if enabled else 'off'}; its log says why"
                )
            assert replica.client, "connect() comes first"
            self.run(replica.client.follow_origin())  # for the server, that was a change of weights

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine; if it fails because own servers died, say that, with a log's end.

        Raises:
            ServerDiedError: that.
        """
        try:
            return self._runner.run(work)
        except (ServerError, SwapError):
            for replica in self._replicas.answering:
                if replica.server:
                    replica.server.check_healthy()
            raise


def check_running(config: RunConfig, server_key: str) -> None:
    """See whether running servers answer, as one, or Ray is there, before long work for them.

    Raises:
        SelfStudyError: none at config.server.url does; the first one's reason.
        UsageError: they serve models of different names, or there is no Ray to start them.
    """

    def look(url: str) -> str | SelfStudyError:
        try:
            return str(served_model(Endpoint(url, server_key))["id"])
        except SelfStudyError as error:
            return error

    urls = config.server.url
    if not urls and config.server.ray != "off":
        find_ray(config.server.ray)
    with ThreadPoolExecutor() as pool:
        found = dict(zip(urls, pool.map(look, urls), strict=True))
    served = {url: name for url, name in found.items() if isinstance(name, str)}
    failures = [error for error in found.values() if isinstance(error, SelfStudyError)]
    if failures and not served:
        raise failures[0]
    check_one_model(served)


@contextmanager
def open_connection(
    config: RunConfig, model: str, log: Path, server_key: str
) -> Iterator[Connection]:
    """Connect to config.server.url, or to servers of our own that write to `log`."""
    with (
        open_places(config, model, log) as places,
        Connection(places.config, model, places.servers, server_key) as connection,
    ):
        yield connection
