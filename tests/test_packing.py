"""Token sequences -> packed rows: nothing lost, nothing twice, little left over."""

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.packing import PackedRow, pack_row, plan_epochs


def make_sequences(*lengths: int) -> list[TokenSequence]:
    """Sequences whose tokens are their own number, the prompt being one third."""
    return [
        TokenSequence([number] * length, length // 3)
        for number, length in enumerate(lengths, start=10)
    ]


def realistic_lengths(num: int) -> list[int]:
    """About as long as prompts and answers of the embedded table: 50 to 145 tokens."""
    generator = random.Random(0)
    return [50 + int(min(generator.expovariate(1 / 22), 95)) for _ in range(num)]


def unpack(row: PackedRow) -> list[list[int]]:
    return [[row.input_ids[place] for place in path] for path in row.paths]


def twins(prompt: list[int], *answers: list[int]) -> list[TokenSequence]:
    return [TokenSequence([*prompt, *answer], len(prompt)) for answer in answers]


def test_only_answers_have_targets_and_positions_restart() -> None:
    row = pack_row([TokenSequence([1, 2, 3, 4, 5], 3), TokenSequence([6, 7, 8], 2)])
    assert row.input_ids == [1, 2, 3, 4, 5, 6, 7, 8]
    assert row.position_ids == [0, 1, 2, 3, 4, 0, 1, 2]
    assert (row.predicting, row.targets) == ([2, 3, 6], [4, 5, 8])
    assert row.first_path == [0] * 5 + [1] * 3
    assert (row.num_tokens, row.longest) == (8, 5)


def test_a_sequence_without_a_prompt_has_no_loss_on_its_first_token() -> None:
    row = pack_row([TokenSequence([5, 6], 0), TokenSequence([7, 8], 0)])
    assert (row.predicting, row.targets) == ([0, 2], [6, 8])


def test_a_common_beginning_stands_in_the_row_once() -> None:
    sequences = twins([1, 2, 3], [4, 5], [6], [4, 7])
    row = pack_row(sequences)
    assert row.input_ids == [1, 2, 3, 4, 5, 6, 7]
    assert row.position_ids == [0, 1, 2, 3, 4, 3, 4]
    assert row.first_path == [0, 0, 0, 0, 0, 1, 2]
    assert unpack(row) == [one.token_ids for one in sequences]
    assert (row.predicting, row.targets) == ([2, 3, 2, 2, 3], [4, 5, 6, 4, 7])
    assert row.num_tokens == sum(map(len, sequences)) == 14


def test_sequences_that_share_nothing_lie_end_to_end() -> None:
    sequences = twins([1, 2, 3], [4, 5], [6])
    row = pack_row(sequences, shared=False)
    assert row.input_ids == [1, 2, 3, 4, 5, 1, 2, 3, 6]
    assert row.position_ids == [0, 1, 2, 3, 4, 0, 1, 2, 3]
    assert unpack(row) == [one.token_ids for one in sequences]
    assert (row.predicting, row.targets) == ([2, 3, 7], [4, 5, 6])


def test_each_target_has_its_sequences_weight() -> None:
    light = TokenSequence([1, 2, 4, 6], 2, weight=0.5)
    row = pack_row([TokenSequence([1, 2, 4, 5, 6], 2), light])
    assert (row.targets, row.weights) == ([4, 5, 6, 4, 6], [1.0, 1.0, 1.0, 0.5, 0.5])


def test_the_same_token_elsewhere_is_not_shared() -> None:
    row = pack_row([TokenSequence([1, 2, 3], 1), TokenSequence([4, 2, 3], 1)])
    assert row.input_ids == [1, 2, 3, 4, 2, 3]


def pack_epochs(
    sequences: Sequence[TokenSequence], *, shared: bool = True, **plan: Any
) -> list[PackedRow]:
    return [pack_row(row, shared=shared) for row in plan_epochs(sequences, **plan)]


@pytest.mark.parametrize("shared", [True, False])
def test_each_sequence_comes_once_a_pass(shared: bool) -> None:
    """Whole, and no pass begins before the one before it is done."""
    sequences = make_sequences(*range(3, 40)) + twins([1, 2, 3], [4, 5], [6], [4, 7])
    total = sum(map(len, sequences))
    rows = pack_epochs(sequences, shared=shared, tokens_per_step=64, epochs=3, min_steps=1, seed=0)
    in_order = [tuple(one) for row in rows for one in unpack(row)]
    wanted = Counter(tuple(one.token_ids) for one in sequences)
    for number in range(3):
        part = in_order[number * len(sequences) : (number + 1) * len(sequences)]
        assert Counter(part) == wanted
    assert len(in_order) == 3 * len(sequences)
    assert sum(row.num_tokens for row in rows) == 3 * total
    assert all(row.num_tokens <= 64 for row in rows)


def test_every_answer_token_is_a_target_once_a_pass() -> None:
    sequences = [TokenSequence([7] * 20 + [n] * 10, 20) for n in range(100, 150)]
    rows = pack_epochs(sequences, tokens_per_step=256, epochs=2, min_steps=1, seed=0)
    targets = Counter(target for row in rows for target in row.targets)
    assert targets == dict.fromkeys(range(100, 150), 20)
    assert all(row.position_ids[place] >= 19 for row in rows for place in row.predicting)


def test_rows_are_filled() -> None:
    sequences = make_sequences(*realistic_lengths(500))
    rows = pack_epochs(sequences, tokens_per_step=256, epochs=2, min_steps=1, seed=0)
    filled = sum(row.num_tokens for row in rows) / (256 * len(rows))
    assert filled > 0.92


def test_answers_to_one_prompt_share_a_row() -> None:
    sequences = [
        one
        for n in range(10, 60)
        for one in twins([n] * 40, [n + 100] * 30, [n + 200] * 30, [n + 300] * 30)
    ]
    rows = pack_epochs(sequences, tokens_per_step=256, epochs=1, min_steps=1, seed=0)
    computed = sum(len(row.input_ids) for row in rows)
    assert computed < 0.75 * sum(row.num_tokens for row in rows)


def test_a_sequence_longer_than_a_row_has_a_row_of_its_own() -> None:
    rows = pack_epochs(make_sequences(100, 5, 5), tokens_per_step=20, epochs=1, min_steps=1, seed=0)
    assert sorted(row.num_tokens for row in rows) in ([10, 100], [5, 5, 100])


def test_there_are_at_least_min_steps_rows() -> None:
    sequences = make_sequences(10, 12, 14)
    rows = pack_epochs(sequences, tokens_per_step=30, epochs=1, min_steps=25, seed=0)
    assert len(rows) == 25
    assert rows[-1].num_tokens > 15  # no step on a left-over sequence
    counts = Counter(one[0] for row in rows for one in unpack(row))
    assert max(counts.values()) - min(counts.values()) <= 1


def test_a_part_of_an_epoch() -> None:
    sequences = make_sequences(*[10] * 100)
    rows = pack_epochs(sequences, tokens_per_step=100, epochs=0.5, min_steps=1, seed=0)
    assert sum(row.num_tokens for row in rows) == 500


def test_packing_is_shuffled_and_repeatable() -> None:
    sequences = make_sequences(*range(3, 40))

    def pack(seed: int) -> list[PackedRow]:
        return pack_epochs(sequences, tokens_per_step=64, epochs=2, min_steps=1, seed=seed)

    assert pack(0) == pack(0)
    assert pack(0) != pack(1)


@pytest.mark.timeout(2)
def test_nothing_to_train_on_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(ValueError, match=r"."):
        pack_epochs([], tokens_per_step=64, epochs=1, min_steps=1, seed=0)
