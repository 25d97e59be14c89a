"""A base model's weights, in the form that adapters are trained with."""

from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, BitsAndBytesConfig

from selfstudy_engine.data.config_sources import ModelConfig
from selfstudy_engine.data.errors import UsageError, shown_text
from selfstudy_engine.data.hardware import resolve_dtype
from selfstudy_engine.train.processes import processes, weights_are_spread


def load_base(model: str, settings: ModelConfig, *, four_bits: bool = False) -> Any:
    """Return transformers' model, on this process's device; the Trainer spreads what is spread.

    Args:
        model: folder or hub id.
        settings: number format, and whether the repository's code may run.
        four_bits: its linear layers' weights are stored in NF4, and computed with in that format.

    Raises:
        UsageError: no 4-bit weights here.
    """
    if four_bits:
        return _load_in_four_bits(model, settings)
    device = processes().device  # they meet before: of spread weights, one process reads the values
    base = _load(model, settings, None)
    return base if weights_are_spread() else base.to(device)


def load_whole_base(model: str, settings: ModelConfig) -> Any:
    """Return the model as it is served, on the CPU: beside a 4-bit one a GPU may lack the room."""
    return _load(model, settings, None)


def _load(model: str, settings: ModelConfig, quantize: Any, **where: Any) -> Any:
    trust = settings.trust_remote_code
    shape = AutoConfig.from_pretrained(model, trust_remote_code=trust)
    quantization = getattr(shape, "quantization_config", None)
    if isinstance(quantization, dict) and quantization.get("quant_method") == "compressed-tensors":
        # PEFT needs weights, which such layers have only once they are unpacked.
        quantization["dequantize"] = True
    return AutoModelForCausalLM.from_pretrained(
        model,
        config=shape,
        dtype=_dtype_of(settings),
        trust_remote_code=trust,
        attn_implementation=_attention_of(shape),
        quantization_config=quantize,
        **where,
    )


def _dtype_of(settings: ModelConfig) -> torch.dtype:
    dtype: torch.dtype = getattr(torch, resolve_dtype(settings.dtype))
    return dtype


def _load_in_four_bits(model: str, settings: ModelConfig) -> Any:
    """Return the model in the form of Dettmers et al. 2023, QLoRA (arXiv 2305.14314), section 3."""
    if weights_are_spread():
        raise UsageError(
            "4-bit weights can't be spread over devices; leave out --train-quantization, or take "
            "FSDP out of accelerate's config"
        )
    try:
        quantize = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=_dtype_of(settings),
        )
        return _load(model, settings, quantize, device_map={"": processes().device})
    except (ImportError, RuntimeError) as error:
        if "bitsandbytes" not in str(error):
            raise
        raise UsageError(
            f"can't train on 4-bit weights here ({shown_text(str(error))}); "
            "`pip install selfstudy-engine[qlora]`, or leave out --train-quantization"
        ) from error


def _attention_of(shape: Any) -> str:
    """Return the implementation of attention that trains what vLLM serves.

    torch's own knows no soft cap of the attention's scores (Gemma 2) and leaves it out silently.
    """
    capped = getattr(shape.get_text_config(), "attn_logit_softcapping", None)
    return "eager" if capped else "sdpa"
