"""Swaps to one adapter after the other on a fake server."""

import asyncio
from itertools import pairwise
from typing import Any

from fake_vllm import FakeVllm

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.engine.canary import CanaryResult, Served
from selfstudy_engine.engine.server_client import ServerClient
from selfstudy_engine.engine.swap import AdminApi, make_swapper, swap_and_prove


def swap(
    fake: FakeVllm, *adapters: Adapter, mode: Any = "merged", dtype: str = "float32"
) -> list[tuple[Served, CanaryResult]]:
    """Swap to one adapter after the other, with one swapper, and prove each."""

    async def run() -> list[tuple[Served, CanaryResult]]:
        admin = AdminApi(fake.endpoint)
        found = []
        try:
            async with ServerClient(fake.endpoint, 4, 10) as client:
                swapper = make_swapper(mode, admin, fake.model)
                for before, adapter in pairwise((None, *adapters)):
                    assert adapter
                    served, result, seconds = await swap_and_prove(
                        swapper, client, adapter, dtype, before=before
                    )
                    assert seconds > 0
                    found.append((served, result))
        finally:
            await admin.close()
        return found

    return asyncio.run(run())


def swap_to_base(fake: FakeVllm, mode: Any = "merged") -> Served:
    async def run() -> Served:
        admin = AdminApi(fake.endpoint)
        try:
            return await make_swapper(mode, admin, fake.model).swap(None)
        finally:
            await admin.close()

    return asyncio.run(run())
