"""Which molecules a round asks about, and what a blind guesser gets."""

import random
from collections import Counter

import pytest
from samples import make_pool

from selfstudy_engine.engine.sampler import chance_acceptance, molecules_of_round


@pytest.mark.parametrize(("size", "per_round"), [(10, 5), (10, 3), (10, 10), (7, 2), (1, 1)])
def test_the_whole_pool_comes_before_any_repeat(size: int, per_round: int) -> None:
    pool = make_pool(size)
    seen: Counter[str] = Counter()
    for round_index in range(size // per_round):
        chosen = molecules_of_round(pool, round_index, per_round, seed=0)
        seen.update(molecule.molecule_id for molecule in chosen)
    assert max(seen.values()) == 1
    assert sum(seen.values()) == size // per_round * per_round


def test_a_pass_that_ends_inside_a_round_leaves_nothing_out() -> None:
    pool = make_pool(10)
    seen = {m.molecule_id for r in range(4) for m in molecules_of_round(pool, r, 3, seed=0)}
    assert len(seen) == 10


@pytest.mark.parametrize(("size", "per_round"), [(4, 3), (10, 7), (100, 64), (100, 30)])
@pytest.mark.parametrize("seed", [0, 1])
def test_no_molecule_is_asked_much_more_often_than_another(
    size: int, per_round: int, seed: int
) -> None:
    pool = make_pool(size)
    seen = Counter(
        molecule.molecule_id
        for round_index in range(5 * size)
        for molecule in molecules_of_round(pool, round_index, per_round, seed)
    )
    assert len(seen) == size
    assert max(seen.values()) - min(seen.values()) <= 2


def test_no_molecule_comes_twice_in_a_round() -> None:
    pool = make_pool(10)
    for round_index in range(30):
        chosen = molecules_of_round(pool, round_index, 7, seed=1)
        assert len({molecule.molecule_id for molecule in chosen}) == 7


def test_a_round_finds_its_molecules_again() -> None:
    pool = make_pool(100)
    again = [molecules_of_round(pool, 3, 30, seed=5) for _ in range(2)]
    assert again[0] == again[1]
    assert molecules_of_round(pool, 3, 30, seed=6) != again[0]
    assert molecules_of_round(pool, 4, 30, seed=5) != again[0]
    assert again[0] != sorted(again[0], key=lambda molecule: molecule.molecule_id)


def test_a_pool_smaller_than_a_round_is_asked_whole() -> None:
    pool = make_pool(5)
    for round_index in (0, 1, 9):
        chosen = molecules_of_round(pool, round_index, 100, seed=0)
        assert sorted(chosen, key=pool.index) == pool


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
