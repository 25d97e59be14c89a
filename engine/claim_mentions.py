"""Words in, mentions of groups, rings, elements and donors out: "two nitro groups", "no ring".

Says what a noun phrase claims (how many, denied, in which context), not whether it's true.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from selfstudy_engine.engine.claim_contexts import BASE, GENERAL, NEGATION, mark_contexts
from selfstudy_engine.engine.claim_lexicon import IGNORED, Entry, Lexicon, Term
from selfstudy_engine.engine.claim_text import Text
from selfstudy_engine.engine.claim_words import read_number, word_set

_VAGUE = {"several": 3, "many": 3, "numerous": 3, "multiple": 2}
_DETERMINERS = word_set("phrases", "determiners")
_DENIALS = word_set("phrases", "denials")
_DENIALS_OF = word_set("phrases", "denials_of")
_HAVE_NOT = word_set("phrases", "have_not")
_NOTS = word_set("phrases", "nots")
_OTHER = word_set("phrases", "other")
_PLACES = word_set("phrases", "places")
_STOPS = word_set("phrases", "stops")
_HOLDS = word_set("phrases", "holds")
_HEADS = word_set("phrases", "heads")
_RING_HEADS = word_set("phrases", "ring_heads")
_NO_CLAIM_AFTER = word_set("phrases", "no_claim_after")
_ATOM_BONDS = word_set("phrases", "atom_bonds")
_RESTRICTIONS = word_set("phrases", "restrictions")
_CONNECTORS = frozenset([",", "and", "or", "nor", "/", "&", "and/or"])
_LOCANT = re.compile(
    r"(?:[0-9]{1,2}(?:,[0-9]{1,2}){0,7}'?|[nospmrαβ]|n,n'?|ortho|meta|para|alpha|beta|gamma|trans|"
    r"cis|gem|c[0-9]{1,2})-(.+)"
)
_SIZED = re.compile(r"([a-z]+|[0-9]{1,2})-(carbon|carbons)")
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
    """The phrase says where ("para"): only presence and number can be checked."""
    context: str = ""
    """Why the phrase isn't about the molecule as it is; "" where it is."""
    modifiers: list[str] = field(default_factory=list)
    """Words between number and term, the nearest last."""
    plural: bool = False
    determined: bool = False
    headed: bool = False


OtherCompound = Callable[[Sequence[str], int], bool]
"""Tells whether the name of a compound other than the molecule begins at a word."""


def find_mentions(text: Text, lexicon: Lexicon, is_other: OtherCompound) -> Iterator[Mention]:
    """Yield the mentions of a text that claim something, in no fixed order."""
    terms = list(_find_terms(text.words, lexicon))
    at = 0
    for first, end in text.sentences:
        here = at
        while at < len(terms) and terms[at][0] < end:
            at += 1
        if at > here:
            yield from _in_sentence(text.words[first:end], first, terms[here:at], is_other)


def _in_sentence(
    words: Sequence[str], first: int, terms: Sequence[tuple[int, Entry]], is_other: OtherCompound
) -> Iterator[Mention]:
    found = [_read_left(words, index - first, entry) for index, entry in terms]
    _read_right(words, found)
    marks: Sequence[str] = ()
    for position, mention in enumerate(found):
        if not _claims(words, mention, found[position + 1 : position + 2]):
            continue
        if not marks:
            other = _opens_with_other(words, is_other)
            marks = [BASE] * len(words) if other else mark_contexts(words)
        _deny_along_list(words, mention, found[position - 1] if position else None)
        mention.context = mention.context or _context(words, marks, mention, is_other)
        mention.first += first
        mention.index += first
        mention.last += first
        yield mention


def _find_terms(words: Sequence[str], lexicon: Lexicon) -> Iterator[tuple[int, Entry]]:
    entries, skip = lexicon.entries, 0
    possible = [index for index, word in enumerate(words) if word in entries or "-" in word]
    for index in possible:
        if index < skip:
            continue
        word = words[index]
        if word in entries:
            entry = lexicon.find(words, index)
        elif "-" in word and (located := _LOCANT.fullmatch(word)) and located[1] in entries:
            entry = lexicon.find([located[1], *words[index + 1 : index + 4]], 0)
        elif "-" in word and (sized := _SIZED.fullmatch(word)):
            entry = lexicon.find(["carbon"], 0)
            del sized
        else:
            continue
        if entry is not None:
            skip = index + 1 + len(entry.rest)
            yield index, entry


def _read_left(words: Sequence[str], index: int, entry: Entry) -> Mention:
    """Read number, article and adjectives in front of a term."""
    mention = Mention(entry.term, index, index, index + 1 + len(entry.rest), plural=entry.plural)
    mention.count = entry.multiplier or None
    word = words[index]
    if "-" in word:
        sized = _SIZED.fullmatch(word)
        mention.count = read_number(sized[1]) if sized else mention.count
        mention.placed = bool(sized or (_LOCANT.fullmatch(word) and word not in _NO_LOCANTS))
    for at in range(index - 1, max(index - 3 - MAX_MODIFIERS, -1), -1):
        word = words[at]
        if _opens_phrase(words, at, mention) or word in _STOPS or not word[:1].isalnum():
            break
        if word in ("single", "sole", "lone"):
            mention.count = 1
        elif word in _OTHER:
            mention.context = f'"{word}"'
        elif word in _PLACES:
            mention.placed = True
        mention.modifiers.insert(0, word)
        mention.first = at
    return mention


