"""Training as anyone would write it first: what the project's own way is measured against.

Padded batches of eight in random order, logits of every position, labels of -100 on prompts.
"""

import time
from collections.abc import Sequence

import torch
from peft import PeftModel
from torch.utils.data import Dataset
from transformers import (
    DataCollatorForSeq2Seq,
    PreTrainedTokenizerBase,
    Trainer,
    TrainingArguments,
)

from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.train.examples import TokenSequence

BATCH_SIZE = 8
_IGNORED = -100
"""Label of a token without loss (PyTorch's and transformers' convention)."""


def fit_plainly(
    model: PeftModel,
    tokenizer: PreTrainedTokenizerBase,
    sequences: Sequence[TokenSequence],
    learning_rate: float,
) -> float:
    """Train a model's adapter on each sequence once.

    Returns:
        Seconds of the steps.
    """
    with scratch_folder() as scratch:
        arguments = TrainingArguments(
            output_dir=str(scratch),
            num_train_epochs=1,
            per_device_train_batch_size=BATCH_SIZE,
            learning_rate=learning_rate,
            bf16=model.dtype == torch.bfloat16,
            fp16=model.dtype == torch.float16,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to=[],
            disable_tqdm=True,
        )
        trainer = Trainer(
            model=model,
            args=arguments,
            train_dataset=_Sequences(sequences),
            data_collator=DataCollatorForSeq2Seq(tokenizer, padding=True),
        )
        started = time.monotonic()
        trainer.train()
        return time.monotonic() - started


class _Sequences(Dataset[dict[str, list[int]]]):
    def __init__(self, sequences: Sequence[TokenSequence]) -> None:
        self._sequences = sequences

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> dict[str, list[int]]:
        sequence = self._sequences[index]
        ids, num_prompt = sequence.token_ids, sequence.num_prompt_tokens
        return {
            "input_ids": ids,
            "attention_mask": [1] * len(ids),
            "labels": [_IGNORED] * num_prompt + ids[num_prompt:],
        }
