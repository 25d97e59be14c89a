"""A short form of `make chaos`."""

from pathlib import Path

from chaos import Chaos


def test_a_run_that_is_killed_again_and_again_ends_as_if_it_hadnt_been(tmp_path: Path) -> None:
    chaos = Chaos(tmp_path, seed=1, most_kills=4)
    chaos.life()
    assert chaos.tally.kills.total() == 4
    assert chaos.tally.samples == 16
