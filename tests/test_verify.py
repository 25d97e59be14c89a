"""Completion -> verdict: every finding by name, and which of them reject."""

import pytest

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.findings import FINDINGS
from selfstudy_engine.data.schema import Completion, Molecule, Verdict
from selfstudy_engine.engine.accepted_texts import AcceptedTexts, Fingerprint
from selfstudy_engine.engine.verify import Rules, compare, judge, verify

RULES = Rules.of(RunConfig())
VANILLIN = Molecule("K", "vanillin", "COc1cc(C=O)ccc1O", 80.0)
REASON = "One flat ring with an aldehyde and a phenol"
FAR = "out of tolerance"


def judged(
    text: str, finish: str = "stop", rules: Rules = RULES, seen: AcceptedTexts | None = None
) -> Verdict:
    if seen is None:
        return verify(Completion(text, finish, 10, 10), VANILLIN, rules)
    return compare(judge(text, finish, VANILLIN, rules), VANILLIN, rules, seen)


@pytest.mark.parametrize(
    ("text", "finish_reason", "error", "findings"),
    [
        (f" {REASON}.\nMelting point (°C): 80", "stop", 0.0, ()),
        (f" {REASON}.\nMelting point (°C): 110", "stop", 30.0, ()),
        (f" {REASON}.\nMelting point (°C): 50", "stop", -30.0, ()),
        (f" {REASON}.\nMelting point (°C): 110.1", "stop", 30.1, (FAR,)),
        (f" {REASON}.\nMelting point (°C): 49.9", "stop", -30.1, (FAR,)),
        (f" {REASON}.\nMelting point (°C): 80", "length", None, ("truncated", "no value")),
        (f" {REASON}.\nMelting point (°C): 80\nName", "length", 0.0, ("truncated",)),
        (f" {REASON}.\nMelting point (°C): 353.15 K", "stop", 0.0, ("other unit",)),
        (f" {REASON}.\nMelting point (°C): 212 °F", "stop", 20.0, ("other unit",)),
        (f" {REASON}.\nMelting point (°C): 80 C", "stop", 0.0, ()),
        (f" {REASON}.", "stop", None, ("no value",)),
        (f" {REASON}.\nMelting point (°C): 80-82", "stop", None, ("no value", "value range")),
        (f" {REASON}.\nMelting point (°C): -5 to -2", "stop", None, ("no value", "value range")),
        (" Flat.\nMelting point (°C): 80", "stop", 0.0, ("boilerplate reason",)),
        (" I cannot predict it, sorry.\nMelting point (°C): 80", "stop", 0.0,
         ("boilerplate reason",)),
        (f" {'The ring is flat and ' * 6}.\nMelting point (°C): 80", "stop", 0.0,
         ("boilerplate reason",)),
        (f" {REASON}, and the actual value is high.\nMelting point (°C): 80", "stop", 0.0,
         ("answer leaked",)),
        (f" It melts at 80 °C. {REASON}.\nMelting point (°C): 80", "stop", 0.0,
         ("answer leaked",)),
        (f" {REASON}: 5.5 + 80 - 10.\nMelting point (°C): 80", "stop", 0.0,
         ("arithmetic misses prediction",)),
        (f" {REASON}: 5.5 + 80 - 10.\nMelting point (°C): 75", "stop", -5.0, ()),
        ("\nMelting point (°C): 80", "stop", 0.0, ("no reason",)),
        ("\nMelting point (°C): 200", "stop", 120.0, ("no reason", FAR)),
        ("", "length", None, ("truncated", "no value", "no reason")),
    ],
)  # fmt: skip
def test_everything_found_is_named(
    text: str, finish_reason: str, error: float | None, findings: tuple[str, ...]
) -> None:
    verdict = judged(text, finish_reason)
    assert verdict.findings == findings
    assert verdict.rejections == tuple(name for name in findings if name in RULES.reject)
    assert verdict.accepted is (not verdict.rejections)
    assert verdict.error == (None if error is None else pytest.approx(error))
    assert verdict.predicted == (None if error is None else pytest.approx(80.0 + error))


def test_the_tolerance_decides() -> None:
    text = f" {REASON}.\nMelting point (°C): 81"
    verdict = judged(text, rules=Rules.of(RunConfig(), tolerance=0.5))
    assert judged(text).accepted
    assert verdict.rejections == (FAR,)
    assert (verdict.reason, verdict.tolerance) == (f"{REASON}.", 0.5)


