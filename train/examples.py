"""Exemplars and accepted samples -> examples -> token sequences, which `packing` lays into rows."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from selfstudy_engine.data.arithmetic import read_arithmetic
from selfstudy_engine.data.derangement import derange
from selfstudy_engine.data.prompts import Template, render_prompt, render_reason, render_value
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

    molecule_id: str
    prompt: str
    reason: str
    """Empty for a direct answer."""
    value_line: str
    """What follows the reason, from the end of its line on."""
    weight: float = 1.0
    """Of its loss."""

    @property
    def answer(self) -> str:
        """The text that follows the prompt."""
        return render_reason(self.reason) + self.value_line


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

    @property
    def num_targets(self) -> int:
        """Tokens that have a loss; the first never does, as none of its own precedes it."""
        return len(self.token_ids) - max(self.num_prompt_tokens, 1)

    def __len__(self) -> int:
        """Return the number of tokens."""
        return len(self.token_ids)


def exemplar_examples(
    exemplars: Sequence[Exemplar], prop: Property, num_shown: int, template: Template = "named"
) -> Iterator[Example]:
    """Yield one example for each exemplar; its prompt shows up to `num_shown` of the others.

    One molecule may be explained twice: its prompt doesn't show its value.
    """
    for exemplar in exemplars:
        own = exemplar.molecule.molecule_id
        shown = [other for other in exemplars if other.molecule.molecule_id != own][:num_shown]
        prompt = render_prompt(exemplar.molecule, prop, shown, template)
        value_line = render_value(exemplar.molecule.value, prop, template)
        yield Example(exemplar.molecule.molecule_id, prompt, exemplar.reason, value_line)


def sample_examples(
    samples: Iterable[Sample],
    prop: Property,
    label: str,
    template: Template = "named",
    weight_of: Callable[[Sample], float] = lambda sample: 1.0,
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
        weight_of: of the loss on a sample.
    """
    for sample in samples:
        value = _label_value(sample, prop, label)
        if value is not None:
            value_line = render_value(value, prop, template)
            yield Example(
                sample.molecule_id, sample.prompt, sample.reason, value_line, weight_of(sample)
            )


def _label_value(sample: Sample, prop: Property, label: str) -> float | None:
    if label == "predicted":
        return sample.predicted
    if label == "checked":
        arithmetic = read_arithmetic(sample.reason, prop)
        if arithmetic and not arithmetic.reaches(sample.measured):
            return sample.predicted
    return sample.measured


def exchange_reasons(examples: Sequence[Example], reasons: str, seed: int) -> list[Example]:
    """Return the examples with the reasons that are to be trained on; prompts and values stay.

    Args:
        examples: all that are trained on.
        reasons: "keep" changes nothing, "drop" leaves the value's line alone, "shuffle" gives each
            example the reason of another molecule, and each reason to one example.
        seed: of the shuffling.

    Raises:
        UsageError: more than half of the examples are of one molecule, so they can't be shuffled.
    """
    if reasons == "drop":
        return [replace(example, reason="") for example in examples]
    if reasons == "shuffle":
        givers = derange([example.molecule_id for example in examples], seed)
        return [
            replace(example, reason=examples[giver].reason)
            for example, giver in zip(examples, givers, strict=True)
        ]
    return list(examples)


def tokenize(example: Example, tokenizer: Tokenizer) -> TokenSequence:
    """Tokenize prompt and answer apart, as generation does: the prompt's tokens stay the same."""
    prompt = tokenizer.encode(example.prompt, add_special_tokens=True)
    answer = tokenizer.encode(example.answer, add_special_tokens=False)
    token_ids = [*prompt, *answer, tokenizer.eos_token_id]
    return TokenSequence(token_ids, len(prompt), example.weight)
