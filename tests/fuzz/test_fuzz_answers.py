"""What a model may write: any text at all, up to 100,000 characters, read quickly and strictly."""

from decimal import Decimal
from functools import cache, partial

import pytest
from fuzzing import fuzz, long_texts, texts
from hypothesis import assume
from hypothesis import strategies as st
from samples import SHIPPED

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.prompts import parse_completion
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.accepted_texts import AcceptedTexts
from selfstudy_engine.engine.claims import check_claims
from selfstudy_engine.engine.false_claims import finds_false
from selfstudy_engine.engine.known_values import KnownValues
from selfstudy_engine.engine.masking import mask_reason
from selfstudy_engine.engine.told_values import VALUE, mask_value, tells_value
from selfstudy_engine.engine.verify import Rules, compare, judge

MELTING_POINT = find_property("melting_point")
VANILLIN = Molecule("K", "vanillin", "COc1cc(C=O)ccc1O", 80.0)
LABEL = "\nMelting point (°C):"
UNITS = {"": 0.0, "°C": 0.0, "C": 0.0, "celsius": 0.0, "K": 273.15, "kelvin": 273.15}
WORDS = (
    " ",
    "\n",
    "\n\n",
    "  ",
    "1",
    "80",
    "-5",
    "5.5",
    "1 + 2",
    "1.",
    ".5",
    "80-82",
    "80 to 82",
    "=",
    "+80 °C",
    "°C",
    "K",
    "F",
    "degrees",
    "no",
    "two",
    "nitro",
    "nitro groups",
    "benzene ring",
    "ring",
    "(",
    ")",
    "((",
    ".",
    ",",
    ";",
    "-",
    "1,2-",
    "molecular weight",
    "of 152 g/mol",
    "formula C8H8O3",
    "formula",
    "COc1cc(C=O)ccc1O",
    "vanillin",
    "melting point of benzene is",
    "melts at",
    "actual",
    "actual value",
    "value",
    "Name:",
    "SMILES:",
    "Reason:",
    "#Problem",
    LABEL,
    "Melting point (°C): 80",
    "not",
    "than",
    "if",
    "as an",
    "acid",
    "mass",
    "total",
    "therefore",
    "about",
    "or",
    "without",
)


@cache
def known_values() -> KnownValues:
    names = {"benzene": 5.5, "phenol": 40.9, "benzoic acid": 122.4}
    return KnownValues(names, MELTING_POINT)


RULES = Rules.of(RunConfig(), None, finds_false(partial(check_claims, known=known_values())))
numbers = st.decimals(-200, 1900, places=2, allow_nan=False) | st.integers(-200, 1900).map(Decimal)


def number_in(line: str) -> float | None:
    """Read a line that is one plain number with a unit or none, letter by letter."""
    line = line.strip().removesuffix(".").strip()
    for unit in sorted(UNITS, key=len, reverse=True):
        digits = line.removesuffix(unit).strip().replace("\N{MINUS SIGN}", "-")
        plain = digits.removeprefix("-").removeprefix("+") if digits[:2] not in ("-+", "+-") else ""
        whole, point, fraction = plain.partition(".")
        parts = [whole, fraction] if point else [whole]
        if all(part.isascii() and part.isdigit() for part in parts):
            return float(digits) - UNITS[unit]
    return None


@fuzz(40, cpu_seconds=1, text=long_texts(WORDS))
def test_a_value_is_a_number_that_stands_on_its_line(text: str) -> None:
    answer = parse_completion(text, MELTING_POINT)
    assert "\n" not in answer.reason
    if answer.value is None:
        return
    _, found, rest = text.partition(LABEL)
    assert found
    stated = number_in(rest.strip().split("\n", 1)[0])
    if stated is not None:  # in Fahrenheit it is another one
        assert answer.value == pytest.approx(stated)
        assert answer.value >= -273.15
    else:
        assert answer.is_other_unit


@fuzz(
    40,
    cpu_seconds=1,
    reason=long_texts([word for word in WORDS if "\n" not in word and not word.endswith(":")]),
    number=numbers,
    unit=st.sampled_from(list(UNITS)),
    spaces=st.sampled_from(["", " ", "   "]),
    rest=st.sampled_from(["", ".", "\n", "\n\nName: other", "\nIt is so: 900"]),
)
def test_a_valid_answer_has_its_value(
    reason: str, number: Decimal, unit: str, spaces: str, rest: str
) -> None:
    assume("\n" not in reason)
    starts = reason.strip().lower()
    assume(not starts.startswith(("#problem", "##", "name:", "smiles:", "facts:", "reason:")))
    measured = number + Decimal("273.15") if UNITS[unit] else number
    text = f" {reason}{LABEL} {measured}{spaces}{unit}{rest}"
    answer = parse_completion(text, MELTING_POINT)
    assert answer.value == pytest.approx(float(number), abs=1e-6)
    assert answer.reason == " ".join(reason.split())
    assert answer.is_other_unit is (unit in {"K", "kelvin"})


