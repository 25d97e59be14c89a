"""A packed row -> what each of several processes computes of it, so that all take one step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.packing import PackedRow, divide, pack_row


@dataclass(frozen=True, slots=True)
class Share:
    """One process's share of an optimiser step."""

    passes: list[PackedRow]
    """Computed one after the other; their gradients add up."""
    num_targets: int
    """Of the whole step, in all processes: what the sum of the losses is divided by."""


def share_of(
    row: PackedRow, process: int, num_processes: int, tokens_at_once: int | None = None
) -> Share:
    """Return what a process computes of a row.

    All processes have the same number of passes, since a model whose weights are spread over them
    is computed by all at once. One that has nothing left to do computes a sequence without weight.

    Args:
        row: the whole step.
        process: from 0 on.
        num_processes: that divide the row.
        tokens_at_once: of a pass, at most; a longer sequence has a pass of its own. None: no limit.

    Example:
        >>> row = pack_row([TokenSequence([7, 8, n], 2) for n in range(3)])
        >>> [[one.targets for one in share_of(row, process, 2).passes] for process in (0, 1)]
        [[[0]], [[1, 2]]]
    """
    if num_processes == 1 and tokens_at_once is None:
        return Share([row], len(row.targets))
    of_each = [
        _passes(sequences, tokens_at_once or row.num_tokens)
        for sequences in divide(row.sequences, num_processes)
    ]
    own, most = of_each[process], max(map(len, of_each))
    weightless = replace(min(row.sequences, key=len), weight=0.0)
    own = own + [[weightless]] * (most - len(own))
    return Share([pack_row(one, shared=row.shared) for one in own], len(row.targets))


def _passes(sequences: Sequence[TokenSequence], tokens_at_once: int) -> list[list[TokenSequence]]:
    passes: list[list[TokenSequence]] = []
    room = 0
    for sequence in sequences:
        if not passes or len(sequence) > room:
            passes.append([])
            room = tokens_at_once
        passes[-1].append(sequence)
        room -= len(sequence)
    return passes
