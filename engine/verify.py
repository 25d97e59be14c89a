"""Completion -> verdict: pure, on the CPU, and repeatable over a whole store."""

from selfstudy_engine.data.prompts import parse_completion
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Completion, Molecule, Verdict

TRUNCATED = "truncated"
NO_VALUE = "no value"
NO_REASON = "no reason"
OUT_OF_TOLERANCE = "out of tolerance"


def verify(completion: Completion, molecule: Molecule, prop: Property) -> Verdict:
    """Check one completion against the measured value.

    Returns:
        A verdict with every reason for a rejection; accepted only if there is none.
    """
    return judge(completion.text, completion.finish_reason, molecule.value, prop)


def judge(text: str, finish_reason: str, measured: float, prop: Property) -> Verdict:
    """Do what `verify` does, from the columns of a store that a verdict depends on."""
    answer = parse_completion(text, prop)
    error = None if answer.value is None else answer.value - measured
    checks = {
        TRUNCATED: finish_reason == "length",
        NO_VALUE: answer.value is None,
        NO_REASON: not answer.reason,
        OUT_OF_TOLERANCE: error is not None and abs(error) > prop.tolerance,
    }
    rejections = tuple(name for name, failed in checks.items() if failed)
    return Verdict(answer.reason, answer.value, error, not rejections, rejections)
