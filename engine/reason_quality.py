"""Reasons in, how varied and how true they are out."""

import random
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.claims import Claim

NGRAM = 4
"""Words in a row whose repetition shows that reasons collapse into one."""
REASONS_COMPARED = 20
"""Reasons that variety is counted on: a share among more would be lower for that alone."""
_DRAWS = 100


CheckReason = Callable[[str, Molecule], Sequence[Claim]]
"""Reason and molecule in, claims in the order of the text out."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A part of a reason, with the verdict on it if it is a claim."""

    text: str
    truth: str | None = None
    found: str = ""


def mark_claims(reason: str, claims: Sequence[Claim]) -> list[Piece]:
    """Cut a reason into pieces, claims apart; of claims that overlap the earlier one is shown."""
    pieces: list[Piece] = []
    place = 0
    for claim in sorted(claims, key=lambda claim: (claim.start, claim.end)):
        if claim.start < place:
            continue
        pieces.append(Piece(reason[place : claim.start]))
        pieces.append(Piece(reason[claim.start : claim.end], claim.truth, claim.found))
        place = claim.end
    pieces.append(Piece(reason[place:]))
    return [piece for piece in pieces if piece.text]


def distinct_ngrams(reasons: Sequence[str]) -> float | None:
    """Return the share of distinct 4-grams among all 4-grams; None where there are none.

    Compare it between sets of about the same size only: it falls as texts are added.

    >>> distinct_ngrams(["a b c d e", "a b c d f"])
    0.75
    """
    found = [
        tuple(words[index : index + NGRAM])
        for words in (reason.lower().split() for reason in reasons)
        for index in range(len(words) - NGRAM + 1)
    ]
    return len(set(found)) / len(found) if found else None


def variety(reasons: Iterable[str]) -> float | None:
    """Return the share of distinct 4-grams among `REASONS_COMPARED` reasons, whatever their number.

    The mean over many draws, always the same ones; it depends on the texts alone, not on their
    order. None for fewer reasons than that.

    >>> variety(["One flat ring, and a long chain."] * 500)
    0.05
    """
    ordered = sorted(reasons)
    if len(ordered) < REASONS_COMPARED:
        return None
    generator = random.Random(0)
    draws = (distinct_ngrams(generator.sample(ordered, REASONS_COMPARED)) for _ in range(_DRAWS))
    shares = [share for share in draws if share is not None]
    return statistics.mean(shares) if shares else None


def false_share(
    reasons: Sequence[tuple[str, Molecule]], check: CheckReason
) -> tuple[float, float] | None:
    """Return the shares of reasons with a false claim, and with any claim that could be judged."""
    if not reasons:
        return None
    truths = [{claim.truth for claim in check(reason, molecule)} for reason, molecule in reasons]
    false = sum("false" in found for found in truths)
    judged = sum(bool(found & {"true", "false"}) for found in truths)
    return false / len(reasons), judged / len(reasons)
