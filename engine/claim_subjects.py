"""A sentence in, which of its words aren't about the molecule but about another compound, out.

What names another compound is known to the caller: by a table's names, say.
"""

import re
from bisect import bisect_right
from collections.abc import Callable, Sequence
from functools import cache
from operator import itemgetter

from selfstudy_engine.engine.claim_contexts import BASE, mark_contexts
from selfstudy_engine.engine.claim_phrases import DETERMINERS, HEADS, RING_HEADS, STOPS, skip_gloss
from selfstudy_engine.engine.claim_text import Text
from selfstudy_engine.engine.claim_words import read_number, word_set

_SUBJECT_VERBS = word_set("phrases", "holds") | {"melts", "weighs", "which", "itself", "also"}
_OPENERS = word_set("phrases", "openers")
_FORMS = word_set("contexts", "forms")
_ALSO = frozenset(("also", "itself", "additionally"))
_MELTS = frozenset(("melts", "boils"))
_IN_NO_NAME = STOPS | DETERMINERS | HEADS | RING_HEADS | word_set("phrases", "wholes")
_MOST_NAME_WORDS = 3

OtherCompound = Callable[[Sequence[str], int], int]
"""Tells how many words from there on name a compound other than the molecule; 0: none."""


def names_unlisted(words: Sequence[str], index: int, own_words: frozenset[str]) -> int:
    """Return how many words from there on name what no list does: "fluorenone (84 °C)".

    Such are a name before its value, before "also" or "itself", or before "has ... and melts", and
    "open-chain form".

    Args:
        words: of a sentence.
        index: where the name would begin.
        own_words: of the molecule's own name.
    """
    if words[index] in _FORMS:
        return 2 if words[index + 1 : index + 2] in (["form"], ["tautomer"]) else 0
    if index and words[index - 1] in DETERMINERS:
        return 0
    for end in range(index, min(index + _MOST_NAME_WORDS + 1, len(words))):
        word = words[end]
        gloss = words[end + 1 : skip_gloss(words, end)]
        melts = word in _SUBJECT_VERBS and not _MELTS.isdisjoint(words[end:])
        if word in _ALSO or "°" in gloss or melts:
            return 0 if own_words.issuperset(words[index:end]) else end - index
        if not word[0].isalnum() or word in _IN_NO_NAME or read_number(word) is not None:
            break
    return 0


def find_contexts(text: Text, is_other: OtherCompound) -> Callable[[int], str]:
    """Return what tells why a place, in characters, isn't about the molecule; "" where it is."""

    @cache
    def sentence(number: int) -> tuple[Sequence[str], Sequence[str]]:
        words = text.words[slice(*text.sentences[number])]
        return words, mark_sentence(words, is_other)

    def context(place: int) -> str:
        word = bisect_right(text.places, place, key=re.Match.start) - 1
        number = bisect_right(text.sentences, word, key=itemgetter(0)) - 1
        words, marks = sentence(number)
        index = word - text.sentences[number][0]
        return BASE if belongs_to_other(words, index + 1, is_other) else marks[index]

    return context


def mark_sentence(words: Sequence[str], is_other: OtherCompound) -> Sequence[str]:
    """Return for each word of a sentence why it isn't about the molecule; "" where it may be."""
    other = _opens_with_other(words, is_other)
    return [BASE] * len(words) if other else mark_contexts(words)


def belongs_to_other(words: Sequence[str], at: int, is_other: OtherCompound) -> bool:
    """Tell "the hydroxyl group of the phenol" from "the hydroxyl group of the molecule"."""
    if at >= len(words) or words[at] not in ("in", "of", "from"):
        return False
    at += 2 if words[at + 1 : at + 2] and words[at + 1] in ("the", "a", "an") else 1
    return at < len(words) and is_other(words, at) > 0


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
