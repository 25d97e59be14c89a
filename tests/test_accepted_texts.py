"""The index of accepted texts: exact where it speaks, and complete enough."""

import random
from functools import cache

import pytest

from selfstudy_engine.engine.accepted_texts import AcceptedTexts, Fingerprint

of = Fingerprint.of
WORDS = [f"word{number}" for number in range(400)]


def changed(words: list[str], generator: random.Random, changes: int) -> str:
    words = list(words)
    for _ in range(changes):
        words[generator.randrange(len(words))] = generator.choice(WORDS)
    return " ".join(words)


@cache
def parts(text: str) -> set[tuple[str, ...]]:
    words = text.lower().split()
    return {tuple(words[i : i + 4]) for i in range(max(len(words) - 3, 1))}


def jaccard(one: str, other: str) -> float:
    a, b = parts(one), parts(other)
    return len(a & b) / len(a | b)


def test_texts_are_compared_by_molecule_and_among_molecules() -> None:
    seen = AcceptedTexts(0.8)
    text = "One benzene ring with an ethyl ester, and no donor."
    seen.add("A", of(text))
    assert seen.has_repeat("A", of("one benzene ring; with an ethyl ester and NO donor"))
    assert not seen.has_repeat("B", of(text))
    assert seen.has_near_duplicate("B", of(text))
    assert not seen.has_near_duplicate("A", of(text))
    assert not seen.has_near_duplicate("B", of("Two rings without any ester and a donor."))
    assert (seen.num_accepted("A"), seen.num_accepted("B")) == (1, 0)


@pytest.mark.parametrize("text", ["", "One", "One ring", "!?"])
def test_short_texts_match_themselves_only(text: str) -> None:
    seen = AcceptedTexts(0.8)
    seen.add("A", of(text))
    assert seen.has_repeat("A", of(text))
    assert seen.has_near_duplicate("B", of(text))
    assert not seen.has_repeat("A", of("something else entirely, and long"))


@pytest.mark.parametrize(
    ("num_words", "is_near"), [(37, True), (40, True), (49, True), (50, False), (32, False)]
)
def test_texts_of_other_lengths_are_near_up_to_the_limit(num_words: int, is_near: bool) -> None:
    """37 of 46 sequences are shared with 49 words (0.804), 37 of 47 with 50 (0.787)."""
    seen = AcceptedTexts(0.8)
    seen.add("A", of(" ".join(WORDS[:40])))
    assert seen.has_repeat("A", of(" ".join(WORDS[:num_words]))) is is_near


@pytest.mark.parametrize("limit", [0.8, 0.9])
def test_it_agrees_with_a_comparison_of_all_pairs(limit: float) -> None:
    generator = random.Random(0)
    seen = AcceptedTexts(limit)
    texts: list[str] = []
    missed = near = 0
    for number in range(1_000):
        words = generator.choices(WORDS, k=generator.randint(20, 60))
        if texts and number % 2:
            words = generator.choice(texts).split()
        text = changed(words, generator, generator.choice((0, 1, 1, 2, 3)))
        expected = any(jaccard(text, other) >= limit for other in texts)
        found = seen.has_near_duplicate("new", of(text))
        assert expected or not found
        near += expected
        missed += expected and not found
        texts.append(text)
        seen.add(f"molecule {number}", of(text))
    assert near > 90
    assert missed <= 0.02 * near


def test_a_text_that_comes_often_is_found_at_once() -> None:
    seen = AcceptedTexts(0.8)
    text = of("The very same text is accepted every single time.")
    for number in range(20_000):
        seen.add(f"molecule {number}", text)
    for _ in range(2_000):
        assert seen.has_near_duplicate("new", text)
