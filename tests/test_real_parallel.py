"""Several ranks: a real vLLM server on a CPU, and what its code does where a CPU can't show it."""

import asyncio
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from test_families import tiny_config, train

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import override
from selfstudy_engine.data.errors import SwapError
from selfstudy_engine.engine.canary import check_canary
from selfstudy_engine.engine.connection import open_connection

TWO_ENGINES = ["--data-parallel-size", "2"]
TWO_SHARDS = ["--tensor-parallel-size", "2"]
Adapters = tuple[Adapter, Adapter]
IMPORTS_VLLM = pytest.mark.filterwarnings("ignore")  # those of its imports


@pytest.fixture(scope="module")
def adapters(tiny_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Adapters:
    config = tiny_config(tiny_model, "merged")
    return train(config, str(tiny_model), tmp_path_factory.mktemp("adapters"))


@pytest.mark.vllm
@pytest.mark.long
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("mode", ["merged", "runtime"])
@pytest.mark.parametrize("arguments", [TWO_ENGINES, TWO_SHARDS], ids=["engines", "shards"])
def test_a_swap_reaches_every_rank(
    arguments: list[str], mode: str, tiny_model: Path, adapters: Adapters, tmp_path: Path
) -> None:
    config = override(tiny_config(tiny_model, mode), {"server.extra_args": arguments})
    num_engines = 2 if arguments == TWO_ENGINES else 1
    first, second = adapters
    with open_connection(config, str(tiny_model), tmp_path / "server.log", "") as connection:
        connection.connect()
        client = connection.replicas[0].client
        assert client
        assert connection.run(client.count_engines()) == num_engines
        for adapter in (first, second, first):
            connection.swap_to(adapter)  # proves each engine
        with pytest.raises(SwapError, match="doesn't answer from adapter"):
            connection.run(
                check_canary(client, connection.served, second, "float32", num_engines=num_engines)
            )


def vllms_client(answer: Callable[[str, bytes], Any]) -> tuple[Any, list[tuple[str, bytes]]]:
    """Return vLLM's own client of two engines, which `answer` plays, and what they are asked."""
    from vllm.v1.engine.core_client import DPLBAsyncMPClient

    asked = []

    class Client(DPLBAsyncMPClient):  # type: ignore[misc]
        def __init__(self) -> None:
            self.core_engines = [b"0", b"1"]
            self.reqs_in_flight: dict[str, bytes] = {}
            self.engine_inflight = dict.fromkeys(self.core_engines, 0)

        async def _call_utility_async(self, method: str, *args: Any, engine: bytes) -> Any:
            asked.append((method, engine))
            return answer(method, engine)

    return Client(), asked


@IMPORTS_VLLM
@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        ("pause_scheduler_async", ["wait", False]),
        ("collective_rpc_async", ["serve_merged", None, (), {"adapter_folder": "a"}]),
        ("reset_prefix_cache_async", []),
        ("resume_scheduler_async", []),
        ("add_lora_async", [None]),
        ("remove_lora_async", [1]),
    ],
)
def test_vllm_asks_every_engine(call: str, arguments: list[Any]) -> None:
    """All that a swap calls, drain to resume and load to unload."""
    client, asked = vllms_client(lambda method, engine: True)
    asyncio.run(getattr(client, call)(*arguments))
    assert [engine for _, engine in asked] == [b"0", b"1"]


@IMPORTS_VLLM
def test_vllm_shows_a_failure_of_any_engine_but_the_answers_of_the_first_only() -> None:
    """Which is why the canary asks each engine."""
    different, _ = vllms_client(lambda method, engine: [engine.decode()])
    assert asyncio.run(different.collective_rpc_async("serve_merged")) == ["0"]

    def fail(method: str, engine: bytes) -> Any:
        if engine == b"1":
            raise RuntimeError("no such adapter")
        return ["sha"]

    failing, _ = vllms_client(fail)
    with pytest.raises(RuntimeError, match="no such adapter"):
        asyncio.run(failing.collective_rpc_async("serve_merged"))
    held, _ = vllms_client(lambda method, engine: engine == b"0")
    assert asyncio.run(held.reset_prefix_cache_async()) is False


@IMPORTS_VLLM
def test_vllm_lets_the_header_choose_the_engine() -> None:
    from vllm.entrypoints.generate.base.serving import GenerateBaseServing

    asked = SimpleNamespace(headers={"X-data-parallel-rank": "1"})
    assert GenerateBaseServing._get_data_parallel_rank(asked) == 1
    client, _ = vllms_client(lambda method, engine: None)
    request = SimpleNamespace(request_id="a", data_parallel_rank=1)
    assert client.get_core_engine_for_request(request) == b"1"
