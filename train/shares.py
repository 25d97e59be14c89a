"""A step's sequences -> what each of several processes computes, so that all take one step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.packing import PackedRow, divide, pack_row
from selfstudy_engine.train.processes import processes


@dataclass(frozen=True, slots=True)
class Share:
    """One process's share of an optimiser step."""

    passes: list[PackedRow]
    """Computed one after the other; their gradients add up."""
    num_targets: int
    """Of the whole step, in all processes: what the sum of the losses is divided by."""


@dataclass(frozen=True, slots=True)
class Shares:
    """This process's share of each step; packed when it is asked for: all at once take memory."""

    steps: Sequence[Sequence[TokenSequence]]
    tokens_at_once: int | None
    shared: bool

    def __len__(self) -> int:
        """Return the number of steps."""
        return len(self.steps)

    def __getitem__(self, number: int) -> Share:
        """Pack one step's share."""
        own = processes()
        return share_of(
            self.steps[number],
            own.process_index,
            own.num_processes,
            self.tokens_at_once,
            shared=self.shared,
        )


def share_of(
    sequences: Sequence[TokenSequence],
    process: int,
    num_processes: int,
    tokens_at_once: int | None = None,
    *,
    shared: bool = True,
) -> Share:
    """Return what a process computes of a step.

    All processes have the same number of passes, since a model whose weights are spread over them
    is computed by all at once. One that has nothing left to do computes a sequence without weight.

    Args:
        sequences: the whole step's.
        process: from 0 on.
        num_processes: that divide them.
        tokens_at_once: of a pass, at most; a longer sequence has a pass of its own. None: no limit.
        shared: see `pack_row`.

    Example:
        >>> step = [TokenSequence([7, 8, n], 2) for n in range(3)]
        >>> [[one.targets for one in share_of(step, process, 2).passes] for process in (0, 1)]
        [[[0]], [[1, 2]]]
    """
    of_each = [
        _passes(part, tokens_at_once or sum(map(len, sequences)))
        for part in divide(sequences, num_processes)
    ]
    own, most = of_each[process], max(map(len, of_each))
    weightless = replace(min(sequences, key=len), weight=0.0)
    own = own + [[weightless]] * (most - len(own))
    num_targets = sum(one.num_targets for one in sequences)
    return Share([pack_row(one, shared=shared) for one in own], num_targets)


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
