"""The check of claims holds its limits: `python tests/measure_claims.py` prints all figures."""

import re
from pathlib import Path

import orjson
import pytest
from measure_claims import (
    judged_pairs,
    measure_judged,
    measure_swap,
    measure_templated,
    melting_points,
    read_judged,
    wilson,
)

from selfstudy_engine.engine.claim_report import ClaimReport, check_rows, read_reasons
from selfstudy_engine.engine.known_values import KnownValues

RATIONALES = Path(__file__).parents[2] / "shared" / "reference" / "llmchem_rationales.jsonl"
JUDGED = read_judged()


@pytest.fixture(scope="module")
def known() -> KnownValues:
    return melting_points()


def test_judged_claims_lie_in_their_texts() -> None:
    assert len(JUDGED) >= 200
    assert {one.label for one in JUDGED} == {"true", "false", "unverifiable"}
    for one in JUDGED:
        text = one.reason[slice(*one.span)]
        assert text
        assert text == text.strip()
    sources = [one.source for one in JUDGED]
    assert min(sources.count("embedded model"), sources.count("written")) > 200


@pytest.mark.parametrize("batch", ["first", "second"])
@pytest.mark.parametrize("verdict", ["true", "false"])
def test_precision_on_judged_claims(batch: str, verdict: str, known: KnownValues) -> None:
    judged = [one for one in JUDGED if one.batch == batch]
    figures = measure_judged(judged, known)[f"precision of {verdict!r}"]
    assert figures["share"] >= 0.95
    assert figures["interval"][0] >= 0.95


def test_every_verdict_on_the_judged_texts_was_judged(known: KnownValues) -> None:
    unjudged = [
        (claim, truth)
        for claim, label, truth in judged_pairs(JUDGED, known)
        if not label and truth != "unverifiable"
    ]
    assert unjudged == []


def test_most_false_claims_are_found(known: KnownValues) -> None:
    figures = measure_judged(JUDGED, known)["recall of 'false'"]
    assert figures["share"] >= 0.9


def test_single_fact_mutations_are_found_and_true_claims_left_alone(known: KnownValues) -> None:
    figures = measure_templated(known, 300, seed=0)
    assert figures["num_mutated"] > 1500
    assert figures["recall"] >= 0.95
    assert figures["true called false"] <= 0.05
    for kind, shares in figures["by kind"].items():
        assert shares["recall"] >= 0.95, kind
        assert shares["true called true"] >= 0.9, kind


def test_a_reason_fits_its_own_molecule_and_few_others(known: KnownValues) -> None:
    figures = measure_swap(known, 20, seed=0)
    assert figures["own"] <= 0.05
    assert figures["swapped"] >= 0.8


@pytest.mark.skipif(not RATIONALES.exists(), reason="the reference data isn't at hand")
def test_reasons_of_large_models(known: KnownValues) -> None:
    rows = read_reasons(RATIONALES)
    shares = {}
    for source in ("gpt-4", "llama-2-7b"):
        report = ClaimReport()
        for found in check_rows([r for r in rows if r.columns["source"] == source], known):
            report.add(found)
        shares[source] = report.as_dict()["reasons_with_false_fraction"]
    assert shares["gpt-4"] <= 0.07
    assert shares["llama-2-7b"] >= 0.2


def test_no_reason_of_the_reference_data_is_carried_along() -> None:
    if not RATIONALES.exists():
        pytest.skip("the reference data isn't at hand")
    reference = {orjson.loads(line)["reason"] for line in RATIONALES.read_bytes().splitlines()}
    sentences = {part for text in reference for part in re.split(r"[.\n]", text) if len(part) > 60}
    assert not any(sentence in one.reason for one in JUDGED for sentence in sentences)


def test_wilson_interval() -> None:
    # Newcombe 1998, table I: 81 of 263.
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(0, 0) == (0.0, 1.0)
