"""What a list denies: "no hydroxyl, amino or carboxyl groups", "lacks an ester or an amide".

The first phrase is denied already; here it is told which of those after it are, too.
"""

from collections.abc import Sequence

from selfstudy_engine.engine.claim_contexts import NEGATION
from selfstudy_engine.engine.claim_phrases import CONNECTORS, Mention
from selfstudy_engine.engine.claim_words import word_set

_RESTRICTIONS = word_set("phrases", "restrictions")
_WHOLES = word_set("phrases", "wholes")
_NO = frozenset(("no", "zero", "0"))
_ALTERNATIVES = frozenset(("or", "nor", "/"))


def deny_along_lists(words: Sequence[str], found: Sequence[Mention]) -> None:
    """Carry denials on: "no hydroxyl, amino or carboxyl groups", "lacks an ester or an amide"."""
    members: list[Mention] = []
    num_denied = 0
    for mention in found:
        if members and mention.first < members[-1].last and not mention.denied:
            continue  # the "ring" of "benzene ring"
        between = words[members[-1].last : mention.first] if members else ()
        if between and _may_go_on(words, members[0], mention, between):
            members.append(mention)
            if not _ALTERNATIVES.isdisjoint(between):
                num_denied = len(members)
        else:
            _deny(words, members, num_denied)
            members, num_denied = [mention] if mention.denied else [], 1
    _deny(words, members, num_denied)


def _may_go_on(
    words: Sequence[str], denied: Mention, mention: Mention, between: Sequence[str]
) -> bool:
    """Tell whether a phrase may be the next in a list of what is denied."""
    if mention.denied or not CONNECTORS.issuperset(between):
        return False
    if not mention.determined:
        return True
    # "lacks an ester, an amide", but not "no ester, an amide"
    return words[mention.first] in ("a", "an", "any") and words[denied.first] not in _NO


def _deny(words: Sequence[str], members: Sequence[Mention], num_denied: int) -> None:
    if len(members) < 2:
        return
    narrowed = is_narrowed(words, members[-1])
    for member in members:
        member.qualified = narrowed
    for member in members[1:num_denied]:
        member.denied, member.determined = True, True
    for member in members[num_denied:]:  # "no ring, nitro groups", "no ring and nitro groups"
        member.context = member.context or NEGATION


def is_narrowed(words: Sequence[str], mention: Mention) -> bool:
    """Tell "no hydroxyl group on the ring" from "no hydroxyl group in the molecule"."""
    after = words[mention.last : mention.last + 3]
    return bool(after) and after[0] in _RESTRICTIONS and _WHOLES.isdisjoint(after)
