"""Which molecules a round asks about, from the pool and what earlier rounds made of them.

Deterministic by seed, and derived from the store: a killed round finds its molecules again.
"""

import hashlib
import random
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from operator import itemgetter
from typing import NamedTuple

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.store import SampleStore

PRIOR_TRIES = 2.0
"""Weight of the run's own acceptance beside a molecule's, in completions."""
LEAST_SHARE = 0.25
"""A molecule that always fails is asked again this often, against one that always succeeds in the
usual time."""


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a molecule so far."""

    num_rounds: int = 0
    """Rounds that asked about it."""
    num_completions: int = 0
    num_accepted: int = 0
    num_tokens: int = 0
    """Output tokens of its completions, which their time goes with."""

    def __add__(self, other: "Tally") -> "Tally":
        """Add up two parts of a run."""
        return Tally(
            self.num_rounds + other.num_rounds,
            self.num_completions + other.num_completions,
            self.num_accepted + other.num_accepted,
            self.num_tokens + other.num_tokens,
        )


class RoundTally(NamedTuple):
    """What a round made of its molecules, by their ids."""

    ordinary: dict[str, Tally]
    """By ordinary samples."""
    hinted: dict[str, Tally]
    accepted: dict[str, Molecule]
    """Those with an accepted sample, of either kind."""


def tally_round(store: SampleStore, round_index: int) -> RoundTally:
    """Return what a round made of its molecules."""
    counts: dict[tuple[str, bool], list[int]] = {}
    molecules: dict[str, Molecule] = {}
    columns = ("hinted", "num_output_tokens", "accepted", "molecule_id", "name", "smiles")
    for hinted, num_tokens, accepted, *row in store.rows(round_index, *columns, "measured"):
        count = counts.setdefault((row[0], hinted), [0, 0, 0])
        count[0] += 1
        count[1] += accepted
        count[2] += num_tokens
        if accepted:
            molecules[row[0]] = Molecule(*row)
    ordinary, hinted = (
        {key: Tally(1, *count) for (key, kind), count in counts.items() if kind is wanted}
        for wanted in (False, True)
    )
    return RoundTally(ordinary, hinted, molecules)


def plan_round(
    pool: Sequence[Molecule],
    tallies: Mapping[str, Tally],
    begun: Set[str],
    round_index: int,
    config: RunConfig,
    *,
    num_reserved: int = 0,
) -> list[Molecule]:
    """Return the molecules of a round, each once.

    balanced: molecules that weren't asked about yet come first, so the whole pool comes before
    any repeat. After that comes who has waited longest for its share: the share follows the
    accepted samples per second expected of a molecule, and is never 0. Both are spread evenly over
    the bands of values. A molecule with as many accepted texts as may be is left alone.

    original: the same first molecules of the pool in every round, without any limit.

    Args:
        pool: in a fixed order.
        tallies: of the rounds before this one.
        begun: molecules that this round has samples of already; they stay in it.
        round_index: 0, 1, ...
        config: of the run.
        num_reserved: molecules of the batch that are asked in another way.

    >>> pool = [Molecule(f"K{i}", "", "C", float(i)) for i in range(4)]
    >>> config = RunConfig(generation={"batch": 4, "samples_per_molecule": 2})
    >>> first = plan_round(pool, {}, set(), 0, config)
    >>> tallies = {molecule.molecule_id: Tally(1, 2, 0) for molecule in first}
    >>> second = plan_round(pool, tallies, set(), 1, config)
    >>> sorted(molecule.molecule_id for molecule in (*first, *second))
    ['K0', 'K1', 'K2', 'K3']
    """
    generation, sampler = config.generation, config.sampler
    num_wanted = generation.batch // generation.samples_per_molecule - num_reserved
    if sampler.strategy == "original":
        return list(pool[:num_wanted])
    limit = config.verdict.max_accepted_per_molecule or float("inf")
    left = [
        molecule
        for molecule in pool
        if molecule.molecule_id in begun
        or tallies.get(molecule.molecule_id, Tally()).num_accepted < limit
    ]
    ranked = _rank(left, tallies, config.seed)
    bands = _bands(pool, sampler.num_value_bands)
    shuffle = f"{config.seed}:{round_index}"
    untried = [molecule for molecule in ranked if molecule.molecule_id not in tallies]
    tried = [molecule for molecule in ranked if molecule.molecule_id in tallies]
    ordered = [m for group in (untried, tried) for m in _spread(group, bands, shuffle)]
    chosen = ordered[:num_wanted]
    late = [molecule for molecule in ordered[num_wanted:] if molecule.molecule_id in begun]
    fresh = [molecule for molecule in chosen if molecule.molecule_id not in begun]
    given_up = {molecule.molecule_id for molecule in fresh[len(fresh) - len(late) :]}
    return [molecule for molecule in chosen if molecule.molecule_id not in given_up] + late


def _rank(molecules: Sequence[Molecule], tallies: Mapping[str, Tally], seed: int) -> list[Molecule]:
    """Order molecules by who has waited longest for its share; a shuffle decides among equals."""
    total = sum(tallies.values(), Tally())
    acceptance = total.num_accepted / total.num_completions if total.num_completions else 0.5
    length = total.num_tokens / total.num_completions if total.num_tokens else 1.0

    def waited(molecule: Molecule) -> tuple[float, bytes]:
        tally = tallies.get(molecule.molecule_id, Tally())
        num_tries = tally.num_completions + PRIOR_TRIES
        accepted = (tally.num_accepted + acceptance * PRIOR_TRIES) / num_tries
        time = (tally.num_tokens / length + PRIOR_TRIES) / num_tries if total.num_tokens else 1.0
        share = LEAST_SHARE + (1 - LEAST_SHARE) * accepted / time
        key = f"{seed}:{tally.num_rounds}:{molecule.molecule_id}".encode()
        return tally.num_rounds / share, hashlib.sha256(key).digest()

    return sorted(molecules, key=waited)


def _bands(pool: Sequence[Molecule], num_bands: int) -> dict[str, int]:
    """Return the band of values of each molecule: quantiles of the pool."""
    ordered = sorted(pool, key=lambda molecule: (molecule.value, molecule.molecule_id))
    return {m.molecule_id: rank * num_bands // len(ordered) for rank, m in enumerate(ordered)}


def _spread(
    molecules: Sequence[Molecule], bands: Mapping[str, int], shuffle: str
) -> list[Molecule]:
    """Order molecules so that each beginning of the list has every band's share of them.

    Each band starts at a random place (systematic sampling), so that none gains by rounding.
    """
    members: dict[int, list[Molecule]] = {}
    for molecule in molecules:
        members.setdefault(bands[molecule.molecule_id], []).append(molecule)
    places = []
    for band, same in sorted(members.items()):
        start = random.Random(f"{shuffle}:{band}").random()
        places += [((number + start) / len(same), m) for number, m in enumerate(same)]
    return [molecule for _, molecule in sorted(places, key=itemgetter(0))]


def chance_acceptance(values: Sequence[float], tolerance: float) -> float:
    """Return the share of values that the best constant guess comes within `tolerance` of.

    No guesser that never sees the molecule gets more accepted; acceptance is held against it.

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