NUMBERS_OF_NOTHING = (
    "NaN",
    "nan",
    "inf",
    "-Infinity",
    "1e999",
    "1e3",
    "8e1",
    "８０",
    "٨٠",
    "²",
    "½",
    "80,5",
    "1_0",
    "0x50",
    "80-82",
    "80–82",
    "80 ± 2",
    "80 to 82",
    "80/82",
    "",
    "-",
    ".",
    ".5",
    "5.",
    "+-5",
    "- 5",
    "80 90",
    "80°",
    "80 °R",
    "80 °C or so",
    "about 80",
    "~80",
    "<80",
    "80?",
    "9" * 400,
    "-300",
    "1900.5 °Cx",
    "80\x00",
    "8\u200b0",
)


@fuzz(
    94,
    cpu_seconds=1,
    reason=texts,
    number=st.sampled_from(NUMBERS_OF_NOTHING),
    end=st.sampled_from(["", "\n"]),
)
def test_what_is_no_number_has_no_value(reason: str, number: str, end: str) -> None:
    assume("\n" not in reason)
    assert parse_completion(f" {reason}{LABEL} {number}{end}", MELTING_POINT).value in (
        (None, 5.0) if number == "5." else (None,)  # a full stop may end the line
    )


@fuzz(
    8,
    cpu_seconds=1,
    text=long_texts(WORDS),
    end=st.sampled_from(["", f"{LABEL} 80", f"{LABEL} 111"]),
    finish=st.sampled_from(["stop", "length"]),
    hinted=st.booleans(),
)
def test_a_verdict_follows_from_its_findings(
    text: str, end: str, finish: str, hinted: bool
) -> None:
    seen = AcceptedTexts(0.8)
    judged = judge(text + end, finish, VANILLIN, RULES, hinted=hinted)
    verdict = compare(judged, VANILLIN, RULES, seen)
    assert verdict.accepted is (not verdict.rejections)
    assert set(verdict.rejections) == set(verdict.findings) & RULES.reject
    assert ("no value" in verdict.findings) is (verdict.predicted is None)
    if verdict.predicted is None:
        assert verdict.error is None
        assert not verdict.accepted
    else:
        assert verdict.error == verdict.predicted - 80
        assert ("out of tolerance" in verdict.findings) is (abs(verdict.error) > 30)
    if finish == "length":
        assert "truncated" in verdict.findings
    assert (judged.fingerprint is not None) is verdict.accepted
    if judged.fingerprint:
        seen.add("K", judged.fingerprint)
        assert "repeated for molecule" in compare(judged, VANILLIN, RULES, seen).findings


@fuzz(
    8,
    cpu_seconds=1,
    text=long_texts(WORDS),
    about=st.sampled_from([VANILLIN, *(e.molecule for e in SHIPPED)]),
)
def test_claims_are_parts_of_the_text(text: str, about: Molecule) -> None:
    claims = check_claims(text, about, known_values())
    for claim in claims:
        assert 0 <= claim.start < claim.end <= len(text)
        assert claim.text == text[claim.start : claim.end]
        assert claim.truth in ("true", "false", "unverifiable")
    assert [claim.start for claim in claims] == sorted(claim.start for claim in claims)


@fuzz(
    30,
    cpu_seconds=1,
    text=long_texts(WORDS),
    value=st.integers(-200, 1900),
    form=st.sampled_from(["{} °C", "{}°C", "{}.0 °C", "{} celsius", "{} degrees"]),
)
def test_a_masked_reason_tells_no_value(text: str, value: int, form: str) -> None:
    stated = form.format(value)
    masked = mask_value(f"{text} It melts at {stated}.", float(value), MELTING_POINT)
    assert masked.endswith(f" It melts at {VALUE}.")
    assert not tells_value(masked, float(value), MELTING_POINT)


@fuzz(20, cpu_seconds=1, text=long_texts(WORDS))
def test_a_masked_reason_tells_neither_name_nor_smiles(text: str) -> None:
    told = f"{text} So vanillin (O=Cc1ccc(O)c(OC)c1) is flat."
    masked = mask_reason(told, VANILLIN, MELTING_POINT)
    assert masked.endswith(" So [name] ([SMILES]) is flat.")
