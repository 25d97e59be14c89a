"""Which molecules a round asks about, and what a blind guesser gets."""

import random
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
from samples import make_pool, make_rejected, make_sample

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.sampler import Tally, chance_acceptance, plan_round, tally_round


def config_of(per_round: int, **values: Any) -> RunConfig:
    batch = {"generation.batch": 2 * per_round, "generation.samples_per_molecule": 2}
    return load_config(None, batch | {key.replace("__", "."): v for key, v in values.items()})


def play(
    pool: Sequence[Molecule],
    config: RunConfig,
    num_rounds: int,
    num_accepted: Callable[[Molecule], int] = lambda molecule: 0,
) -> list[list[Molecule]]:
    """Return what each round asks, with so many of a molecule's two answers accepted."""
    tallies: dict[str, Tally] = {}
    rounds = []
    for index in range(num_rounds):
        chosen = plan_round(pool, tallies, set(), index, config)
        for molecule in chosen:
            tally = tallies.get(molecule.molecule_id, Tally())
            tallies[molecule.molecule_id] = tally + Tally(1, 2, num_accepted(molecule))
        rounds.append(chosen)
    return rounds


def asked(rounds: list[list[Molecule]]) -> Counter[str]:
    return Counter(molecule.molecule_id for chosen in rounds for molecule in chosen)


@pytest.mark.parametrize(("size", "per_round"), [(10, 5), (10, 3), (10, 10), (7, 2), (1, 1)])
def test_the_whole_pool_comes_before_any_repeat(size: int, per_round: int) -> None:
    seen = asked(play(make_pool(size), config_of(per_round), size // per_round))
    assert max(seen.values()) == 1
    assert sum(seen.values()) == size // per_round * per_round


@pytest.mark.parametrize(("size", "per_round"), [(4, 3), (10, 7), (100, 64), (100, 30)])
@pytest.mark.parametrize("seed", [0, 1])
def test_where_all_fail_all_are_asked_alike(size: int, per_round: int, seed: int) -> None:
    seen = asked(play(make_pool(size), config_of(per_round, seed=seed), 3 * size))
    assert len(seen) == size
    assert min(seen.values()) >= 0.5 * max(seen.values())


def test_no_molecule_comes_twice_in_a_round() -> None:
    for chosen in play(make_pool(10), config_of(7), 30):
        assert len({molecule.molecule_id for molecule in chosen}) == 7


def test_a_round_asks_all_bands_of_values_alike() -> None:
    pool = make_pool(800)
    for chosen in play(pool, config_of(40), 19):
        bands = Counter(int(molecule.value // 100) for molecule in chosen)
        assert set(bands.values()) == {5}


def test_bands_stay_even_when_molecules_come_again() -> None:
    """However often the molecules of some bands fail."""
    pool = make_pool(80)
    config = config_of(40, verdict__max_accepted_per_molecule=0)
    for chosen in play(pool, config, 20, lambda molecule: 2 * (molecule.value >= 40)):
        bands = Counter(int(molecule.value // 10) for molecule in chosen)
        assert set(bands.values()) == {5}


def test_a_molecule_with_enough_accepted_texts_is_left_alone() -> None:
    pool = make_pool(10)
    rounds = play(pool, config_of(10), 6, lambda molecule: 2 * (molecule.value < 5))
    seen = asked(rounds)
    for molecule in pool:
        assert seen[molecule.molecule_id] == (2 if molecule.value < 5 else 6)
    assert len(rounds[2]) == 5
    unlimited = config_of(10, verdict__max_accepted_per_molecule=0)
    assert len(play(pool, unlimited, 6, lambda _: 2)[5]) == 10


def test_what_keeps_failing_gets_fewer_tries_but_is_never_starved() -> None:
    pool = make_pool(100)
    config = config_of(20, verdict__max_accepted_per_molecule=0)
    seen = asked(play(pool, config, 200, lambda molecule: 2 * (molecule.value % 2 == 0)))
    good = [seen[molecule.molecule_id] for molecule in pool if molecule.value % 2 == 0]
    bad = [seen[molecule.molecule_id] for molecule in pool if molecule.value % 2]
    assert min(good) > 2 * max(bad)
    assert min(bad) >= 10


def test_what_takes_longer_for_as_much_is_asked_less() -> None:
    pool = make_pool(100)
    config = config_of(20, verdict__max_accepted_per_molecule=0)
    tallies: dict[str, Tally] = {}
    for index in range(100):
        for molecule in plan_round(pool, tallies, set(), index, config):
            key, num_tokens = molecule.molecule_id, 20 + 60 * (molecule.value % 2 == 0)
            tallies[key] = tallies.get(key, Tally()) + Tally(1, 2, 1, 2 * num_tokens)
    long, short = (
        [tallies[m.molecule_id].num_rounds for m in pool if m.value % 2 == rest] for rest in (0, 1)
    )
    assert min(short) > 1.3 * max(long)
    assert min(long) >= 10


def test_the_order_depends_on_the_seed_and_not_on_the_values() -> None:
    pool = make_pool(100)
    once, again, other = (play(pool, config_of(30, seed=seed), 4) for seed in (5, 5, 6))
    assert once == again
    assert once != other
    assert once[0] != sorted(once[0], key=lambda molecule: molecule.value)


def test_a_round_that_has_begun_keeps_its_molecules() -> None:
    """Even if a verdict of an earlier round has changed since."""
    pool = make_pool(20)
    before = {molecule.molecule_id: Tally(1, 2, 1) for molecule in pool[:10]}
    planned = plan_round(pool, before, set(), 1, config_of(5))
    begun = {molecule.molecule_id for molecule in planned[:2]}
    after = before | {key: Tally(1, 2, 4) for key in begun}
    again = plan_round(pool, after, begun, 1, config_of(5))
    assert begun < {molecule.molecule_id for molecule in again}
    assert len({molecule.molecule_id for molecule in again}) == 5
    assert plan_round(pool, before, begun, 1, config_of(5)) == planned


def test_a_pool_smaller_than_a_round_is_asked_whole() -> None:
    pool = make_pool(5)
    for chosen in play(pool, config_of(100), 10):
        assert sorted(chosen, key=pool.index) == pool


def test_the_originals_strategy_asks_the_same_molecules_each_round() -> None:
    pool = make_pool(20)
    config = config_of(5, sampler__strategy="original")
    assert play(pool, config, 4, lambda _: 2) == [pool[:5]] * 4


def test_a_rounds_tally_is_read_from_the_store(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    with store.writer(3) as writer:
        writer.add([make_sample("A", round=3, sample_index=index) for index in range(2)])
        writer.add([make_rejected("A", round=3, sample_index=2), make_rejected("B", round=3)])
    assert tally_round(store, 3).ordinary == {"A": Tally(1, 3, 2, 27), "B": Tally(1, 1, 0, 9)}
    assert tally_round(store, 0) == ({}, {}, {})


@pytest.mark.parametrize("tolerance", [0.5, 3.0, 30.0, 1000.0])
def test_chance_is_what_the_best_constant_gets(tolerance: float) -> None:
    generator = random.Random(0)
    for size in (1, 2, 10, 100):
        values = [float(generator.randint(-150, 300)) for _ in range(size)]
        guesses = [value + tolerance for value in values]
        best = max(sum(abs(v - guess) <= tolerance for v in values) for guess in guesses)
        assert chance_acceptance(values, tolerance) == best / size


def test_chance_does_not_depend_on_order() -> None:
    assert chance_acceptance([100.0, 0.0, 20.0, 10.0], 10.0) == 0.75
    assert chance_acceptance([1.0, 1.0, 1.0], 1e-9) == 1.0
