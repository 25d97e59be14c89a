"""Packed rows in, a trained model out: transformers' Trainer, with the work that a step needs only.

Each part computes the same loss as the plain way, to rounding; docs/decisions.md, "Training speed",
has what each is worth.
"""

import math
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from torch.utils.data import Dataset
from transformers import (
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from selfstudy_engine.data.config import TrainConfig
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.train.attention import (
    RowLayout,
    attention_by_sequence,
    row_layout_of,
)
from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.fast_lora import fast_lora
from selfstudy_engine.train.lines import write_line
from selfstudy_engine.train.memory import REMEDY, free_memory, is_out_of_memory
from selfstudy_engine.train.packing import PackedRow, pack_epochs

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


def fit(model: PeftModel, sequences: Sequence[TokenSequence], train: TrainConfig, seed: int) -> Fit:
    """Train a model's adapter on sequences, packed as the configuration says.

    Raises:
        TrainingError: the loss isn't finite, or the memory isn't enough for one sequence.
    """
    longest = max(map(len, sequences))
    with ExitStack() as stack:
        by_sequence = stack.enter_context(attention_by_sequence(model, longest))
        num_fast = stack.enter_context(fast_lora(model))
        rows = pack_epochs(
            sequences,
            tokens_per_step=train.tokens_per_step,
            epochs=train.epochs,
            min_steps=train.min_steps,
            seed=seed,
            shared=by_sequence,  # only there an answer doesn't see the other answers
        )
        scratch = stack.enter_context(tempfile.TemporaryDirectory(prefix="selfstudy-"))
        arguments = _arguments(
            model, train, len(rows), seed=seed, num_fast=num_fast, scratch=scratch
        )
        trainer = _AnswerTrainer(
            model=model,
            args=arguments,
            train_dataset=_Rows(rows),
            data_collator=_only,
            callbacks=[_LogLines()],
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
    return Fit(loss, sum(row.num_tokens for row in rows), len(rows), seconds)


class _AnswerTrainer(Trainer):  # type: ignore[misc]
    """Computes the output head for answer positions only: prompts carry no loss.

    The head is a fifth of the embedded model's work, and its logits most of the memory.
    """

    by_sequence = False
    """Whether the model attends by the row's layout, not by a mask that it makes of positions."""
    num_parts = 1
    """A row is computed in so many parts; doubled when memory runs out."""

    def training_step(
        self,
        model: torch.nn.Module,
        inputs: dict[str, PackedRow],
        num_items_in_batch: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Compute the gradients of one row; returns its loss.

        Raises:
            TrainingError: the memory isn't enough for one sequence.
        """
        del num_items_in_batch
        model.train()
        row = inputs["row"]
        while True:
            try:
                return self._add_gradients(model, row)
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
            # Out here, as the error holds on to all that was being computed.
            model.zero_grad()
            free_memory()
            if self.num_parts >= len(row.sequences):
                raise TrainingError(
                    f"memory ran out with one sequence of {row.longest} tokens at a time; {REMEDY}"
                )
            self.num_parts *= 2
            write_line({"event": "memory", "step": self.state.global_step, "parts": self.num_parts})

    def _add_gradients(self, model: torch.nn.Module, row: PackedRow) -> torch.Tensor:
        """Each part counts by its targets, so that the sum is the whole row's mean."""
        loss = torch.zeros((), device=self.args.device)
        for part in row.split(self.num_parts) if self.num_parts > 1 else [row]:
            inputs = self._prepare_inputs(_to_tensors(part))
            share = len(part.targets) / len(row.targets)
            with self.compute_loss_context_manager():
                of_part = self.compute_loss(model, inputs) * share
            self.accelerator.backward(of_part)
            loss += of_part.detach()
        return loss

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        """Compute the mean loss of a row's answers."""
        del num_items_in_batch
        layout = RowLayout(inputs["to_lines"], inputs["to_row"])
        outputs = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            logits_to_keep=inputs["predicting"],
            use_cache=False,
            **({"row_layout": layout} if self.by_sequence else {}),
        )
        loss = answer_loss(outputs.logits[0], inputs["targets"], inputs["weights"])
        return (loss, outputs) if return_outputs else loss

    def floating_point_ops(self, inputs: dict[str, PackedRow]) -> int:
        """Count nothing: it is shown nowhere."""
        del inputs
        return 0


def answer_loss(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    """Return the weighted cross-entropy of a row's answers.

    The sum is divided by the number of targets: by the sum of the weights, a row of light ones
    would move the model as much as any other.

    Args:
        logits: shape (targets, vocabulary).
        targets: token ids, shape (targets,).
        weights: shape (targets,).
    """
    losses = torch.nn.functional.cross_entropy(logits.float(), targets, reduction="none")
    return (losses * weights).mean()


class _Rows(Dataset[PackedRow]):
    def __init__(self, rows: list[PackedRow]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> PackedRow:
        return self._rows[index]


def _only(rows: list[PackedRow]) -> dict[str, PackedRow]:
    [row] = rows
    return {"row": row}


def _to_tensors(row: PackedRow) -> dict[str, torch.Tensor]:
    return {
        "input_ids": torch.tensor([row.input_ids]),
        "position_ids": torch.tensor([row.position_ids]),
        "predicting": torch.tensor(row.predicting),
        "targets": torch.tensor(row.targets),
        "weights": torch.tensor(row.weights),
        **row_layout_of(row)._asdict(),
    }


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
            self._write({"event": "step", "step": state.global_step, "max_steps": state.max_steps})

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        line: dict[str, Any] = {"event": "log", "step": state.global_step}
        self._write(line | {"max_steps": state.max_steps, **(logs or {})})

    def _write(self, line: dict[str, Any]) -> None:
        write_line(line)
        self._written = time.monotonic()
