"""Train one LoRA adapter with transformers' Trainer and PEFT, and publish it.

Knows files only: a configuration, exemplars, a store. It never speaks to a server.
"""

import os
import re
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import SafetensorError
from transformers import AutoTokenizer

from selfstudy_engine.data.adapters import (
    NUM_PROBES,
    WEIGHTS,
    base_fingerprint,
    check_base,
    manifest_probes,
    publish_adapter,
    read_adapter,
)
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.exemplars import load_exemplars, shipped_exemplars
from selfstudy_engine.data.store import SamplesDigest, SampleStore
from selfstudy_engine.train.canary import probe_adapter
from selfstudy_engine.train.examples import (
    Example,
    TokenSequence,
    exchange_reasons,
    exemplar_examples,
    sample_examples,
    tokenize,
)
from selfstudy_engine.train.fitting import fit
from selfstudy_engine.train.loading import load_base, load_whole_base
from selfstudy_engine.train.processes import processes, whole_weights
from selfstudy_engine.train.sample_weights import sample_weights
from selfstudy_engine.train.targets import lora_targets


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
    """Train, probe and publish one adapter; of several processes, the first publishes it.

    Returns:
        The figures that its manifest holds under "training".

    Raises:
        TrainingError: the loss isn't finite, or the adapter didn't move.
        UsageError: a sequence is longer than the model or the settings allow.
        OSError: the adapter can't be written; nothing of it is left.
    """
    started = time.monotonic()
    config = job.config
    if job.output.exists():
        raise UsageError(f"{job.output} exists already; adapters are never written over")
    torch.manual_seed(config.seed)
    tokenizer = AutoTokenizer.from_pretrained(
        job.model, trust_remote_code=config.model.trust_remote_code
    )
    examples, num_exemplars, samples_sha256 = _load_examples(job)
    # The exemplars as they are, whatever is trained on: the value's line alone may be too short.
    probes_of = [tokenize(example, tokenizer).token_ids for example in examples[:NUM_PROBES]]
    trained_on = exchange_reasons(examples, config.train.reasons, config.seed)
    sequences = _tokenize(trained_on, tokenizer, config.server.max_model_len)
    model = load_model(config, job.model, job.previous)
    done = fit(model, sequences, config.train, config.seed, config.devices.tokens_per_device)
    training: dict[str, Any] = {
        "num_exemplars": num_exemplars,
        "num_samples": len(examples) - num_exemplars,
        "label": config.train.label,
        "sample_weights": config.train.sample_weights,
        "reasons": config.train.reasons,
        "quantization": config.train.quantization,
        "num_tokens": done.num_tokens,
        "steps": done.steps,
        "tokens_per_second": done.num_tokens / done.seconds,
        "loss": done.loss,
        "seconds": 0.0,
    }
    if samples_sha256 is not None:
        training["samples_sha256"] = samples_sha256
    manifest: dict[str, Any] = {
        "name": job.output.name,
        "base_model": job.model,
        "base_fingerprint": base_fingerprint(job.model),
        "training": training,
    }
    quantized = config.train.quantization != "none"
    if not quantized:  # by all processes, as a model may be spread over them
        manifest["canary"] = manifest_probes(probe_adapter(model, probes_of))
    weights = whole_weights(model)
    if processes().is_main_process:
        with publish_adapter(job.output, manifest) as folder:
            _save(model, weights, folder)
            if quantized:
                served = PeftModel.from_pretrained(load_whole_base(job.model, config.model), folder)
                manifest["canary"] = manifest_probes(probe_adapter(served, probes_of))
            training["seconds"] = time.monotonic() - started
    return training


def _save(model: PeftModel, weights: dict[str, Any] | None, folder: Path) -> None:
    """Write PEFT's files; a full disk is an OSError, which safetensors hides in a text."""
    try:
        model.save_pretrained(folder, state_dict=weights)
    except SafetensorError as error:
        found = re.search(r"os error ([0-9]+)", str(error))
        if not found:
            raise
        number = int(found[1])
        raise OSError(number, os.strerror(number), str(folder / WEIGHTS)) from error


def _load_examples(job: TrainingJob) -> tuple[list[Example], int, str | None]:
    """Return the exemplars' examples, then the samples'; how many exemplars, which samples."""
    config = job.config
    prop, generation = config.property, config.generation
    exemplars = load_exemplars(job.exemplars) if job.exemplars else shipped_exemplars(prop)
    num_shown, template = generation.prompt_exemplars, generation.template
    examples = list(exemplar_examples(exemplars, prop, num_shown, template))
    if job.samples is None:
        return examples, len(exemplars), None
    store, digest = SampleStore(job.samples), SamplesDigest()
    accepted = digest.of(store.accepted(job.before_round))
    weight_of = sample_weights(store, job.before_round, config)
    examples += sample_examples(accepted, prop, config.train.label, template, weight_of)
    return examples, len(exemplars), digest.hexdigest()


def _tokenize(examples: list[Example], tokenizer: Any, limit: int) -> list[TokenSequence]:
    sequences = [tokenize(example, tokenizer) for example in examples]
    longest = max(sequences, key=lambda sequence: len(sequence.token_ids))
    if len(longest.token_ids) > limit:
        raise UsageError(
            f"a training sequence has {len(longest.token_ids)} tokens, over the limit of {limit}; "
            "raise --max-model-len or show fewer exemplars"
        )
    return sequences


def load_model(config: RunConfig, model: str, previous: Path | None = None) -> PeftModel:
    """Load a base model with a new adapter, or with one to continue from.

    Args:
        config: dtype, and the adapter's shape.
        model: folder or hub id.
        previous: folder of an adapter of the same base model.

    Raises:
        AdapterError: that adapter is damaged, or another base model's.
    """
    train = config.train
    base = load_base(model, config.model, four_bits=train.quantization == "nf4")
    if previous is not None:
        check_base(read_adapter(previous), model)
        return PeftModel.from_pretrained(base, previous, is_trainable=True)
    lora = LoraConfig(
        task_type="CAUSAL_LM",
        r=train.rank,
        lora_alpha=train.alpha,
        lora_dropout=train.dropout,
        target_modules=lora_targets(base, train.target_modules),
        bias="none",
    )
    with_adapter = get_peft_model(base, lora)
    assert isinstance(with_adapter, PeftModel)
    return with_adapter
