"""`python -m selfstudy_engine.engine.vllm_check`: can vLLM serve this base model with adapters?

Reads the configuration as the server will, without weights. Writes one JSON object: {} or
{"refused": why}.
"""

import argparse
import sys
from pathlib import Path

import orjson
from pydantic import ValidationError

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.hardware import resolve_dtype


def check_servable_model(config: RunConfig, model: str) -> dict[str, str]:
    """Return {} or {"refused": why}; see the module."""
    from vllm.engine.arg_utils import EngineArgs
    from vllm.model_executor.models import ModelRegistry, supports_lora

    arguments = EngineArgs(
        model=model,
        config_format="hf",
        runner="generate",
        dtype=resolve_dtype(config.model.dtype),
        trust_remote_code=config.model.trust_remote_code,
    )
    try:
        served = arguments.create_model_config()
        found, architecture = ModelRegistry.resolve_model_cls(served.architectures, served)
    except ValidationError as error:
        return {"refused": f"vLLM says: {error.errors()[0]['msg'].splitlines()[0][:300]}"}
    except (ValueError, OSError, ImportError) as error:
        return {"refused": f"vLLM says: {str(error).splitlines()[0][:300]}"}
    if architecture.startswith("Transformers"):
        # vLLM would run transformers' own class: names of layers, merging and LoRA are untried.
        return {"refused": f"vLLM has no class of its own for {served.architectures[0]}"}
    merges = config.server.adapter_mode == "merged" and served.quantization is None
    if not merges and not supports_lora(found):
        return {"refused": f"vLLM has no LoRA for {architecture}"}
    return {}


def main(arguments: list[str]) -> None:
    """Check the model that the arguments name."""
    parser = argparse.ArgumentParser(prog="python -m selfstudy_engine.engine.vllm_check")
    parser.add_argument("--config", type=Path, required=True, help="run.toml")
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    values = parser.parse_args(arguments)
    answer = check_servable_model(load_config(values.config), values.model)
    sys.stdout.write(orjson.dumps(answer).decode() + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])
