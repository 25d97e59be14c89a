"""Named compounds' values in a text."""

import pytest

from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.claim_text import read_text
from selfstudy_engine.engine.claims import check_claims
from selfstudy_engine.engine.known_values import KnownValues

MELTING_POINT = find_property("melting_point")
VALUES = {
    "benzene": 5.5,
    "aniline": -6.0,
    "benzoic acid": 122.0,
    "acid": 0.0,
    "2-butanol": -114.7,
    "n,n-dimethylaniline": 2.0,
}
KNOWN = KnownValues(VALUES, MELTING_POINT)


def stated(text: str) -> list[tuple[str, float, float]]:
    return [(s.known.name, s.low, s.high) for s in KNOWN.stated(read_text(text))]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Benzene has a melting point of 5.5 °C.", ("benzene", 5.5, 5.5)),
        ("benzene, which has a melting point around 5°C", ("benzene", 5.0, 5.0)),
        ("benzene (with a melting point of about 6 degrees Celsius)", ("benzene", 6.0, 6.0)),
        ("relative to the melting point of benzene, which is around 5°C", ("benzene", 5.0, 5.0)),
        ("The melting point of aniline is −6.2 °C", ("aniline", -6.2, -6.2)),
        ("aniline (mp -6 °C)", ("aniline", -6.0, -6.0)),
        ("Aniline melts at 267 K", ("aniline", -6.15, -6.15)),
        ("Benzene melts at 42 °F", ("benzene", 5.5555, 5.5555)),
        ("Benzene melts at 42 degree Fahrenheit", ("benzene", 5.5555, 5.5555)),
        ("Benzene melts at 5 degrees", ("benzene", 5.0, 5.0)),
        ("For benzene, the melting point is 5 °C", ("benzene", 5.0, 5.0)),
        ("Benzene, melting point 5 °C", ("benzene", 5.0, 5.0)),
        ("benzoic acid has a melting point of 121-123 °C", ("benzoic acid", 121.0, 123.0)),
        ("2-butanol has a melting point of -114.7", ("2-butanol", -114.7, -114.7)),
        ("N,N-dimethylaniline melts at 2 °C", ("n,n-dimethylaniline", 2.0, 2.0)),
    ],
)
def test_ways_to_state_a_value(text: str, expected: tuple[str, float, float]) -> None:
    [(name, low, high)] = stated(text)
    assert name == expected[0]
    assert (low, high) == pytest.approx(expected[1:], abs=1e-3)


@pytest.mark.parametrize(
    "text",
    [
        "Compared with benzene, the melting point is 52 °C.",
        "Compared to benzene the melting point is 52 °C.",
        "Relative to benzene, its melting point of 52 °C is high.",
        "Benzene has a boiling point of 80 °C.",
        "Benzene raises the melting point by 5 °C.",
        "Methyl benzene has a melting point of -95 °C.",
        "benzene derivatives, with melting points of 100 °C",
        "Nitrobenzene has a melting point of 6 °C.",
        "benzene. Its melting point is 300 °C.",
        "Benzene is flat, its ester has a melting point of 80 °C.",
        "benzene has a melting point",
        "Benzoic acid ester has a melting point of 5 °C",
    ],
)
def test_what_states_no_value(text: str) -> None:
    assert stated(text) == []


@pytest.mark.parametrize(
    ("value", "truth"), [(20, "true"), (-9, "true"), (25, "unverifiable"), (40, "false")]
)
def test_right_within_half_the_tolerance_and_wrong_beyond_it(value: int, truth: str) -> None:
    [claim] = check_claims(f"Benzene has a melting point of {value} °C.", "Cc1ccccc1", KNOWN)
    assert (claim.kind, claim.truth) == ("value", truth)
    assert claim.found == "melting point of benzene: 5.5 °C"


def test_the_molecules_own_value_is_the_answer_and_not_judged() -> None:
    reason = "Benzene has a melting point of 90 °C."
    own = Molecule("", "Benzene", "c1ccccc1", 5.5)
    assert [claim.truth for claim in check_claims(reason, own, KNOWN)] == ["unverifiable"]
    table = KnownValues.from_molecules([own], MELTING_POINT)
    assert [claim.truth for claim in check_claims(reason, "C1=CC=CC=C1", table)] == ["unverifiable"]


def test_names_with_conflicting_values_are_left_out() -> None:
    molecules = [
        Molecule("A", "menthol", "C", 30.0),
        Molecule("B", "Menthol", "CC", 60.0),
        Molecule("C", "camphor", "CCC", 176.0),
        Molecule("D", "camphor", "CCCC", 178.0),
        Molecule("E", "", "CCCCC", 1.0),
    ]
    known = KnownValues.from_molecules(molecules, MELTING_POINT)
    assert known.find(["menthol"], 0) is None
    camphor, length = known.find(["camphor"], 0) or (None, 0)
    assert camphor is not None
    assert (camphor.value, length) == (177.0, 1)


