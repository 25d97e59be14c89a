"""One of the servers that answer a loop: reach it, give it an adapter, prove that it answers so.

All of it happens inside one event loop. What is asked of it, and where else it could be asked, is
`client`'s and `replicas`' business.
"""

import asyncio
import logging
from contextlib import AsyncExitStack, suppress
from typing import Protocol

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import SelfStudyError, ServerDiedError
from selfstudy_engine.data.hardware import resolve_dtype
from selfstudy_engine.engine.canary import CanaryResult, Served, warm_up
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.http_session import HttpSession, OpenSession
from selfstudy_engine.engine.public_serving import PublicServing
from selfstudy_engine.engine.server import check_servable, served_model
from selfstudy_engine.engine.server_client import ServerClient
from selfstudy_engine.engine.swap import (
    AdminApi,
    FixedSwapper,
    Publish,
    Swapper,
    make_swapper,
    publish_here,
    swap_and_prove,
)
from selfstudy_engine.engine.transport import MAX_RETRIES

logger = logging.getLogger(__name__)


class Server(Protocol):
    """A vLLM server that this process starts and stops, here or elsewhere."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens; may change with each start."""

    @property
    def public(self) -> PublicServing | None:
        """How it is open to others; then it can't swap."""

    @property
    def shares_training_gpu(self) -> bool:
        """Whether adapters are trained on a GPU of its: then it isn't started beside a training."""

    def start(self) -> None:
        """Start it, and return at once."""

    def wait_ready(self) -> float:
        """Wait until it answers; return the seconds.

        Raises:
            ServerError: it died, or isn't ready in time.
        """

    def check_alive(self) -> None:
        """Raise what a start has failed with that nobody waits for yet, or go on at once.

        Raises:
            ServerDiedError: it has ended.
            UsageError: its node can't serve the model.
        """

    def check_healthy(self) -> None:
        """Raise ServerDiedError if it has died."""

    def stop(self) -> None:
        """End it; returns when it is gone."""

    def publish(self, adapter: Adapter) -> str:
        """Bring an adapter to where the server can read it; return its folder there."""


