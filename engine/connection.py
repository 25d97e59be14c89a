"""A server with its client and its swapper, for callers that aren't asynchronous.

The loop, `predict` and `serve` all reach a model through this: start, connect, swap, run.
"""

import asyncio
import logging
from collections.abc import Coroutine
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self, TypeVar

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import ServerError, SwapError
from selfstudy_engine.data.hardware import resolve_dtype
from selfstudy_engine.engine.canary import Served, warm_up
from selfstudy_engine.engine.client import GenerationClient
from selfstudy_engine.engine.server import Endpoint, VllmServer, check_servable, served_model
from selfstudy_engine.engine.swap import (
    AdminApi,
    FixedSwapper,
    Swapper,
    make_swapper,
    swap_and_prove,
)

logger = logging.getLogger(__name__)
Result = TypeVar("Result")


class Connection:
    """Use it as a context manager: entering starts an own server, leaving stops it.

    Where server and training share a GPU, it starts when it is asked for: vLLM measures the free
    memory as it starts, and gives up if that grows meanwhile (a training that ends).

    Args:
        config: of the run.
        model: folder or hub id of the base model.
        server: to be started; None uses the running one at config.server.url.
        server_key: API key of that one.
    """

    def __init__(
        self, config: RunConfig, model: str, server: VllmServer | None, server_key: str = ""
    ) -> None:
        self._config = config
        self._model = model
        self._server = server
        self._started = False
        self.has_answered = False
        """Whether a server was ready once: one that never was needs another configuration."""
        if server:
            self.endpoint = server.endpoint
        else:
            self.endpoint = Endpoint(
                (config.server.url or "").rstrip("/").removesuffix("/v1"), server_key
            )
        self._runner = asyncio.Runner()
        self._cleanup = ExitStack()
        self._sessions = ExitStack()
        self._swapper: Swapper | None = None
        self._admin: AdminApi | None = None
        self.client: GenerationClient
        self.served: Served

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self._runner)
            if self._server:
                stack.callback(self._server.stop)
                if not placement_of(self._config).shared:
                    self.start()
            stack.callback(self._disconnect)
            self._cleanup = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def start(self) -> None:
        """Start an own server, without waiting for it; does nothing the second time."""
        if self._server and not self._started:
            self._server.start()
            self._started = True

    def restart(self) -> None:
        """Replace an own server that died by a new one; nothing is served or proven yet.

        Raises:
            ServerError: there is no own server.
        """
        if not self._server:
            raise ServerError(f"the server at {self.endpoint.url} isn't ours to start")
        self._disconnect()
        self._server.stop()
        self._started = False
        self.start()

    def _disconnect(self) -> None:
        self._swapper = None
        self._sessions.close()

    def connect(self) -> None:
        """Wait until the server answers, and warm it up; does nothing the second time.

        Raises:
            ServerError: it doesn't start, or nobody answers at its address.
        """
        if self._swapper:
            return
        if self._server:
            self.start()
            self._server.wait_ready()
        try:
            model = str(served_model(self.endpoint)["id"])
        except ServerError:
            if self._server:
                self._server.check_healthy()
            raise
        self.has_answered = True
        public = self._server.public if self._server else None
        if public:
            model = public.model_name
        generation = self._config.generation
        admin = self._admin = AdminApi(self.endpoint)
        self._sessions.callback(lambda: self._runner.run(admin.close()))
        self.client = GenerationClient(
            self.endpoint, generation.concurrency, generation.request_timeout_seconds
        )
        self._sessions.callback(lambda: self._runner.run(self.client.close()))
        self.served = Served(model)
        self.run(warm_up(self.client, model))
        self._swapper = (
            FixedSwapper(public)
            if public
            else make_swapper(self._config.server.adapter_mode, admin, model)
        )

    def swap_to(self, adapter: Adapter) -> float:
        """Make an adapter the one that answers, and prove it; see `swap`."""
        return self.run(self.swap(adapter))

    async def swap(self, adapter: Adapter) -> float:
        """Make an adapter the one that answers, and prove it.

        Returns:
            Seconds from call to proof.

        Raises:
            AdapterError: it can't be served with this base model or configuration.
            SwapError: the server doesn't answer from it.
        """
        assert self._swapper, "connect() comes first"
        check_servable(adapter, self._config, self._model)
        self.served, canary, seconds = await swap_and_prove(
            self._swapper, self.client, adapter, _coarser_dtype(self._config)
        )
        logger.info("swapped to %s in %.2f s, %s", adapter.name, seconds, canary)
        return seconds

    def swap_to_base(self) -> None:
        """Make the base model the one that answers, because a benchmark asks for it."""
        assert self._swapper, "connect() comes first"
        self.served = self.run(self._swapper.swap(None))

    def reset_prefix_cache(self) -> None:
        """Have the server forget the prompts before, so that a benchmark's turns are alike.

        Raises:
            SwapError: it couldn't.
        """
        assert self._admin, "connect() comes first"
        self.run(self._admin.reset_prefix_cache())

    def use_fast_lora(self, enabled: bool) -> None:
        """Choose between our way to compute runtime adapters and vLLM's, for a benchmark.

        Raises:
            ServerError: the server didn't do it.
        """
        assert self._admin, "connect() comes first"
        found = self.run(self._admin.call_workers("use_fast_lora", enabled=enabled))
        # vLLM's route turns what isn't text into text.
        if not found or any(str(one) != str(enabled) for one in found):
            raise ServerError(
                f"the server's workers answered {found} when asked to turn fast LoRA "
                f"{'on' if enabled else 'off'}; its log says why"
            )

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run a coroutine; if it fails because an own server died, say that, with its log's end.

        Raises:
            ServerDiedError: that.
        """
        try:
            return self._runner.run(work)
        except (ServerError, SwapError):
            if self._server:
                self._server.check_healthy()
            raise


def _coarser_dtype(config: RunConfig) -> str:
    """Return the number format of server or training that tells less: the canary allows for it."""
    placement = placement_of(config)
    kinds = (placement.server_kind, placement.train_kind)
    dtypes = {resolve_dtype(config.model.dtype, kind) for kind in kinds}
    return next(dtype for dtype in ("bfloat16", "float16", "float32") if dtype in dtypes)


def open_connection(config: RunConfig, model: str, log: Path, server_key: str) -> Connection:
    """Return a connection to config.server.url, or to a server of its own that writes to `log`."""
    server = None if config.server.url else VllmServer(config, model, log)
    return Connection(config, model, server, server_key)
