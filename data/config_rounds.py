"""Settings of a round: which molecules it asks about, how, and what is accepted of the answers."""

from typing import Literal, Self

from pydantic import Field, model_validator

from selfstudy_engine.data.config_section import Section
from selfstudy_engine.data.findings import REJECT_BY_DEFAULT, Finding
from selfstudy_engine.data.prompts import Template


class GenerationConfig(Section):
    """How the loop asks the model."""

    batch: int = Field(default=256, ge=1)
    """Completions per round."""
    samples_per_molecule: int = Field(default=2, ge=1, le=128)
    """Completions per molecule (n of one request)."""
    temperature: float = Field(default=0.7, ge=0, le=2)
    """Sampling temperature; test-set answers are greedy, unless there are several of each."""
    top_p: float = Field(default=1.0, gt=0, le=1)
    """Nucleus sampling: the probability mass that is sampled from."""
    max_tokens: int = Field(default=64, ge=8)
    """Longest completion, in tokens."""
    template: Template = "facts"
    """Form of prompts, in training too; facts adds a line that RDKit computes."""
    prompt_exemplars: int = Field(default=0, ge=0)
    """Exemplars shown in each prompt, the first of them; the adapter knows the form without."""
    concurrency: int | None = Field(default=None, ge=1)
    """Completions in flight at once, at each server [default: as many as its metrics allow]."""
    request_timeout_seconds: float = Field(default=600, gt=0)
    """Longest wait for one answer, in seconds."""

    @model_validator(mode="after")
    def _batch_is_whole(self) -> Self:
        if self.batch % self.samples_per_molecule:
            raise ValueError(
                f"batch ({self.batch}) must be a multiple of samples_per_molecule "
                f"({self.samples_per_molecule}); try {self.nearest_batch}"
            )
        return self

    @property
    def nearest_batch(self) -> int:
        """The next multiple of samples_per_molecule."""
        return -(-self.batch // self.samples_per_molecule) * self.samples_per_molecule


class SamplerConfig(Section):
    """Which molecules a round asks about."""

    strategy: Literal["balanced", "original"] = "balanced"
    """balanced: the whole pool, evenly over its values; original: the same molecules each round."""
    num_value_bands: int = Field(default=8, ge=1)
    """Quantiles of the measured values that a round asks about equally often."""


class VerdictConfig(Section):
    """How answers are judged."""

    reject: list[Finding] = Field(default=list(REJECT_BY_DEFAULT))
    """Findings that reject an answer; the others are only recorded."""
    max_accepted_per_molecule: int = Field(default=4, ge=0)
    """Texts that may be accepted for one molecule over the whole run; 0 sets no limit."""
    similarity: float = Field(default=0.8, gt=0, le=1)
    """Share of four-word sequences from which on two reasons count as near-duplicates."""
    tolerance_rule: Literal["fixed", "quantile"] = "fixed"
    """fixed: the property's tolerance; quantile: a quantile of the last round's errors."""
    tolerance_quantile: float = Field(default=0.3, gt=0, lt=1)
    """Quantile rule: share of the last round's answers that lie within this round's tolerance."""
    min_tolerance: float = Field(default=0.0, ge=0)
    """Quantile rule: smallest tolerance, in the property's unit; the largest is the property's."""

    @model_validator(mode="after")
    def _without_a_value_nothing_is_accepted(self) -> Self:
        if "no value" not in self.reject:
            raise ValueError('reject must have "no value": such an answer has no error either')
        return self


class RationalizeConfig(Section):
    """Molecules that fail are shown their value, and asked for a reason."""

    enabled: bool = False
    """Ask for reasons in sight of the value, about molecules of which no answer was accepted."""
    fraction: float = Field(default=0.1, gt=0, lt=1)
    """Share of a round's completions that may be such, at most."""
    after_rounds: int = Field(default=1, ge=1)
    """Rounds that asked about a molecule in vain before it is shown its value."""
    prompt_exemplars: int = Field(default=0, ge=0)
    """Exemplars shown in each prompt that states the value."""
