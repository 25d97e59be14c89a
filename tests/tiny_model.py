"""A tiny random Llama checkpoint with a real tokenizer: what training in tests trains."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.prompts import render_answer, render_question
from selfstudy_engine.data.properties import find_property

END = "<|endoftext|>"
VOCABULARY = 512


def make_tiny_model(folder: Path) -> Path:
    """Write a checkpoint of two layers, hidden size 32, float32; about 2 s."""
    prop = find_property("melting_point")
    texts = [
        render_question(e.molecule) + render_answer(e.reason, e.molecule.value, prop)
        for e in load_exemplars()
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
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=END, eos_token=END, pad_token=END
    ).save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=0,
        pad_token_id=0,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
