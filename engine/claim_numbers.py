"""What a text says about molecular weight and formula, by regular expressions of bounded width."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

_CUE = re.compile(
    r"\b(?:molecular|molar|formula)\s+(?:weight|mass)\b|\bMW\b|\bM\.W\.|\bMr\b", re.IGNORECASE
)
_HINT = re.compile(
    r"[0-9]{2} ?(?:g|u|amu|Da|dalton)|(?:weight|mass|MW|M\.W\.|Mr)\b[^0-9]{0,60}[0-9]"
)
_CHANGE = re.compile(
    r"(?:increas|add|contribut|chang|differen|gain|higher|lower|ris|extra|per|each|combin|added|fragment|substituent|\bby|than|"
    r"base|parent|compar)[a-z]*(?:\s+[a-z]+){0,5}\s*$",
    re.IGNORECASE,
)
_CHANGE_AFTER = re.compile(
    r"(?:\s?-1)?\s{0,3}(?:\([^()]{1,40}\)\s)?(?:(?:mass\s)?units?\s)?(?:higher|lower|above|below|more|less|greater|smaller|"
    r"larger|heavier|lighter|than)\b",
    re.IGNORECASE,
)
_WEIGHT = re.compile(
    r"\s*(?:\([a-z. ]{1,6}\)\s*)?(?:[:=(]\s*)?(?:(?:of|is|at|the|molecule|compound|this|being|"
    r"value|has|a|only|just)\s+){0,5}"
    r"(?P<relation>about|approximately|roughly|around|nearly|near|close\s+to|ca\.?|~|≈|over|above|"
    r"more\s+than|greater\s+than|exceeding|at\s+least|below|under|less\s+than|>|<)?\s*"
    r"(?P<value>[0-9]{2,4}(?:\.[0-9]{1,5})?)(?![0-9]|[.,][0-9]|\s*(?:°|%|degrees|(?:-|to)\s*[0-9]))"
    r"\s*(?P<unit>g/mol|g\s?mol|grams?\s+per\s+mole|u\b|amu|Da\b|daltons?)?",
    re.IGNORECASE,
)
_MASS = re.compile(
    r"(?:mass|weight|weighs|heavy)[^.;\n0-9]{0,30}?(?P<value>[0-9]{2,4}(?:\.[0-9]{1,5})?)\s*"
    r"(?P<unit>g/mol|g\s?mol|Da\b|daltons?)",
    re.IGNORECASE,
)
_ATOM = re.compile(
    r"\b(?:atom|atomic|bromine|chlorine|fluorine|iodine|sulfur|sulphur|silicon|phosphorus|group|substituent)",
    re.I,
)
_FORMULA = re.compile(
    r"\b(?P<which>[Mm]olecular|[Cc]hemical|[Ee]mpirical|sum|overall|total|elemental|)\s*[Ff]ormula"
    r"(?:\s+(?:of|is|for|the|this|compound|molecule)){0,4}\s*(?:[:=,(]\s*)?"
    r"(?P<formula>(?:[A-Z][a-z]?[0-9]{0,3}){2,24})"
    r"(?![\w(\[]|[-=≡#•*.)]\(?[A-Z0-9]|\s?[·⋅]\s?\w)"  # not cut at a bond, dot or bracket
)
_AMOUNTS = re.compile(r"(?:over|above|more\s+than|greater\s+than|exceeding|at\s+least|>)", re.I)
_BELOW = re.compile(r"(?:below|under|less\s+than|<)", re.I)
ABBREVIATED_GROUPS = frozenset(
    ("Me", "Et", "Pr", "Bu", "Ph", "Ar", "Ac", "Bn", "Bz", "Ts", "Tf", "R", "X")
)
"""What stands in a formula like an element and is none: "C6H5OMe"."""


@dataclass(frozen=True, slots=True)
class StatedWeight:
    """A molecular weight in g/mol, stated exactly or as a bound."""

    start: int
    end: int
    value: float
    relation: Literal["=", ">", "<"]
    about_a_change: bool
    """The text speaks of a difference or of another compound."""


@dataclass(frozen=True, slots=True)
class StatedFormula:
    """A formula as it is written, subscripts as plain digits."""

    start: int
    end: int
    formula: str
    empirical: bool


def find_weights(plain: str) -> Iterator[StatedWeight]:
    """Yield the molecular weights that a text states.

    >>> next(find_weights("Its molecular weight is about 180.2 g/mol.")).value
    180.2
    """
    if not _HINT.search(plain):
        return
    taken = -1
    for cue in _CUE.finditer(plain):
        match = _WEIGHT.match(plain, cue.end(), cue.end() + 90)
        if match is None:
            continue
        taken = match.end()
        before = plain[max(0, cue.start() - 40) : cue.start()]
        relation = match["relation"] or ""
        yield StatedWeight(
            cue.start(),
            match.end(),
            float(match["value"]),
            ">" if _AMOUNTS.fullmatch(relation) else "<" if _BELOW.fullmatch(relation) else "=",
            bool(_CHANGE.search(before) or _CHANGE_AFTER.match(plain, match.end())),
        )
    for match in _MASS.finditer(plain):
        if match.start() > taken and not _CUE.search(
            plain[max(0, match.start() - 12) : match.end()]
        ):
            before = plain[max(0, match.start() - 40) : match.start()]
            if _ATOM.search(match.group()) or _ATOM.search(before[-12:]):
                continue
            changed = bool(
                _CHANGE.search(before)
                or "than" in match.group()
                or _CHANGE_AFTER.match(plain, match.end())
            )
            yield StatedWeight(match.start(), match.end(), float(match["value"]), "=", changed)


def find_formulas(plain: str) -> Iterator[StatedFormula]:
    """Yield the formulas that a text states after the word "formula".

    >>> next(find_formulas("with the molecular formula C8H9NO2,")).formula
    'C8H9NO2'
    """
    if "formula" not in plain and "Formula" not in plain:
        return
    for match in _FORMULA.finditer(plain):
        formula = match["formula"]
        if any(char.isdigit() for char in formula):
            yield StatedFormula(
                match.start("formula"), match.end(), formula, match["which"].lower() == "empirical"
            )
