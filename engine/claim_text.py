"""A reason's text in, its words with their places and its sentences out. Knows no chemistry.

Linear in the text's length, and total: every string has words and sentences, if only none.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

# Signs that mean the same to a chemist; one character for one, so that places stay as they are.
_PLAIN = {ord(char): "-" for char in "\u2010\u2011\u2012\u2013\u2212\ufe63\uff0d"}
_PLAIN[ord("\u2014")] = ";"
_PLAIN |= {ord(char): "'" for char in "\u2018\u2019\u02bc"}
_PLAIN |= {ord(char): str(digit) for digit, char in enumerate("₀₁₂₃₄₅₆₇₈₉")}
_MARKS = {ord(char): " " for char in "*`"}  # of Markdown
_PLAIN |= {ord(char): " " for char in "\u00a0\u2009\u202f\t\r"} | _MARKS

# Bounded repeats in front of a hyphen: without a bound, "1,1,1,..." would take quadratic time.
_WORD = re.compile(
    r"[0-9]+(?:\.[0-9]+)+|(?:[0-9]{1,2}(?:,[0-9]{1,2}){1,7}-|[no],[no]'?-)?"
    r"\w+(?:[-=≡]\w+)*(?:'\w{1,2}\b)?|\n|[^\w\s]"
)
_ABBREVIATIONS = ("e.g.", "i.e.", "m.p.", "b.p.", "approx.", " ca.", "vs.", "cf.", "resp.")
_ENDS = frozenset(".;!?\n•")


@dataclass(frozen=True, slots=True)
class Text:
    """The words of a text, in lower case, and where they stand in it."""

    plain: str
    """As long as the original, with plain hyphens, apostrophes, digits and spaces."""
    words: Sequence[str]
    places: Sequence[re.Match[str]]
    """Of each word, in characters: `text.places[index].start()`."""
    sentences: Sequence[tuple[int, int]]
    """First word and the one after the last of each sentence or bullet point."""


def read_text(text: str) -> Text:
    """Split a text into words and sentences.

    >>> read_text("No ring; two C-H bonds.").words
    ['no', 'ring', ';', 'two', 'c-h', 'bonds', '.']
    >>> read_text("No ring; about 5.5 K.").sentences
    [(0, 3), (3, 7)]
    """
    plain = text.translate(_MARKS) if text.isascii() else text.translate(_PLAIN)
    places = list(_WORD.finditer(_lower(plain)))
    words = [place[0] for place in places]
    sentences, first = [], 0
    for index in [index for index, word in enumerate(words) if word in _ENDS]:
        if words[index] != "." or not _goes_on(plain, places[index].end()):
            sentences.append((first, index + 1))
            first = index + 1
    if first < len(words):
        sentences.append((first, len(words)))
    return Text(plain, words, places, sentences)


def _lower(plain: str) -> str:
    """Lower the case, but leave letters alone that would become two: places must stay."""
    lowered = plain.lower()
    if len(lowered) == len(plain):
        return lowered
    return "".join(char.lower() if len(char.lower()) == 1 else char for char in plain)


def _goes_on(plain: str, end: int) -> bool:
    """Tell whether the full stop that ends there belongs to an abbreviation or a name."""
    if end < len(plain) and not plain[end].isspace():
        return True
    return plain[max(0, end - 7) : end].lower().endswith(_ABBREVIATIONS)
