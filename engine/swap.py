"""Make an adapter the one that answers, and prove it, without restarting the server.

Drain, swap, reset the prefix cache, canary - in this order, and nothing is accepted before the
canary has passed. There is no way back to the base model that isn't asked for.
"""

import asyncio
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Literal, Protocol

import httpx
import orjson

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.errors import SwapError, printable, shown
from selfstudy_engine.engine.canary import CanaryResult, Served, check_canary
from selfstudy_engine.engine.endpoint import Endpoint
from selfstudy_engine.engine.public_serving import PublicServing, runtime_name
from selfstudy_engine.engine.server_client import HEALTH_SECONDS, ServerClient

_RPC_SECONDS = 600.0
_REMEDY = "start it with `selfstudy-engine serve` and the same --adapter-mode"
Publish = Callable[[Adapter], str]
"""Brings an adapter to where a server can read it; returns its folder as that server sees it."""


def publish_here(adapter: Adapter) -> str:
    """Return the folder itself: the server is on this machine, or has the same file system."""
    return str(adapter.folder.resolve())


class Swapper(Protocol):
    """One of the two ways to swap."""

    async def swap(self, adapter: Adapter | None) -> Served:
        """Serve the adapter (None: the base model); nothing is proven yet."""


class AdminApi:
    """The routes of vLLM's development mode that a swap needs."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._http = httpx.AsyncClient(
            base_url=endpoint.url,
            headers=endpoint.headers,
            timeout=_RPC_SECONDS,
            trust_env=endpoint.may_use_proxy,
            verify=endpoint.verify,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def post(self, path: str, *, json: Any = None, **params: str) -> httpx.Response:
        """Call a route.

        Raises:
            SwapError: it isn't there, or answers with an error; with its text.
        """
        try:
            response = await self._http.post(path, json=json, params=params)
        except httpx.HTTPError as error:
            why = str(error) or type(error).__name__
            raise SwapError(f"no answer from {self._http.base_url}{path} ({why})") from error
        if response.status_code == 404:
            raise SwapError(f"the server at {self._http.base_url} has no {path}; {_REMEDY}")
        if response.is_error:
            raise SwapError(f"{path} failed with {response.status_code}: {_text_of(response)}")
        return response

    async def call_workers(self, method: str, **arguments: Any) -> list[Any]:
        """Call a method on every worker of the server; return what each answered."""
        call = {"method": method, "kwargs": arguments}
        try:
            response = await self.post("/collective_rpc", json=call)
        except SwapError as error:
            if f"no attribute '{method}'" in str(error):
                url = self._http.base_url
                raise SwapError(f"the server at {url} has no {method}; {_REMEDY}") from error
            raise
        return _results_of(response)

    async def drain(self) -> None:
        """Hold new requests back until those in flight have finished."""
        await self.post("/pause", mode="wait", clear_cache="false")

    async def resume(self) -> None:
        """Let requests in again."""
        await self.post("/resume")

    async def is_paused(self) -> bool:
        """Tell whether requests are held back, by a swap that was interrupted; if it says so."""
        with suppress(httpx.HTTPError):
            response = await self._http.get("/is_paused", timeout=HEALTH_SECONDS)
            return response.is_success and _content_of(response).get("is_paused") is True
        return False

    async def reset_prefix_cache(self) -> None:
        """Forget all cached keys and values, which belong to the weights before.

        Raises:
            SwapError: the server says that it couldn't.
        """
        response = await self.post("/reset_prefix_cache")
        if _content_of(response).get("success") is False:
            raise SwapError(
                f"the server couldn't reset its prefix cache ({_text_of(response)}): requests "
                "still hold it; end other clients of this server and run the command again"
            )


def _text_of(response: httpx.Response) -> str:
    # Not `response.text`: it believes whatever charset a header names.
    # Not shortened: `RuntimeSwapper` reads what vLLM says of a loaded adapter.
    return printable(" ".join(response.content[:500].decode("utf-8", "replace").split()))


def _content_of(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of an answer; an empty one if it is anything else."""
    try:
        content = orjson.loads(response.content)
    except ValueError:
        return {}
    return content if isinstance(content, dict) else {}


