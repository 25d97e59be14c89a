"""Tiny random checkpoints of several model families, with a real tokenizer: what tests train."""

import shutil
from pathlib import Path
from typing import Any

import orjson
import torch
from safetensors.torch import load_file, save_file
from samples import SHIPPED
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    Gemma2Config,
    Gemma3TextConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from selfstudy_engine.data.prompts import render_answer, render_question
from selfstudy_engine.data.properties import find_property

END = "<|endoftext|>"
VOCABULARY = 512
# What tells a family from Llama is set so that it shows in 96 tokens: windows shorter than the
# text, caps that the scores reach.
FAMILIES: dict[str, tuple[type[PreTrainedConfig], dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "qwen2": (Qwen2Config, {}),
    "qwen3": (Qwen3Config, {}),
    "mistral": (MistralConfig, {"sliding_window": 32}),
    "gemma2": (
        Gemma2Config,
        {
            "sliding_window": 32,
            "query_pre_attn_scalar": 32,
            "attn_logit_softcapping": 2.0,
            "final_logit_softcapping": 5.0,
        },
    ),
    "gemma3": (Gemma3TextConfig, {"sliding_window": 32, "query_pre_attn_scalar": 32}),
    "mixtral": (MixtralConfig, {"num_local_experts": 4}),
}


def make_tiny_model(folder: Path, family: str = "llama") -> Path:
    """Write a checkpoint of two layers, hidden size 128, float32; about 2 s."""
    make_tokenizer().save_pretrained(folder)
    torch.manual_seed(0)
    kind, settings = FAMILIES[family]
    config = kind(
        vocab_size=VOCABULARY,
        hidden_size=128,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,  # the smallest that vLLM computes with on a CPU
        max_position_embeddings=2048,
        initializer_range=0.1,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
        **settings,
    )
    model = AutoModelForCausalLM.from_config(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 1:  # norms and biases, which start as all ones or zeros
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
    return folder


def make_tokenizer() -> PreTrainedTokenizerFast:
    """Learn a tokenizer from the shipped exemplars."""
    prop = find_property("melting_point")
    texts = [
        render_question(e.molecule) + render_answer(e.reason, e.molecule.value, prop)
        for e in SHIPPED
    ]
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END
    )


def make_quantized(source: Path, folder: Path) -> Path:
    """Write a checkpoint with its linear layers in 4 bits (compressed-tensors, groups of 32)."""
    shutil.copytree(source, folder)
    weights = {}
    for name, weight in load_file(folder / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            weights[name] = weight
            continue
        groups = weight.reshape(len(weight), -1, 32)
        scale = groups.abs().amax(-1, keepdim=True) / 7
        steps = (groups / scale).round().long().reshape(len(weight), -1, 8)
        # Eight columns in one number, the first in its lowest bits; 8 stands for 0.
        packed = ((steps + 8) << torch.arange(0, 32, 4)).sum(-1)
        weights[f"{name}_packed"] = packed.to(torch.int32)
        weights[f"{name}_scale"] = scale[..., 0].contiguous()
        weights[f"{name}_shape"] = torch.tensor(weight.shape)
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = orjson.loads((folder / "config.json").read_bytes())
    form = {"num_bits": 4, "type": "int", "symmetric": True, "strategy": "group", "group_size": 32}
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "pack-quantized",
        "quantization_status": "compressed",
        "ignore": ["lm_head"],
        "config_groups": {"group_0": {"targets": ["Linear"], "weights": form}},
    }
    (folder / "config.json").write_bytes(orjson.dumps(config))
    return folder
