"""Exemplars and samples -> token sequences."""

from dataclasses import replace

import pytest
from samples import SHIPPED, make_sample

from selfstudy_engine.data.prompts import Template, parse_completion, render_prompt
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.train.examples import (
    Example,
    exchange_reasons,
    exemplar_examples,
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


def test_exemplars_show_the_others_but_not_themselves() -> None:
    exemplars = SHIPPED
    examples = list(exemplar_examples(exemplars, MELTING_POINT, num_shown=2))
    assert len(examples) == 10
    assert examples[0].prompt == render_prompt(
        exemplars[0].molecule, MELTING_POINT, [exemplars[1], exemplars[2]]
    )
    assert examples[5].prompt == render_prompt(exemplars[5].molecule, MELTING_POINT, exemplars[:2])
    value = MELTING_POINT.write(exemplars[5].molecule.value)
    assert examples[5].answer == f" {exemplars[5].reason}\nMelting point (°C): {value}"
    alone = list(exemplar_examples(exemplars, MELTING_POINT, num_shown=0))
    assert alone[0].prompt == render_prompt(exemplars[0].molecule, MELTING_POINT)


def test_a_molecule_that_is_explained_twice_isnt_shown_its_own_value() -> None:
    first, other = SHIPPED[:2]
    again = replace(first, reason="Another reason for the same value.")
    examples = list(exemplar_examples([first, again, other], MELTING_POINT, num_shown=2))
    shown = [example.prompt.count("Melting point (°C):") for example in examples]
    assert shown == [1, 1, 2]


def test_samples_are_labelled_as_the_configuration_says() -> None:
    samples = [make_sample("A"), make_sample("B", predicted=None)]
    measured = list(sample_examples(samples, MELTING_POINT, "measured"))
    assert [example.answer for example in measured] == [
        " Small and polar.\nMelting point (°C): -114"
    ] * 2
    assert measured[0].prompt == samples[0].prompt
    [predicted] = sample_examples(samples, MELTING_POINT, "predicted")
    assert predicted.answer == " Small and polar.\nMelting point (°C): -110"


def test_samples_weigh_as_they_are_told_to_and_exemplars_one() -> None:
    samples = [make_sample("A", measured=10.0), make_sample("B", measured=25.0)]
    weighed = list(
        sample_examples(
            samples, MELTING_POINT, "measured", weight_of=lambda sample: sample.measured / 10
        )
    )
    assert [example.weight for example in weighed] == [1.0, 2.5]
    assert tokenize(weighed[1], LetterTokenizer()).weight == 2.5
    assert [example.weight for example in exemplar_examples(SHIPPED, MELTING_POINT, 0)] == [
        1.0
    ] * 10


def test_a_checked_label_is_the_measured_one_if_the_arithmetic_allows_it() -> None:
    def label(reason: str) -> str:
        samples = [make_sample(reason=reason, measured=80.0, predicted=60.0)]
        [example] = sample_examples(samples, MELTING_POINT, "checked")
        return example.answer.rsplit(": ", 1)[1]

    assert label("A flat ring.") == "080"
    assert label("A flat ring: 5 + 55 = 60.") == "060"
    assert label("A flat ring: 5 + 75 = 80.") == "080"


@pytest.mark.parametrize("template", ["named", "smiles", "facts", "original"])
def test_examples_have_the_form_that_generation_asks_in(template: Template) -> None:
    exemplars = SHIPPED[:3]
    [first, *_] = exemplar_examples(exemplars, MELTING_POINT, 1, template)
    molecule = exemplars[0].molecule
    assert first.prompt == render_prompt(molecule, MELTING_POINT, exemplars[1:2], template)
    sample = make_sample(prompt=first.prompt)
    [example] = sample_examples([sample], MELTING_POINT, "measured", template)
    answer = parse_completion(example.answer, MELTING_POINT, template)
    assert (answer.reason, answer.value) == (sample.reason, -114.0)
    assert first.answer.startswith(f" {exemplars[0].reason}\n")


def test_prompt_and_answer_are_tokenized_apart() -> None:
    sequence = tokenize(Example("KEY", "ab", "c", "d"), LetterTokenizer())
    assert sequence.token_ids == [BEGIN, *map(ord, "ab cd"), END]
    assert sequence.num_prompt_tokens == len(sequence.prompt_ids) == 3
    assert len(sequence) == 7


def make_examples() -> list[Example]:
    """Six samples of four molecules, each with a reason and a value of its own."""
    samples = [
        make_sample(name, prompt=f"SMILES: {name}\nReason:", reason=f"R{i}", measured=float(i))
        for i, name in enumerate("AABCDD")
    ]
    return list(sample_examples(samples, MELTING_POINT, "measured"))


def test_kept_reasons_change_nothing() -> None:
    assert exchange_reasons(make_examples(), "keep", seed=0) == make_examples()


@pytest.mark.parametrize("template", ["named", "smiles", "facts", "original"])
def test_a_direct_answer_is_the_values_line_and_can_be_parsed(template: Template) -> None:
    given = list(sample_examples([make_sample()], MELTING_POINT, "measured", template))
    [example] = exchange_reasons(given, "drop", seed=0)
    label = "##Prediction:" if template == "original" else "Melting point (°C):"
    assert example.answer == f"\n{label} -114"
    assert example.prompt == given[0].prompt
    answer = parse_completion(example.answer, MELTING_POINT, template)
    assert (answer.reason, answer.value) == ("", -114.0)


def test_shuffled_reasons_are_other_molecules_and_values_stay() -> None:
    given = make_examples()
    shuffled = exchange_reasons(given, "shuffle", seed=0)
    owner = {example.reason: example.molecule_id for example in given}
    assert [(e.molecule_id, e.prompt, e.value_line) for e in shuffled] == [
        (e.molecule_id, e.prompt, e.value_line) for e in given
    ]
    assert sorted(e.reason for e in shuffled) == sorted(owner), "the same texts are trained on"
    assert all(owner[e.reason] != e.molecule_id for e in shuffled)
    assert exchange_reasons(given, "shuffle", seed=0) == shuffled
    assert any(exchange_reasons(given, "shuffle", seed) != shuffled for seed in range(1, 5))