def _opens_phrase(words: Sequence[str], at: int, mention: Mention) -> bool:
    """Read a number, an article or a denial, if that is what stands there."""
    word, before = words[at], words[at - 1] if at else ""
    number = read_number(word)
    if number is not None:
        mention.count = number
        if before in _LOCANT_NOUNS or (word.isdigit() and before in ("-", "(", "=")):
            mention.count = None
        mention.at_least = before == "least"
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
    elif word not in _DETERMINERS:
        return False
    mention.first, mention.determined = at, True
    if word in ("a", "an", "any"):
        _read_denial(words, at, mention)
    return True


def _read_denial(words: Sequence[str], at: int, mention: Mention) -> None:
    """Read "without a", "lack of any", "does not contain an" before an article."""
    before = words[at - 1] if at > 0 else ""
    second = words[at - 2] if at > 1 else ""
    if before in _DENIALS or (before == "of" and second in _DENIALS_OF):
        mention.denied, mention.first = True, at - 1 - (before == "of")
    elif before in _HAVE_NOT and second in _NOTS:
        mention.denied, mention.first = True, at - 2


def _read_right(words: Sequence[str], found: Sequence[Mention]) -> None:
    """Read the noun after each term; a list's last noun holds for all its members."""
    following: Mention | None = None
    for mention in reversed(found):
        at = _skip_gloss(words, mention.last)
        heads = _RING_HEADS if mention.term.form == "ring" else _HEADS
        head = words[at] if at < len(words) else ""
        if head == "functional" and at + 1 < len(words):
            at, head = at + 1, words[at + 1]
        if head in heads and mention.term.name != "ring":
            mention.headed = True
            mention.plural = mention.plural or head.endswith("s")
            mention.last = at + 1
        elif following is not None and following.headed and mention.term.form != "ring":
            between = words[mention.last : following.first]
            if _connected(between) and not (following.determined and "," in between[-1:]):
                mention.headed = True
                if not following.determined:  # "two hydroxyl and methoxy groups": how many each?
                    mention.count = None if mention.count != 1 else 1
        following = mention


def _skip_gloss(words: Sequence[str], at: int) -> int:
    if at < len(words) and words[at] == "(":
        for end in range(at + 1, min(at + 8, len(words))):
            if words[end] == ")":
                return end + 1
    return at


def _connected(between: Sequence[str]) -> bool:
    return 1 <= len(between) <= 2 and all(word in _CONNECTORS for word in between)


def _claims(words: Sequence[str], mention: Mention, following: Sequence[Mention]) -> bool:
    """Tell whether the phrase says something about a molecule, and isn't a part of a name."""
    if _is_part_of_a_name(words, mention, following):
        return False
    term = mention.term
    if term.form == "cyclic":
        return True
    if (mention.count or 0) > 1 and not mention.plural and words[mention.first].isdigit():
        mention.count = None  # a locant: "the 3 hydroxyl group"
    if term.name == "carbon" and mention.count is None and not mention.denied:
        return False
    if term.form in ("substituent", "ring") and term.name not in ("ring", "aromatic system"):
        counted = mention.count is not None or mention.denied
        return mention.headed or (mention.plural and counted)
    before = words[mention.first - 1] if mention.first else ""
    return mention.determined or mention.headed or before in _HOLDS


def _is_part_of_a_name(
    words: Sequence[str], mention: Mention, following: Sequence[Mention]
) -> bool:
    term, after = mention.term, words[mention.last] if mention.last < len(words) else ""
    if term is IGNORED or after in _NO_CLAIM_AFTER:
        return True
    if len(words[mention.index]) == 1 and words[mention.last - 1] not in ("atom", "atoms"):
        return True
    if mention.headed:
        return False
    modifies = following and following[0].index == mention.last  # "amide carbonyl"
    return bool(modifies) or (term.kind == "element" and after in _ATOM_BONDS)


def _deny_along_list(words: Sequence[str], mention: Mention, previous: Mention | None) -> None:
    """Carry a denial on: "no hydroxyl, amino or carboxyl groups"."""
    if previous is None or not previous.denied or mention.determined:
        return
    between = words[previous.last : mention.first]
    if between and all(word in ("or", "nor", ",", "/") for word in between):
        mention.denied, mention.determined = True, True


def _context(
    words: Sequence[str], marks: Sequence[str], mention: Mention, is_other: OtherCompound
) -> str:
    marked = marks[mention.index]
    if mention.denied:
        tail = words[mention.last] if mention.last < len(words) else ""
        mention.qualified = bool(mention.modifiers) or tail in _RESTRICTIONS
        return "" if marked in (NEGATION, GENERAL) else marked
    if marked:
        return marked
    after = words[mention.last : mention.last + 6]
    if {"absent", "missing", "lacking"} & set(after[:4]):
        return NEGATION
    if "not" in after and {"present", "available", "there", "found"} & set(after):
        return NEGATION
    if after[:1] and after[0] in ("in", "of", "from"):
        at = mention.last + 1
        at += at < len(words) and words[at] in ("the", "a", "an")
        if at < len(words) and is_other(words, at):
            return BASE
    return ""


def _opens_with_other(words: Sequence[str], is_other: OtherCompound) -> bool:
    """Tell whether another compound is a sentence's subject: "Ethanol has ..."."""
    for index in range(min(3, len(words))):
        if is_other(words, index):
            following = set(words[index + 1 : index + 6])
            return bool(following & (_HOLDS | {"melts", "which", "itself", "also"}))
        if words[index] not in ("the", "for", "\n", "-", "*", "but", "however", "while"):
            return False
    return False
