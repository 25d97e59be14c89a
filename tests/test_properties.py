"""Property definitions, their wording, and units."""

import math

import pytest

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.prompts import parse_completion, render_answer
from selfstudy_engine.data.properties import Property, built_in_properties, convert, find_property


def test_melting_point_is_built_in() -> None:
    prop = find_property("melting_point")
    assert (prop.unit, prop.tolerance, prop.question) == ("°C", 30.0, "Melting point (°C):")
    assert built_in_properties()["melting_point"] == prop


def test_other_properties_ship_as_examples() -> None:
    boiling_point, solubility = map(find_property, ("boiling_point", "aqueous_solubility"))
    assert (boiling_point.question, boiling_point.tolerance) == ("Boiling point (°C):", 30.0)
    assert solubility.question == "Aqueous solubility (log mol/L):"
    assert solubility.format(-2.04) == "-2.0"


def test_the_wording_of_prompts_can_be_given() -> None:
    prop = Property(name="density", unit="g/mL", tolerance=1, decimals=2, wording="Its density is")
    assert render_answer("Heavy.", 1.5, prop) == " Heavy.\nIts density is 01.50"
    assert parse_completion(" Heavy.\nIts density is 1.5", prop).value == 1.5
    assert parse_completion(" Heavy.\nDensity (g/mL): 1.5", prop).value is None


def test_an_unknown_property_lists_the_known_ones() -> None:
    with pytest.raises(UsageError, match=r"'boiling'.*known: .*melting_point.*\[property\]"):
        find_property("boiling")


@pytest.mark.parametrize(
    ("decimals", "value", "text"),
    [
        (0, -0.4, "0"),
        (0, -0.0, "0"),
        (0, -0.6, "-1"),
        (0, 81.75, "82"),
        (0, -152.5, "-152"),
        (2, -0.004, "0.00"),
        (2, -0.006, "-0.01"),
        (1, 1e6, "1000000.0"),
    ],
)
def test_format(decimals: int, value: float, text: str) -> None:
    prop = Property(name="x", unit="u", tolerance=1, decimals=decimals)
    assert prop.format(value) == text
    assert prop.format(value, "+") == (f"+{text}" if float(text) > 0 else text)
    assert prop.error_decimals == decimals + 1


@pytest.mark.parametrize(
    ("digits", "decimals", "value", "text"),
    [
        (1, 0, 7.0, "7"),
        (3, 0, 7.0, "007"),
        (3, 0, -7.0, "-007"),
        (3, 0, -0.4, "000"),
        (3, 0, 1043.0, "1043"),
        (3, 1, -7.25, "-007.2"),
        (2, 2, 12.0, "12.00"),
    ],
)
def test_an_answer_has_zeros_ahead(digits: int, decimals: int, value: float, text: str) -> None:
    prop = Property(name="x", unit="u", tolerance=1, decimals=decimals, digits=digits)
    assert prop.write(value) == text


@pytest.mark.parametrize(
    ("tolerance", "digits"),
    [(50, 4), (30, 3), (5, 3), (4, 2), (0.5, 2), (0.4, 1), (0.05, 1), (1e-9, 1), (1e308, 7)],
)
def test_digits_follow_the_tolerance(tolerance: float, digits: int) -> None:
    assert Property(name="x", unit="u", tolerance=tolerance).digits == digits


@pytest.mark.parametrize(
    ("value", "unit", "to_unit", "expected"),
    [
        (0.0, "K", "°C", -273.15),
        (-459.67, "°F", "K", 0.0),
        (98.6, "fahrenheit", "celsius", 37.0),
        (-40.0, "C", "F", -40.0),
        (273.15, "kelvin", "°F", 32.0),
        (1.25, "g/mL", "g/mL", 1.25),
    ],
)
def test_convert(value: float, unit: str, to_unit: str, expected: float) -> None:
    assert math.isclose(convert(value, unit, to_unit), expected, abs_tol=1e-9)
    assert math.isclose(convert(expected, to_unit, unit), value, abs_tol=1e-9)


@pytest.mark.parametrize(("unit", "to_unit"), [("g/mL", "°C"), ("°C", "g/mL"), ("c", "K")])
def test_units_that_do_not_fit_are_refused(unit: str, to_unit: str) -> None:
    with pytest.raises(UsageError, match=f"can't convert unit '{unit}' to '{to_unit}'"):
        convert(1.0, unit, to_unit)


@pytest.mark.parametrize(
    ("tolerance", "decimals"),
    [(30, 0), (5, 0), (4, 1), (1, 1), (0.5, 1), (0.4, 2), (0.05, 2), (1e-9, 6), (1e9, 0)],
)
def test_decimals_follow_the_tolerance(tolerance: float, decimals: int) -> None:
    """Whole numbers of a property that is right within 0.5 would hardly ever be accepted."""
    assert Property(name="x", unit="u", tolerance=tolerance).decimals == decimals


@pytest.mark.parametrize(
    "fields",
    [
        {"name": "", "unit": "u", "tolerance": 1},
        {"name": "x", "unit": "", "tolerance": 1},
        {"name": "x", "unit": "u", "tolerance": 0},
        {"name": "x", "unit": "u", "tolerance": math.inf},
        {"name": "x", "unit": "u", "tolerance": math.nan},
        {"name": "x", "unit": "u", "tolerance": 1, "decimals": 7},
        {"name": "x", "unit": "u", "tolerance": 1, "limit": 3},
        {"name": "x", "unit": "u", "tolerance": 1, "minimum": 2.0, "maximum": 1.0},
        {"name": "x", "unit": "u", "tolerance": 1, "minimum": math.nan},
        {"name": "two\nlines", "unit": "u", "tolerance": 1},
        {"name": "x", "unit": "u", "tolerance": 1, "wording": "two\nlines:"},
        {"name": "x", "unit": "u", "tolerance": 1, "wording": ""},
    ],
)
def test_a_property_that_makes_no_sense_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValueError, match="validation error"):
        Property.model_validate(fields)
