"""What runs on a node of a Ray cluster: one vLLM server, and the adapters that it answers from.

`ray_server` makes an actor of it. It knows neither the run folder nor the other nodes; adapters
come as bytes and are verified before their folder is named.
"""

import os
import shutil
from contextlib import ExitStack
from pathlib import Path

import ray
from ray import ObjectRef

from selfstudy_engine.data.adapter_transfer import AdapterFiles, unpack_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.server import VllmServer

_NUM_KEPT = 3
"""Adapters: vLLM may hold two by their folders while it loads the next."""


def use_all_cores() -> None:
    """Let what this worker starts count the node's cores itself.

    Ray sets OMP_NUM_THREADS to the CPUs of a bundle, which says who may be placed here, no more.
    """
    os.environ.pop("OMP_NUM_THREADS", None)


class ServerActor:
    """One vLLM server on this node; dies with its actor."""

    def __init__(self) -> None:
        use_all_cores()
        self._cleanup = ExitStack()
        self._scratch = self._cleanup.enter_context(scratch_folder())
        self._adapters = self._scratch / "adapters"
        self._num_log_bytes = 0
        self._server: VllmServer

    def start(self, config: RunConfig, api_key: str | None) -> Endpoint:
        """Start the server on this node's address and a free port, without waiting for it.

        Args:
            config: of this node alone.
            api_key: see `VllmServer`.

        Raises:
            UsageError: the model isn't on this node, or can't be served here.
        """
        model, config = choose_base_model(config)
        log = self._scratch / "server.log"
        host = ray.util.get_node_ip_address()
        self._server = VllmServer(config, model, log, host=host, api_key=api_key)
        self._server.start()
        return self._server.endpoint

    def check_alive(self) -> None:
        """See `VllmServer`."""
        self._server.check_alive()

    def check_healthy(self) -> None:
        """See `VllmServer`."""
        self._server.check_healthy()

    def last_lines(self) -> str:
        """See `VllmServer`."""
        return self._server.last_lines()

    def new_log(self) -> bytes:
        """Return what the server wrote since the last call."""
        with self._server.log.open("rb") as log:
            log.seek(self._num_log_bytes)
            text = log.read()
        self._num_log_bytes += len(text)
        return text

    def take_adapter(self, name: str, sha256: str, files: "list[ObjectRef[AdapterFiles]]") -> str:
        """Fetch and verify an adapter, unless it is here.

        Args:
            name: of the adapter.
            sha256: of its weights.
            files: one reference, in a list so that Ray doesn't fetch it unasked.

        Returns:
            Its folder on this node.

        Raises:
            AdapterError: what came is another one, or damaged.
        """
        folder = self._adapters / f"{name}-{sha256[:12]}"
        if folder.exists():
            folder.touch()
        else:
            for old in sorted(self._adapters.glob("*"), key=_last_used)[: 1 - _NUM_KEPT]:
                shutil.rmtree(old)
            unpack_adapter(ray.get(files[0]), folder, sha256)
        return str(folder)

    def stop(self) -> None:
        """End the server; returns when it is gone."""
        self._server.stop()
        self._cleanup.close()


def _last_used(folder: Path) -> int:
    return folder.stat().st_mtime_ns
