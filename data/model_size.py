"""How large a base model is, read from the heads of its weight files; no tensor is loaded."""

import re
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.errors import UsageError

_BYTES = {"float32": 4, "float16": 2, "bfloat16": 2}
_FLOATS = frozenset({"F64", "F32", "F16", "BF16"})
_STORED = {"F64": 8, "I64": 8, "F32": 4, "I32": 4, "F16": 2, "BF16": 2, "I16": 2}
_IN_A_LAYER = re.compile(r"\.\d+\.")
_INDEX = "model.safetensors.index.json"


@dataclass(frozen=True, slots=True)
class ModelSize:
    """What decides how much memory a model takes."""

    weight_bytes: int
    """As loaded."""
    element_bytes: int
    """Of one number of a hidden state."""
    lora_features: int
    """Inputs plus outputs of all linear layers: an adapter of rank 1 has as many weights."""
    active_features: float
    """Those that each token goes through: a part of the experts' only."""
    linear_weights: int
    """Weights of the layers' linear layers, experts apart: what 4-bit training stores smaller."""
    expert_bytes: int
    """Of the weights, those of experts."""
    vocabulary: int
    kv_bytes_per_token: int
    """Keys and values of all layers."""


def measure_model(folder: Path, dtype: str) -> ModelSize:
    """Read the sizes of a checkpoint in transformers' format.

    Args:
        folder: with config.json and safetensors.
        dtype: number format that it is loaded in; weights that aren't floats stay as they are.

    Raises:
        UsageError: a file can't be read.
    """
    try:
        whole = orjson.loads((folder / "config.json").read_bytes())
        tensors = [tensor for file in _weight_files(folder) for tensor in _read_head(file)]
        config = whole.get("text_config", whole)
        return _measure(config, tensors, dtype, quantised="quantization_config" in whole)
    except (OSError, ValueError, KeyError, struct.error) as error:
        raise UsageError(
            f"can't read the size of model {folder} ({type(error).__name__}: {error}); restore it, "
            "or give --gpu-memory-utilization"
        ) from error


Tensor = tuple[str, str, list[int]]
"""Name, number format as safetensors calls it, and shape."""


def _measure(
    config: Mapping[str, Any], tensors: list[Tensor], dtype: str, *, quantised: bool
) -> ModelSize:
    element = _BYTES[dtype]
    num_experts = config.get("num_local_experts") or config.get("num_experts") or 1
    share = (config.get("num_experts_per_tok") or num_experts) / num_experts
    weight_bytes = expert_bytes = lora_features = linear_weights = vocabulary = 0
    active_features = 0.0
    for name, stored, shape in tensors:
        converted = stored in _FLOATS and not quantised
        num_bytes = prod(shape) * (element if converted else _STORED.get(stored, 1))
        weight_bytes += num_bytes
        if len(shape) < 2 or name.endswith(("_scale", "_shape", "_zero_point")):
            continue
        if not _IN_A_LAYER.search(name):  # embedding and head
            vocabulary = max(vocabulary, shape[0])
            continue
        is_expert = "experts." in name and "shared" not in name
        features = prod(shape[:-2]) * sum(shape[-2:])
        lora_features += features
        active_features += features * (share if is_expert else 1)
        expert_bytes += num_bytes if is_expert else 0
        linear_weights += 0 if is_expert else prod(shape)
    heads = config["num_attention_heads"]
    head_size = config.get("head_dim") or config["hidden_size"] // heads
    key_heads = config.get("num_key_value_heads") or heads
    return ModelSize(
        weight_bytes=weight_bytes,
        element_bytes=element,
        lora_features=lora_features,
        active_features=active_features,
        linear_weights=linear_weights,
        expert_bytes=expert_bytes,
        vocabulary=vocabulary,
        kv_bytes_per_token=2 * config["num_hidden_layers"] * key_heads * head_size * element,
    )


def _weight_files(folder: Path) -> list[Path]:
    """Return the files that transformers and vLLM load; others may hold the same weights again."""
    index = folder / _INDEX
    if index.exists():
        names = sorted(set(orjson.loads(index.read_bytes())["weight_map"].values()))
    elif (folder / "model.safetensors").exists():
        names = ["model.safetensors"]
    else:
        names = sorted(path.name for path in folder.glob("*.safetensors"))
    if not names:
        raise FileNotFoundError("no *.safetensors")
    return [folder / name for name in names]


def _read_head(path: Path) -> Iterator[Tensor]:
    """Yield the tensors that a safetensors file holds: 8 bytes of length, then JSON."""
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        head = orjson.loads(file.read(length))
    for name, entry in head.items():
        if name != "__metadata__":
            yield name, entry["dtype"], entry["shape"]
