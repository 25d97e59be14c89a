"""Empty talk, the answer in the reason, and sums that end elsewhere."""

from pathlib import Path

import orjson
import pytest

from selfstudy_engine.data.arithmetic import Arithmetic, read_arithmetic
from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.engine.reason_checks import is_boilerplate, leaks_answer, states_value

MELTING_POINT = find_property("melting_point")
REFERENCE = Path(__file__).parents[2] / "shared" / "reference" / "llmchem_rationales.jsonl"


@pytest.mark.parametrize(
    "reason",
    [
        "Flat.",
        "ring ring ring ring ring ring",
        "As an AI language model I have no access to a laboratory.",
        "I'm not sure, but it may be a solid with a ring.",
        "It is not possible to predict the value of this one.",
        "The ring is flat. The ring is flat. The ring is flat. The ring is flat. The ring is flat.",
    ],
)
def test_boilerplate(reason: str) -> None:
    assert is_boilerplate(reason)


@pytest.mark.parametrize(
    "reason",
    [
        "One benzene ring with an ethyl ester; no hydrogen-bond donor: low.",
        "Four carbons with one thiol group and no ring; weak attraction: very low.",
        "It cannot form hydrogen bonds, and its chain is flexible.",
    ],
)
def test_a_short_reason_is_no_boilerplate(reason: str) -> None:
    assert not is_boilerplate(reason)


@pytest.mark.parametrize(
    "reason",
    [
        "However, since the actual value is higher, the nitro group counts for more.",
        "This agrees with the actual melting point.",
        "Given the true melting point, the ring matters.",
        "The measured value suggests stacking.",
        "The provided melting point of 60 fits.",
        "It melts at 80 °C because of its ring. The ring is flat.",
        "With 80 degrees Celsius it is a solid. The ring is flat.",
        "Its melting point (80.2°C) is due to its ring. The ring is flat.",
        "80. The ring is flat",
        "80 °C: a flat ring",
        "Melting point (°C): 80, for the ring is flat",
        "Melting point of 80, for the ring is flat",
    ],
)
def test_a_leak(reason: str) -> None:
    assert leaks_answer(reason, 80.0 if "80.2" not in reason else 80.2, MELTING_POINT)


@pytest.mark.parametrize(
    "reason",
    [
        "The ring is flat and stacks well, so about 80 °C.",
        "Benzene melts at 5.5 °C. The nitro group adds +80 °C. That is high.",
        "Added up, 5 + 75 = 80 °C. That is high.",
        "There are 80 atoms. That is many.",
        "80 atoms make it heavy.",
        "80,4-dinitro is its pattern",
        "Melting point 90, so high that 80 is far.",
        "It melts at 180 °C or 80.5 °C. That is high.",
        "Benzene has a known melting point of 5.5 °C. The true shape is flat.",
        "80 °F is warm. The ring is flat.",
    ],
)
def test_no_leak(reason: str) -> None:
    assert not leaks_answer(reason, 80.0, MELTING_POINT)


def test_a_stated_value_is_compared_as_precisely_as_it_stands_there() -> None:
    assert states_value("about 82 °C", 81.75, MELTING_POINT)
    assert not states_value("about 81.0 °C", 81.75, MELTING_POINT)
    assert states_value("\u221212 °C", -12.0, MELTING_POINT)
    assert not states_value("12 °C", -12.0, MELTING_POINT)


@pytest.mark.parametrize(
    "text", ["minus 12 °C", "negative 12 °C", "12 degrees below zero", "12 °C below 0", "-12,0 °C"]
)
def test_a_negative_value_may_be_stated_in_words(text: str) -> None:
    assert states_value(f"It melts at {text}, since", -12.0, MELTING_POINT)
    assert not states_value(f"It melts at {text}, since", 12.0, MELTING_POINT)
    assert leaks_answer(f"{text}: it is small.", -12.0, MELTING_POINT)


