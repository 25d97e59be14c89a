"""A step's sequences -> the processes' shares: nothing lost, nothing twice, and all in step."""

import random

import pytest

from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.packing import divide, pack_row
from selfstudy_engine.train.shares import Share, share_of


def make_sequences(num: int, seed: int = 0) -> list[TokenSequence]:
    generator = random.Random(seed)
    return [
        TokenSequence([number] * generator.randint(5, 90), 4) for number in range(100, 100 + num)
    ]


def shares_of(
    step: list[TokenSequence], num_processes: int, tokens_at_once: int | None
) -> list[Share]:
    return [share_of(step, index, num_processes, tokens_at_once) for index in range(num_processes)]


@pytest.mark.parametrize("num_sequences", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
@pytest.mark.parametrize("tokens_at_once", [None, 1, 100])
def test_each_sequence_is_computed_by_one_process(
    num_sequences: int, num_processes: int, tokens_at_once: int | None
) -> None:
    sequences = make_sequences(num_sequences)
    shares = shares_of(sequences, num_processes, tokens_at_once)
    computed = [one for share in shares for part in share.passes for one in part.sequences]
    assert [one for one in computed if one.weight] == sequences
    assert len({len(share.passes) for share in shares}) == 1
    assert min(len(share.passes) for share in shares) >= 1
    targets = sum(len(part.targets) for s in shares for part in s.passes if part.weights[0])
    assert {share.num_targets for share in shares} == {targets}
    for share in shares:
        for part in share.passes:
            assert len(part.sequences) == 1 or part.num_tokens <= (tokens_at_once or 10**6)


def test_one_process_without_a_limit_computes_the_row_itself() -> None:
    step = make_sequences(5)
    assert share_of(step, 0, 1).passes == [pack_row(step)]


def test_sharing_of_beginnings_is_kept() -> None:
    passes = share_of(make_sequences(6), 0, 2, 60, shared=False).passes
    assert not any(part.shared for part in passes)


def test_parts_have_about_as_many_tokens() -> None:
    sequences = make_sequences(400)
    total, longest = sum(map(len, sequences)), max(map(len, sequences))
    for num_parts in (2, 5, 8):
        sizes = [sum(map(len, part)) for part in divide(sequences, num_parts)]
        assert sum(sizes) == total
        assert all(abs(size - total / num_parts) <= longest for size in sizes)
