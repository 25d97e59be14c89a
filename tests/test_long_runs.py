"""What a round costs doesn't grow with the rounds before it, but for the training on them."""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from conftest import MakeConfig, loop
from fake_vllm import FakeVllm

from selfstudy_engine.data import shards


def test_a_shard_is_read_as_often_in_a_long_run(
    fake: FakeVllm, small_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: Counter[str] = Counter()
    load = shards.load_shard

    def note(path: Path, columns: list[str]) -> Any:
        read[path.parent.name] += 1
        return load(path, columns)

    monkeypatch.setattr(shards, "load_shard", note)
    times = []
    for rounds in (2, 4):
        read.clear()
        loop(small_config(rounds=rounds), tmp_path / str(rounds), fake)
        [_] = (tmp_path / str(rounds) / "test" / "samples" / "round-0000").iterdir()
        times.append(read["round-0000"])
    trainings = 2
    assert times[1] - times[0] == trainings