def _results_of(response: httpx.Response) -> list[Any]:
    """Return what each worker answered to /collective_rpc; nothing if the server says nothing."""
    results = _content_of(response).get("results")
    return results if isinstance(results, list) else []


class MergedSwapper:
    """The adapter's product is added to the base weights inside the running server."""

    def __init__(self, admin: AdminApi, model: str, publish: Publish) -> None:
        self._admin = admin
        self._model = model
        self._publish = publish

    async def swap(self, adapter: Adapter | None) -> Served:
        """See `Swapper`."""
        folder = await asyncio.to_thread(self._publish, adapter) if adapter else None
        expected = adapter.sha256 if adapter else ""
        await self._admin.drain()
        results = await self._admin.call_workers("serve_merged", adapter_folder=folder)
        if not results or any(result != expected for result in results):
            raise SwapError(
                f"the server's workers merged {shown(results)}, wanted was {expected!r}; the "
                "server stays paused, so that nothing answers from half an adapter: run the "
                "command again"
            )
        await self._admin.reset_prefix_cache()
        await self._admin.resume()
        if adapter is None:
            return Served(self._model)
        return Served(self._model, adapter.name, expected, merged=True)


class RuntimeSwapper:
    """vLLM's own LoRA path: each adapter under its own name, the one before kept until the next."""

    def __init__(self, admin: AdminApi, model: str, publish: Publish) -> None:
        self._admin = admin
        self._model = model
        self._publish = publish
        self._loaded: list[str] = []

    async def swap(self, adapter: Adapter | None) -> Served:
        """See `Swapper`."""
        if adapter is None:
            return Served(self._model)
        name = runtime_name(adapter)
        if name in self._loaded:
            self._loaded.remove(name)
        else:
            await self._load(name, await asyncio.to_thread(self._publish, adapter))
        self._loaded.append(name)
        while len(self._loaded) > 2:
            await self._admin.post(
                "/v1/unload_lora_adapter", json={"lora_name": self._loaded.pop(0)}
            )
        return Served(name, adapter.name, adapter.sha256)

    async def _load(self, name: str, folder: str) -> None:
        try:
            await self._admin.post(
                "/v1/load_lora_adapter", json={"lora_name": name, "lora_path": folder}
            )
        except SwapError as error:
            # An earlier loop on the same server loaded the very same bytes.
            if "already been loaded" not in str(error):
                raise


class FixedSwapper:
    """A public server: what it was started with answers, under the one name that it has."""

    def __init__(self, public: PublicServing) -> None:
        self._public = public

    async def swap(self, adapter: Adapter | None) -> Served:
        """See `Swapper`; nothing is changed.

        Raises:
            SwapError: it was started with another adapter.
        """
        if adapter != self._public.adapter:
            raise SwapError(
                "a public server answers from what it was started with alone; start another"
            )
        if adapter is None:
            return Served(self._public.model_name)
        return Served(self._public.model_name, adapter.name, adapter.sha256)


def make_swapper(
    mode: Literal["merged", "runtime"],
    admin: AdminApi,
    model: str,
    publish: Publish = publish_here,
) -> Swapper:
    """Return the swapper of an adapter mode, for the base model's served name."""
    kind = MergedSwapper if mode == "merged" else RuntimeSwapper
    return kind(admin, model, publish)


async def swap_and_prove(
    swapper: Swapper,
    client: ServerClient,
    adapter: Adapter,
    dtype: str,
    *,
    before: Adapter | None = None,
) -> tuple[Served, CanaryResult, float]:
    """Swap to an adapter and run its canary; from then on only what passed it counts.

    See `check_canary` for `before`.

    Returns:
        What is served, the canary's result, and the seconds from call to proof.
    """
    started = time.monotonic()
    client.follow_any_origin()
    served = await swapper.swap(adapter)
    await client.follow_origin()
    num_engines = await client.count_engines()
    result = await check_canary(
        client, served, adapter, dtype, before=before, num_engines=num_engines
    )
    return served, result, time.monotonic() - started