def test_the_longest_name_counts() -> None:
    words = read_text("benzoic acid").words
    known, length = KNOWN.find(words, 0) or (None, 0)
    assert known is not None
    assert (known.name, length) == ("benzoic acid", 2)


@pytest.mark.parametrize(
    "text",
    [
        "Benzene has a melting point about 136 °C higher than aniline.",
        "Benzoic acid has a melting point 81 °C above phenol.",
        "Benzene has a melting point 31 degrees Celsius lower than phenol.",
        "The melting point of aniline is 100 °C below that of benzene.",
        "Benzoic acid melts at roughly 120 °C higher than benzene.",
        "Benzene has a melting point of 80 to 100 °C more than aniline.",
        "The melting point of benzene is 20% higher than that of aniline.",
        "Benzene melts at 45 °C under reduced pressure.",
        "Benzene melts at 45 °C under a high vacuum.",
        "Benzene melts at 45 °C at 20 mmHg.",
        "Benzene melts at 45 °C (0.5 mbar).",
        "Benzene melts at 45 °C/12 Torr.",
        "Benzene melts at 45 °C at a pressure of 5 kPa.",
    ],
)
def test_a_difference_or_another_pressures_value_is_not_the_compounds_own(text: str) -> None:
    assert stated(text) == []


@pytest.mark.parametrize(
    "text",
    [
        "Benzene has a melting point of 5.5 °C, higher than aniline.",
        "Benzene (melting point 5.5 °C) lower than others",
        "Benzene has a melting point of 5.5 °C at normal pressure.",
        "Benzene has a melting point of 5.5 °C moreover",
    ],
)
def test_what_follows_a_value_and_is_no_part_of_it(text: str) -> None:
    assert stated(text) == [("benzene", 5.5, 5.5)]


def test_another_property() -> None:
    boiling = Property(name="boiling point", unit="°C", tolerance=20.0)
    known = KnownValues({"ethanol": 78.0}, boiling)
    reason = "Ethanol has a boiling point of {} °C and melts at 400 °C."
    for value, truth in ((80, "true"), (120, "false")):
        [claim] = check_claims(reason.format(value), "CCCO", known)
        assert claim.truth == truth


def test_a_unit_that_is_none_of_the_propertys_says_nothing() -> None:
    solubility = Property(name="solubility", unit="log mol/L", tolerance=1.0)
    known = KnownValues({"ethanol": 1.0}, solubility)
    assert check_claims("Ethanol has a solubility of 5 °C.", "CCCO", known) == []
    [claim] = check_claims("Ethanol has a solubility of -3.", "CCCO", known)
    assert claim.truth == "false"


SOLUBILITY = find_property("aqueous_solubility")


@pytest.mark.parametrize(
    "value",
    [
        "1.8 g/L",
        "about 520 mg/L",
        "0.023 mol/L",
        "0.023 M",
        "1,800 mg/L",
        "2 to 3 g/L",
        "2 and 3 g/L",
        "1.8 x 10-3",
        "-4 to -3",
        "1.8 log mol/L/K",
        "1.8 log units",
        "1.8 log mol/L higher than water",
        "5 °C",
    ],
)
def test_a_value_in_a_unit_that_may_be_another_says_nothing(value: str) -> None:
    known = KnownValues({"benzene": -1.64}, SOLUBILITY)
    reason = f"Benzene has an aqueous solubility of {value}."
    assert check_claims(reason, "CCCO", known) == []


@pytest.mark.parametrize(
    ("value", "truth"),
    [
        ("-1.6 log mol/L", "true"),
        ("-1.6 (log mol/L)", "true"),
        ("1.8 log mol/L", "false"),
        ("1 to 2", "false"),
        ("-4", "false"),
        ("-1.6, which is high", "true"),
        ("-1.6 in water", "true"),
    ],
)
def test_a_value_in_the_propertys_unit_or_in_none_is_judged(value: str, truth: str) -> None:
    known = KnownValues({"benzene": -1.64}, SOLUBILITY)
    [claim] = check_claims(f"Benzene has an aqueous solubility of {value}.", "CCCO", known)
    assert claim.truth == truth


def test_upper_and_lower_case_are_two_units() -> None:
    known = KnownValues({"ethanol": 5.0}, Property(name="tension", unit="MPa", tolerance=1.0))
    assert check_claims("Ethanol has a tension of 9 mPa.", "CCCO", known) == []
    assert [c.truth for c in check_claims("Ethanol has a tension of 9 MPa.", "CCCO", known)] == [
        "false"
    ]
