"""Train one LoRA adapter with transformers' Trainer and PEFT, and publish it.

Knows files only: a configuration, exemplars, a store. It never speaks to a server.
"""

import logging
import math
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import orjson
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.utils.data import Dataset
from transformers import (
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_callback import PrinterCallback

from selfstudy_engine.data.adapters import (
    NUM_PROBES,
    base_fingerprint,
    check_base,
    manifest_probes,
    publish_adapter,
    read_adapter,
)
from selfstudy_engine.data.config import RunConfig, TrainConfig
from selfstudy_engine.data.errors import TrainingError, UsageError
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.train.canary import probe_adapter
from selfstudy_engine.train.examples import (
    IGNORED,
    TokenSequence,
    exemplar_examples,
    pack_epochs,
    sample_examples,
    tokenize,
)
from selfstudy_engine.train.loading import load_base
from selfstudy_engine.train.targets import lora_targets

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """Everything that one training process needs."""

    config: RunConfig
    model: str
    """Folder or hub id of the base model."""
    exemplars: Path | None
    """JSONL file; None means the shipped ones."""
    samples: Path | None
    """Folder of a store; None trains on the exemplars alone."""
    before_round: int | None
    """Only accepted samples of earlier rounds; None means all."""
    output: Path
    """The adapter's folder; must not exist."""
    previous: Path | None = None
    """Adapter to continue from; None starts from the base model."""


def train_adapter(job: TrainingJob) -> dict[str, Any]:
    """Train, probe and publish one adapter.

    Returns:
        The figures that its manifest holds under "training".

    Raises:
        TrainingError: the loss isn't finite, or the adapter didn't move.
        UsageError: a sequence is longer than the model or the settings allow.
    """
    started = time.monotonic()
    config = job.config
    if job.output.exists():
        raise UsageError(f"{job.output} exists already; adapters are never written over")
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(
        job.model, trust_remote_code=config.model.trust_remote_code
    )
    sequences, num_exemplars, num_samples = _load_sequences(job, tokenizer)
    probes_of = [sequence.token_ids for sequence in sequences[:NUM_PROBES]]
    rows = pack_epochs(
        sequences,
        tokens_per_step=config.train.tokens_per_step,
        epochs=config.train.epochs,
        min_steps=config.train.min_steps,
        seed=config.seed,
    )
    model = _load_model(job)
    loss = _fit(model, rows, config.train, config.seed)
    training = {
        "num_exemplars": num_exemplars,
        "num_samples": num_samples,
        "num_tokens": sum(len(row["input_ids"]) for row in rows),
        "steps": len(rows),
        "loss": loss,
        "seconds": 0.0,
    }
    manifest = {
        "name": job.output.name,
        "base_model": job.model,
        "base_fingerprint": base_fingerprint(job.model),
        "canary": manifest_probes(probe_adapter(model, probes_of)),
        "training": training,
    }
    with publish_adapter(job.output, manifest) as folder:
        model.save_pretrained(folder)
        training["seconds"] = time.monotonic() - started
    return training


def _load_sequences(job: TrainingJob, tokenizer: Any) -> tuple[list[TokenSequence], int, int]:
    """Return the exemplars' sequences, then the samples', and the number of each."""
    config = job.config
    exemplars = load_exemplars(job.exemplars)
    num_shown = config.generation.prompt_exemplars
    examples = list(exemplar_examples(exemplars, config.property, num_shown))
    if job.samples is not None:
        accepted = SampleStore(job.samples).accepted(job.before_round)
        examples += sample_examples(accepted, config.property, config.train.label)
    sequences = [tokenize(example, tokenizer) for example in examples]
    limit = config.server.max_model_len
    longest = max(sequences, key=lambda sequence: len(sequence.token_ids))
    if len(longest.token_ids) > limit:
        raise UsageError(
            f"a training sequence has {len(longest.token_ids)} tokens, over the limit of {limit}; "
            "raise --max-model-len or show fewer exemplars"
        )
    return sequences, len(exemplars), len(sequences) - len(exemplars)


def _load_model(job: TrainingJob) -> PeftModel:
    train = job.config.train
    base = load_base(job.model, job.config.model)
    if job.previous is not None:
        check_base(read_adapter(job.previous), job.model)
        return PeftModel.from_pretrained(base, job.previous, is_trainable=True)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=train.rank,
        lora_alpha=train.alpha,
        lora_dropout=train.dropout,
        target_modules=lora_targets(base, train.target_modules),
        bias="none",
    )
    model = get_peft_model(base, lora)
    assert isinstance(model, PeftModel)
    return model


class _AnswerTrainer(Trainer):  # type: ignore[misc]
    """Computes the output head for answer positions only: prompts carry no loss.

    The head is a fifth of the embedded model's work, and its logits most of the memory.
    """

    def compute_loss(
        self,
        model: torch.nn.Module,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | None = None,
    ) -> Any:
        del num_items_in_batch
        labels = inputs["labels"][0]
        predicting = (labels[1:] != IGNORED).nonzero()[:, 0]
        outputs = model(
            input_ids=inputs["input_ids"],
            position_ids=inputs["position_ids"],
            logits_to_keep=predicting,
            use_cache=False,
        )
        loss = torch.nn.functional.cross_entropy(outputs.logits[0].float(), labels[predicting + 1])
        return (loss, outputs) if return_outputs else loss


class _Rows(Dataset[dict[str, torch.Tensor]]):
    def __init__(self, rows: list[dict[str, Any]]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {key: torch.tensor(value) for key, value in self._rows[index].items()}


def _fit(model: PeftModel, rows: list[dict[str, Any]], train: TrainConfig, seed: int) -> float:
    with tempfile.TemporaryDirectory(prefix="selfstudy-") as scratch:  # Trainer wants a folder
        trainer = _make_trainer(model, rows, train, seed=seed, scratch=scratch)
        loss = float(trainer.train().training_loss)
    if not math.isfinite(loss):
        raise TrainingError(
            f"the training loss is {loss}; lower train.learning_rate "
            f"({train.learning_rate:g}) or train in another --dtype"
        )
    return loss


def _make_trainer(
    model: PeftModel, rows: list[dict[str, Any]], train: TrainConfig, *, seed: int, scratch: str
) -> Trainer:
    arguments = TrainingArguments(
        output_dir=scratch,
        max_steps=len(rows),
        per_device_train_batch_size=1,
        learning_rate=train.learning_rate,
        lr_scheduler_type="linear",
        warmup_steps=math.ceil(train.warmup_fraction * len(rows)),
        weight_decay=train.weight_decay,
        logging_steps=max(1, len(rows) // 20),
        logging_nan_inf_filter=False,  # a NaN is an error here, not a zero
        save_strategy="no",
        report_to=[],
        seed=seed,
        bf16=model.dtype == torch.bfloat16,
        fp16=model.dtype == torch.float16,
        use_cpu=not torch.cuda.is_available(),
        dataloader_pin_memory=False,
        disable_tqdm=True,
    )
    trainer = _AnswerTrainer(
        model=model, args=arguments, train_dataset=_Rows(rows), callbacks=[_LogLines()]
    )
    trainer.remove_callback(PrinterCallback)
    return trainer


class _LogLines(TrainerCallback):  # type: ignore[misc]
    """Write the Trainer's logs as JSON lines to stdout."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        line: dict[str, Any] = {"event": "log", "step": state.global_step}
        line |= {"max_steps": state.max_steps, **(logs or {})}
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
        sys.stdout.flush()
