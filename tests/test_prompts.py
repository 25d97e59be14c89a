"""The template, and the strict grammar of answers."""

from typing import get_args

import pytest
from samples import SHIPPED

from selfstudy_engine.data.facts import describe_facts
from selfstudy_engine.data.prompts import (
    STOP,
    Hidden,
    Template,
    parse_completion,
    read_number,
    render_answer,
    render_prompt,
    render_question,
)
from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.data.schema import Molecule

MELTING_POINT = find_property("melting_point")
VANILLIN = Molecule("K", "vanillin", "COc1cc(C=O)ccc1O", 81.75)


def test_question_with_and_without_a_name() -> None:
    assert render_question(VANILLIN) == "Name: vanillin\nSMILES: COc1cc(C=O)ccc1O\nReason:"
    assert render_question(Molecule("K", " ", "C", 0.0)) == "SMILES: C\nReason:"
    broken = Molecule("K", "two\nlines\t x", "C", 0.0)
    assert render_question(broken) == "Name: two lines x\nSMILES: C\nReason:"


@pytest.mark.parametrize(
    ("template", "question"),
    [
        ("smiles", "SMILES: COc1cc(C=O)ccc1O\nReason:"),
        ("original", "#Problem\n##Name: vanillin\n##SMILES: COc1cc(C=O)ccc1O\n##Reason:"),
        (
            "facts",
            "Name: vanillin\nSMILES: COc1cc(C=O)ccc1O\n"
            "Facts: C8H8O3, 152.1 g/mol; 1 ring, 1 aromatic ring; 1 H-bond donor, "
            "3 acceptors; 2 rotatable bonds; 1 aldehyde, 1 phenol, 1 ether; 11 of 11 heavy atoms "
            "differ\nReason:",
        ),
    ],
)
def test_questions_of_other_templates(template: Template, question: str) -> None:
    assert render_question(VANILLIN, template) == question
    assert render_prompt(VANILLIN, MELTING_POINT, template=template) == question


@pytest.mark.parametrize("template", get_args(Template))
def test_every_templates_answer_reads_back(template: Template) -> None:
    text = render_answer("One flat ring.", -12.0, MELTING_POINT, template)
    answer = parse_completion(text, MELTING_POINT, template)
    assert (answer.reason, answer.value) == ("One flat ring.", -12.0)
    further = " One ring.\n" + render_question(VANILLIN, template) + text
    assert parse_completion(further, MELTING_POINT, template).value is None


def test_answer() -> None:
    answer = render_answer("One ring.", 81.75, MELTING_POINT)
    assert answer == " One ring.\nMelting point (°C): 082"
    assert STOP not in answer


def test_prompt_shows_exemplars_in_order_and_shares_its_prefix() -> None:
    exemplars = SHIPPED[:2]
    prompt = render_prompt(VANILLIN, MELTING_POINT, exemplars)
    parts = prompt.split(STOP)
    assert len(parts) == 3
    assert parts[2] == render_question(VANILLIN)
    assert parts[0].startswith(f"Name: {exemplars[0].molecule.name}\n")
    first_value = MELTING_POINT.write(exemplars[0].molecule.value)
    assert parts[0].endswith(f"{exemplars[0].reason}\nMelting point (°C): {first_value}")
    other = render_prompt(Molecule("L", "", "C", 0.0), MELTING_POINT, exemplars)
    assert other.split(STOP)[:2] == parts[:2]
    assert render_prompt(VANILLIN, MELTING_POINT) == render_question(VANILLIN)


def test_the_originals_answers_have_no_zeros_ahead() -> None:
    assert render_answer("One ring.", 81.75, MELTING_POINT, "original").endswith(": 82")


@pytest.mark.parametrize("value", [-152.5, -0.4, 0.0, 81.75, 1999.4])
@pytest.mark.parametrize("decimals", [0, 1, 3])
def test_an_answer_reads_back(value: float, decimals: int) -> None:
    prop = MELTING_POINT.model_copy(update={"decimals": decimals})
    answer = parse_completion(render_answer("A: b, 12 (c)?", value, prop), prop)
    assert answer.reason == "A: b, 12 (c)?"
    assert answer.value == float(f"{value:.{decimals}f}")


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("82", 82.0),
        (" 82 ", 82.0),
        ("+82", 82.0),
        ("-82", -82.0),
        ("\u221282", -82.0),
        ("82.5", 82.5),
        ("-0", 0.0),
        ("007", 7.0),
        ("82.", 82.0),
        ("82 °C", 82.0),
        ("82°C.", 82.0),
        ("82 C", 82.0),
        ("82 celsius", 82.0),
        ("273.15 K", 0.0),
        ("32 °F.", 0.0),
        ("-40F", -40.0),
        ("82\nSMILES: CC", 82.0),
        ("82\r\n", 82.0),
        ("-273.15", -273.15),
        ("2000", 2000.0),
    ],
)
def test_one_number_is_read(text: str, value: float) -> None:
    assert read_number(text, MELTING_POINT) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "°C",
        "-",
        ".",
        ".5",
        "5..",
        "80-82",
        "80\u201382",
        "80 - 82",
        "80 to 82",
        "80 ± 2",
        "80/82",
        "1,000",
        "1 000",
        "1_000",
        "1'000",
        "1e3",
        "1E3",
        "1.2.3",
        "--5",
        "+-5",
        "- 5",
        "\u20135",
        "~82",
        "about 82",
        "<82",
        "82 °C °C",
        "82 Pa",
        "82 k",
        "2300 K",
        "82°C (dec.)",
        "82 degrees",
        "82 because",
        "(82)",
        "0x52",
        "inf",
        "-inf",
        "nan",
        "None",
        "high",
        "\uff18\uff12",
        "\u0668\u0662",
        "8²",
        "½",
        "9" * 400,
        "-273.16",
        "2000.01",
        "99999",
    ],
)
def test_anything_else_is_no_number(text: str) -> None:
    assert read_number(text, MELTING_POINT) is None


