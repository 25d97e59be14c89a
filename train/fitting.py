"""Packed rows in, a trained model out: transformers' Trainer, with the work that a step needs only.

Each part computes the same loss as the plain way, to rounding; docs/decisions.md, "Training speed",
has what each is worth.
"""

import math
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from selfstudy_engine.data.config_training import TrainConfig
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.train.answer_trainer import AnswerTrainer
from selfstudy_engine.train.attention import attention_by_sequence
from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.fast_lora import fast_lora
from selfstudy_engine.train.lines import write_line
from selfstudy_engine.train.packing import plan_epochs
from selfstudy_engine.train.processes import weights_are_spread
from selfstudy_engine.train.shares import Shares

_ATTENTION_KERNELS = [
    SDPBackend.FLASH_ATTENTION,
    SDPBackend.EFFICIENT_ATTENTION,
    SDPBackend.MATH,
]
"""Of torch, all but cuDNN's: that one makes a plan for each shape that it meets, which takes far
longer than a step, and each row has a shape of its own (docs/decisions.md, "Attention of a packed
row")."""
_SILENT_SECONDS = 10
"""After so long without a line, the next step writes one."""


@dataclass(frozen=True, slots=True)
class Fit:
    """What a training did."""

    loss: float
    """Mean over the steps."""
    num_tokens: int
    """Tokens of the sequences trained on, each time one was."""
    steps: int
    seconds: float
    """Of the steps alone."""


def fit(
    model: PeftModel,
    sequences: Sequence[TokenSequence],
    train: TrainConfig,
    seed: int,
    tokens_at_once: int | None = None,
) -> Fit:
    """Train a model's adapter on sequences, packed as the configuration says.

    Several processes take the same steps as one: each computes a share of every row.

    Args:
        model: with an adapter, the same in each process.
        sequences: all that are trained on.
        train: how.
        seed: of the rows and their order.
        tokens_at_once: that a process computes at most, see `share_of`.

    Raises:
        TrainingError: the loss isn't finite, or the memory isn't enough for one sequence.
    """
    longest = max(map(len, sequences))
    with ExitStack() as stack:
        stack.enter_context(sdpa_kernel(_ATTENTION_KERNELS))
        by_sequence = stack.enter_context(attention_by_sequence(model, longest))
        # Spread weights are whole only inside their own layers' forward calls.
        num_fast = 0 if weights_are_spread() else stack.enter_context(fast_lora(model))
        steps = plan_epochs(
            sequences,
            tokens_per_step=train.tokens_per_step,
            epochs=train.epochs,
            min_steps=train.min_steps,
            seed=seed,
        )
        scratch = stack.enter_context(scratch_folder())
        arguments = _arguments(
            model, train, len(steps), seed=seed, num_fast=num_fast, scratch=str(scratch)
        )
        # Only where attention goes by the sequence, an answer doesn't see the other answers.
        shares = Shares(steps, tokens_at_once, shared=by_sequence)
        trainer = AnswerTrainer(
            model=model, args=arguments, train_dataset=shares, callbacks=[_LogLines()]
        )
        trainer.by_sequence = by_sequence
        trainer.remove_callback(PrinterCallback)
        started = time.monotonic()
        loss = float(trainer.train().training_loss)
        seconds = time.monotonic() - started
    if not math.isfinite(loss):
        raise TrainingError(
            f"the training loss is {loss}; lower train.learning_rate "
            f"({train.learning_rate:g}) or train in another --dtype"
        )
    num_tokens = sum(len(sequence) for step in steps for sequence in step)
    return Fit(loss, num_tokens, len(steps), seconds)


def _arguments(
    model: PeftModel, train: TrainConfig, num_steps: int, *, seed: int, num_fast: int, scratch: str
) -> TrainingArguments:
    layers = sum(isinstance(module, LoraLayer) for module in model.modules())
    return TrainingArguments(
        output_dir=scratch,  # Trainer wants a folder
        max_steps=num_steps,
        per_device_train_batch_size=1,
        learning_rate=train.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(train.warmup_fraction * num_steps),
        weight_decay=train.weight_decay,
        logging_steps=max(1, num_steps // 20),
        logging_nan_inf_filter=False,  # a NaN is an error here, not a zero
        save_strategy="no",
        report_to=[],
        seed=seed,
        # Fast layers cast by themselves; to watch every operation costs more than it does.
        bf16=model.dtype == torch.bfloat16 and num_fast < layers,
        fp16=model.dtype == torch.float16,  # which needs its loss scaled
        use_cpu=not torch.cuda.is_available(),
        ddp_broadcast_buffers=False,  # the same everywhere, and processes needn't keep in step
        dataloader_pin_memory=False,
        remove_unused_columns=False,
        disable_tqdm=True,
    )


class _LogLines(TrainerCallback):  # type: ignore[misc]
    """Write the Trainer's logs as JSON lines to stdout, and between them that it lives."""

    def __init__(self) -> None:
        self._written = time.monotonic()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if time.monotonic() - self._written > _SILENT_SECONDS:
            self._write(state, "step")

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        self._write(state, "log", **(logs or {}))

    def _write(self, state: TrainerState, event: str, **figures: float) -> None:
        if state.is_world_process_zero:
            place = {"step": state.global_step, "max_steps": state.max_steps}
            write_line({"event": event, **place, **figures})
        self._written = time.monotonic()
