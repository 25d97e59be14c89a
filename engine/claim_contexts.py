"""Where a sentence isn't about the molecule as it is: base compounds, comparisons, hypotheses.

Words in, one mark for each word out; a claim under a mark can't be verified. Knows no chemistry.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from selfstudy_engine.engine.claim_words import word_set

_BASE_ADJECTIVES = word_set("contexts", "base_adjectives")
_BASE_NOUNS = word_set("contexts", "base_nouns")
_BASE_WORDS = word_set("contexts", "base_words")
_BASE_PAIRS = frozenset(
    [("starting", "from"), ("starting", "with"), ("derived", "from"), ("for", "comparison")]
)
_COMPARE = word_set("contexts", "compare")
_COMPARE_PAIRS = frozenset(
    [("similar", "to"), ("analogous", "to"), ("instead", "of"), ("rather", "than"),
     ("place", "of"), ("loss", "of"), ("removal", "of"), ("hydrolysis", "of"),
     ("oxidation", "of"), ("reduction", "of"), ("conversion", "of"), ("acetylation", "of"),
     ("acylation", "of"), ("alkylation", "of"), ("methylation", "of"), ("that", "of"),
     ("those", "of"), ("condensation", "of"), ("bioisostere", "of"), ("isostere", "of"),
     ("related", "to"), ("reduced", "to"), ("reduces", "to")]
)  # fmt: skip
_CHANGES = ("replac", "remov", "eliminat", "convert", "exchang", "swap", "esterif")
_REACTIONS = tuple(word_set("contexts", "reactions"))
_STEMS = _CHANGES + _REACTIONS
_STEM_STARTS = frozenset(stem[:4] for stem in _STEMS)
_PRODUCTS = word_set("contexts", "products")
_ORIGINS = word_set("contexts", "origins")
_REACTING = word_set("contexts", "reacting")
_HYPOTHESES = word_set("contexts", "hypotheses")
_PERHAPS = word_set("contexts", "perhaps")
_MODALS = word_set("contexts", "modals")
_CONDITIONALS = word_set("contexts", "conditionals")
_HAVING = word_set("contexts", "having")
_OTHERS = word_set("contexts", "others")
_WHICH = word_set("contexts", "which")
_NOT = word_set("contexts", "not")
_NONE = word_set("contexts", "none")
_RELATIVES = word_set("contexts", "relatives")
_SUBJECTS = word_set("contexts", "subjects")
_FOR_EXAMPLE = frozenset(("e", "i", "such", "like"))
_CLAUSE_ENDS = frozenset(",();:")
_GLOSS_ENDS = frozenset(")")
_RELATIVE_ENDS = frozenset(";:")
_NEGATION_ENDS = word_set("contexts", "negation_ends")

_GENERAL = word_set("contexts", "general")
_TRIGGERS = (
    _BASE_ADJECTIVES | _BASE_WORDS | _COMPARE | _HYPOTHESES | _PERHAPS | _MODALS | _OTHERS | _NOT
    | _NONE | _ORIGINS | _REACTING | {first for first, _ in _COMPARE_PAIRS}
    | {first for first, _ in _BASE_PAIRS} | {"as", "such", "free"}
)  # fmt: skip

COMPARISON, HYPOTHESIS = "comparison", "hypothesis"
BASE, NEGATION, REACTION = "another compound", "negation", "a reaction"
GENERAL = "general statement"
"""There, a group that the molecule has is a true claim; one that it lacks isn't a false one."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """Words from a trigger on, up to one of the ends, and why they aren't judged."""

    why: str
    ends: frozenset[str]


_COMPARISON_SCOPE = _Scope(COMPARISON, _CLAUSE_ENDS)
_HYPOTHESIS_SCOPE = _Scope(HYPOTHESIS, _CLAUSE_ENDS)
_REACTION_SCOPE = _Scope(REACTION, _RELATIVE_ENDS)
_OTHERS_SCOPE = _Scope(BASE, frozenset())
_CLAUSE_SCOPE = _Scope(BASE, _RELATIVE_ENDS)
_NOT_SCOPE = _Scope(NEGATION, _CLAUSE_ENDS | {"but"})
_NONE_SCOPE = _Scope(NEGATION, _NEGATION_ENDS)
_EXAMPLES_SCOPE = _Scope(GENERAL, _CLAUSE_ENDS - {","})


def mark_contexts(words: Sequence[str], of_others: Iterable[int] = ()) -> list[str]:
    """Return for each word of a sentence why it isn't about the molecule; "" where it may be.

    Args:
        words: of the sentence.
        of_others: where clauses begin that are about other compounds.

    >>> mark_contexts("it melts higher than an ester , with a ring".split())[3:7]
    ['', 'comparison', 'comparison', '']
    """
    if words[-1:] == ["?"]:
        return [HYPOTHESIS] * len(words)
    starts = list(of_others)
    scopes = {_CLAUSE_SCOPE: starts} if starts else {}
    may_suppose = not _CONDITIONALS.isdisjoint(words)
    for index, word in enumerate(words):
        if word in _TRIGGERS or (word[:4] in _STEM_STARTS and word.startswith(_STEMS)):
            if word in _HYPOTHESES:
                return [HYPOTHESIS] * len(words)
            following = words[index + 1] if index + 1 < len(words) else ""
            if _is_base(words, index, word, following):
                return [BASE] * len(words)
            if may_suppose and _is_without(words, index):  # "without a ring it would melt lower"
                scopes.setdefault(_HYPOTHESIS_SCOPE, []).append(index + 1)
            for scope in _opened(words, index, word, following):
                scopes.setdefault(scope, []).append(index + 1)
    marks = [""] * len(words)
    for scope, starts in scopes.items():
        _mark(marks, words, starts, scope)
    if not _GENERAL.isdisjoint(words):
        marks = [mark or GENERAL for mark in marks]
    return marks


def _opened(words: Sequence[str], index: int, word: str, following: str) -> Iterator[_Scope]:
    """Yield the scopes that begin after a word."""
    if _compares(words, index, word, following):
        yield _COMPARISON_SCOPE
    if _reacts(words, index, word, following):
        yield _REACTION_SCOPE
    if _supposes(words, index, word, following):
        yield _HYPOTHESIS_SCOPE
    if word in _OTHERS and following in _WHICH:
        yield _OTHERS_SCOPE
    if word in _NOT:
        yield _NOT_SCOPE
    if word in _NONE or (word == "free" and following in ("of", "from")):
        yield _NONE_SCOPE
    if (word, following) == ("such", "as"):
        yield _EXAMPLES_SCOPE


def _is_base(words: Sequence[str], index: int, word: str, following: str) -> bool:
    if word in _BASE_WORDS:
        return True
    if word == "base":
        return index == 0 or words[index - 1] not in {"schiff", "lewis", "bronsted", "strong"}
    if word in _BASE_ADJECTIVES and following in _BASE_NOUNS:
        return True
    return (word, following) in _BASE_PAIRS


def _compares(words: Sequence[str], index: int, word: str, following: str) -> bool:
    if word in _COMPARE or (word, following) in _COMPARE_PAIRS or word.startswith(_CHANGES):
        return True
    return word == "as" and index > 1 and words[index - 2] == "as"


def _reacts(words: Sequence[str], index: int, word: str, following: str) -> bool:
    """Tell "oxidation gives", "hydrolysed in vivo to", "made from" and "reacts with"."""
    if word.startswith(_REACTIONS):
        return not _PRODUCTS.isdisjoint(words[index + 1 : index + 6])
    return (word in _ORIGINS and following == "from") or (
        word in _REACTING and following in ("with", "between")
    )


def _supposes(words: Sequence[str], index: int, word: str, following: str) -> bool:
    if word in _PERHAPS or (word == "absence" and index > 1 and words[index - 2] == "in"):
        return True
    after = words[index + 2] if index + 2 < len(words) else ""
    return word in _MODALS and (following in _HAVING or after in _HAVING)


def _is_without(words: Sequence[str], index: int) -> bool:
    word = words[index]
    return word == "without" or (word == "no" and index > 0 and words[index - 1] == "with")


def _mark(marks: list[str], words: Sequence[str], starts: Sequence[int], scope: _Scope) -> None:
    done = 0  # each word is looked at once for a scope, however often it is opened
    for start in starts:
        ends = scope.ends
        for index in range(max(start, done), len(words)):
            done = index
            after = _ends_after(words, index, ends, scope)
            if after is None:
                break
            ends = after
            marks[index] = marks[index] or scope.why


def _ends_after(
    words: Sequence[str], index: int, ends: frozenset[str], scope: _Scope
) -> frozenset[str] | None:
    """Return what ends a scope after that word; None where it has ended.

    "than phenol (one hydroxyl group), which has a ring, it" ends at the last comma,
    "no donors (e.g., an alcohol)" at the parenthesis.
    """
    word, following = words[index], words[index + 1] if index + 1 < len(words) else ""
    if ends is _GLOSS_ENDS:
        return scope.ends if word in ends else ends
    if ends is _RELATIVE_ENDS:
        return None if word in ends or (word == "," and following in _SUBJECTS) else ends
    compares = scope is _COMPARISON_SCOPE
    denies_examples = scope.why == NEGATION and following in _FOR_EXAMPLE
    if word == "(" and (compares or denies_examples):
        return _GLOSS_ENDS
    if word == "," and compares and following in _RELATIVES:
        return _RELATIVE_ENDS
    if word == "," and denies_examples:
        return _EXAMPLES_SCOPE.ends
    return None if word in ends else ends
