"""What is predicted: a property's name, unit, tolerance and wording.

Melting point is built in; any other numeric property is a `[property]` table in the run's TOML.
"""

import math
import re
import tomllib
from functools import lru_cache
from importlib import resources
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from selfstudy_engine.data.config_section import Section, matching
from selfstudy_engine.data.errors import UsageError, shown


def _decimals_for(given: dict[str, Any]) -> int:
    """Return so many that rounding takes a tenth of the tolerance at most."""
    tolerance = given.get("tolerance", 1.0)  # not there if it was refused
    return min(max(math.ceil(math.log10(5 / tolerance)), 0), 6)


def _digits_for(given: dict[str, Any]) -> int:
    """Return how many twenty tolerances have: values seldom spread over more."""
    tolerance = given.get("tolerance", 1.0)
    return min(max(math.floor(math.log10(tolerance / 5)) + 3, 1), 7)


_NO_NAME = "a name is one line without a colon, such as melting point; no blank before it"
_NO_UNIT = "a unit is one line, such as °C or log units; no blank before it"
_NO_WORDING = "a wording is one line, such as Melting point:; no blank before or after it"


class Property(Section):
    """A numeric property of a molecule, as prompts, verdicts and reports speak of it."""

    name: Annotated[str, matching(r"[^\s:][^\n\r:]*", _NO_NAME)]
    """Name in prompts and reports, lower case ("melting point")."""
    unit: Annotated[str, matching(r"\S[^\n\r]*", _NO_UNIT)]
    """Unit of every value of this property ("°C"); tables in other units are converted."""
    tolerance: float = Field(gt=0)
    """Largest absolute error, in `unit`, with which a completion is accepted."""
    minimum: float = -1e6
    """Predictions below this (in `unit`) can't be meant and count as unparsed."""
    maximum: float = 1e6
    """Predictions above this (in `unit`) can't be meant and count as unparsed."""
    decimals: int = Field(default_factory=_decimals_for, ge=0, le=6)
    """Decimals with which a value is written, in answers and elsewhere; errors have one more
    [default: as the tolerance needs: 0 for 5 and more, 1 for 0.5]."""
    digits: int = Field(default_factory=_digits_for, ge=1, le=7)
    """Digits before the decimal point that an answer writes at least, with zeros ahead ("082"): a
    model that writes them one by one favours short numbers otherwise. The original template has
    none ahead [default: as many as twenty tolerances have: 3 for 30, 2 for 0.7]."""
    wording: Annotated[str, matching(r"\S([^\n\r]*\S)?", _NO_WORDING)] | None = None
    """What prompts say before the value [default: "Name (unit):"]; the original template has its
    own."""

    @model_validator(mode="after")
    def _limits_are_in_order(self) -> Self:
        if self.minimum >= self.maximum:
            raise ValueError(f"minimum ({self.minimum}) must be below maximum ({self.maximum})")
        return self

    @property
    def question(self) -> str:
        """The line that asks for the value: "Melting point (°C):"."""
        return self.wording or f"{self.name[0].upper()}{self.name[1:]} ({self.unit}):"

    @property
    def error_decimals(self) -> int:
        """Decimals of errors, and of what else is a mean of values."""
        return self.decimals + 1

    def format(self, value: float, sign: Literal["-", "+"] = "-") -> str:
        """Write a value as people read it, without "-0"; "+" is for differences."""
        text = f"{value:{sign}.{self.decimals}f}"
        return text.lstrip("+-") if float(text) == 0 else text

    def write(self, value: float) -> str:
        """Write a value as answers have it: "082", "-014"."""
        text = self.format(value)
        length = self.digits + (self.decimals + 1 if self.decimals else 0)
        return text.zfill(length + text.startswith("-"))


def built_in_properties() -> dict[str, Property]:
    """Return the shipped definitions by key, read from properties.toml."""
    text = resources.files("selfstudy_engine.data").joinpath("properties.toml").read_text("utf-8")
    return {key: Property(**table) for key, table in tomllib.loads(text).items()}


def find_property(key: str) -> Property:
    """Return the built-in property of that key.

    Raises:
        UsageError: there is none; the message lists those that there are.
    """
    known = built_in_properties()
    if key not in known:
        raise UsageError(
            f"property {shown(key)} is not built in (known: {', '.join(sorted(known))}); "
            "define it in the [property] table of a run.toml and pass --config"
        )
    return known[key]


# Factor and offset that turn a value of a unit into the same quantity's base unit.
_UNITS: dict[str, tuple[str, float, float]] = {
    "°C": ("temperature", 1.0, 273.15),
    "C": ("temperature", 1.0, 273.15),
    "celsius": ("temperature", 1.0, 273.15),
    "K": ("temperature", 1.0, 0.0),
    "kelvin": ("temperature", 1.0, 0.0),
    "°F": ("temperature", 5 / 9, 459.67 * 5 / 9),
    "F": ("temperature", 5 / 9, 459.67 * 5 / 9),
    "fahrenheit": ("temperature", 5 / 9, 459.67 * 5 / 9),
}


def convert(value: float, unit: str, to_unit: str) -> float:
    """Convert a value between two units of the same quantity.

    >>> round(convert(300.0, "K", "°C"), 2)
    26.85
    >>> round(convert(212.0, "°F", "°C"), 6)
    100.0

    Raises:
        UsageError: a unit is unknown, or the two measure different quantities.
    """
    if unit == to_unit:
        return value
    if unit not in _UNITS or to_unit not in _UNITS or _UNITS[unit][0] != _UNITS[to_unit][0]:
        raise UsageError(
            f"can't convert unit {unit!r} to {to_unit!r} (convertible: {', '.join(_UNITS)}); "
            "give the table in the property's own unit"
        )
    _, factor, offset = _UNITS[unit]
    _, to_factor, to_offset = _UNITS[to_unit]
    return (value * factor + offset - to_offset) / to_factor


def spellings(unit: str) -> frozenset[str]:
    """Return the ways in which the same unit is written, its own among them.

    >>> sorted(spellings("K"))
    ['K', 'kelvin']
    """
    known = _UNITS.get(unit)
    same = {name for name, scale in _UNITS.items() if scale == known} if known else set()
    return frozenset(same | {unit})


@lru_cache(maxsize=16)
def unit_pattern(unit: str) -> str:
    """Return the regular expression of a unit that follows a number, however it is written.

    >>> bool(re.fullmatch("80" + unit_pattern("°C"), "80 degrees Celsius", re.IGNORECASE))
    True
    """
    names = sorted(spellings(unit), key=len, reverse=True)
    degrees = r"|degrees?(?:\s+celsius)?" if "°C" in names else ""
    return rf"(?:\s*(?:{'|'.join(map(re.escape, names))}{degrees})(?![A-Za-z0-9]))"


def commensurable(unit: str) -> frozenset[str]:
    """Return every unit that `convert` can turn into this one, itself among them."""
    quantity = _UNITS[unit][0] if unit in _UNITS else None
    return frozenset({name for name, scale in _UNITS.items() if scale[0] == quantity} | {unit})
