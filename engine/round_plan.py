"""Which molecules a round asks about, and which ones measure its adapter; read from the store."""

import random
import threading
from dataclasses import dataclass, field

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.splits import Split
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.rationalize import choose_hinted
from selfstudy_engine.engine.sampler import RoundTally, Tally, plan_round, tally_round


@dataclass(frozen=True, slots=True)
class Plan:
    """Molecules of a round: no one is asked in both ways, so that a sample's key is its own."""

    ordinary: list[Molecule]
    hinted: list[Molecule]
    """Those that are shown their value."""

    @property
    def num_molecules(self) -> int:
        """All of them."""
        return len(self.ordinary) + len(self.hinted)


@dataclass(slots=True)
class _Past:
    """What the rounds before one made of their molecules: memory grows with those, not with rounds.

    Rounds are complete when they are added up.
    """

    num_rounds: int = 0
    ordinary: dict[str, Tally] = field(default_factory=dict)
    hinted: dict[str, Tally] = field(default_factory=dict)
    accepted: dict[str, tuple[int, Molecule]] = field(default_factory=dict)
    """Those with an accepted sample, and the first round that has one."""

    def add(self, new: RoundTally) -> None:
        """Add the next round."""
        for total, tallies in ((self.ordinary, new.ordinary), (self.hinted, new.hinted)):
            for key, tally in tallies.items():
                total[key] = total.get(key, Tally()) + tally
        for key, molecule in new.accepted.items():
            self.accepted.setdefault(key, (self.num_rounds, molecule))
        self.num_rounds += 1


class RoundPlanner:
    """Plans the rounds of a run; what the store says of the rounds before is read once.

    Threads may share it.

    Args:
        config: of the run.
        split: the run's pool and test set.
        store: of the run.
    """

    def __init__(self, config: RunConfig, split: Split, store: SampleStore) -> None:
        self._config = config
        self._split = split
        self._store = store
        self._past = _Past()
        self._lock = threading.Lock()

    def plan(self, round_index: int) -> Plan:
        """Return the molecules of a round; those of the rounds before it are complete."""
        if round_index >= self._config.rounds:  # the last adapter is only measured
            return Plan([], [])
        with self._lock:
            return self._plan(round_index, self._read_past(round_index))

    def _plan(self, round_index: int, past: _Past) -> Plan:
        pool = self._split.pool
        begun = self._store.molecules(round_index)
        hinted = []
        if self._config.rationalize.enabled:
            hinted = choose_hinted(
                pool,
                past.ordinary,
                past.hinted,
                begun,
                round_index=round_index,
                config=self._config,
            )
        shown = {molecule.molecule_id for molecule in hinted}
        ordinary = plan_round(
            [molecule for molecule in pool if molecule.molecule_id not in shown],
            past.ordinary,
            begun.keys() - shown,
            round_index,
            self._config,
            num_reserved=len(hinted),
        )
        return Plan(ordinary, hinted)

    def num_completions(self, round_index: int) -> int:
        """Return how many completions a round has when it is complete."""
        num_molecules = self.plan(round_index).num_molecules
        return num_molecules * self._config.generation.samples_per_molecule

    def evaluated(self, adapter_round: int) -> list[tuple[str, Molecule]]:
        """Return the test set, and a random part of what an adapter was trained on."""
        with self._lock:
            known = self._read_past(max(adapter_round, self._past.num_rounds)).accepted
            accepted = {key: m for key, (first, m) in known.items() if first < adapter_round}
        chosen = sorted(accepted)
        size = min(self._config.train_evaluation_size, len(chosen))
        generator = random.Random(f"{self._config.seed}:{adapter_round}")
        trained = [accepted[key] for key in sorted(generator.sample(chosen, size))]
        return [("test", molecule) for molecule in self._split.test] + [
            ("train", molecule) for molecule in trained
        ]

    def _read_past(self, round_index: int) -> _Past:
        """Return the past of a round."""
        if round_index < self._past.num_rounds:
            self._past = _Past()
        while self._past.num_rounds < round_index:
            self._past.add(tally_round(self._store, self._past.num_rounds))
        return self._past
