"""Exemplars and accepted samples -> token sequences -> packed rows for the trainer.

Loss is computed on the answer only. A packed row holds whole sequences end to end; position ids
that start again at 0 keep them from attending to one another.
"""

import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from selfstudy_engine.data.prompts import render_answer, render_prompt
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Exemplar, Sample

IGNORED = -100
"""Label of a token without loss (PyTorch's and transformers' convention)."""


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


@dataclass(frozen=True, slots=True)
class TokenSequence:
    """Token ids of prompt + answer + end-of-text, and how many of them belong to the prompt."""

    token_ids: list[int]
    num_prompt_tokens: int


def exemplar_examples(
    exemplars: Sequence[Exemplar], prop: Property, num_shown: int
) -> Iterator[Example]:
    """Yield one example for each exemplar; its prompt shows up to `num_shown` of the others."""
    for exemplar in exemplars:
        shown = [other for other in exemplars if other is not exemplar][:num_shown]
        prompt = render_prompt(exemplar.molecule, prop, shown)
        yield Example(prompt, render_answer(exemplar.reason, exemplar.molecule.value, prop))


def sample_examples(samples: Iterable[Sample], prop: Property, label: str) -> Iterator[Example]:
    """Yield one example for each accepted sample, with its own prompt.

    Args:
        samples: accepted ones.
        prop: whose template is used.
        label: "measured" trains on the table's value, "predicted" on the model's own.
    """
    for sample in samples:
        value = sample.predicted if label == "predicted" else sample.measured
        if value is not None:
            yield Example(sample.prompt, render_answer(sample.reason, value, prop))


def tokenize(example: Example, tokenizer: Tokenizer) -> TokenSequence:
    """Tokenize prompt and answer apart, as generation does: the prompt's tokens stay the same."""
    prompt = tokenizer.encode(example.prompt, add_special_tokens=True)
    answer = tokenizer.encode(example.answer, add_special_tokens=False)
    return TokenSequence([*prompt, *answer, tokenizer.eos_token_id], len(prompt))


def pack_row(sequences: Sequence[TokenSequence]) -> dict[str, list[int]]:
    """Lay sequences end to end.

    Returns:
        input_ids, labels and position_ids, each as long as the sequences together. The first
        token of each sequence has no label: no token of its own precedes it.
    """
    row: dict[str, list[int]] = {"input_ids": [], "labels": [], "position_ids": []}
    for sequence in sequences:
        ids, num_prompt = sequence.token_ids, max(sequence.num_prompt_tokens, 1)
        row["input_ids"] += ids
        row["labels"] += [IGNORED] * num_prompt + ids[num_prompt:]
        row["position_ids"] += range(len(ids))
    return row


def pack_epochs(
    sequences: Sequence[TokenSequence],
    *,
    tokens_per_step: int,
    epochs: float,
    min_steps: int,
    seed: int,
) -> list[dict[str, Any]]:
    """Pack shuffled passes over the sequences into rows: one row is one optimiser step.

    Args:
        sequences: none longer than it should be; a longer one than a row gets its own row.
        tokens_per_step: a row holds at most that many tokens.
        epochs: passes; the last may be a part.
        min_steps: more passes are added until there are that many rows.
        seed: of the shuffle.

    Raises:
        ValueError: there are no sequences.
    """
    if not sequences:
        raise ValueError("there is nothing to train on: no sequences")
    total = sum(len(sequence.token_ids) for sequence in sequences)
    rows: list[dict[str, Any]] = []
    current: list[TokenSequence] = []
    size = num_seen = 0
    half_row = min(total, tokens_per_step // 2)  # no step on a left-over sequence alone
    for sequence in _shuffled_passes(sequences, seed):
        last_row_is_open = len(rows) + 1 == min_steps and size >= half_row
        if num_seen >= epochs * total and (len(rows) >= min_steps or last_row_is_open):
            break
        length = len(sequence.token_ids)
        if current and size + length > tokens_per_step:
            rows.append(pack_row(current))
            current, size = [], 0
            if num_seen >= epochs * total and len(rows) >= min_steps:
                break
        current.append(sequence)
        size += length
        num_seen += length
    return [*rows, pack_row(current)] if current else rows


def _shuffled_passes(sequences: Sequence[TokenSequence], seed: int) -> Iterator[TokenSequence]:
    generator = random.Random(seed)
    while True:
        yield from generator.sample(sequences, len(sequences))
