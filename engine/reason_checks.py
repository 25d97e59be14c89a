"""What is wrong with a reason's text, whatever the molecule: empty talk, and the answer in it."""

import re
from functools import lru_cache

from selfstudy_engine.data.properties import Property, unit_pattern
from selfstudy_engine.engine.told_values import BELOW_ZERO, DIGITS, MINUS, number_told

MIN_WORDS = 3
"""A reason with fewer different words says nothing."""

_VALUE = rf"{MINUS}?{DIGITS}"
_DIGIT = re.compile("[0-9]")
_WORD = re.compile(r"[^\W_]+(?:[-'][^\W_]+)*")
_REFUSAL = re.compile(
    r"\b(as an ai|language model|i(?: am|'m) (?:sorry|unable|not able|not sure)|"
    r"i (?:can ?not|can't)|"
    r"(?:can ?not|can't|not possible to|unable to|difficult to) (?:be )?(?:predict|determine|say)|"
    r"not enough information|insufficient information|lorem ipsum|no reason (?:is )?given|"
    r"reason goes here)",
    re.IGNORECASE,
)


def is_boilerplate(reason: str) -> bool:
    """Tell whether a reason is a refusal, a few words, or the same words again and again.

    >>> is_boilerplate("Small ring."), is_boilerplate("I cannot predict this value.")
    (True, True)
    >>> is_boilerplate("One benzene ring with a short ester chain.")
    False
    """
    words = [word.lower() for word in _WORD.findall(reason)]
    if len(set(words)) < MIN_WORDS or _REFUSAL.search(reason):
        return True
    grams = list(zip(words, words[1:], words[2:], words[3:], strict=False))
    return len(grams) >= 8 and len(set(grams)) * 2 < len(grams)


def leaks_answer(reason: str, value: float | None, prop: Property) -> bool:
    """Tell whether a reason speaks of the answer before it has been reasoned for.

    Either it knows an "actual value", or it begins with the value, or it states the value, with its
    unit, before its last sentence and other than as the result of a sum.

    >>> from selfstudy_engine.data.properties import find_property
    >>> melting_point = find_property("melting_point")
    >>> leaks_answer("It is flat, since the actual value is high.", 80.0, melting_point)
    True
    >>> leaks_answer("It melts at 80 °C. So it is a flat ring.", 80.0, melting_point)
    True
    >>> leaks_answer("It is a flat ring. So about 80 °C.", 80.0, melting_point)
    False
    """
    if _telling(prop.name).search(reason):
        return True
    if value is None or not _DIGIT.search(reason):
        return False
    first = _beginning(prop.name, prop.unit).match(reason)
    if first and _is_value(first, value):
        return True
    return states_value(" ".join(_sentences(reason)[:-1]), value, prop)


def states_value(text: str, value: float, prop: Property) -> bool:
    """Tell whether a text states a value with its unit, other than as the result of a sum."""
    found = _values(prop.unit).finditer(text)
    return any(_is_value(match, value) for match in found)


def _is_value(found: re.Match[str], value: float) -> bool:
    """Tell whether a number is a value as precisely as it is written."""
    number, precision = number_told(found)
    return abs(number - value) <= precision * (1 + 1e-9)


def _sentences(text: str) -> list[str]:
    return re.split(r"(?<=[.!?;])\s+", text.strip())


@lru_cache(maxsize=16)
def _telling(name: str) -> re.Pattern[str]:
    what = rf"(?:{re.escape(name)}s?|values?|answer|number|temperature|measurement|data)"
    return re.compile(
        rf"\b(?:(?:actual|true|real|correct|given|provided|stated|target)(?:ly)?(?:\s+\w+)?\s+{what}"
        rf"|(?:known|reported|measured|experimental|literature|observed)(?:\s+\w+)?\s+"
        rf"(?:values?|answer|data)|{re.escape(name)} (?:is|was) (?:given|provided|stated))\b",
        re.IGNORECASE,
    )


@lru_cache(maxsize=16)
def _values(unit: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?<![=≈+\w.])(?<![=≈+]\s){_VALUE}{unit_pattern(unit)}{BELOW_ZERO}", re.IGNORECASE
    )


@lru_cache(maxsize=16)
def _beginning(name: str, unit: str) -> re.Pattern[str]:
    # "80. Flat", "80 °C: flat", "Melting point (°C): 80, flat"; not "2 rings" or "2,4-dinitro".
    label = rf"{re.escape(name)}\s{{0,3}}(?:\([^()\n]{{1,20}}\))?\s{{0,3}}(?:[:=]|is|of)\s{{0,3}}"
    end = rf"(?:{unit_pattern(unit)}|\s{{0,3}}(?:[.,:;)](?=\s|$)|$))"
    return re.compile(rf"[\s\"'(*]{{0,3}}(?:{label})?{_VALUE}{end}{BELOW_ZERO}", re.IGNORECASE)