class Replica:
    """A server's sessions; `connect` opens them, `close` closes them.

    Args:
        config: of the run.
        model: folder or hub id of the base model.
        server: that this process starts; None where somebody else does.
        endpoint: of that one.
        alone: whether no other server could answer instead.
        open_session: where its connections are held.
    """

    def __init__(
        self,
        config: RunConfig,
        model: str,
        server: Server | None,
        endpoint: Endpoint | None,
        *,
        alone: bool,
        open_session: OpenSession = HttpSession,
    ) -> None:
        self._config = config
        self._model = model
        self._endpoint = endpoint
        self._open_session = open_session
        self._max_unanswered = MAX_RETRIES + 1 if alone else 2
        self._restarts_left = config.server.max_restarts
        self.given_up = False
        """Whether it died more often than it may be started again, or our own processes do."""
        self._start: asyncio.Future[None] | None = None
        """Of a server of ours that died, until it is connected."""
        self._ready: asyncio.Future[float] | None = None
        """Done when that one is; one thread waits for it, however many swaps come meanwhile."""
        self._sessions = AsyncExitStack()
        self._swapper: Swapper
        self.server = server
        self.admin: AdminApi
        self.client: ServerClient | None = None
        """None while there is no session."""
        self.served: Served
        """What answers."""
        self._proven: Adapter | None = None
        """The last one that a swap proved, if nothing was swapped since."""

    @property
    def endpoint(self) -> Endpoint:
        """Where it is reached now."""
        endpoint = self.server.endpoint if self.server else self._endpoint
        assert endpoint, "a server is ours or somebody else's"
        return endpoint

    async def connect(self) -> None:
        """Open the sessions with a server that is ready, and warm it up.

        Raises:
            ServerError: nobody answers, or it isn't vLLM.
        """
        await self.close()
        self._start = self._ready = self._proven = None
        self.given_up = False
        model = str((await asyncio.to_thread(served_model, self.endpoint))["id"])
        public = self.server.public if self.server else None
        publish: Publish = self.server.publish if self.server else publish_here
        if public:
            model = public.model_name
        generation = self._config.generation
        self.admin = AdminApi(self.endpoint)
        self._sessions.push_async_callback(self.admin.close)
        client = self.client = ServerClient(
            self.endpoint,
            generation.concurrency,
            generation.request_timeout_seconds,
            max_unanswered=self._max_unanswered,
            open_session=self._open_session,
        )
        self._sessions.push_async_callback(client.close)
        mode = self._config.server.adapter_mode
        self._swapper = (
            FixedSwapper(public) if public else make_swapper(mode, self.admin, model, publish)
        )
        self.served = Served(model)
        # One that a swap left paused answers nothing; the next swap ends that.
        if public or not await self.admin.is_paused():
            await warm_up(client, model)

    async def swap(self, adapter: Adapter) -> tuple[CanaryResult, float]:
        """Make an adapter the one that answers, and prove it.

        Returns:
            The canary's result, and the seconds from call to proof.

        Raises:
            AdapterError: it can't be served with this base model or configuration.
            SwapError: the server doesn't answer from it.
        """
        assert self.client, "connect() comes first"
        check_servable(adapter, self._config, self._model)
        before, self._proven = self._proven, None
        self.served, canary, seconds = await swap_and_prove(
            self._swapper, self.client, adapter, _coarser_dtype(self._config), before=before
        )
        self._proven = adapter
        return canary, seconds

    async def swap_to_base(self) -> None:
        """Make the base model the one that answers."""
        self._proven = None
        assert self.client, "connect() comes first"
        self.client.follow_any_origin()
        self.served = await self._swapper.swap(None)
        await self.client.follow_origin()

    async def revive(self, *, beside_training: bool) -> None:
        """Start a server of ours again if it died, and wait until it answers.

        Args:
            beside_training: whether an adapter is trained meanwhile.

        Raises:
            ServerDiedError: it died more often than server.max_restarts allows, or training has its
                GPU.
            ServerError: it doesn't start.
            OSError: no process, or no log of it, can be made here.
        """
        if not self.server:
            return
        if not self._start:
            try:
                await asyncio.to_thread(self.server.check_healthy)
                return
            except ServerDiedError as error:
                if beside_training and self.server.shares_training_gpu:
                    raise
                self._start = self._start_again(self.server, error)
        try:
            await asyncio.shield(self._start)
            if not self._ready:
                loop = asyncio.get_running_loop()
                self._ready = loop.run_in_executor(None, self.server.wait_ready)
            await asyncio.shield(self._ready)
        except (SelfStudyError, OSError):
            self._start = self._ready = None
            raise

    async def finish_start(self) -> None:
        """Wait until a start that is under way has succeeded, or failed."""
        if self._start:
            with suppress(SelfStudyError, OSError):
                await self.revive(beside_training=True)

    def allow_restarts(self) -> None:
        """Let a server of ours be started again as often as a round allows: a round begins."""
        self._restarts_left = self._config.server.max_restarts
        self.given_up = False

    def _start_again(self, server: Server, error: ServerDiedError) -> "asyncio.Future[None]":
        if not self._restarts_left:
            self.given_up = True
            raise error
        self._restarts_left -= 1
        logger.warning("%s\nstarting it again, %d more times", error, self._restarts_left)

        def stop_and_start() -> None:
            server.stop()
            server.start()

        return asyncio.get_running_loop().run_in_executor(None, stop_and_start)

    async def close(self) -> None:
        """Close the sessions, if they are open; requests in flight fail.

        A server that is being started again is started when this returns: nobody else may start or
        stop it meanwhile, and no thread can be cancelled.
        """
        if self._start:
            await asyncio.wait([self._start])
        await self._sessions.aclose()
        self.client = None


def _coarser_dtype(config: RunConfig) -> str:
    """Return the number format of server or training that tells less: the canary allows for it."""
    placement = placement_of(config)
    kinds = (placement.server_kind, placement.train_kind)
    dtypes = {resolve_dtype(config.model.dtype, kind) for kind in kinds}
    return next(dtype for dtype in ("bfloat16", "float16", "float32") if dtype in dtypes)
