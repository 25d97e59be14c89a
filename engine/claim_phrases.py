"""A term in a sentence in, the noun phrase around it out: number, article, adjectives, noun.

Says what the phrase looks like, not whether it claims something, nor whether that is true.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

from selfstudy_engine.engine.claim_lexicon import RING, Entry, Term
from selfstudy_engine.engine.claim_words import read_number, word_set

_VAGUE = {"several": 3, "many": 3, "numerous": 3, "multiple": 2}
_ROUGHLY = word_set("phrases", "roughly")
_MOST_EXACT = 5
"""Nobody rounds to a number up to this."""
DETERMINERS = word_set("phrases", "determiners")
_DENIALS = word_set("phrases", "denials")
_DENIALS_OF = word_set("phrases", "denials_of")
_HAVE_NOT = word_set("phrases", "have_not")
_NOTS = word_set("phrases", "nots")
_OTHER = word_set("phrases", "other")
_PLACES = word_set("phrases", "places")
_NARROWING = word_set("phrases", "narrowing")
STOPS = word_set("phrases", "stops")
HEADS = word_set("phrases", "heads")
RING_HEADS = word_set("phrases", "ring_heads")
CONNECTORS = frozenset([",", "and", "or", "nor", "/", "&"])
LOCANT = re.compile(
    r"(?:[0-9]{1,2}(?:,[0-9]{1,2}){0,7}'?|[nospmrαβ]|n,n'?|ortho|meta|para|alpha|beta|gamma|trans|"
    r"cis|gem|c[0-9]{1,2})-(.+)"
)
_SORTS = re.compile(r".*(?:yl|ated|olic|ylic|membered|cyclic|substituted)")
"""Adjectives that tell of a structure: "phenyl ketone", "five-membered lactam"."""
SIZED = re.compile(r"([a-z]+|[0-9]{1,2})-(carbon|carbons)")
_BEFORE_LETTER = ("aromatic", "phenolic", "an", "the", "its")
"""What stands before an "A" that is no article: "the A ring" of a steroid."""
_NO_LOCANTS = ("n-h", "o-h", "s-h", "n-methyl", "n-oxide", "n-acetyl")
_LOCANT_NOUNS = ("position", "c", "carbon", "atom", "no")
MAX_MODIFIERS = 2


@dataclass(slots=True)
class Mention:
    """One noun phrase that names a term."""

    term: Term
    first: int
    """First word of the phrase, its number or article included."""
    index: int
    """First word of the term."""
    last: int
    """The word after the phrase."""
    count: int | None = None
    """The number that is claimed; None claims presence only."""
    at_least: bool = False
    """The count is a minimum ("several")."""
    denied: bool = False
    """ "no ring", "lacks a hydroxyl group". """
    qualified: bool = False
    """Something narrows it ("no free hydroxyl group", "no chlorine on the ring")."""
    placed: bool = False
    """It says where or of what sort ("para", "benzylic"): only presence and number are checked."""
    context: str = ""
    """Why the phrase isn't about the molecule as it is; "" where it is."""
    modifiers: list[str] = field(default_factory=list)
    """Words between number and term, the nearest last."""
    plural: bool = False
    determined: bool = False
    headed: bool = False


def read_left(words: Sequence[str], index: int, entry: Entry) -> Mention:
    """Read number, article and adjectives in front of a term."""
    mention = Mention(entry.term, index, index, index + 1 + len(entry.rest), plural=entry.plural)
    mention.count = entry.multiplier or None
    word = words[index]
    if "-" in word:
        sized = SIZED.fullmatch(word)
        mention.count = read_number(sized[1]) if sized else mention.count
        mention.placed = bool(sized or (LOCANT.fullmatch(word) and word not in _NO_LOCANTS))
    for at in range(index - 1, max(index - 3 - MAX_MODIFIERS, -1), -1):
        word = words[at]
        if _opens_phrase(words, at, mention) or word in STOPS or not word[:1].isalnum():
            break
        if word in ("single", "sole", "lone"):
            mention.count = 1
        elif word in _OTHER:
            mention.context = f'"{word}"'
            mention.determined = word == "another"
        elif word in _PLACES or (entry.term is not RING and _is_sort(word)):
            mention.placed = True
        mention.modifiers.insert(0, word)
        mention.first = at
    return mention


def _is_sort(word: str) -> bool:
    return word in _NARROWING or _SORTS.fullmatch(word) is not None


