"""The words that name groups, rings and elements, read from functional_groups.toml.

No molecule and no sentence here: only words, and the SMARTS patterns behind them.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from typing import Any, Literal

from rdkit import Chem

Kind = Literal["group", "ring", "element", "donor", "weight", "formula", "value"]
Form = Literal["substituent", "class", "ring", "donor", "cyclic"]

MULTIPLIERS = {"di": 2, "bis": 2, "tri": 3, "tris": 3, "tetra": 4, "penta": 5, "hexa": 6}


@dataclass(frozen=True, slots=True, eq=False)
class Pattern:
    """SMARTS that are counted together: by their first atom, unless a flag says otherwise."""

    queries: Sequence[Any]
    rings: bool = False
    """Count matched rings."""
    hydrogens: bool = False
    """Count the first atom's hydrogens: an NH2 has two N-H bonds."""


@dataclass(frozen=True, slots=True, eq=False)
class Term:
    """One thing that a reason can claim."""

    name: str
    kind: Kind
    form: Form
    strict: Pattern | None = None
    loose: Pattern | None = None


@dataclass(frozen=True, slots=True)
class Entry:
    """A term's words after the first, and whether they are plural."""

    rest: tuple[str, ...]
    term: Term
    plural: bool
    multiplier: int = 0
    """2 in "dimethyl": the count that the word itself carries; 0 where it carries none."""


@dataclass(slots=True)
class Lexicon:
    """All terms by their first word, longest phrase first."""

    entries: dict[str, list[Entry]] = field(default_factory=dict)

    def find(self, words: Sequence[str], index: int) -> Entry | None:
        """Return the longest term that begins at that word."""
        for entry in self.entries.get(words[index], ()):
            end = index + 1 + len(entry.rest)
            if not entry.rest or tuple(words[index + 1 : end]) == entry.rest:
                return entry
        return None

    def add(self, words: str, term: Term) -> None:
        """Add a phrase with its plural; a one-word substituent with its di-, tri-, ... too."""
        self._add(words, term, False, 0)
        if len(words) > 2:  # no plural of "I" is "is"
            self._add(f"{words}s", term, True, 0)
        if term.form == "substituent" and " " not in words and words.isalpha() and len(words) > 3:
            for prefix, number in MULTIPLIERS.items():
                if prefix + words not in self.entries:
                    self._add(prefix + words, term, False, number)

    def _add(self, words: str, term: Term, plural: bool, multiplier: int) -> None:
        first, *rest = words.split()
        found = self.entries.setdefault(first, [])
        found.append(Entry(tuple(rest), term, plural, multiplier))
        found.sort(key=lambda entry: (-len(entry.rest), entry.multiplier))


def _pattern(smarts: str | Sequence[str], rings: bool, hydrogens: bool = False) -> Pattern:
    texts = [smarts] if isinstance(smarts, str) else smarts
    return Pattern([Chem.MolFromSmarts(text) for text in texts], rings, hydrogens)


@cache
def load_lexicon() -> Lexicon:
    """Return the shipped lexicon, read and compiled once (about 10 ms)."""
    path = resources.files("selfstudy_engine.data").joinpath("functional_groups.toml")
    tables = tomllib.loads(path.read_text("utf-8"))
    lexicon = Lexicon()
    kinds: tuple[Kind, ...] = ("group", "ring", "element")
    for kind in kinds:
        for row in tables[kind]:
            rings = kind == "ring" or row.get("rings", False)
            strict = _pattern(row["strict"], rings)
            hydrogens = row.get("hydrogens", False)
            loose = _pattern(row["loose"], rings, hydrogens) if "loose" in row else strict
            term = Term(row["name"], kind, row["form"], strict, loose)
            for words in row["words"]:
                lexicon.add(words, term)
    for words in ("ring", "heterocycle", "carbocycle"):
        lexicon.add(words, RING)
    for noun in ("system", "core", "moiety", "group", "nucleus", "unit", "structure", "fragment"):
        lexicon.add(f"aromatic {noun}", AROMATIC)
    for adjective, term in CYCLIC.items():
        lexicon.add(adjective, term)
    for bond in (
        "hydrogen-bond",
        "hydrogen bond",
        "hydrogen-bonding",
        "hydrogen bonding",
        "h-bond",
    ):
        for noun in ("donor", "donating group", "donor group", "donor site"):
            lexicon.add(f"{bond} {noun}", DONOR)
        for noun in ("acceptor", "accepting group", "acceptor group", "acceptor site"):
            lexicon.add(f"{bond} {noun}", ACCEPTOR)
    for words in _IGNORED:
        lexicon.add(words, IGNORED)
    return lexicon


RING = Term("ring", "ring", "ring")
DONOR = Term("hydrogen-bond donor", "donor", "donor")
ACCEPTOR = Term("hydrogen-bond acceptor", "donor", "donor")
AROMATIC = Term("aromatic system", "ring", "ring")
CYCLIC = {
    word: Term(word, "ring", "cyclic")
    for word in ("acyclic", "bicyclic", "tricyclic", "tetracyclic", "pentacyclic", "polycyclic")
}
IGNORED = Term("", "group", "class")
"""Phrases that contain a term without claiming it."""

_IGNORED = (
    "carboxylic acid ester", "carboxylic acid derivative", "carboxylic acid amide",
    "carboxylic acid chloride", "carboxylic acid anhydride", "carboxylic acid salt",
    "amino acid", "amine salt", "methyl alcohol", "ethyl alcohol", "halogen bond",
    "halogen bonding", "nitrogen gas", "carbon dioxide", "carbon tetrachloride",
    "petroleum ether", "diethyl ether", "dimethyl ether", "phenyl ether", "diphenyl ether",
    "ethyl acetate", "ring strain", "ring formation", "ring closure", "ring opening",
    "ring current", "ring size", "ring stacking", "ring count", "ring flip", "urea cycle",
)  # fmt: skip
