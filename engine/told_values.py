"""Numbers in a text that tell a value, found and masked. Pure."""

import re
from functools import lru_cache

from selfstudy_engine.data.properties import Property, commensurable, convert
from selfstudy_engine.engine.claim_words import NUMBERS

VALUE = "[value]"
"""What stands in the place of one."""

MINUS = r"(?P<minus>(?:minus|negative)\s+|[\-\u2212\u2013])"
DIGITS = r"(?P<digits>[0-9]+(?:\.[0-9]+|(?P<comma>,[0-9]+))?)"
BELOW_ZERO = r"(?=(?P<below>\s+below\s+(?:zero|0)(?![.,]?\w))?)"
"""Parts of patterns whose matches `number_told` reads."""

_DASH = r"(?P<dash>(?<=[\-\u2212\u2013]\s))?"
"""With a blank behind it: a minus, or a dash."""
_TO = r"(?:[\-\u2013\u00b1]|\+/?-|to|and|or)"
_UNNAMED = re.compile(r"\?P<\w+>")
_NUMBER = rf"(?:{MINUS}|\+)?{DIGITS}"
_ANOTHER = _UNNAMED.sub("?:", _NUMBER)
_BELOW_RANGE = _UNNAMED.sub("?P<below_of_range>", BELOW_ZERO)
_TENS = "thirty forty fifty sixty seventy eighty ninety hundred"
_SPELLED = NUMBERS | {word: 10 * tens for tens, word in enumerate(_TENS.split(), start=3)}
_WORD = rf"(?:{'|'.join(sorted(_SPELLED, key=len, reverse=True))})"
_MOST_WORDS = 6
_ALSO_ATOMS = frozenset({"C", "F"})
"""Units that are symbols of elements too: "6 C atoms" is no temperature."""


def mask_value(text: str, value: float, prop: Property) -> str:
    """Return a text with each number masked that tells a value.

    A number tells it if it is the value at the precision that it is written with, converted where
    it has another unit of the same quantity; or if it has a unit and lies within the tolerance.
    A single digit without unit or sign is taken for a count, a spelled-out number without unit too.

    >>> from selfstudy_engine.data.properties import find_property
    >>> melting_point = find_property("melting_point")
    >>> mask_value("2 rings: about 80 °C, 355 K or 82, not 300 °C.", 82.0, melting_point)
    '2 rings: about [value], [value] or [value], not 300 °C.'
    """
    text = _numbers(prop.unit).sub(
        lambda found: VALUE if _tells(found, value, prop) else found.group(), text
    )
    return _spelled_numbers(prop.unit).sub(
        lambda found: VALUE if _tells_spelled(found, value, prop) else found.group(), text
    )


def tells_value(text: str, value: float, prop: Property) -> bool:
    """Tell whether a text has a number that `mask_value` masks."""
    return mask_value(text, value, prop) != text


def number_told(found: re.Match[str]) -> tuple[float, float]:
    """Return a number in a text with its sign, and half a unit of its last digit.

    A comma before three digits stands between thousands, any other one is a decimal comma.
    """
    digits = re.sub(",([0-9]{3})$", r"\1", found["digits"]).replace(",", ".")
    number = -float(digits) if found["minus"] or found["below"] else float(digits)
    return number, 0.5 * 10.0 ** -len(digits.partition(".")[2])


def _tells(found: re.Match[str], value: float, prop: Property) -> bool:
    unit = _unit_named(found["unit"] or found["unit_of_range"], prop)
    if unit is None and len(found["value"]) == 1:
        return False
    number, precision = number_told(found)
    if found["below_of_range"]:
        number = -abs(number)
    stated = convert(number, unit or prop.unit, prop.unit)
    within = abs(convert(number + precision, unit or prop.unit, prop.unit) - stated)
    if unit == prop.unit or (unit and unit not in _ALSO_ATOMS):
        within = max(within, prop.tolerance)
    told = [stated]
    if unit and found["dash"] is not None:
        told.append(convert(-number, unit or prop.unit, prop.unit))
    return any(abs(one - value) <= within * (1 + 1e-9) for one in told)


def _tells_spelled(found: re.Match[str], value: float, prop: Property) -> bool:
    number = 0
    for word in re.findall(_WORD, found["words"].lower()):
        number = max(number, 1) * 100 if word == "hundred" else number + _SPELLED[word]
    signed = -number if found["minus"] or found["below"] else number
    unit = _unit_named(found["unit"], prop) or prop.unit
    is_near = abs(convert(signed, unit, prop.unit) - value) <= prop.tolerance
    return is_near and unit not in _ALSO_ATOMS


def _unit_named(text: str | None, prop: Property) -> str | None:
    """Return the unit that a text means; "degrees" alone are those of the property."""
    if text is None:
        return None
    known = {unit.lower(): unit for unit in commensurable(prop.unit)}
    word = re.sub(r"^degrees?\s*", "°", text.lower())
    return known.get(word) or known.get(word.removeprefix("°"), prop.unit)


def _units(unit: str) -> str:
    names = sorted(commensurable(unit), key=len, reverse=True)
    units = "|".join(map(re.escape, names))
    if "°C" in names:
        units = rf"(?:degrees?\s+)?(?:{units})|degrees?"
    return rf"(?:{units})(?![A-Za-z0-9])"


@lru_cache(maxsize=16)
def _spelled_numbers(unit: str) -> re.Pattern[str]:
    return re.compile(
        rf"(?P<minus>\b(?:minus|negative)\s+)?\b(?P<words>(?:a\s+)?{_WORD}"
        rf"(?:(?:(?<=hundred)\s+and)?[\s-]+{_WORD}){{0,{_MOST_WORDS}}})\s+(?P<unit>{_units(unit)}){BELOW_ZERO}",
        re.IGNORECASE,
    )


@lru_cache(maxsize=16)
def _numbers(unit: str) -> re.Pattern[str]:
    units = _units(unit)
    return re.compile(
        rf"(?<![\w.]){_DASH}(?P<value>{_NUMBER})"
        rf"(?:\s*(?P<unit>{units})"
        rf"|(?=\s*{_TO}\s*{_ANOTHER}\s*(?P<unit_of_range>{units}){_BELOW_RANGE})"
        # Neither a locant nor a part of a longer number, and no comma without a unit.
        rf"|(?(comma)(?!))(?![\-,.]?\w)){BELOW_ZERO}",
        re.IGNORECASE,
    )
