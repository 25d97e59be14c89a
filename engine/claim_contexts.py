"""Where a sentence isn't about the molecule as it is: base compounds, comparisons, hypotheses.

Words in, one mark for each word out; a claim under a mark can't be verified. Knows no chemistry.
"""

from collections.abc import Callable, Sequence

from selfstudy_engine.engine.claim_words import word_set

_BASE_ADJECTIVES = word_set("contexts", "base_adjectives")
_BASE_NOUNS = word_set("contexts", "base_nouns")
_BASE_WORDS = word_set("contexts", "base_words")
_COMPARE = word_set("contexts", "compare")
_COMPARE_PAIRS = frozenset(
    [("similar", "to"), ("analogous", "to"), ("instead", "of"), ("rather", "than"),
     ("place", "of"), ("loss", "of"), ("removal", "of"), ("hydrolysis", "of"),
     ("oxidation", "of"), ("reduction", "of"), ("conversion", "of"), ("absence", "of")]
)  # fmt: skip
_CHANGES = ("replac", "remov", "eliminat", "convert", "exchang", "swap", "esterif")
_HYPOTHESES = word_set("contexts", "hypotheses")
_PERHAPS = word_set("contexts", "perhaps")
_MODALS = word_set("contexts", "modals")
_HAVING = word_set("contexts", "having")
_OTHERS = word_set("contexts", "others")
_WHICH = word_set("contexts", "which")
_NOT = word_set("contexts", "not")
_NONE = word_set("contexts", "none")
_CLAUSE_ENDS = frozenset(",();:")
_NEGATION_ENDS = word_set("contexts", "negation_ends")

_GENERAL = word_set("contexts", "general")
_TRIGGERS = (
    _BASE_ADJECTIVES | _BASE_WORDS | _COMPARE | _HYPOTHESES | _PERHAPS | _MODALS | _OTHERS | _NOT
    | _NONE | {first for first, _ in _COMPARE_PAIRS} | {"as", "such", "starting", "derived"}
)  # fmt: skip

COMPARISON, HYPOTHESIS = "comparison", "hypothesis"
BASE, NEGATION = "another compound", "negation"
GENERAL = "general statement"
"""There, a group that the molecule has is a true claim; one that it lacks isn't a false one."""


def mark_contexts(words: Sequence[str]) -> list[str]:
    """Return for each word of a sentence why it isn't about the molecule; "" where it may be.

    >>> mark_contexts("it melts higher than an ester , with a ring".split())[3:7]
    ['', 'comparison', 'comparison', '']
    """
    marks = [""] * len(words)
    triggers = [
        index
        for index, word in enumerate(words)
        if word in _TRIGGERS or (len(word) > 3 and word.startswith(_CHANGES))
    ]
    for index in triggers:
        word = words[index]
        following = words[index + 1] if index + 1 < len(words) else ""
        if _is_base(words, index, word, following) or word in _HYPOTHESES:
            return [BASE if word not in _HYPOTHESES else HYPOTHESIS] * len(words)
        for condition, ends, why in (
            (_compares(words, index, word, following), _CLAUSE_ENDS, COMPARISON),
            (_supposes(words, index, word, following), _CLAUSE_ENDS, HYPOTHESIS),
            (word in _OTHERS and following in _WHICH, frozenset[str](), BASE),
            (word in _NOT, _CLAUSE_ENDS | {"but"}, NEGATION),
            (word in _NONE, _NEGATION_ENDS, NEGATION),
            ((word, following) == ("such", "as"), _CLAUSE_ENDS - {","}, GENERAL),
        ):
            if condition:
                _mark(marks, words, index + 1, ends.__contains__, why)
    if not _GENERAL.isdisjoint(words):
        _mark(marks, words, 0, lambda word: False, GENERAL)
    return marks


def _is_base(words: Sequence[str], index: int, word: str, following: str) -> bool:
    if word in _BASE_WORDS:
        return True
    if word == "base":
        return index == 0 or words[index - 1] not in {"schiff", "lewis", "bronsted", "strong"}
    if word in _BASE_ADJECTIVES and following in _BASE_NOUNS:
        return True
    return (word, following) in {("starting", "from"), ("starting", "with"), ("derived", "from")}


def _compares(words: Sequence[str], index: int, word: str, following: str) -> bool:
    if word in _COMPARE or (word, following) in _COMPARE_PAIRS or word.startswith(_CHANGES):
        return True
    return word == "as" and index > 1 and words[index - 2] == "as"


def _supposes(words: Sequence[str], index: int, word: str, following: str) -> bool:
    if word in _PERHAPS:
        return True
    after = words[index + 2] if index + 2 < len(words) else ""
    return word in _MODALS and (following in _HAVING or after in _HAVING)


def _mark(
    marks: list[str], words: Sequence[str], start: int, ends: Callable[[str], bool], why: str
) -> None:
    for index in range(start, len(words)):
        if ends(words[index]):
            return
        marks[index] = marks[index] or why