@pytest.mark.parametrize(
    ("reason", "result", "is_true"),
    [
        ("In all 5.5 + 80 - 10.", 75.5, True),
        ("5.5 °C (benzene) + 80°C (nitro) = 85.5°C.", 85.5, True),
        ("So \u22129 + 40 + 50 + 5.", 86.0, True),
        ("So 5 + 80 = 120 °C.", 120.0, False),
        ("So 5 + 80 = 85 °C from two rings.", 85.0, True),
        ("So 5 + 80 = 85 for two rings, with 2 + 1 = 3 donors.", 85.0, True),
        ("First 1 + 2 = 3. Then 3 + 90 = 93.", 93.0, True),
        (
            "Benzene (5.5 °C) has a nitro group (+80 °C) and a methyl group (-10 °C).",
            75.5,
            True,
        ),
        ("The ring is flat. The total is thus 90 °C.", 90.0, True),
    ],
)
def test_arithmetic_is_read(reason: str, result: float, is_true: bool) -> None:
    found = read_arithmetic(reason, MELTING_POINT)
    assert found is not None
    assert found.result == pytest.approx(result)
    assert found.is_true is is_true
    assert found.reaches(result) is is_true
    assert not found.reaches(result + 20)


@pytest.mark.parametrize(
    "reason",
    [
        "",
        "Two rings and one ester.",
        "Rings melt at 80-120 °C, chains at 10 - 40 °C.",
        "2-(4-chlorophenyl)-1,3-dione with 2 rings.",
        "Benzene melts at 5.5 °C; each nitro group adds +80 °C and a methyl group -10 °C.",
        "It sums to 5 + 80 = 85, however, this overestimates the effect.",
        "Each group gives 10 (5+5), which is little.",
        "It is thus higher than 90 °C.",
        "50 + 20% of it.",
        "There are 6 + 3 = 9 heavy atoms, so it is small.",
        "It has 2 + 1 = 3 hydrogen-bond donors.",
        "A 5 + 6 fused ring system.",
        "It comes to 40 + 2 x 20 = 80.",
        "It comes to 2 x 20 + 40 = 80.",
        "Naphthalene at 80 °C and benzene at 5.5 °C, +20 °C and +10 °C.",
    ],
)
def test_arithmetic_that_could_be_misread_is_left_alone(reason: str) -> None:
    assert read_arithmetic(reason, MELTING_POINT) is None


def test_arithmetic_of_other_properties() -> None:
    logs = Property(name="solubility", unit="log mol/L", tolerance=1)
    assert read_arithmetic("In all 0.5 - 2.5 + 1.", logs) == Arithmetic(-1.0, 2.0)


def test_checks_take_linear_time() -> None:
    text = "5 + " * 2_000 + "(" * 2_000 + "melting " * 2_000
    assert read_arithmetic(text, MELTING_POINT) is None
    assert not leaks_answer(text, 5.0, MELTING_POINT)
    assert is_boilerplate(text)


@pytest.mark.skipif(not REFERENCE.exists(), reason="needs the reference rationales")
def test_the_sums_of_gpt_4_reach_and_those_of_a_small_model_dont() -> None:
    rows = [orjson.loads(line) for line in REFERENCE.read_bytes().splitlines()]
    share, leaked = {}, {}
    for source in ("gpt-4", "llama-2-7b"):
        mine = [row for row in rows if row["source"] == source]
        found = [
            arithmetic.reaches(row["prediction_celsius"])
            for row in mine
            if (arithmetic := read_arithmetic(row["reason"], MELTING_POINT))
        ]
        share[source] = sum(found) / len(found)
        leaks = [leaks_answer(r["reason"], r["prediction_celsius"], MELTING_POINT) for r in mine]
        leaked[source] = sum(leaks) / len(leaks)
    assert share["gpt-4"] > 0.6
    assert share["llama-2-7b"] < 0.4
    assert 0.1 < leaked["gpt-4"] < 0.3
