"""A base model's config.json -> what it is, or a refusal.

Reads one file, of a folder or from the hub's cache: it loads neither transformers, torch nor vLLM.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.errors import UsageError

PROVEN_FAMILIES = frozenset(
    {"llama", "qwen2", "qwen3", "mistral", "gemma2", "gemma3_text", "mixtral"}
)
"""Values of model_type that the tests take through training and both ways to swap."""
ATTENTION_LAYERS = ("k_proj", "o_proj", "q_proj", "v_proj")
LINEAR_LAYERS = (*ATTENTION_LAYERS, "down_proj", "gate_proj", "up_proj")
"""Last parts of the names of the proven families' linear layers."""
_NO_FLOAT16 = ("gemma2", "gemma3")
"""Families whose values overflow in float16; vLLM refuses it too."""
_TEXT_GENERATORS = ("ForCausalLM", "LMHeadModel", "ForConditionalGeneration")
_EXPERT_COUNTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class BaseModel:
    """What config.json says about a base model."""

    name: str
    """Folder or hub id."""
    architecture: str
    """Class of transformers: LlamaForCausalLM."""
    model_type: str
    """Family: llama."""
    quantization: str
    """Method of quantised weights (awq, gptq, compressed-tensors, ...); empty for plain ones."""
    is_mixture: bool
    """Whether it is a mixture of experts: only its attention gets an adapter."""

    @property
    def is_proven(self) -> bool:
        """Whether nobody needs to be asked if it can be trained and served."""
        return (
            self.model_type in PROVEN_FAMILIES
            and self.architecture.endswith("ForCausalLM")
            and not self.quantization
        )

    @property
    def lora_layers(self) -> tuple[str, ...]:
        """Names of the layers that can get an adapter; of a proven family."""
        return ATTENTION_LAYERS if self.is_mixture else LINEAR_LAYERS


def read_base_model(model: str) -> BaseModel:
    """Return what a folder or hub id holds; a hub id's config.json is fetched if need be.

    Raises:
        UsageError: it can't be read, or isn't a model that generates text.
    """
    config = _read_config(model)
    names = config.get("architectures")
    if not isinstance(names, list) or not names or not config.get("model_type"):
        raise UsageError(
            f"config.json of {model} names no architecture or model_type; give a checkpoint in "
            "transformers' format with --model"
        )
    text = config.get("text_config") or config
    quantization = config.get("quantization_config") or config.get("compression_config") or {}
    base = BaseModel(
        name=model,
        architecture=str(names[0]),
        model_type=str(config["model_type"]),
        quantization=str(quantization.get("quant_method", "unknown")) if quantization else "",
        is_mixture=any((text.get(key) or 0) > 1 for key in _EXPERT_COUNTS),
    )
    if config.get("is_encoder_decoder") or not base.architecture.endswith(_TEXT_GENERATORS):
        raise UsageError(
            f"{model} is a {base.architecture}, not a decoder that generates text "
            "(...ForCausalLM); choose another base model with --model"
        )
    return base


def check_number_format(base: BaseModel, dtype: str) -> None:
    """Refuse a number format that the family can't be computed in.

    Raises:
        UsageError: float16 for Gemma.
    """
    if dtype == "float16" and base.model_type.startswith(_NO_FLOAT16):
        raise UsageError(
            f"{base.name} ({base.model_type}) overflows in float16; choose --dtype float32, or "
            "bfloat16 where the device has it"
        )


def _read_config(model: str) -> dict[str, Any]:
    try:
        path = Path(model) / "config.json" if Path(model).is_dir() else _from_hub(model)
        config = orjson.loads(path.read_bytes())
    except OSError as error:
        raise UsageError(
            f"can't read config.json of {model}: {' '.join(str(error).split())[:300]}; check the "
            "name and the network, or give a folder with --model"
        ) from error
    except orjson.JSONDecodeError as error:
        raise UsageError(f"config.json of {model} isn't JSON: {error}; restore it") from error
    if not isinstance(config, dict):
        raise UsageError(f"config.json of {model} isn't a JSON object; restore it")
    return config


def _from_hub(model: str) -> Path:
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import EntryNotFoundError, HFValidationError

    try:
        return Path(hf_hub_download(model, "config.json"))
    except (EntryNotFoundError, HFValidationError) as error:
        raise OSError(str(error)) from error
