"""Exemplars and samples -> token sequences -> packed rows."""

from collections import Counter

import pytest
from samples import make_sample

from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.prompts import render_prompt
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.train.examples import (
    IGNORED,
    Example,
    TokenSequence,
    exemplar_examples,
    pack_epochs,
    pack_row,
    sample_examples,
    tokenize,
)

MELTING_POINT = find_property("melting_point")
BEGIN, END = 1, 2


class LetterTokenizer:
    """One token for each character; a begin token where special tokens are asked for."""

    eos_token_id = END

    def encode(self, text: str, *, add_special_tokens: bool) -> list[int]:
        return [BEGIN] * add_special_tokens + [ord(letter) for letter in text]


def make_sequences(*lengths: int) -> list[TokenSequence]:
    """Sequences whose tokens are their own number, the prompt being one third."""
    return [
        TokenSequence([number] * length, length // 3)
        for number, length in enumerate(lengths, start=10)
    ]


def test_exemplars_show_the_others_but_not_themselves() -> None:
    exemplars = load_exemplars()
    examples = list(exemplar_examples(exemplars, MELTING_POINT, num_shown=2))
    assert len(examples) == 10
    assert examples[0].prompt == render_prompt(
        exemplars[0].molecule, MELTING_POINT, [exemplars[1], exemplars[2]]
    )
    assert examples[5].prompt == render_prompt(exemplars[5].molecule, MELTING_POINT, exemplars[:2])
    value = MELTING_POINT.format(exemplars[5].molecule.value)
    assert examples[5].answer == f" {exemplars[5].reason}\nMelting point (°C): {value}"
    alone = list(exemplar_examples(exemplars, MELTING_POINT, num_shown=0))
    assert alone[0].prompt == render_prompt(exemplars[0].molecule, MELTING_POINT)


def test_samples_are_labelled_as_the_configuration_says() -> None:
    samples = [make_sample("A"), make_sample("B", predicted=None)]
    measured = list(sample_examples(samples, MELTING_POINT, "measured"))
    assert [example.answer for example in measured] == [
        " Small and polar.\nMelting point (°C): -114"
    ] * 2
    assert measured[0].prompt == samples[0].prompt
    [predicted] = sample_examples(samples, MELTING_POINT, "predicted")
    assert predicted.answer == " Small and polar.\nMelting point (°C): -110"


def test_prompt_and_answer_are_tokenized_apart() -> None:
    sequence = tokenize(Example("ab", "cd"), LetterTokenizer())
    assert sequence.token_ids == [BEGIN, *map(ord, "abcd"), END]
    assert sequence.num_prompt_tokens == 3


def test_only_answers_have_labels_and_positions_restart() -> None:
    tokenizer = LetterTokenizer()
    row = pack_row([tokenize(Example("ab", "c"), tokenizer), tokenize(Example("d", ""), tokenizer)])
    a, b, c, d = map(ord, "abcd")
    assert row["input_ids"] == [BEGIN, a, b, c, END, BEGIN, d, END]
    assert row["labels"] == [IGNORED, IGNORED, IGNORED, c, END, IGNORED, IGNORED, END]
    assert row["position_ids"] == [0, 1, 2, 3, 4, 0, 1, 2]


def test_a_sequence_without_a_prompt_has_no_label_on_its_first_token() -> None:
    row = pack_row([TokenSequence([5, 6], 0), TokenSequence([7, 8], 0)])
    assert row["labels"] == [IGNORED, 6, IGNORED, 8]


def test_each_sequence_comes_once_an_epoch() -> None:
    sequences = make_sequences(*range(3, 40))
    total = sum(len(sequence.token_ids) for sequence in sequences)
    rows = pack_epochs(sequences, tokens_per_step=64, epochs=3, min_steps=1, seed=0)
    tokens = Counter(token for row in rows for token in row["input_ids"])
    assert sum(tokens.values()) == 3 * total
    for sequence in sequences:
        assert tokens[sequence.token_ids[0]] == 3 * len(sequence.token_ids)
    in_order = [token for row in rows for token in row["input_ids"]]
    for epoch in range(3):
        assert len(set(in_order[epoch * total : (epoch + 1) * total])) == len(sequences)


def test_sequences_stay_whole_and_rows_stay_within_their_size() -> None:
    sequences = make_sequences(*range(3, 40))
    rows = pack_epochs(sequences, tokens_per_step=64, epochs=2, min_steps=1, seed=0)
    lengths = {sequence.token_ids[0]: len(sequence.token_ids) for sequence in sequences}
    for row in rows:
        assert len(row["input_ids"]) == len(row["labels"]) == len(row["position_ids"]) <= 64
        starts = [i for i, position in enumerate(row["position_ids"]) if position == 0]
        for start in starts:
            token = row["input_ids"][start]
            piece = row["input_ids"][start : start + lengths[token]]
            assert piece == [token] * lengths[token]
    used = sum(len(row["input_ids"]) for row in rows) / (64 * len(rows))
    assert used > 0.6


def test_a_sequence_longer_than_a_row_has_a_row_of_its_own() -> None:
    rows = pack_epochs(make_sequences(100, 5, 5), tokens_per_step=20, epochs=1, min_steps=1, seed=0)
    assert sorted(len(row["input_ids"]) for row in rows) in ([10, 100], [5, 5, 100])


def test_there_are_at_least_min_steps_rows() -> None:
    sequences = make_sequences(10, 12, 14)
    rows = pack_epochs(sequences, tokens_per_step=30, epochs=1, min_steps=25, seed=0)
    assert len(rows) == 25
    assert len(rows[-1]["input_ids"]) > 15  # no step on a left-over sequence
    counts = Counter(token for row in rows for token in row["input_ids"])
    passes = [counts[s.token_ids[0]] / len(s.token_ids) for s in sequences]
    assert max(passes) - min(passes) <= 1


def test_a_part_of_an_epoch() -> None:
    sequences = make_sequences(*[10] * 100)
    rows = pack_epochs(sequences, tokens_per_step=100, epochs=0.5, min_steps=1, seed=0)
    assert sum(len(row["input_ids"]) for row in rows) == 500


def test_packing_is_shuffled_and_repeatable() -> None:
    sequences = make_sequences(*range(3, 40))

    def pack(seed: int) -> list[dict[str, list[int]]]:
        return pack_epochs(sequences, tokens_per_step=64, epochs=2, min_steps=1, seed=seed)

    assert pack(0) == pack(0)
    assert pack(0) != pack(1)


@pytest.mark.timeout(2)
def test_nothing_to_train_on_is_an_error_and_no_endless_loop() -> None:
    with pytest.raises(ValueError, match=r"."):
        pack_epochs([], tokens_per_step=64, epochs=1, min_steps=1, seed=0)
