"""Compounds whose measured values are known: names in, values out, and what a text says of them."""

import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Self

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.properties import Property, commensurable, convert
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.claim_text import Text, read_text

MAX_NAME_WORDS = 6
_ABBREVIATED = {
    "melting point": r"m\.?p\.?(?![\w])|melts\s+at|melting\s+temperature",
    "boiling point": r"b\.?p\.?(?![\w])|boils\s+at|boiling\s+temperature",
}
_ABOUT = (
    r"(?:\s*(?:of|is|at|is\s+at|being|was|lies|around|about|approximately|roughly|nearly|near|"
    r"close\s+to|ca\.?|~|≈|=|:|,|which|that|value|known|reported|to\s+be|the|an|a)){0,6}"
)
_NUMBER = (
    r"\s*\(?\s*(?P<low>[+-]?[0-9]{1,5}(?:\.[0-9]{1,3})?)"
    r"(?:\s*(?:-|to|and)\s*(?P<high>[0-9]{1,5}(?:\.[0-9]{1,3})?))?"
)
_DEGREES = (
    r"\s*(?P<unit>°\s*[CFK]\b|º\s*[CFK]\b|℃|degrees?(?:\s+(?:celsius|fahrenheit|kelvin|C|F|K)\b)?|"
    r"celsius|kelvin|[CFK]\b)?"
)
_NO_UNIT = (
    r"\s{0,3}(?:$|\n|[.,;:!?)](?![0-9])|(?:and|or|but|at|which|that|so|because|since|while|as|due|"
    r"in(?:\s+pure)?\s+water)\b)"
)
# "5 °C higher than", "45 °C at 10 mmHg": a difference, or what holds under other conditions.
_NOT_ITS_VALUE = (
    r"\s{0,3}(?:%|-?fold\b|times\b|(?:higher|lower|above|below|more|less|greater|smaller|warmer|"
    r"colder|hotter|cooler)\b|[,(/]?\s?(?:(?:at|under|in)\s+)?(?:an?\s+|high\s+|pressure\s+of\s+){0,2}"
    r"(?:(?:reduced|low|lower)\s+pressure|vacuum|vacuo|"
    r"[0-9.]{1,8}\s?(?:mm(?:\s?Hg)?|torr|m?bar|[kh]?Pa|atm)\b))"
)


@dataclass(frozen=True, slots=True)
class Known:
    """A compound of the table: its value in the property's unit, and its SMILES where known."""

    name: str
    value: float | None
    """None: known by name only, as another compound; what a text states of it isn't judged."""
    smiles: str = ""


@dataclass(frozen=True, slots=True)
class StatedValue:
    """What a text says about a known compound."""

    known: Known
    start: int
    end: int
    """Place in the text, in characters."""
    low: float
    high: float
    """The stated value, or both ends of a range, in the property's unit."""


