"""Real vLLM: each model family from training to a proven swap, both ways, on tiny checkpoints."""

import logging
from pathlib import Path

import pytest
from tiny_model import FAMILIES, make_quantized, make_tiny_model

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.config import RunConfig, load_config, override
from selfstudy_engine.data.hardware import cpu_flags
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.canary import check_canary
from selfstudy_engine.engine.connection import Connection, open_connection

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(400)]
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
LINEAR = ATTENTION | {"gate_proj", "up_proj", "down_proj"}


def tiny_config(model: Path, mode: str) -> RunConfig:
    return load_config(
        None,
        {
            "model.path": str(model),
            "model.dtype": "float32",
            "generation.concurrency": 4,
            "train.rank": 8,
            "train.learning_rate": 1e-2,
            "train.epochs": 0.1,
            "train.min_steps": 4,
            "server.adapter_mode": mode,
            "server.max_model_len": 512,
            "server.kv_cache_gib": 1,
        },
    )


def train(config: RunConfig, model: str, folder: Path) -> tuple[Adapter, Adapter]:
    """Two adapters, of two seeds."""
    from selfstudy_engine.train.trainer import TrainingJob, train_adapter

    found = []
    for seed in (0, 1):
        train_adapter(
            TrainingJob(
                config=override(config, {"seed": seed}),
                model=model,
                exemplars=None,
                samples=None,
                before_round=None,
                output=folder / f"adapter-{seed}",
            )
        )
        found.append(read_adapter(folder / f"adapter-{seed}"))
    first, second = found
    return first, second


def swap_there_and_back(
    connection: Connection,
    first: Adapter,
    second: Adapter,
    dtype: str = "float32",
    noise: float = 1e-4,
) -> None:
    """Each swap is proven by the canary of `swap_to`; the last finds nothing left of the second."""
    connection.connect()
    for adapter in (first, second, first):
        connection.swap_to(adapter)
        assert connection.served.adapter_sha256 == adapter.sha256
    client = connection.replicas[0].client
    assert client
    result = connection.run(check_canary(client, connection.served, first, dtype))
    assert result.distance < noise < result.distance_to_base / 2


def layers_of(adapter: Adapter) -> set[str]:
    from safetensors import safe_open

    with safe_open(adapter.folder / "adapter_model.safetensors", "pt") as file:
        return {key.split(".")[-3] for key in file.keys()}  # noqa: SIM118 - it isn't a dict


LIKE_OTHERS = {"llama", "mistral", "qwen2", "qwen3", "gemma2"}
"""Families whose layers are those of the embedded model, which test_real_vllm.py swaps, or of
Gemma 3, which norms queries and keys as Qwen 3 does."""


@pytest.mark.parametrize(
    ("family", "mode"),
    [
        # vLLM's own LoRA meets the layers of the embedded model in every family.
        pytest.param(
            *(family, mode),
            marks=[pytest.mark.long] if family in LIKE_OTHERS or mode == "runtime" else [],
        )
        for family in FAMILIES
        for mode in ("merged", "runtime")
    ],
)
def test_a_family_is_trained_and_served(family: str, mode: str, tmp_path: Path) -> None:
    folder = make_tiny_model(tmp_path / family, family)
    model, config = choose_base_model(tiny_config(folder, mode))
    assert config.server.adapter_mode == mode
    # The server starts while the adapters are trained.
    with open_connection(config, model, tmp_path / "server.log", "") as connection:
        adapters = train(config, model, tmp_path)
        assert layers_of(adapters[0]) == (ATTENTION if family == "mixtral" else LINEAR)
        swap_there_and_back(connection, *adapters)


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # compressed-tensors
def test_a_quantised_base_is_served_the_runtime_way(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    if "avx512f" not in cpu_flags():
        pytest.skip("this CPU can't serve it")
    folder = make_quantized(make_tiny_model(tmp_path / "plain"), tmp_path / "quantised")
    with caplog.at_level(logging.WARNING, "selfstudy_engine"):
        given = override(tiny_config(folder, "merged"), {"model.dtype": "bfloat16"})
        model, config = choose_base_model(given)
    [message] = caplog.messages
    assert "is quantised (compressed-tensors), so no adapter can be merged into it" in message
    assert config.server.adapter_mode == "runtime"
    with open_connection(config, model, tmp_path / "server.log", "") as connection:
        first, second = train(config, model, tmp_path)
        swap_there_and_back(connection, first, second, "bfloat16", noise=0.05)
