"""Which molecules a round asks about, and which ones measure its adapter; read from the store."""

import random
from dataclasses import dataclass

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.splits import Split
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.rationalize import choose_hinted
from selfstudy_engine.engine.sampler import Tally, plan_round, tally_round


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


class RoundPlanner:
    """Plans the rounds of a run; what the store says of the rounds before is read once.

    Args:
        config: of the run.
        split: the run's pool and test set.
        store: of the run.
    """

    def __init__(self, config: RunConfig, split: Split, store: SampleStore) -> None:
        self._config = config
        self._split = split
        self._store = store
        self._tallied: dict[tuple[int, bool], dict[str, Tally]] = {}
        self._learned: dict[str, Molecule] = {}
        self._learned_before = 0

    def plan(self, round_index: int) -> Plan:
        """Return the molecules of a round; those of the rounds before it are complete."""
        if round_index >= self._config.rounds:  # the last adapter is only measured
            return Plan([], [])
        pool, tallies = self._split.pool, self._tallies(round_index)
        begun = self._store.molecules(round_index)
        hinted = []
        if self._config.rationalize.enabled:
            hinted = choose_hinted(
                pool,
                tallies,
                self._tallies(round_index, hinted=True),
                begun,
                round_index=round_index,
                config=self._config,
            )
        shown = {molecule.molecule_id for molecule in hinted}
        ordinary = plan_round(
            [molecule for molecule in pool if molecule.molecule_id not in shown],
            tallies,
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
        accepted = self._accepted_molecules(adapter_round)
        chosen = sorted(accepted)
        size = min(self._config.train_evaluation_size, len(chosen))
        generator = random.Random(f"{self._config.seed}:{adapter_round}")
        trained = [accepted[key] for key in sorted(generator.sample(chosen, size))]
        return [("test", molecule) for molecule in self._split.test] + [
            ("train", molecule) for molecule in trained
        ]

    def forget(self, round_index: int) -> None:
        """Read a round's samples anew when they are asked for next: there are more of them."""
        self._tallied.pop((round_index, False), None)
        self._tallied.pop((round_index, True), None)

    def _tallies(self, before_round: int, *, hinted: bool = False) -> dict[str, Tally]:
        """Add up what the rounds before one made of their molecules."""
        total: dict[str, Tally] = {}
        for index in range(before_round):
            if (index, hinted) not in self._tallied:
                self._tallied[index, hinted] = tally_round(self._store, index, hinted=hinted)
            for molecule_id, tally in self._tallied[index, hinted].items():
                total[molecule_id] = total.get(molecule_id, Tally()) + tally
        return total

    def _accepted_molecules(self, before_round: int) -> dict[str, Molecule]:
        """Return those of the rounds before one, which are complete; each is read once."""
        if before_round < self._learned_before:
            self._learned, self._learned_before = {}, 0
        for index in range(self._learned_before, before_round):
            self._learned |= self._store.accepted_molecules(index)
        self._learned_before = before_round
        return self._learned
