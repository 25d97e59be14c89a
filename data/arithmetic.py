"""What the arithmetic of a reason comes to, where it has any that can be read without guessing.

Three forms count: a sum written out ("5.5 + 80 - 10", with or without its result), a base value
with signed contributions ("benzene melts at 5.5 °C ... +80 °C ... -10 °C"), and a concluding
sentence that states the value. Ranges, shares and revised estimates are left alone.
"""

import re
from dataclasses import dataclass
from functools import lru_cache

from selfstudy_engine.data.properties import Property, unit_pattern

_NUMBER = r"[0-9]++(?:\.[0-9]++)?"
"""Possessive: digits that are given back make a long number take quadratic time."""
_DIGIT = re.compile("[0-9]")
_MINUS = "\\-\u2212\u2013"
_SIGN = "+" + _MINUS
_MOST_TERMS = 20
_SLACK_PER_TERM = 0.5
"""Each term may be rounded to a whole number."""
_REVISED = re.compile(
    r"\b(each|every|per|apiece|adjust\w*|overestimat\w*|underestimat\w*|instead|revis\w*|rather|"
    r"respectively|twice|times)\b|\bto \+?[0-9]",
    re.IGNORECASE,
)
_COUNTED = re.compile(
    r"(?:\s+(?!(?:from|for|of|in|by|with|and|or|to|at|on|as|due|per|because|since)\b)[a-z-]+){0,2}"
    r"\s+(?:atom|carbon|hydrogen|nitrogen|oxygen|halogen|ring|donor|acceptor|bond|group|substituent|"
    r"electron|member)s?\b",
    re.IGNORECASE,
)
"""After a sum of counts: "6 + 3 = 9 heavy atoms"."""
_REVISED_LATER = re.compile(
    r"\b(however|but|adjust\w*|overestimat\w*|underestimat\w*|instead|actual\w*)\b", re.IGNORECASE
)
_CONCLUSION = re.compile(
    r"\b(total\w*|sum\w*|overall|altogether|finally|therefore|thus|hence|giv(?:es|ing)|"
    r"result(?:s|ing)?|arriv\w+|predict(?:ed|ion))\b",
    re.IGNORECASE,
)
_HEDGE = re.compile(
    r"\b(above|below|under|over|between|higher|lower|less|more|than|least|most|if|raises?|"
    r"increases?|adds?|adding|lowers?|decreases?|which has)\b|[<>]",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """The value that a reason's arithmetic comes to."""

    result: float
    """In the property's unit."""
    slack: float
    """What rounding its terms can account for, in the property's unit."""
    is_true: bool = True
    """False where a stated result isn't the sum of its terms."""

    def reaches(self, value: float) -> bool:
        """Tell whether it is true and ends at a value."""
        return self.is_true and abs(self.result - value) <= self.slack


def read_arithmetic(reason: str, prop: Property) -> Arithmetic | None:
    """Return what a reason's arithmetic comes to; None where it has none that can be read.

    >>> from selfstudy_engine.data.properties import find_property
    >>> melting_point = find_property("melting_point")
    >>> read_arithmetic("Rings melt at 80-120 °C.", melting_point) is None
    True
    >>> read_arithmetic("In all 5.5 + 80 - 10.", melting_point).result
    75.5
    >>> read_arithmetic("In all 5.5 °C + 80 °C = 90 °C.", melting_point).is_true
    False
    """
    if not _DIGIT.search(reason):
        return None
    unit = unit_pattern(prop.unit)
    return _sum(reason, unit) or _conclusion(reason, unit) or _contributions(reason, unit)


def _to_number(text: str) -> float:
    return float(re.sub("[\u2212\u2013]", "-", text).replace(" ", "").lstrip("+"))


@lru_cache(maxsize=16)
def _chain(unit: str) -> re.Pattern[str]:
    # Blanks around a minus tell "80 - 10" from the range "80-10" and from names.
    term = rf"{_NUMBER}{unit}?"
    return re.compile(
        rf"(?<![\w.,/=*×{_SIGN}(])(?<![/=*×x]\s)"
        rf"(?P<terms>[{_SIGN}]?{term}(?:(?:\s+[{_MINUS}]\s+|\s*\+\s*){term}){{1,{_MOST_TERMS}}})"
        rf"(?:\s*(?:=|≈|~|equals)\s*(?:about\s+|approximately\s+|~)?"
        rf"(?P<result>[{_SIGN}]?{_NUMBER}))?(?!\s*(?:[×x*/%{_SIGN}]|[0-9.]*[0-9]))",
        re.IGNORECASE,
    )


def _sum(reason: str, unit: str) -> Arithmetic | None:
    bare = re.sub(r"\([^()]*\)", " ", reason)  # notes, and sums of a part
    found = [sum_ for sum_ in _chain(unit).finditer(bare) if not _COUNTED.match(bare, sum_.end())]
    if not found or _REVISED_LATER.search(bare, found[-1].end()):
        return None
    last = found[-1]
    terms = [_to_number(text) for text in re.findall(rf"[{_SIGN}]?\s*{_NUMBER}", last["terms"])]
    total, slack = sum(terms), _SLACK_PER_TERM * (len(terms) + 1)
    if last["result"] is None:
        is_range = len(terms) == 2 and "+" not in last["terms"]
        return None if is_range else Arithmetic(total, slack)
    stated = _to_number(last["result"])
    return Arithmetic(stated, 1.0, is_true=abs(stated - total) <= slack)


def _conclusion(reason: str, unit: str) -> Arithmetic | None:
    sentences = [text for text in re.split(r"(?<=[.!?;])\s+", reason) if text.strip()]
    if not sentences:
        return None
    last = sentences[-1]
    values = re.findall(rf"(?<![\w.\-\u2013])([{_SIGN}]?{_NUMBER}){unit}", last, re.IGNORECASE)
    numbers = re.findall(rf"(?<![\w.]){_NUMBER}", last)
    if len(values) != 1 or len(numbers) != 1 or values[0].startswith("+"):
        return None
    if not _CONCLUSION.search(last) or _HEDGE.search(last):
        return None
    return Arithmetic(_to_number(values[0]), 5.0)  # such sentences say "about"


def _contributions(reason: str, unit: str) -> Arithmetic | None:
    if _REVISED.search(reason):
        return None
    signed = re.findall(rf"(?<![\w.)\-])([{_SIGN}]\s?{_NUMBER}){unit}", reason, re.IGNORECASE)
    plain = re.findall(rf"(?<![\w.{_SIGN}])({_NUMBER}){unit}", reason, re.IGNORECASE)
    ranges = re.search(
        rf"(?<![0-9]){_NUMBER}{unit}?\s*[\-\u2013]\s*[{_SIGN}]?{_NUMBER}{unit}", reason
    )
    # More than one value without a sign, and no one can say which of them is the base.
    if ranges or len(plain) != 1 or len(signed) < 2 or not any(s[0] == "+" for s in signed):
        return None
    terms = [_to_number(plain[0]), *map(_to_number, signed)]
    return Arithmetic(sum(terms), max(_SLACK_PER_TERM * len(terms), 5.0))
