"""Settings of the training of one adapter."""

from typing import Literal

from pydantic import Field

from selfstudy_engine.data.config_section import Section


class TrainConfig(Section):
    """How an adapter is trained. Defaults were measured: docs/decisions.md, "Training defaults"."""

    rank: int = Field(default=16, ge=1, le=512)
    """LoRA rank r."""
    alpha: float = Field(default=32, gt=0)
    """LoRA alpha; the adapter's product is scaled by alpha / rank."""
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout on the adapter's input."""
    target_modules: str | list[str] = "all-linear"
    """Linear layers that get an adapter: "all-linear" or a list of names."""
    learning_rate: float = Field(default=5e-4, gt=0, le=1)
    """Peak learning rate of AdamW. The default was measured on the embedded model, 576 wide; a
    Llama 4,096 wide wants less (3e-4)."""
    epochs: float = Field(default=2, gt=0)
    """Passes over the accepted samples."""
    min_steps: int = Field(default=40, ge=1)
    """Optimiser steps at least, however few samples there are: form is learned in steps."""
    tokens_per_step: int = Field(default=256, ge=64)
    """Tokens per optimiser step (packed sequences, no padding)."""
    warmup_fraction: float = Field(default=0.1, ge=0, lt=1)
    """Fraction of the steps over which the learning rate rises."""
    weight_decay: float = Field(default=0.0, ge=0)
    """AdamW's weight decay."""
    label: Literal["measured", "predicted", "checked"] = "measured"
    """Value that accepted samples are trained on: the table's, the model's own, or the table's
    unless the reason's arithmetic comes to another."""
    sample_weights: Literal["equal", "balanced"] = "equal"
    """Weight of the loss on accepted samples: equal, or balanced, so that each band of values
    counts as it was asked about, however rarely answers are accepted there."""
    hinted_weight: float = Field(default=0.5, gt=0, le=1)
    """Weight of the loss on reasons that were given in sight of the value."""
    reasons: Literal["keep", "drop", "shuffle"] = "keep"
    """Reasons that are trained on: each text's own, none (a direct answer), or another molecule's;
    the last two are for comparison."""
    quantization: Literal["none", "nf4"] = "none"
    """Weights of the base model while an adapter is trained: nf4 has 4 bits (QLoRA, needs
    bitsandbytes). The whole ones are served, so the adapter fits them a little less."""
    start_from: Literal["base", "previous"] = "base"
    """Weights that each round's training starts from."""
    timeout_seconds: float = Field(default=24 * 3600, gt=0)
    """Longest training run, in seconds."""
    stall_seconds: float = Field(default=1800, gt=0)
    """Longest time that a training may show no progress, loading the model included."""
