"""A sentence in, which of its words aren't about the molecule but about another compound, out.

What names another compound is known to the caller: by a table's names, say.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from operator import itemgetter

from selfstudy_engine.engine.claim_contexts import BASE, mark_contexts
from selfstudy_engine.engine.claim_phrases import DETERMINERS, HEADS, RING_HEADS, STOPS, skip_gloss
from selfstudy_engine.engine.claim_text import Text
from selfstudy_engine.engine.claim_words import read_number, word_set

HAS = word_set("phrases", "has")
_SUBJECT_VERBS = word_set("phrases", "holds") | HAS | {"weighs", "which", "itself", "also"}
_BEFORE_NAMES = word_set("phrases", "before_names")
_INTO = word_set("contexts", "products") | {"from", "like", "unlike", "than"}
_OPENERS = word_set("phrases", "openers")
_FORMS = word_set("contexts", "forms")
_PRODUCTS = word_set("contexts", "product_nouns")
_FORM_NOUNS = (["form"], ["tautomer"], ["salt"])
_ALSO = frozenset(("also", "itself", "additionally"))
_MELTS = frozenset(("melts", "boils"))
_IT = frozenset(("it", "its"))
_WHOSE = frozenset(("which", "whose"))
_TELLING = HAS | _WHOSE | {"is"}
_IN_NO_NAME = (
    STOPS | DETERMINERS | HEADS | RING_HEADS | word_set("phrases", "wholes")
    | word_set("phrases", "no_names")
)  # fmt: skip
_ENDS_SUBJECT = HAS | STOPS | DETERMINERS
_MOST_NAME_WORDS = 3
_FAR = 40
"""Words after a name within which "melts" is taken for its verb."""

OtherCompound = Callable[[Sequence[str], int], int]
"""Tells how many words from there on name a compound other than the molecule; 0: none."""


def names_unlisted(
    words: Sequence[str], index: int, own_words: frozenset[str], opening: Sequence[str]
) -> int:
    """Return how many words from there on name what no list does: "fluorenone (84 °C)".

    Such are "open-chain form", a name before its value, and a bare noun that does what a compound
    does: "cresol has", "codeine, a methyl ether, melts", "phenol, whose". English puts an article
    before all nouns but names and those that have no rings or groups ("symmetry").

    Args:
        words: of a sentence.
        index: where the name would begin.
        own_words: those of the molecule's own name.
        opening: what the text opens with, most often the molecule by another of its names. But a
            value with it shows another compound: the molecule's own is the answer.
    """
    if words[index] in _FORMS and words[index] not in own_words:
        named = words[index + 1 : index + 2] in _FORM_NOUNS or _is_told_of(words, index + 2)
        return 2 if named else 0
    if words[index] in _PRODUCTS and words[index] not in own_words:
        return 1
    if index and words[index - 1] in DETERMINERS and words[index - 1] != "its":
        return 0  # but "its photoproduct has"
    for end in range(index + 1, min(index + _MOST_NAME_WORDS + 1, len(words))):
        part, word = words[end - 1], words[end]
        if not part[0].isalnum() or part in _IN_NO_NAME or read_number(part) is not None:
            break
        melts = word in _SUBJECT_VERBS and _melts(words[end : end + _FAR])
        surely = word in _ALSO or melts or "°" in words[end + 1 : skip_gloss(words, end)]
        if surely or _is_told_of(words, end):
            name = words[index:end]
            own = own_words == set(name) if surely else own_words.union(opening).issuperset(name)
            return 0 if own else end - index
    return 0


def _melts(words: Sequence[str]) -> bool:
    """Tell "has a ring and melts" from "has a ring, so it melts"."""
    melting = (index for index, word in enumerate(words) if word in _MELTS)
    return any(index == 0 or words[index - 1] != "it" for index in melting)


def first_subject(words: Sequence[str]) -> Sequence[str]:
    """Return what a text opens with: most begin with the molecule, by one of its names."""
    for end, word in enumerate(words[: _MOST_NAME_WORDS + 1]):
        if word in _ENDS_SUBJECT or not word[0].isalnum():
            return words[:end]
    return ()


def _is_told_of(words: Sequence[str], at: int) -> bool:
    """Tell whether what ends there has something: "X (41 °C) has", "X, a gas, has", "X, which"."""
    at = skip_gloss(words, at)
    if words[at : at + 1] == [","]:
        inserted = words[at + 1 : at + 9]
        if not _WHOSE.isdisjoint(inserted[:3]):
            return True
        if "," not in inserted:
            return False
        at += 2 + inserted.index(",")
        if words[at : at + 1] == ["is"]:
            return True
    verb, following = [*words[at : at + 2], "", ""][:2]
    return verb in HAS or (verb == "is" and following in ("a", "an", "the"))


def find_contexts(text: Text, is_other: OtherCompound) -> Callable[[int], str]:
    """Return what tells why a place, in characters, isn't about the molecule; "" where it is."""

    @cache
    def sentence(number: int) -> tuple[Sequence[str], Sequence[str]]:
        first, end = text.sentences[number]
        return text.words[first:end], mark_sentence(text, number, is_other)

    def context(place: int) -> str:
        word = bisect_right(text.places, place, key=re.Match.start) - 1
        number = bisect_right(text.sentences, word, key=itemgetter(0)) - 1
        words, marks = sentence(number)
        index = word - text.sentences[number][0]
        return BASE if belongs_to_other(words, index + 1, is_other) else marks[index]

    return context


