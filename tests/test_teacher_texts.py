"""How a teacher's answers are read: thoughts, markup, and the value."""

import pytest

from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.engine.teacher_texts import read_prediction, read_reason, without_thoughts

MELTING_POINT = find_property("melting_point")


@pytest.mark.parametrize(
    "text",
    [
        "A flat ring.",
        " \nA flat ring.\n",
        "<think>It has a ring.</think>\n\nA flat ring.",
        "It has a ring.</think>A flat ring.",
        "<think>One.</think><think>Two.</think>A flat ring.",
        "<thinking>\nIt has a ring.\n</thinking>\nA flat ring.",
        "<seed:think>It has a ring.</seed:think>A flat ring.",
        "<ifm|think_fast>It has a ring.</ifm|think_fast>A flat ring.",
        "[THINK]It has a ring.[/THINK]A flat ring.",
        "<|START_THINKING|>It has a ring.<|END_THINKING|>A flat ring.",
    ],
)
def test_what_was_thought_is_left_out(text: str) -> None:
    assert without_thoughts(text) == "A flat ring."


@pytest.mark.parametrize("text", ["<think>", " <think>\nIt has", "[THINK]It has", "x</think> "])
def test_who_never_ended_thinking_said_nothing(text: str) -> None:
    assert without_thoughts(text) == ""


@pytest.mark.parametrize("text", ["I think of rings.", "a < b > c", "A [think] of x", "<b>A</b>"])
def test_other_tags_and_words_stay(text: str) -> None:
    assert without_thoughts(text) == text


def test_a_reason_is_one_line_without_emphasis() -> None:
    text = "The **planar**\n\nring, `c1ccccc1`, *packs*  well; C#N, [*]."
    assert read_reason(text) == "The planar ring, c1ccccc1, *packs* well; C#N, [*]."


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("85", 85.0),
        ("85 °C", 85.0),
        ("85\u202f°C", 85.0),
        ("**85**", 85.0),
        ("*85 °C*", 85.0),
        ("`-85`", -85.0),
        ("~85", 85.0),
        ("\u2248 \u221285 °C", -85.0),
        ("approximately 85.", 85.0),
        ("85 degrees Celsius", 85.0),
        ("85 deg C", 85.0),
        ("273.15 Kelvin", 0.0),
        ("The melting point is about **85 °C**.", 85.0),
        ("Melting point (°C): 85", 85.0),
        ("I would estimate 85 °C", 85.0),
        ('{"melting_point": 85}', 85.0),
        (r"$\boxed{85}$", 85.0),
        (r"$85^\circ$C", 85.0),
        (r"\(85^{\circ}\text{C}\)", 85.0),
        ("85\n\nTwo rings and 1 bromine.", 85.0),
        ("Two rings and 1 bromine.\n\n**Final answer:** 85 °C", 85.0),
        ("85\nNo: 90", 85.0),
        ("<think>5.5? No, 80.</think>\n85", 85.0),
    ],
)
def test_the_value_is_found_in_what_chat_models_write(text: str, value: float) -> None:
    assert read_prediction(text, MELTING_POINT) == value


@pytest.mark.parametrize(
    "text",
    [
        "",
        "I can't say.",
        "80-90",
        "about 80 to 90 °C",
        "between 80 and 90",
        "below 85",
        "It is above 85 °C",
        "<85",
        "> 85",
        "1,000",
        "1e2",
        "There are 2 rings",
        "2 rings",
        "85 because of a ring",
        "85 °C (358 K)",
        "5000 °C",
        "85 Pa",
        "<think>85",
        "First 85.\nMiddle: 85\nLast, who knows.",
    ],
)
def test_no_value_is_made_up(text: str) -> None:
    assert read_prediction(text, MELTING_POINT) is None


@pytest.mark.parametrize("unit", ["g/mL", "J/(mol*K)", "cm$^3$", "Kelvin", "deg C", "{a}"])
def test_a_propertys_own_unit_is_no_markup(unit: str) -> None:
    prop = Property(name="x", unit=unit, tolerance=1)
    assert read_prediction(f"5 {unit}", prop) == 5
    assert read_prediction("About **5**", prop) == 5


@pytest.mark.parametrize("text", ["is " * 30_000, "<think" * 30_000, "*" * 60_000, "^ " * 30_000])
def test_long_texts_take_no_minutes(text: str) -> None:
    assert read_prediction(text, MELTING_POINT) is None
    assert read_reason(text + "</think>A ring.") == "A ring."
