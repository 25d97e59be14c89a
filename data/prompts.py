"""The one template that both generating and training use: molecule -> prompt, text <-> answer.

    Name: vanillin
    SMILES: COc1cc(C=O)ccc1O
    Reason: One benzene ring with ... : moderate.
    Melting point (°C): 82

A prompt ends after "Reason:"; a completion is the rest, up to `STOP`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass

from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Exemplar, Molecule

STOP = "\n\n"
"""Ends an answer in prompts with exemplars; adapters learn the end-of-text token instead."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a completion's text says: a reason, and a value if there is a well-formed one."""

    reason: str
    value: float | None


def render_question(molecule: Molecule) -> str:
    """Return the lines that describe a molecule, up to where the reason begins."""
    name = " ".join(molecule.name.split())
    return (f"Name: {name}\n" if name else "") + f"SMILES: {molecule.smiles}\nReason:"


def render_answer(reason: str, value: float, prop: Property) -> str:
    """Return the text that follows `render_question`: what a model is trained to complete."""
    return f" {reason}\n{prop.question} {prop.format(value)}"


def render_prompt(molecule: Molecule, prop: Property, exemplars: Sequence[Exemplar] = ()) -> str:
    """Return the prompt: the exemplars as answered questions, then the molecule's question.

    The exemplars come first and in one order, so that all prompts of a round share a prefix.
    """
    shown = [
        render_question(e.molecule) + render_answer(e.reason, e.molecule.value, prop) + STOP
        for e in exemplars
    ]
    return "".join(shown) + render_question(molecule)


# A sign, digits, at most one decimal point; no thousands separators, exponents or ranges.
_NUMBER = r"(?P<value>[+\-\u2212]?[0-9]+(?:\.[0-9]+)?)"
_NEXT_QUESTION = re.compile(r"^\s*(Name|SMILES|Reason):", re.MULTILINE)


def parse_completion(text: str, prop: Property) -> Answer:
    """Read a completion strictly: a reason, then the property's line with exactly one number.

    >>> from selfstudy_engine.data.properties import find_property
    >>> melting_point = find_property("melting_point")
    >>> parse_completion(" It is flat.\\nMelting point (°C): -12.5", melting_point)
    Answer(reason='It is flat.', value=-12.5)
    >>> parse_completion(" It is flat.\\nMelting point (°C): 80-82", melting_point).value is None
    True
    """
    reason, found, rest = text.partition(f"\n{prop.question}")
    another = _NEXT_QUESTION.search(reason)
    reason = " ".join(reason.split())
    if not found or another:  # a value that follows another question answers that one
        return Answer(reason, None)
    return Answer(reason, read_number(rest, prop))


def read_number(text: str, prop: Property) -> float | None:
    """Return the one number that the first line of a text consists of, in the property's unit.

    The unit may follow; anything else, a range or a value outside the property's limits is None.
    """
    line = text.strip().split("\n", 1)[0].strip()
    match = re.fullmatch(rf"{_NUMBER}\s*(?:{re.escape(prop.unit)})?\s*\.?", line)
    if match is None:
        return None
    value = float(match["value"].replace("\u2212", "-"))
    return value if prop.minimum <= value <= prop.maximum else None