def mark_sentence(text: Text, number: int, is_other: OtherCompound) -> Sequence[str]:
    """Return for each word of a sentence why it isn't about the molecule; "" where it may be."""
    words = text.words[slice(*text.sentences[number])]
    if number and words[0] in _IT:  # "Phenol melts at 41 °C. It has one hydroxyl group."
        before = text.words[slice(*text.sentences[number - 1])]
        if _opens_with_other(before, is_other):
            return [BASE] * len(words)
    if words[:1] == ["those"] or _opens_with_other(words, is_other):
        return [BASE] * len(words)
    return mark_contexts(words, _clauses_of_others(words, is_other))


def _clauses_of_others(words: Sequence[str], is_other: OtherCompound) -> Iterator[int]:
    """Yield where a clause about another compound begins: "while phenol has", "phenol, which"."""
    verbs = [index for index, word in enumerate(words) if word in _TELLING]
    for index in range(1, verbs[-1] if verbs else 0):
        if words[index - 1] in _BEFORE_NAMES and words[index] not in _IN_NO_NAME:
            end = index + is_other(words, index)
            if end > index and _is_told_of(words, end):
                yield end


def belongs_to_other(words: Sequence[str], at: int, is_other: OtherCompound) -> bool:
    """Tell "the hydroxyl group of the phenol" from "the hydroxyl group of the molecule"."""
    if at >= len(words) or words[at] not in ("in", "of", "from"):
        return False
    at += 2 if words[at + 1 : at + 2] and words[at + 1] in ("the", "a", "an") else 1
    return at < len(words) and is_other(words, at) > 0


def is_apposition(words: Sequence[str], first: int, last: int, is_other: OtherCompound) -> bool:
    """Tell "it gives aniline, an amine." from "unlike aniline, an amine is", phrase given."""
    ends = last >= len(words) or not words[last][0].isalnum()
    if not ends or words[first] not in ("a", "an") or words[max(first - 1, 0)] != ",":
        return False
    for start in range(first - 2, max(first - 2 - _MOST_NAME_WORDS, 0), -1):
        if words[start - 1] in _INTO:
            name = words[start : first - 1]
            return is_other([*name, "has"], 0) == len(name)
    return False


def _opens_with_other(words: Sequence[str], is_other: OtherCompound) -> bool:
    """Tell whether another compound is a sentence's subject: "Ethanol has ..."."""
    for index in range(min(5, len(words))):
        length = is_other(words, index)
        if length:
            at = index + length
            if at < len(words) and words[at] in HEADS | RING_HEADS:
                return False  # "the benzene ring has"
            at = skip_gloss(words, at)
            inserted = words[at + 1 : at + 8] if words[at : at + 1] == [","] else []
            after = (
                at + 2 + inserted.index(",") if "," in inserted else at
            )  # "phenol, a solid, has"
            following = [*words[at : at + 5], *words[after : after + 5]]
            return not _SUBJECT_VERBS.isdisjoint(following)
        if words[index] not in _OPENERS and words[index] not in ("\n", "-"):
            return False
    return False
