"""How varied reasons are, and how true."""

import random

import pytest
from made_run import check, make_claim

from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.reason_quality import (
    REASONS_COMPARED,
    distinct_ngrams,
    false_share,
    mark_claims,
    variety,
)


def test_reasons_that_repeat_have_few_distinct_ngrams() -> None:
    assert distinct_ngrams(["one two three"]) is None
    assert distinct_ngrams(["a b c d"] * 10) == 0.1
    molecule = Molecule("K", "", "C", 0.0)
    reasons = [("two nitro", molecule), ("high", molecule)]
    assert false_share(reasons, check) == (0.5, 0.5)


def test_variety_is_that_of_as_many_reasons_however_many_there_are() -> None:
    generator = random.Random(0)
    words = [f"word{number}" for number in range(12)]
    many = [" ".join(generator.choices(words, k=12)) for _ in range(2000)]
    repeated = [many[index % 5] for index in range(200)]
    few, all_of_them, copies = variety(many[:40]), variety(many), variety(repeated)
    assert few is not None
    assert all_of_them == pytest.approx(few, abs=0.01)
    assert (distinct_ngrams(many) or 0) < 0.75 * few
    assert copies is not None
    assert copies < 0.3 < 0.9 < few
    assert variety(many[REASONS_COMPARED - 1 :: -1]) == variety(many[:REASONS_COMPARED])
    assert variety(many[1:REASONS_COMPARED]) is None
    assert variety(["three words only"] * 50) is None


def test_claims_are_cut_out_of_a_reason_without_losing_a_letter() -> None:
    claims = [make_claim(4, 9, "true"), make_claim(6, 12, "false"), make_claim(12, 15, "false")]
    reason = "Two nitro groups."
    pieces = mark_claims(reason, claims)
    assert "".join(piece.text for piece in pieces) == reason
    assert [piece.truth for piece in pieces] == [None, "true", None, "false", None]
    assert mark_claims("", []) == []
