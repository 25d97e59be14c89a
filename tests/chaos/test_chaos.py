"""A short form of `make chaos`."""

import random
from pathlib import Path

from chaos import Chaos, random_orders

ORDERS = ("loop:fsync:3", "loop:after-rename:4", "train:full-fsync:2", "train:after-rename:1")


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_hadnt_been(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path)
    chaos.life([*ORDERS, "loop:rename:3"])
    assert chaos.tally.kills == {"loop": 3, "train": 1}
    assert chaos.tally.full == 1
    assert chaos.tally.missed == 0
    assert chaos.tally.samples == 16


def test_a_seed_gives_the_same_orders() -> None:
    first, again = (list(random_orders(random.Random(5), 8)) for _ in range(2))
    assert first == again
    assert len(first) == 8
