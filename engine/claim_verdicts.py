"""A mention and a molecule's facts in, whether it's true out, and what the molecule has."""

from dataclasses import dataclass
from typing import Literal

from selfstudy_engine.engine.claim_contexts import GENERAL
from selfstudy_engine.engine.claim_lexicon import ACCEPTOR, AROMATIC, DONOR, RING
from selfstudy_engine.engine.claim_phrases import Mention
from selfstudy_engine.engine.claim_rings import FUSED, count_of_rings
from selfstudy_engine.engine.claim_text import Text
from selfstudy_engine.engine.claim_words import word_set
from selfstudy_engine.engine.molecule_facts import MoleculeFacts, Range

Truth = Literal["true", "false", "unverifiable"]

_RING_COUNTS = {"bicyclic": 2, "tricyclic": 3, "tetracyclic": 4, "pentacyclic": 5, "polycyclic": 2}
_ACYCLIC_NOUNS = word_set("cyclic", "acyclic_nouns")
_CYCLIC_NOUNS = word_set("cyclic", "cyclic_nouns")


@dataclass(frozen=True, slots=True)
class Judgement:
    """Whether a mention is true, and why."""

    truth: Truth
    found: str


def judge_mention(mention: Mention, facts: MoleculeFacts, text: Text) -> Judgement | None:
    """Hold a mention against the molecule; None where it isn't a claim after all."""
    if mention.term.form == "cyclic":
        judged = _judge_cyclic(mention, facts, text)
    else:
        counted = _count(mention, facts, text)
        if counted is None:
            return None
        judged = _judge_count(mention, counted)
    return judged and in_context(judged, mention.context)


def in_context(judged: Judgement, context: str) -> Judgement:
    """Return a judgement, or that there is none where the text isn't about the molecule."""
    if not context or (context == GENERAL and judged.truth == "true"):
        return judged
    return Judgement("unverifiable", f"not judged: {context}")


def _count(mention: Mention, facts: MoleculeFacts, text: Text) -> Range | None:
    term = mention.term
    if term is DONOR:
        return facts.donors
    if term is ACCEPTOR:
        return facts.acceptors
    if term is RING or term is AROMATIC:
        word = text.words[mention.index] if term is RING else "ring"
        return count_of_rings(facts, term, word, mention.modifiers)
    if term.strict is None or term.loose is None:
        return None
    counted = facts.count_range(term.strict, term.loose, mention.count or 1)
    if term.kind == "ring" and not FUSED.isdisjoint(mention.modifiers):
        fused = sum(ring.fused for ring in facts.rings)
        counted = Range(min(counted.sure, fused), min(counted.most, fused))
    return counted


def _judge_count(mention: Mention, counted: Range) -> Judgement:
    found = f"{counted.sure}" + (f" to {counted.most}" if counted.most > counted.sure else "")
    name = " ".join([*mention.modifiers, "ring"]) if mention.term is RING else mention.term.name
    found = f"{name}: {found} in the molecule"
    if mention.denied:
        return Judgement(_truth_of_denial(mention, counted), f"{found}, reason says none")
    if mention.count is None:
        truth: Truth = "true" if counted.sure else "unverifiable" if counted.most else "false"
        found = f"{found}, reason says there is one"
    else:
        truth = _truth_of_number(mention, counted, mention.count)
        found = f"{found}, reason says {mention.count}"
    if truth == "true" and mention.placed:
        return Judgement("unverifiable", f"{found}; its position or sort isn't checked")
    return Judgement(truth, found)


def _truth_of_denial(mention: Mention, counted: Range) -> Truth:
    if not counted.most:
        return "true"
    return "false" if counted.sure and not mention.qualified else "unverifiable"


def _truth_of_number(mention: Mention, counted: Range, number: int) -> Truth:
    if counted.most < number:
        return "false"
    if counted.sure >= number if mention.at_least else counted.sure == number:
        # A system may be several rings: "one aromatic system" of two.
        joined = mention.term is AROMATIC and number != 1
        return "unverifiable" if joined else "true"
    return "unverifiable"  # "two methyls" may be some of four


def _judge_cyclic(mention: Mention, facts: MoleculeFacts, text: Text) -> Judgement | None:
    after = text.words[mention.last] if mention.last < len(text.words) else "."
    number = len(facts.rings)
    found = f"rings: {number} in the molecule"
    if mention.term.name == "acyclic":
        if after not in _ACYCLIC_NOUNS or mention.denied:
            return None
        return Judgement("false" if number else "true", found)
    if after not in _CYCLIC_NOUNS or mention.denied or (mention.count or 1) > 1:
        return None
    wanted = _RING_COUNTS[mention.term.name]
    if number < wanted:
        return Judgement("false", found)
    joined = all(ring.joined for ring in facts.rings)
    exact = number == wanted or mention.term.name == "polycyclic"
    return Judgement("true" if joined and exact else "unverifiable", found)
