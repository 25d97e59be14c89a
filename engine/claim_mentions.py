"""Text in, mentions of groups, rings, elements and donors out: "two nitro groups", "no ring".

Says what a noun phrase claims (how many, denied, in which context), not whether it's true.
"""

from collections.abc import Iterator, Sequence
from itertools import pairwise

from selfstudy_engine.engine.claim_contexts import BASE, GENERAL, HYPOTHESIS, NEGATION
from selfstudy_engine.engine.claim_denials import deny_along_lists, is_narrowed
from selfstudy_engine.engine.claim_lexicon import IGNORED, Entry, Lexicon
from selfstudy_engine.engine.claim_phrases import (
    LOCANT,
    SIZED,
    STOPS,
    Mention,
    read_left,
    read_right,
)
from selfstudy_engine.engine.claim_subjects import (
    HAS,
    OtherCompound,
    belongs_to_other,
    is_apposition,
    mark_sentence,
)
from selfstudy_engine.engine.claim_text import Text
from selfstudy_engine.engine.claim_words import word_set

_HOLDS = word_set("phrases", "holds")
_NO_CLAIM_AFTER = word_set("phrases", "no_claim_after")
_ATOM_BONDS = word_set("phrases", "atom_bonds")
_EFFECTS = word_set("phrases", "effects")
_MODAL_VERBS = word_set("phrases", "modal_verbs")
_GONE = word_set("phrases", "gone")
_DOTS = frozenset("·⋅∙⋯…")
_BONDS = (["bond"], ["bonds"], ["bonding"])
_ITS = frozenset(("its", "the"))
_THERE = word_set("phrases", "there")
_DIMERS = word_set("phrases", "dimers")


def find_mentions(text: Text, lexicon: Lexicon, is_other: OtherCompound) -> Iterator[Mention]:
    """Yield the mentions of a text that claim something, in no fixed order."""
    terms = list(_find_terms(text.words, lexicon))
    at = 0
    for number, (_, end) in enumerate(text.sentences):
        here = at
        while at < len(terms) and terms[at][0] < end:
            at += 1
        if at > here:
            yield from _in_sentence(text, number, terms[here:at], is_other)


def _in_sentence(
    text: Text, number: int, terms: Sequence[tuple[int, Entry]], is_other: OtherCompound
) -> Iterator[Mention]:
    first, end = text.sentences[number]
    words = text.words[first:end]
    found = [read_left(words, index - first, entry) for index, entry in terms]
    read_right(words, found)
    for before, mention in pairwise(found):  # "the ester oxygen", "a urea carbonyl"
        mention.placed = mention.placed or before.last == mention.index
    deny_along_lists(words, found)
    marks: Sequence[str] = ()
    of_several = False
    for position, mention in enumerate(found):
        if not _claims(words, mention, found[position + 1 : position + 2]):
            continue
        if not marks:
            marks = mark_sentence(text, number, is_other)
            of_several = not _DIMERS.isdisjoint(words)
        mention.context = mention.context or _context(words, marks, mention, is_other)
        if of_several and _is_more_than_one(mention):
            mention.context = mention.context or "several molecules"
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
        elif "-" in word and (located := LOCANT.fullmatch(word)) and located[1] in entries:
            entry = lexicon.find([located[1], *words[index + 1 : index + 4]], 0)
        elif "-" in word and SIZED.fullmatch(word):
            entry = lexicon.find(["carbon"], 0)
        else:
            continue
        if entry is not None:
            skip = index + 1 + len(entry.rest)
            yield index, entry


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
        held = term.form == "substituent" or words[max(mention.first - 1, 0)] in _HOLDS - {"is"}
        ends = held and mention.determined and _ends_phrase(words, mention)
        return mention.headed or (mention.plural and counted) or ends
    before = words[mention.first - 1] if mention.first else ""
    return mention.determined or mention.headed or before in _HOLDS


def _ends_phrase(words: Sequence[str], mention: Mention) -> bool:
    """Tell whether no noun follows: "the hydroxyl donates to", "one carbonyl."."""
    after = words[mention.last] if mention.last < len(words) else "."
    return after in STOPS or not after[:1].isalnum()


def _is_part_of_a_name(
    words: Sequence[str], mention: Mention, following: Sequence[Mention]
) -> bool:
    term, after = mention.term, words[mention.last] if mention.last < len(words) else ""
    if term is IGNORED or after in _NO_CLAIM_AFTER:
        return True
    if len(words[mention.index]) == 1 and words[mention.last - 1] not in ("atom", "atoms"):
        return True
    if after in _DOTS or words[mention.last : mention.last + 2] == [".", "."]:
        return True  # "O-H...O"
    if after == "hydrogen" and words[mention.last + 1 : mention.last + 2] in _BONDS:
        return True  # "two O-H hydrogen bonds"
    if mention.headed:
        return False
    modifies = following and following[0].index == mention.last  # "amide carbonyl"
    return bool(modifies) or (term.kind == "element" and after in _ATOM_BONDS)


def _context(
    words: Sequence[str], marks: Sequence[str], mention: Mention, is_other: OtherCompound
) -> str:
    marked = marks[mention.index]
    after = words[mention.last : mention.last + 6]
    if mention.denied:
        narrowed = mention.qualified or is_narrowed(words, mention)
        sorted_out = mention.placed or (mention.modifiers and mention.term.name != "ring")
        mention.qualified = narrowed or bool(sorted_out)
        return "" if marked in (NEGATION, GENERAL) else marked
    if marked:
        return marked
    if _is_general(words, mention) or _is_of_another_sort(words, mention):
        return GENERAL
    far = 5 if mention.first == 0 else 1
    if words[mention.first] in ("a", "an") and not _MODAL_VERBS.isdisjoint(after[:far]):
        return HYPOTHESIS  # "an ester would melt lower", "A nitro group in para would raise it"
    if not _GONE.isdisjoint(after) or ("not" in after and not _THERE.isdisjoint(after)):
        return NEGATION
    of_other = belongs_to_other(words, mention.last, is_other)
    of_other = of_other or is_apposition(words, mention.first, mention.last, is_other)
    return BASE if of_other else ""


def _is_more_than_one(mention: Mention) -> bool:
    """Tell what a dimer has and a molecule needn't: "two carboxyl groups", "a 8-membered ring"."""
    sized = any("-member" in word for word in mention.modifiers)
    return (mention.count or 0) > 1 or (sized and not mention.denied)


def _is_of_another_sort(words: Sequence[str], mention: Mention) -> bool:
    """Tell "its esters are liquids" and "the ester melts at" from "its ester groups are polar"."""
    is_class = mention.term.form == "class" or words[mention.last - 1] in ("ether", "ester")
    if mention.headed or not is_class or words[mention.first] not in _ITS:
        return False
    told = HAS | {","} if words[mention.first] == "its" else HAS
    return mention.plural or not told.isdisjoint(words[mention.last : mention.last + 1])


def _is_general(words: Sequence[str], mention: Mention) -> bool:
    """Tell "a nitro group raises it" and "each ring adds 20" from "a nitro group and a ring"."""
    if words[mention.first] in ("each", "every"):
        return True
    after = words[mention.last] if mention.last < len(words) else ""
    opens = mention.first == 0 and words[0] in ("a", "an")
    return opens and len(after) > 3 and after.endswith("s") and after not in STOPS - _EFFECTS
