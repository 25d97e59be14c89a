"""Permutations in which nobody keeps what is of its own group."""

import random

import pytest

from selfstudy_engine.data.derangement import derange
from selfstudy_engine.data.errors import UsageError


def test_nobody_gets_anything_of_its_own_group() -> None:
    generator = random.Random(0)
    for seed in range(200):
        sizes = [generator.randint(1, 4) for _ in range(generator.randint(4, 30))]
        groups = [f"molecule {number}" for number, size in enumerate(sizes) for _ in range(size)]
        generator.shuffle(groups)
        givers = derange(groups, seed)
        assert sorted(givers) == list(range(len(groups))), "each gives once"
        assert all(groups[giver] != group for giver, group in zip(givers, groups, strict=True))


def test_half_of_one_group_is_the_most_that_works() -> None:
    assert sorted(derange(["a", "b", "a", "b"], 0)[::2]) == [1, 3]
    with pytest.raises(UsageError, match=r"3 of 5 texts are of one molecule \(a\), more than half"):
        derange(["a", "b", "a", "b", "a"], 0)
    with pytest.raises(UsageError, match="1 of 1 texts"):
        derange(["a"], 0)
    assert derange([], 0) == []


def test_the_seed_decides() -> None:
    groups = [str(number) for number in range(50)]
    assert derange(groups, 1) == derange(groups, 1) != derange(groups, 2)
