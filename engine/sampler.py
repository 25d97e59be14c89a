"""Which molecules a round asks about: the whole pool without replacement, then again.

Deterministic by seed and round, so that a killed round finds its molecules again.
"""

import random
from collections import deque
from collections.abc import Sequence

from selfstudy_engine.data.schema import Molecule


def molecules_of_round(
    pool: Sequence[Molecule], round_index: int, num_molecules: int, seed: int
) -> list[Molecule]:
    """Return the molecules of a round: the next ones in a queue of shuffled passes of the pool.

    Args:
        pool: in a fixed order, at least one molecule.
        round_index: 0, 1, ...
        num_molecules: per round; a molecule comes once a round at most.
        seed: each pass over the pool has its own shuffle.

    >>> pool = [Molecule(f"K{i}", "", "C", 0.0) for i in range(4)]
    >>> seen = [m.molecule_id for r in (0, 1) for m in molecules_of_round(pool, r, 2, seed=0)]
    >>> sorted(seen)
    ['K0', 'K1', 'K2', 'K3']
    """
    num_molecules = min(num_molecules, len(pool))
    queue: deque[Molecule] = deque()
    passes = 0
    chosen: dict[str, Molecule] = {}
    for _ in range(round_index + 1):
        chosen, deferred = {}, []
        while len(chosen) < num_molecules:
            if not queue:
                order = random.Random(f"{seed}:{passes}").sample(range(len(pool)), len(pool))
                queue.extend(pool[index] for index in order)
                passes += 1
            molecule = queue.popleft()
            if molecule.molecule_id in chosen:  # of the next pass already: its turn comes later
                deferred.append(molecule)
            else:
                chosen[molecule.molecule_id] = molecule
        queue.extendleft(reversed(deferred))
    return list(chosen.values())


def chance_acceptance(values: Sequence[float], tolerance: float) -> float:
    """Return the share of values that the best constant guess comes within `tolerance` of.

    What a guesser that never sees the molecule would get accepted; acceptance is held against it.

    >>> chance_acceptance([0.0, 10.0, 20.0, 100.0], 10.0)
    0.75
    """
    ordered = sorted(values)
    best = left = 0
    for right, value in enumerate(ordered):
        while value - ordered[left] > 2 * tolerance:
            left += 1
        best = max(best, right - left + 1)
    return best / len(ordered)