@pytest.mark.parametrize(
    ("line", "is_range", "is_other_unit"),
    [
        ("80-82", True, False),
        ("80 \u2013 82 °C", True, False),
        ("80°C to 82°C", True, False),
        ("-5--3", True, False),
        ("80 ± 2", True, False),
        ("80 or 90", True, False),
        ("80", False, False),
        ("80 °C", False, False),
        ("80 C", False, False),
        ("350 K", False, True),
        ("about 80", False, False),
        ("1,000", False, False),
    ],
)
def test_ranges_and_other_units_are_told(line: str, is_range: bool, is_other_unit: bool) -> None:
    answer = parse_completion(f" Flat.\nMelting point (°C): {line}", MELTING_POINT)
    assert (answer.is_range, answer.is_other_unit) == (is_range, is_other_unit)
    assert not is_range or answer.value is None


@pytest.mark.parametrize(
    ("unit", "text", "value"),
    [
        ("1", "11", 11.0),
        ("1", "2.1", 2.1),
        ("a.u.", "5 a.u.", 5.0),
        ("a.u.", "5", 5.0),
        ("%", "5%", 5.0),
        ("g/mL", "0.79 g/mL.", 0.79),
        ("(mol/L)^2", "5 (mol/L)^2", 5.0),
    ],
)
def test_units_of_other_properties(unit: str, text: str, value: float) -> None:
    prop = Property(name="x", unit=unit, tolerance=1)
    assert read_number(text, prop) == value


@pytest.mark.parametrize(
    ("text", "reason", "value"),
    [
        (" It is flat.\nMelting point (°C): 82", "It is flat.", 82.0),
        (" It is  flat.\n\tYes.\nMelting point (°C):82\n", "It is flat. Yes.", 82.0),
        ("\nMelting point (°C): 82", "", 82.0),
        ("Melting point (°C): 82", "Melting point (°C): 82", None),
        (" It is flat.", "It is flat.", None),
        (" It is flat. Melting point (°C): 82", "It is flat. Melting point (°C): 82", None),
        (" It is flat.\nmelting point (°C): 82", "It is flat. melting point (°C): 82", None),
        (" It is flat.\nMelting point (K): 82", "It is flat. Melting point (K): 82", None),
        (" It is flat.\nMelting point (°C):", "It is flat.", None),
        (" It is flat.\nMelting point (°C): high", "It is flat.", None),
        ("", "", None),
        ("\n\n\n", "", None),
    ],
)
def test_completions(text: str, reason: str, value: float | None) -> None:
    answer = parse_completion(text, MELTING_POINT)
    assert (answer.reason, answer.value) == (reason, value)


@pytest.mark.parametrize(
    ("end", "value"),
    [("12", None), ("-", None), ("", None), ("12.", None), ("120\n", 120.0), ("120\nNa", 120.0)],
)
def test_a_number_at_which_an_answer_was_cut_off_may_have_gone_on(
    end: str, value: float | None
) -> None:
    text = f" Flat.\nMelting point (°C): {end}"
    answer = parse_completion(text, MELTING_POINT, is_cut_off=True)
    assert (answer.reason, answer.value) == ("Flat.", value)


def test_an_answer_about_a_further_molecule_is_no_answer() -> None:
    text = " Flat.\nName: other\nSMILES: CC\nReason: Small.\nMelting point (°C): 82"
    assert parse_completion(text, MELTING_POINT).value is None


def test_parsing_takes_linear_time() -> None:
    text = " a\n" * 50_000 + "Melting point (°C): " + "1" * 50_000 + "x"
    assert parse_completion(text, MELTING_POINT).value is None


@pytest.mark.parametrize("template", ["named", "facts", "original"])
def test_a_line_can_be_hidden_of_the_molecule_alone(template: Template) -> None:
    exemplars = SHIPPED[1:2]
    whole = render_prompt(VANILLIN, MELTING_POINT, exemplars, template)
    lines: dict[Hidden, str] = {
        "name": "Name: vanillin",
        "smiles": "SMILES: COc1cc(C=O)ccc1O",
    }
    for hidden, line in lines.items():
        mark = "##" if template == "original" else ""
        prompt = render_prompt(VANILLIN, MELTING_POINT, exemplars, template, hidden)
        expected = whole.replace(f"{mark}{line}\n", "")
        if (template, hidden) == ("facts", "smiles"):
            expected = expected.replace(f"Facts: {describe_facts(VANILLIN.smiles)}\n", "")
        assert prompt == expected
        assert len(prompt) < len(whole)


def test_an_answer_without_a_reason_is_its_value() -> None:
    answer = render_answer("", 81.75, MELTING_POINT)
    assert answer == "\nMelting point (°C): 082"
    parsed = parse_completion(answer, MELTING_POINT)
    assert (parsed.reason, parsed.value) == ("", 82.0)
