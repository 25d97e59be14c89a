"""`python -m selfstudy_engine.train.check`: can transformers and PEFT train this base model?

Builds the model without its weights. Writes one JSON object: {"lora_layers": [...]}, the names of
the layers that can get an adapter, or {"refused": why}.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

import orjson
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.quantizers import AutoHfQuantizer

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.train.targets import ALL_LINEAR, lora_targets


def check_trainable(config: RunConfig, model: str) -> dict[str, Any]:
    """Return {"lora_layers": [...]} or {"refused": why}; see the module."""
    trust = config.model.trust_remote_code
    try:
        shape = AutoConfig.from_pretrained(model, trust_remote_code=trust)
        refusal = _refusal_of_quantization(shape)
        if refusal:
            return {"refused": refusal}
        with torch.device("meta"):
            empty = AutoModelForCausalLM.from_config(shape, trust_remote_code=trust)
        targets = lora_targets(empty, ALL_LINEAR)
    except (ValueError, OSError, ImportError, RuntimeError, AttributeError) as error:
        # UsageError is a ValueError; the others are how transformers says that it can't.
        reason = str(error).partition(";")[0] if isinstance(error, UsageError) else _first(error)
        return {"refused": reason}
    return {"lora_layers": sorted({name.rpartition(".")[2] for name in targets})}


def _refusal_of_quantization(shape: Any) -> str:
    settings = getattr(shape, "quantization_config", None)
    if settings is None:
        return ""
    quantizer = AutoHfQuantizer.from_config(settings)
    quantizer.validate_environment(device_map=None, weights_only=True)
    if quantizer.is_trainable:
        return ""
    method = quantizer.quantization_config.quant_method
    name = getattr(method, "value", method)
    return f"transformers can't train adapters on weights quantised with {name}"


def _first(error: Exception) -> str:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0][:300]


def main(arguments: list[str]) -> None:
    """Check the model that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m selfstudy_engine.train.check")
    parser.add_argument("--config", type=Path, required=True, help="run.toml")
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    values = parser.parse_args(arguments)
    answer = check_trainable(load_config(values.config), values.model)
    sys.stdout.write(orjson.dumps(answer).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