def test_which_findings_reject_is_configuration() -> None:
    text = " Flat.\nMelting point (°C): 353.15 K"
    lenient = Rules.of(load_config(None, {"verdict.reject": ["no value", FAR]}))
    strict = Rules.of(load_config(None, {"verdict.reject": ["no value", "other unit"]}))
    assert judged(text, rules=lenient).accepted
    assert judged(text, rules=strict).rejections == ("other unit",)
    assert judged(text, rules=lenient).findings == ("other unit", "boilerplate reason")


@pytest.mark.parametrize("names", [["no values"], [FAR], []])
def test_names_that_make_no_sense_are_refused(names: list[str]) -> None:
    with pytest.raises(UsageError, match=r"verdict\.?\w*: |no value"):
        load_config(None, {"verdict.reject": names})


def test_claims_of_every_answer_with_a_value_are_checked() -> None:
    asked: list[tuple[str, Molecule]] = []

    def is_false(reason: str, molecule: Molecule) -> bool:
        asked.append((reason, molecule))
        return "ester" in reason

    rules = Rules.of(RunConfig(), has_false_claim=is_false)
    false = " A flat ring with an ester.\nMelting point (°C):"
    assert judged(f"{false} 80", rules=rules).rejections == ("false claim",)
    assert judged(f"{false} 200", rules=rules).findings == (FAR, "false claim")
    assert judged(f" {REASON}.\nMelting point (°C): 80", rules=rules).accepted
    assert judged(f"{false} high", rules=rules).findings == ("no value",)
    assert judged("\nMelting point (°C): 80", rules=rules).findings == ("no reason",)
    ester = "A flat ring with an ester."
    assert asked == [(ester, VANILLIN), (ester, VANILLIN), (f"{REASON}.", VANILLIN)]


def test_a_stored_reasons_claims_are_checked_again_only_if_it_is_read_otherwise() -> None:
    asked: list[str] = []

    def is_false(reason: str, molecule: Molecule) -> bool:
        asked.append(reason)
        return True

    text, reason = f" {REASON}.\nMelting point (°C): 80", f"{REASON}."
    rules = Rules.of(RunConfig(), has_false_claim=is_false)
    assert judged(text, rules=rules.for_stored(30, (), reason)).accepted
    known = judged(text, rules=rules.for_stored(30, ("false claim",), reason))
    assert known.rejections == ("false claim",)
    assert asked == []
    for findings, stored in (((), "Another reading."), (("no value",), reason)):
        assert not judged(text, rules=rules.for_stored(30, findings, stored)).accepted
    assert asked == [reason, reason]
    assert judged(text, rules=rules.for_stored(30, (), "Another.")).tolerance == 30
    assert judged(text, rules=RULES.for_stored(30, (), "Another.")).accepted


def test_what_was_accepted_before_counts() -> None:
    seen = AcceptedTexts(0.8)
    text = f" {REASON} beside an ether.\nMelting point (°C): 80"
    assert judged(text, seen=seen).accepted
    assert seen.num_accepted("K") == 0
    seen.add("OTHER", Fingerprint.of(f"{REASON} beside an ether."))
    again = judged(text, seen=seen)
    assert again.accepted
    assert again.findings == ("near-duplicate",)
    seen.add("K", Fingerprint.of(f"{REASON} beside an ether."))
    assert judged(text, seen=seen).rejections == ("repeated for molecule",)
    for other in ("alpha", "beta", "gamma"):
        seen.add("K", Fingerprint.of(other))
    other_text = " Hydrogen bonds tie the rings together.\nMelting point (°C): 80"
    assert judged(other_text, seen=seen).rejections == ("molecule has enough",)
    unlimited = Rules.of(load_config(None, {"verdict.max_accepted_per_molecule": 0}))
    assert judged(other_text, rules=unlimited, seen=seen).accepted


def test_findings_keep_their_order() -> None:
    verdict = judged("\nMelting point (°C): 900 K\n", "length")
    assert verdict.findings == ("truncated", "other unit", "no reason", FAR)
    assert list(verdict.findings) == sorted(verdict.findings, key=FINDINGS.index)
