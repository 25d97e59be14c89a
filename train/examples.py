"""Exemplars and accepted samples -> examples -> token sequences, which `packing` lays into rows."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from selfstudy_engine.data.arithmetic import read_arithmetic
from selfstudy_engine.data.prompts import Template, render_answer, render_prompt
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Exemplar, Sample


class Tokenizer(Protocol):
    """The part of a transformers tokenizer that is used here."""

    eos_token_id: int

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        """Return token ids."""


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt and the answer that the model is trained to give."""

    prompt: str
    answer: str
    weight: float = 1.0
    """Of its loss."""


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids of prompt + answer + end-of-text, and how many of them belong to the prompt."""

    token_ids: list[int]
    num_prompt_tokens: int
    weight: float = 1.0
    """Of the loss on its answer."""

    @property
    def prompt_ids(self) -> tuple[int, ...]:
        """The prompt's tokens: what sequences of one molecule have in common."""
        return tuple(self.token_ids[: self.num_prompt_tokens])

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)


def exemplar_examples(
    exemplars: Sequence[Exemplar], prop: Property, num_shown: int, template: Template = "named"
) -> Iterator[Example]:
    """Yield one example for each exemplar; its prompt shows up to `num_shown` of the others."""
    for exemplar in exemplars:
        shown = [other for other in exemplars if other is not exemplar][:num_shown]
        prompt = render_prompt(exemplar.molecule, prop, shown, template)
        value = exemplar.molecule.value
        yield Example(prompt, render_answer(exemplar.reason, value, prop, template))


def sample_examples(
    samples: Iterable[Sample],
    prop: Property,
    label: str,
    template: Template = "named",
    hinted_weight: float = 1.0,
) -> Iterator[Example]:
    """Yield one example for each accepted sample, with its own prompt.

    A hinted sample's prompt is the ordinary one: its reason was given in sight of the value, but
    is learned without (STaR, Zelikman et al. 2022).

    Args:
        samples: accepted ones.
        prop: whose template is used.
        label: "measured" trains on the table's value, "predicted" on the model's own, "checked" on
            the table's unless the reason's arithmetic comes to another value.
        template: that their prompts were made with.
        hinted_weight: of the loss on hinted samples.
    """
    for sample in samples:
        value = _label_value(sample, prop, label)
        if value is not None:
            answer = render_answer(sample.reason, value, prop, template)
            yield Example(sample.prompt, answer, hinted_weight if sample.hinted else 1.0)


def _label_value(sample: Sample, prop: Property, label: str) -> float | None:
    if label == "predicted":
        return sample.predicted
    if label == "checked":
        arithmetic = read_arithmetic(sample.reason, prop)
        if arithmetic and not arithmetic.reaches(sample.measured):
            return sample.predicted
    return sample.measured


def tokenize(example: Example, tokenizer: Tokenizer) -> TokenSequence:
    """Tokenize prompt and answer apart, as generation does: the prompt's tokens stay the same."""
    prompt = tokenizer.encode(example.prompt, add_special_tokens=True)
    answer = tokenizer.encode(example.answer, add_special_tokens=False)
    token_ids = [*prompt, *answer, tokenizer.eos_token_id]
    return TokenSequence(token_ids, len(prompt), example.weight)
