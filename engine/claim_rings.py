"""How many rings of a kind a molecule has, for the adjectives in front of "ring"."""

import re
from collections.abc import Callable, Sequence

from selfstudy_engine.engine.claim_lexicon import AROMATIC, Term
from selfstudy_engine.engine.claim_words import read_number, word_set
from selfstudy_engine.engine.molecule_facts import MoleculeFacts, Range, Ring

_SIZED = re.compile(r"(?P<size>[a-z]+|[0-9]{1,2})-(?:member|membered|carbon)")
FUSED = word_set("rings", "fused")
_Test = Callable[[Ring], bool]

# For each list of words: the test that a ring surely passes, and the one that it may pass.
_TESTS_BY_LIST: dict[str, tuple[_Test, _Test]] = {
    "aromatic": (lambda r: r.aromatic, lambda r: r.conjugated),
    "heteroaromatic": (
        lambda r: r.aromatic and r.heterocyclic,
        lambda r: r.conjugated and r.heterocyclic,
    ),
    "hetero": (lambda r: r.heterocyclic, lambda r: r.heterocyclic),
    "carbocyclic": (lambda r: not r.heterocyclic, lambda r: not r.heterocyclic),
    "aliphatic": (lambda r: not r.conjugated, lambda r: not r.aromatic),
    "saturated": (lambda r: r.saturated, lambda r: not r.aromatic),
    "fused": (lambda r: r.fused, lambda r: r.joined),
    "neutral": (lambda r: True, lambda r: True),
}
_TESTS = {word: tests for key, tests in _TESTS_BY_LIST.items() for word in word_set("rings", key)}


def count_of_rings(
    facts: MoleculeFacts, term: Term, word: str, modifiers: Sequence[str]
) -> Range | None:
    """Count the rings that a phrase means; None where one of its adjectives isn't understood.

    Args:
        facts: of the molecule.
        term: RING or AROMATIC.
        word: the noun itself: "ring", "heterocycle", "carbocycles".
        modifiers: the words in front of it, without number and article.
    """
    sure: list[bool] = [True] * len(facts.rings)
    most: list[bool] = [True] * len(facts.rings)
    words = [word, *modifiers, *(["aromatic"] if term is AROMATIC else [])]
    for adjective in words:
        tests = _tests(adjective, facts.rings)
        if tests is None:
            return None
        sure = [a and b for a, b in zip(sure, tests[0], strict=True)]
        most = [a and b for a, b in zip(most, tests[1], strict=True)]
    return Range(sum(sure), sum(most))


def _tests(word: str, rings: Sequence[Ring]) -> tuple[list[bool], list[bool]] | None:
    """Return which rings surely, and which possibly, are what an adjective says."""
    if word in _TESTS:
        sure, possible = _TESTS[word]
        return [sure(ring) for ring in rings], [possible(ring) for ring in rings]
    sized = _SIZED.fullmatch(word)
    size = read_number(sized["size"]) if sized else None
    if size is None:
        return None
    fits = [ring.size == size for ring in rings]
    return fits, fits
