"""Plain English words by what they do in a phrase, read from claim_words.toml; and numbers."""

import tomllib
from functools import cache
from importlib import resources

_COUNTED = (
    "one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen twenty"
)
NUMBERS = {word: number for number, word in enumerate(_COUNTED.split(), start=1)}


@cache
def _tables() -> dict[str, dict[str, str]]:
    path = resources.files("selfstudy_engine.data").joinpath("claim_words.toml")
    return tomllib.loads(path.read_text("utf-8"))


def word_set(table: str, key: str) -> frozenset[str]:
    """Return one list of words.

    >>> "methyl" in word_set("phrases", "determiners"), "the" in word_set("phrases", "determiners")
    (False, True)
    """
    return frozenset(_tables()[table][key].split())


def read_number(word: str) -> int | None:
    """Return the number from 0 to 99 that a word or a figure stands for.

    >>> read_number("two"), read_number("12"), read_number("ring")
    (2, 12, None)
    """
    if word in NUMBERS:
        return NUMBERS[word]
    return int(word) if word.isdecimal() and word.isascii() and len(word) <= 2 else None