class KnownValues:
    """Named compounds and their values, ready to be looked up in a text.

    Args:
        values: by name, in the property's unit. Names of one word or of up to six.
        prop: the property. A stated value is right within half its tolerance (melting points:
            15 °C) and wrong beyond the whole; tables themselves differ by what lies between.
    """

    def __init__(self, values: Mapping[str, float], prop: Property) -> None:
        self.property = prop
        self._by_words: dict[str, dict[tuple[str, ...], Known]] = defaultdict(dict)
        for name, value in values.items():
            self._add(Known(name, value))
        # Atomic groups: else "136 °C higher" would be read as 13.
        amount = rf"(?>{_NUMBER})(?>{_unit_after(prop)})(?!{_NOT_ITS_VALUE})"
        says = "|".join([re.escape(prop.name).replace(r"\ ", r"\s+"), *_words_for(prop)])
        self.cue = re.compile(rf"\b(?:{says})", re.IGNORECASE)
        adjective = r"(?:known|measured|reported|literature|normal|experimental)"
        self._after = re.compile(
            r"\s*(?:\([^()]{1,40}\)\s*)?(?:,|\(|:)?\s*(?:(?:which|that|itself|also|typically|base)\s+)"
            r"{0,2}(?:(?:has|having|with|have|had|its|whose)\s+)?(?:(?:a|an|the|its)\s+)?"
            rf"(?:{adjective}\s+)?(?:{says})(?:\s*\([a-z.]{{1,5}}\))?{_ABOUT}{amount}",
            re.IGNORECASE,
        )
        self._apart = re.compile(
            rf"\s*,?\s*(?:an?|the|its)\s+(?:{adjective}\s+)?(?:{says})", re.IGNORECASE
        )
        self._before = re.compile(
            rf"(?:{says})\s+(?:of|for)\s+(?:(?:the|a|pure|parent|simple|base|compound|unit)\s+){{0,3}}$",
            re.IGNORECASE,
        )
        self._then = re.compile(
            r"\s*(?:\([^()0-9]{1,40}\)\s*)?,?\s*(?:which\s+|that\s+)?"
            rf"(?:is|=|:|\(|being|at|lies)(?=[\s0-9~(+-]){_ABOUT}{amount}",
            re.IGNORECASE,
        )

    @classmethod
    def from_molecules(
        cls, molecules: Iterable[Molecule], prop: Property, secret: Iterable[Molecule] = ()
    ) -> Self:
        """Take the names of a table; a name that stands for values far apart is left out.

        Args:
            molecules: whose names and values are known.
            prop: what the values are of.
            secret: molecules of which the names alone are known.
        """
        found: dict[str, list[Molecule]] = defaultdict(list)
        for molecule in molecules:
            if molecule.name:
                found[molecule.name.lower()].append(molecule)
        known = cls({}, prop)
        for molecule in secret:
            known._add(Known(molecule.name.lower(), None, molecule.smiles))
        for name, same in found.items():
            values = [molecule.value for molecule in same]
            if max(values) - min(values) <= prop.tolerance / 2:
                known._add(Known(name, sum(values) / len(values), same[0].smiles))
        return known

    def _add(self, known: Known) -> None:
        words = tuple(read_text(known.name).words)
        if 0 < len(words) <= MAX_NAME_WORDS:
            self._by_words[words[0]][words] = known

    def find(self, words: Sequence[str], index: int) -> tuple[Known, int] | None:
        """Return the longest known name that begins at that word, and how many words it has."""
        names = self._by_words.get(words[index])
        if not names:
            return None
        for length in range(min(MAX_NAME_WORDS, len(words) - index), 0, -1):
            known = names.get(tuple(words[index : index + length]))
            if known is not None:
                return known, length
        return None

    def stated(self, text: Text) -> Iterator[StatedValue]:
        """Yield the values that a text states of known compounds."""
        if not self.cue.search(text.plain):
            return
        skip, names = 0, self._by_words
        for index in [index for index, word in enumerate(text.words) if word in names]:
            found = self.find(text.words, index) if index >= skip else None
            if found is None:
                continue
            known, length = found
            skip = index + length
            start, end = text.places[index].start(), text.places[skip - 1].end()
            if _inside_name(text, index, skip):
                continue
            match = self._after.match(text.plain, end, end + 160)
            if match and self._apart.match(text.plain, end) and not _is_subject(text, index):
                continue  # "compared with benzene, the melting point is 80 °C"
            if match is None and self._before.search(text.plain[max(0, start - 60) : start]):
                match = self._then.match(text.plain, end, end + 120)
            values = match and self._read(match)
            if match and values:
                yield StatedValue(known, start, match.end(), *values)

    def _read(self, match: re.Match[str]) -> tuple[float, float] | None:
        named = (match.groupdict().get("unit") or "").lower()
        symbol = re.sub(r"^(?:degrees?|[°º])?\s*", "", named)[:1]
        degrees = {"c": "°C", "℃": "°C", "f": "°F", "k": "K"}
        unit = degrees.get(symbol, "°C") if named else self.property.unit
        try:
            low = high = convert(float(match["low"]), unit, self.property.unit)
            if match["high"]:
                sign = -1 if match["low"].startswith("-") and "to" not in match.group() else 1
                high = convert(sign * float(match["high"]), unit, self.property.unit)
        except UsageError:
            return None
        return min(low, high), max(low, high)


def _unit_after(prop: Property) -> str:
    """Return what may follow a number: any degrees, or the property's own unit, or none."""
    if "°C" in commensurable(prop.unit):
        return _DEGREES
    own = re.escape(read_text(prop.unit).plain).replace(r"\ ", r"\s{1,3}")
    return rf"\s{{0,3}}[(\[]?(?-i:{own})(?!\w|\s?(?:[/^*·]|per\b)|-[0-9])|(?={_NO_UNIT})"


def _words_for(prop: Property) -> list[str]:
    return [_ABBREVIATED[prop.name]] if prop.name in _ABBREVIATED else []


def _is_subject(text: Text, index: int) -> bool:
    """Tell "For benzene, the melting point is" from "unlike benzene, the melting point is"."""
    before = text.words[index - 1] if index else "."
    return before in {"for", "of", "in"} or not (before == "," or before[0].isalnum())


_NAME_PARTS = re.compile(r".*(?:yl|oxy|o|ic|hydrate|hydride|ate|ide|ite|acid)|[0-9].*|.*-.*|n|of")
_NAME_ENDS = re.compile(
    r"(?:acid|acids|ring|rings|group|groups|moiety|core|unit|derivative|derivatives|ester|ether|"
    r"chloride|bromide|iodide|fluoride|anhydride|oxide|sulfide|sulfone|sulfoxide|hydrochloride|"
    r"alcohol|amide|amine|ketone|nitrile|oxime|hydrate|acetate|benzoate|salt|analog|analogue|base)"
)


def _inside_name(text: Text, first: int, end: int) -> bool:
    """Tell whether a known name is a part of a longer one: "ethyl [benzoate]", "[phenol] ether"."""
    before = text.words[first - 1] if first else ""
    glued = first > 0 and text.places[first].start() == text.places[first - 1].end()
    after = text.words[end] if end < len(text.words) else ""
    if before in {"to", "into", "also", "so", "no", "two", "zero", "of"} or not before:
        part = False
    else:
        part = bool(_NAME_PARTS.fullmatch(before))
    return part or (glued and before not in "(,:;") or bool(_NAME_ENDS.fullmatch(after))
