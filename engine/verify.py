"""Completion -> verdict: pure, on the CPU, and repeatable over a whole store.

Everything that is wrong with a completion is found; which findings reject it is configuration.
What needs a state, what was accepted before, is asked only of completions that would be accepted
otherwise: `compare` alone knows it, so that all else can be done anywhere, in any order.
"""

from collections.abc import Callable, Collection, Set
from dataclasses import dataclass, replace
from typing import NamedTuple, Self

from selfstudy_engine.data.arithmetic import read_arithmetic
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.findings import FINDINGS, Finding
from selfstudy_engine.data.prompts import Answer, Template, parse_completion
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Completion, Molecule, Verdict
from selfstudy_engine.engine.accepted_texts import AcceptedTexts, Fingerprint
from selfstudy_engine.engine.reason_checks import is_boilerplate, leaks_answer
from selfstudy_engine.engine.told_values import tells_value

HasFalseClaim = Callable[[str, Molecule], bool]
"""Tells of a reason whether it states something false of the molecule that it is about."""


@dataclass(frozen=True, slots=True)
class Rules:
    """By what completions are judged."""

    prop: Property
    template: Template
    tolerance: float
    """Largest absolute error that isn't a finding, in the property's unit."""
    reject: frozenset[Finding]
    """Findings that reject a completion."""
    max_accepted: int | None
    """Texts that may be accepted for a molecule; None is without a limit."""
    has_false_claim: HasFalseClaim | None = None
    """None leaves claims unchecked."""

    @classmethod
    def of(
        cls,
        config: RunConfig,
        tolerance: float | None = None,
        has_false_claim: HasFalseClaim | None = None,
    ) -> Self:
        """Return a run's rules.

        Args:
            config: of the run.
            tolerance: in the place of the property's, where it changes from round to round.
            has_false_claim: checks claims; None leaves them unchecked.
        """
        return cls(
            prop=config.property,
            template=config.generation.template,
            tolerance=config.property.tolerance if tolerance is None else tolerance,
            reject=frozenset(config.verdict.reject),
            max_accepted=config.verdict.max_accepted_per_molecule or None,
            has_false_claim=has_false_claim,
        )

    def for_stored(self, tolerance: float, findings: Collection[str], reason: str) -> Self:
        """Return the rules for judging a stored sample again.

        What its reason says of the molecule is as true as it was: claims are checked again only
        where the text is read otherwise now, or had no value and so wasn't checked.

        Args:
            tolerance: to judge by, in the property's unit.
            findings: that were stored.
            reason: that was stored.
        """
        check, was_false = self.has_false_claim, "false claim" in findings
        was_checked = "no value" not in findings

        def has_false_claim(now: str, molecule: Molecule) -> bool:
            if was_checked and now == reason:
                return was_false
            return check is not None and check(now, molecule)

        return replace(self, tolerance=tolerance, has_false_claim=has_false_claim)


class Judged(NamedTuple):
    """What comes of a completion alone."""

    verdict: Verdict
    fingerprint: Fingerprint | None
    """Of its reason, for `compare`; None where it is rejected already."""


def verify(completion: Completion, molecule: Molecule, rules: Rules) -> Verdict:
    """Return the verdict on a completion alone; see `judge`."""
    return judge(completion.text, completion.finish_reason, molecule, rules).verdict


def judge(
    text: str, finish_reason: str, molecule: Molecule, rules: Rules, *, hinted: bool = False
) -> Judged:
    """Check a completion against the measured value; what was accepted before isn't asked.

    Args:
        text: as the model gave it.
        finish_reason: why it ended there; see `Completion`.
        molecule: that was asked about.
        rules: to judge by.
        hinted: the reason was given in sight of the measured value, and mustn't tell it.
    """
    is_cut_off = finish_reason == "length"
    answer = parse_completion(text, rules.prop, rules.template, is_cut_off=is_cut_off)
    error = None if answer.value is None else answer.value - molecule.value
    found = _find(answer, error, is_cut_off, rules)
    if hinted and tells_value(answer.reason, molecule.value, rules.prop):
        found.add("answer leaked")
    # Asked of every answer with a reason and a value: its share says how truthful a round is.
    is_complete = bool(answer.reason) and answer.value is not None
    if rules.has_false_claim and is_complete and rules.has_false_claim(answer.reason, molecule):
        found.add("false claim")
    findings, rejections = _in_order(found, rules)
    verdict = Verdict(
        reason=answer.reason,
        predicted=answer.value,
        error=error,
        accepted=not rejections,
        rejections=rejections,
        findings=findings,
        tolerance=rules.tolerance,
    )
    return Judged(verdict, Fingerprint.of(verdict.reason) if verdict.accepted else None)


def compare(judged: Judged, molecule: Molecule, rules: Rules, accepted: AcceptedTexts) -> Verdict:
    """Hold what would be accepted against what was accepted before.

    Args:
        judged: what came of the completion alone.
        molecule: that was asked about.
        rules: to judge by.
        accepted: only asked, never changed.
    """
    verdict = judged.verdict
    if not judged.fingerprint:
        return verdict
    more = _compare(judged.fingerprint, molecule.molecule_id, accepted, rules)
    if not more:
        return verdict
    findings, rejections = _in_order(more.union(verdict.findings), rules)
    return verdict._replace(accepted=not rejections, rejections=rejections, findings=findings)


def _in_order(found: Set[str], rules: Rules) -> tuple[tuple[Finding, ...], tuple[Finding, ...]]:
    """Return findings, and those of them that reject, in the order of `FINDINGS`."""
    findings = tuple(name for name in FINDINGS if name in found)
    return findings, tuple(name for name in findings if name in rules.reject)


def _find(answer: Answer, error: float | None, is_cut_off: bool, rules: Rules) -> set[Finding]:
    reason, value = answer.reason, answer.value
    arithmetic = None if value is None else read_arithmetic(reason, rules.prop)
    checks: dict[Finding, bool] = {
        "truncated": is_cut_off,
        "no value": value is None,
        "value range": answer.is_range,
        "other unit": answer.is_other_unit,
        "no reason": not reason,
        "boilerplate reason": bool(reason) and is_boilerplate(reason),
        "out of tolerance": error is not None and abs(error) > rules.tolerance,
        "answer leaked": leaks_answer(reason, value, rules.prop),
        "arithmetic misses prediction": bool(
            arithmetic and value is not None and not arithmetic.reaches(value)
        ),
    }
    return {name for name, is_so in checks.items() if is_so}


def _compare(
    reason: Fingerprint, molecule_id: str, accepted: AcceptedTexts, rules: Rules
) -> set[Finding]:
    checks: dict[Finding, bool] = {
        "repeated for molecule": accepted.has_repeat(molecule_id, reason),
        "near-duplicate": accepted.has_near_duplicate(molecule_id, reason),
        "molecule has enough": rules.max_accepted is not None
        and accepted.num_accepted(molecule_id) >= rules.max_accepted,
    }
    return {name for name, is_so in checks.items() if is_so}
