"""Reason and molecule in, claims with verdicts out: true, false, or unverifiable.

A claim is false only where no reading of its words fits the molecule, true only where every
reading does. Sentences about other compounds, comparisons and hypotheses are never judged.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.claim_lexicon import Kind, load_lexicon
from selfstudy_engine.engine.claim_mentions import find_mentions
from selfstudy_engine.engine.claim_numbers import ABBREVIATED_GROUPS, find_formulas, find_weights
from selfstudy_engine.engine.claim_subjects import (
    OtherCompound,
    find_contexts,
    first_subject,
    names_unlisted,
)
from selfstudy_engine.engine.claim_text import Text, read_text
from selfstudy_engine.engine.claim_verdicts import Judgement, Truth, in_context, judge_mention
from selfstudy_engine.engine.claim_words import word_set
from selfstudy_engine.engine.known_values import KnownValues
from selfstudy_engine.engine.molecule_facts import (
    REMEMBERED_MOLECULES,
    MoleculeFacts,
    facts_of,
    parse_formula,
)

WEIGHT_TOLERANCE = 0.02
"""A stated molecular weight may be off by this share of the molecule's."""
COMMON_BASES = word_set("compounds", "common_bases")
"""Compounds that reasons compare with, known even where no table is at hand."""


@dataclass(frozen=True, slots=True)
class Claim:
    """One statement of a reason about its molecule, or about a known compound's value."""

    kind: Kind
    text: str
    start: int
    end: int
    """Place in the reason, in characters."""
    truth: Truth
    found: str
    """What the molecule or the table says: "1 nitro group, reason says 2"."""


def check_claims(
    reason: str, molecule: Molecule | str, known: KnownValues | None = None
) -> list[Claim]:
    """Return what a reason claims, in the order of its text.

    Args:
        reason: any text; never an error.
        molecule: what the reason is about, or its SMILES. With a name, sentences about the
            molecule are told from sentences about others more often.
        known: values of named compounds; without them, no such claim is judged.

    >>> claims = check_claims("Two nitro groups on one benzene ring.", "Cc1ccc([N+](=O)[O-])cc1")
    >>> [(claim.text, claim.truth) for claim in claims]
    [('Two nitro groups', 'false'), ('one benzene ring', 'true')]

    Raises:
        UsageError: RDKit finds no molecule in the SMILES.
    """
    smiles, name = (
        (molecule, "") if isinstance(molecule, str) else (molecule.smiles, molecule.name.lower())
    )
    facts = facts_of(smiles)
    text = read_text(reason)
    own_words = _words_of(name)
    named = bool(own_words) and own_words.issubset(text.words)
    opening = () if named else first_subject(text.words)

    def is_other(words: Sequence[str], index: int) -> int:
        if words[index].endswith("'s"):  # "benzene's"
            words, index = [words[index].removesuffix("'s")], 0
        found = known.find(words, index) if known else None
        if found is None:
            if words[index] in COMMON_BASES:
                return int(words[index] not in own_words)
            return names_unlisted(words, index, own_words, opening)
        compound, length = found
        own = compound.name == name or compound.smiles == facts.canonical_smiles
        if words[index + length : index + length + 1] != ["itself"]:  # "Aniline" of its salt
            own = own or own_words.issuperset(words[index : index + length])
        return 0 if own else length

    contexts = find_contexts(text, is_other)
    claims = [
        *_mentions(text, facts, is_other, reason),
        *_weights(text, facts, contexts, reason),
        *_formulas(text, facts, contexts, reason),
        *(_values(text, known, facts, name, reason) if known else ()),
    ]
    return sorted(claims, key=lambda claim: (claim.start, claim.end))


@lru_cache(maxsize=REMEMBERED_MOLECULES)
def _words_of(name: str) -> frozenset[str]:
    return frozenset(read_text(name).words)


def _mentions(
    text: Text, facts: MoleculeFacts, is_other: OtherCompound, reason: str
) -> Iterator[Claim]:
    for mention in find_mentions(text, load_lexicon(), is_other):
        judged = judge_mention(mention, facts, text)
        if judged:
            start, end = text.places[mention.first].start(), text.places[mention.last - 1].end()
            words = reason[start:end]
            yield Claim(mention.term.kind, words, start, end, judged.truth, judged.found)


def _weights(
    text: Text, facts: MoleculeFacts, contexts: Callable[[int], str], reason: str
) -> Iterator[Claim]:
    for stated in find_weights(text.plain):
        words = reason[stated.start : stated.end]
        average = facts.weights[0]
        truth: Truth
        if stated.about_a_change:
            truth = "unverifiable"
        elif stated.relation == "=":
            near = any(abs(stated.value - own) <= WEIGHT_TOLERANCE * own for own in facts.weights)
            truth = "true" if near else "false"
        else:
            off = (average - stated.value) * (1 if stated.relation == ">" else -1)
            slack = WEIGHT_TOLERANCE * stated.value
            truth = "true" if off > 0 else "false" if off < -slack else "unverifiable"
        judged = Judgement(truth, f"molecular weight: {average:.1f} g/mol")
        judged = in_context(judged, contexts(stated.start))
        yield Claim("weight", words, stated.start, stated.end, judged.truth, judged.found)


def _formulas(
    text: Text, facts: MoleculeFacts, contexts: Callable[[int], str], reason: str
) -> Iterator[Claim]:
    for stated in find_formulas(text.plain):
        claimed, actual = parse_formula(stated.formula), facts.composition
        if not ABBREVIATED_GROUPS.isdisjoint(claimed):
            continue
        same = claimed == actual
        if stated.empirical and not same:
            ratios = {claimed[symbol] / number for symbol, number in actual.items()}
            same = len(ratios) == 1 and claimed.keys() == actual.keys()
        words = reason[stated.start : stated.end]
        judged = Judgement("true" if same else "false", f"formula: {facts.formula}")
        judged = in_context(judged, contexts(stated.start))
        yield Claim("formula", words, stated.start, stated.end, judged.truth, judged.found)


def _values(
    text: Text, known: KnownValues, facts: MoleculeFacts, name: str, reason: str
) -> Iterator[Claim]:
    unit = known.property.unit
    for stated in known.stated(text):
        words, value = reason[stated.start : stated.end], stated.known.value
        if value is None:
            continue
        found = f"{known.property.name} of {stated.known.name}: {value:g} {unit}"
        truth: Truth
        if stated.known.name == name or stated.known.smiles == facts.canonical_smiles:
            truth, found = "unverifiable", "not judged: the molecule's own value is the answer"
        else:
            off = max(stated.low - value, value - stated.high)
            tolerance = known.property.tolerance
            truth = (
                "false" if off > tolerance else "true" if off <= tolerance / 2 else "unverifiable"
            )
        yield Claim("value", words, stated.start, stated.end, truth, found)