def _opens_phrase(words: Sequence[str], at: int, mention: Mention) -> bool:
    """Read a number, an article or a denial, if that is what stands there."""
    word, before = words[at], words[at - 1] if at else ""
    number = read_number(word)
    if number is not None:
        mention.count = number
        if before in _LOCANT_NOUNS or (word.isdigit() and before in ("-", "(", "=")):
            mention.count = None
        mention.at_least = before == "least"
        if number == 0:
            mention.count, mention.denied = None, True
        elif _is_rough(words, at, number):
            mention.context = "a rough number"
    elif word in _VAGUE:
        mention.count, mention.at_least = _VAGUE[word], True
    elif word == "both":
        mention.count = 2
    elif word in _DENIALS:
        mention.denied = True
    elif word == "of" and before in ("pair", "couple"):
        mention.count, at = 2, at - 1
    elif word == "of" and before in _DENIALS_OF:
        mention.denied, at = True, at - 1
    elif word not in DETERMINERS or (word == "a" and before in _BEFORE_LETTER):
        return False
    mention.first, mention.determined = at, True
    if word in ("a", "an", "any"):
        _read_denial(words, at, mention)
    if word == "any" and not mention.denied:
        mention.context = '"any"'
    return True


def _is_rough(words: Sequence[str], at: int, number: int) -> bool:
    """Tell "around 20", "one or two" and "18 to 20" from "around one" and "due to two"."""
    before = words[at - 1] if at > 0 else ""
    second = words[at - 2] if at > 1 else ""
    if before == ".":
        before = second  # "approx. 20"
    if (second, before) in (("up", "to"), ("at", "most")):
        return True
    if before in _ROUGHLY:
        return number > _MOST_EXACT
    third = words[at - 3] if at > 2 else ""
    ranges = before in ("or", "to", "/") or (before == "and" and third == "between")
    return ranges and read_number(second) is not None


def _read_denial(words: Sequence[str], at: int, mention: Mention) -> None:
    """Read "without a", "lack of any", "does not contain an" before an article."""
    before = words[at - 1] if at > 0 else ""
    second = words[at - 2] if at > 1 else ""
    if before in _DENIALS or (before == "of" and second in _DENIALS_OF):
        mention.denied, mention.first = True, at - 1 - (before == "of")
    elif before in _HAVE_NOT and second in _NOTS:
        mention.denied, mention.first = True, at - 2


def read_right(words: Sequence[str], found: Sequence[Mention]) -> None:
    """Read the noun after each term; a list's last noun holds for all its members."""
    following: Mention | None = None
    for mention in reversed(found):
        at = skip_gloss(words, mention.last)
        heads = RING_HEADS if mention.term.form == "ring" else HEADS
        head = words[at] if at < len(words) else ""
        if head == "functional" and at + 1 < len(words):
            at, head = at + 1, words[at + 1]
        if _names_a_ring(words, mention):
            mention.headed = True
        elif head in heads and mention.term.name != "ring":
            mention.headed = True
            mention.plural = mention.plural or head.endswith("s")
            mention.last = at + 1
        elif following is not None and following.headed and mention.term.form != "ring":
            between = words[mention.last : following.first]
            if _connected(between) and not (following.determined and "," in between[-1:]):
                mention.headed = True
                if not following.determined:  # "two hydroxyl and methoxy groups": how many each?
                    mention.count = None if mention.count != 1 else 1
        if mention.headed and _says_none(words, mention.last):
            mention.denied, mention.last = True, mention.last + 2
        following = mention


def _says_none(words: Sequence[str], at: int) -> bool:
    """Tell "hydroxyl groups: none" from "hydroxyl groups: two" and "hydroxyl groups: no dimers"."""
    sign, value, end = [*words[at : at + 3], "", "", ""][:3]
    none = value in ("none", "no", "zero", "0", "absent")
    return sign in (":", "=") and none and end in ("", ",", ";", ".", ")", "\n")


def _names_a_ring(words: Sequence[str], mention: Mention) -> bool:
    """Tell whether the term's own last word is the noun: "phenyl ring"."""
    last = words[mention.last - 1]
    return mention.term.form == "ring" and last != words[mention.index] and last[:4] == "ring"


def skip_gloss(words: Sequence[str], at: int) -> int:
    """Return the place after a few words in parentheses, where they begin there."""
    if at < len(words) and words[at] == "(":
        for end in range(at + 1, min(at + 8, len(words))):
            if words[end] == ")":
                return end + 1
    return at


def _connected(between: Sequence[str]) -> bool:
    return 1 <= len(between) <= 2 and all(word in CONNECTORS for word in between)
