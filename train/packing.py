"""Token sequences -> packed rows: one row is one optimiser step.

A row is a tree: what sequences have in common at their beginning (the prompt of several answers,
the exemplars that all prompts show) stands in it once, and is computed once. Loss is on answers
only.
"""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from selfstudy_engine.train.examples import TokenSequence

_LOOKAHEAD = 32
"""Sequences among which the one that fills a row best is chosen."""


@dataclass(frozen=True, slots=True)
class PackedRow:
    """Sequences in one row; indices are positions in `input_ids`.

    Example of two answers (c, d) to one prompt (a b):
        >>> row = pack_row([TokenSequence([7, 8, 1], 2), TokenSequence([7, 8, 2], 2)])
        >>> row.input_ids, row.position_ids, row.paths
        ([7, 8, 1, 2], [0, 1, 2, 2], [[0, 1, 2], [0, 1, 3]])
        >>> row.predicting, row.targets
        ([1, 1], [1, 2])
    """

    sequences: Sequence[TokenSequence]
    shared: bool
    """Whether common beginnings stand in it once."""
    input_ids: list[int]
    position_ids: list[int]
    """Each token's place in its sequences."""
    first_path: list[int]
    """The first sequence that each token belongs to."""
    paths: list[list[int]]
    """For each sequence, where its tokens stand."""
    predicting: list[int]
    """Where the logits are needed: the token before each token of an answer."""
    targets: list[int]
    """What comes next there."""
    weights: list[float]
    """Of the loss on each target."""

    @property
    def num_tokens(self) -> int:
        """Tokens of the sequences, those in common counted for each."""
        return sum(map(len, self.sequences))

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(map(len, self.sequences))

    def split(self, num_parts: int) -> "list[PackedRow]":
        """Return its sequences in up to `num_parts` rows of about as many tokens each."""
        parts = divide(self.sequences, num_parts)
        return [pack_row(part, shared=self.shared) for part in parts if part]


def divide(sequences: Sequence[TokenSequence], num_parts: int) -> list[list[TokenSequence]]:
    """Divide sequences into parts of about as many tokens each; neighbours stay together.

    Where there are few of them, or some are long, parts may be empty.

    Example:
        >>> [[len(one) for one in part] for part in divide(
        ...     [TokenSequence([7] * length, 1) for length in (40, 30, 30, 40)], 2)]
        [[40, 30], [30, 40]]
    """
    parts: list[list[TokenSequence]] = [[] for _ in range(num_parts)]
    total, before = sum(map(len, sequences)), 0
    for sequence in sequences:
        middle = before + len(sequence) / 2
        parts[int(num_parts * middle / total)].append(sequence)
        before += len(sequence)
    return parts


def pack_row(sequences: Sequence[TokenSequence], *, shared: bool = True) -> PackedRow:
    """Lay sequences into one row.

    Args:
        sequences: at least one.
        shared: keep common beginnings once; otherwise the sequences lie end to end.
    """
    row = PackedRow(sequences, shared, [], [], [], [], [], [], [])
    nodes: dict[tuple[int, int], int] = {}  # (place of the token before, token) -> place
    for number, sequence in enumerate(sequences):
        path: list[int] = []
        for depth, token in enumerate(sequence.token_ids):
            before = path[-1] if path else -1
            place = nodes.get((before, token)) if shared else None
            if place is None:
                place = len(row.input_ids)
                nodes[before, token] = place
                row.input_ids.append(token)
                row.position_ids.append(depth)
                row.first_path.append(number)
            path.append(place)
        start = len(sequence) - sequence.num_targets
        row.paths.append(path)
        row.predicting.extend(path[start - 1 : -1])
        row.targets.extend(sequence.token_ids[start:])
        row.weights.extend([sequence.weight] * sequence.num_targets)
    return row


def plan_epochs(
    sequences: Sequence[TokenSequence],
    *,
    tokens_per_step: int,
    epochs: float,
    min_steps: int,
    seed: int,
) -> list[list[TokenSequence]]:
    """Assign shuffled passes over the sequences to rows, which are packed when their step comes.

    Args:
        sequences: none longer than it should be; a longer one than a row gets its own row.
        tokens_per_step: a row's sequences have at most that many tokens together.
        epochs: passes; the last may be a part.
        min_steps: more passes are added until there are that many rows.
        seed: of the shuffle.

    Raises:
        ValueError: there are no sequences.
    """
    if not sequences:
        raise ValueError("there is nothing to train on: no sequences")
    total = sum(map(len, sequences))
    half_row = min(total, tokens_per_step // 2)  # no step on a left-over sequence alone
    supply = _Supply(sequences, seed)
    rows: list[list[TokenSequence]] = []
    num_seen = 0
    while num_seen < epochs * total or len(rows) < min_steps:
        current = [supply.take()]
        size = len(current[0])
        wanted = half_row if len(rows) < min_steps else 0
        while num_seen + size < epochs * total or len(rows) + 1 < min_steps or size < wanted:
            following = supply.take_fitting(tokens_per_step - size, current[-1])
            if following is None:
                break
            current.append(following)
            size += len(following)
        rows.append(current)
        num_seen += size
    return rows


class _Supply:
    """Shuffled passes over the sequences, those with one prompt side by side."""

    def __init__(self, sequences: Sequence[TokenSequence], seed: int) -> None:
        in_order = sorted(sequences, key=lambda sequence: sequence.prompt_ids)
        self._groups = [list(group) for _, group in groupby(in_order, lambda s: s.prompt_ids)]
        self._passes = self._shuffled(random.Random(seed))
        self._left: list[TokenSequence] = []
        """Of this pass; the next one is at the end."""

    def _shuffled(self, generator: random.Random) -> Iterator[list[TokenSequence]]:
        while True:
            groups = generator.sample(self._groups, len(self._groups))
            yield [one for group in groups for one in generator.sample(group, len(group))]

    def take(self) -> TokenSequence:
        """Return the next sequence."""
        if not self._left:
            self._left = next(self._passes)
        return self._left.pop()

    def take_fitting(self, room: int, before: TokenSequence) -> TokenSequence | None:
        """Return one of the next with at most `room` tokens, or None.

        Another answer to the same prompt is preferred, then the longest. No pass is begun before
        the one before it is used up.
        """
        if not self._left:
            self._left = next(self._passes)
        start = max(len(self._left) - _LOOKAHEAD, 0)
        fitting = [n for n in range(start, len(self._left)) if len(self._left[n]) <= room]
        if not fitting:
            return None
        return self._left.pop(max(fitting, key=lambda n: self._rank(n, before)))

    def _rank(self, number: int, before: TokenSequence) -> tuple[bool, int]:
        sequence = self._left[number]
        return sequence.prompt_ids == before.prompt_ids, len(sequence)
