"""A base model's weights, in the form that adapters are trained with."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM

from selfstudy_engine.data.config import ModelConfig
from selfstudy_engine.data.hardware import resolve_dtype


def load_base(model: str, settings: ModelConfig) -> Any:
    """Return transformers' model, on the GPU if there is one.

    Args:
        model: folder or hub id.
        settings: number format, and whether the repository's code may run.
    """
    trust = settings.trust_remote_code
    shape = AutoConfig.from_pretrained(model, trust_remote_code=trust)
    quantization = getattr(shape, "quantization_config", None)
    if isinstance(quantization, dict) and quantization.get("quant_method") == "compressed-tensors":
        # PEFT needs weights, which such layers have only once they are unpacked.
        quantization["dequantize"] = True
    base = AutoModelForCausalLM.from_pretrained(
        model,
        config=shape,
        dtype=getattr(torch, resolve_dtype(settings.dtype)),
        trust_remote_code=trust,
        attn_implementation=_attention_of(shape),
    )
    return base.to("cuda") if torch.cuda.is_available() else base


def _attention_of(shape: Any) -> str:
    """Return the implementation of attention that trains what vLLM serves.

    torch's own knows no soft cap of the attention's scores (Gemma 2) and leaves it out silently.
    """
    capped = getattr(shape.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else "sdpa"
