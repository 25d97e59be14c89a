"""The templates that both generating and training use: molecule -> prompt, text <-> answer.

named    Name: vanillin              original    #Problem
         SMILES: COc1cc(C=O)ccc1O                ##Name: vanillin
         Reason: One benzene ring.               ##SMILES: COc1cc(C=O)ccc1O
         Melting point (°C): 082                 ##Reason: One benzene ring.
                                                 ##Prediction: 82

smiles is named without the name, facts is named with a line of facts before the reason. A prompt
ends after "Reason:"; a completion is the rest, up to `STOP`.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from selfstudy_engine.data.properties import Property, commensurable, convert, spellings
from selfstudy_engine.data.schema import Exemplar, Molecule

STOP = "\n\n"
"""Ends an answer in prompts with exemplars; adapters learn the end-of-text token instead."""


Template = Literal["named", "smiles", "facts", "original"]
"""How a molecule is put before the model; see the top of this page."""
Hidden = Literal["name", "smiles"]
"""What a question leaves out, to see what an adapter makes of it; with the SMILES go its facts."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a completion's text says: a reason, and a value if there is a well-formed one."""

    reason: str
    value: float | None
    is_range: bool = False
    """A range or an interval stands where the value belongs; it is refused."""
    is_other_unit: bool = False
    """The value came in another unit of the same quantity, and was converted."""


def render_question(
    molecule: Molecule, template: Template = "named", hidden: Hidden | None = None
) -> str:
    """Return the lines that describe a molecule, up to where the reason begins."""
    name = " ".join(molecule.name.split())
    mark = "##" if template == "original" else ""
    lines = ["#Problem"] if template == "original" else []
    if name and template != "smiles" and hidden != "name":
        lines.append(f"{mark}Name: {name}")
    if hidden != "smiles":
        lines.append(f"{mark}SMILES: {molecule.smiles}")
    if template == "facts" and hidden != "smiles":
        from selfstudy_engine.data.facts import describe_facts  # RDKit, for who asks for facts

        lines.append(f"Facts: {describe_facts(molecule.smiles)}")
    return "\n".join([*lines, f"{mark}Reason:"])


def value_label(prop: Property, template: Template) -> str:
    """Return what stands before the value: "Melting point (°C):"."""
    return "##Prediction:" if template == "original" else prop.question


def render_answer(reason: str, value: float, prop: Property, template: Template = "named") -> str:
    """Return the text that follows `render_question`: what a model is trained to complete.

    Without a reason it is the value's line alone, which `parse_completion` reads all the same.
    """
    return render_reason(reason) + render_value(value, prop, template)


def render_reason(reason: str) -> str:
    """Return how an answer begins: with a reason, or with nothing where that is empty."""
    return f" {reason}" if reason else ""


def render_value(value: float, prop: Property, template: Template) -> str:
    """Return how an answer ends: a new line with the value."""
    return f"\n{_value_line(value, prop, template)}"


def _value_line(value: float, prop: Property, template: Template) -> str:
    number = prop.format(value) if template == "original" else prop.write(value)
    return f"{value_label(prop, template)} {number}"


def render_prompt(
    molecule: Molecule,
    prop: Property,
    exemplars: Sequence[Exemplar] = (),
    template: Template = "named",
    hidden: Hidden | None = None,
) -> str:
    """Return the prompt: the exemplars as answered questions, then the molecule's question.

    The exemplars come first and in one order, so that all prompts of a round share a prefix; what
    is hidden is hidden of the molecule alone.
    """
    shown = [
        render_question(e.molecule, template)
        + render_answer(e.reason, e.molecule.value, prop, template)
        + STOP
        for e in exemplars
    ]
    return "".join(shown) + render_question(molecule, template, hidden)


def render_hinted_prompt(
    molecule: Molecule,
    prop: Property,
    exemplars: Sequence[Exemplar] = (),
    template: Template = "named",
) -> str:
    """Return a prompt that states the value and asks for the reason alone.

    The exemplars' values stand before their reasons, too.

    >>> from selfstudy_engine.data.properties import find_property
    >>> ethanol = Molecule("LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "ethanol", "CCO", -114.1)
    >>> print(render_hinted_prompt(ethanol, find_property("melting_point")))
    Name: ethanol
    SMILES: CCO
    Melting point (°C): -114
    Reason:
    """
    shown = [f"{_hinted_question(e.molecule, prop, template)} {e.reason}{STOP}" for e in exemplars]
    return "".join(shown) + _hinted_question(molecule, prop, template)


def _hinted_question(molecule: Molecule, prop: Property, template: Template) -> str:
    lines = render_question(molecule, template).split("\n")
    hint = _value_line(molecule.value, prop, template)
    return "\n".join([*lines[:-1], hint, lines[-1]])


# A sign, digits, at most one decimal point; no thousands separators, exponents or ranges.
_NUMBER = r"(?P<value>[+\-\u2212]?[0-9]++(?:\.[0-9]++)?)"
# Texts are a model's: no two repeats may share what they match, or a long one takes minutes.
_RANGE = re.compile(
    r"[+\-\u2212]?[0-9]++(?:\.[0-9]++)?\s{0,3}\S{0,3}\s{0,3}"
    r"(?:[\-\u2013\u2014~/±]|to|or|and|\+/-)\s*[+\-\u2212]?[0-9]"
)
_NEXT_QUESTION = re.compile(r"^[^\S\n]*+(#Problem|(##)?(Name|SMILES|Facts|Reason):)", re.MULTILINE)


def parse_completion(
    text: str, prop: Property, template: Template = "named", *, is_cut_off: bool = False
) -> Answer:
    """Read a completion strictly: a reason, then the property's line with exactly one number.

    Args:
        text: of the completion.
        prop: what was asked for.
        template: of the question.
        is_cut_off: the token limit ended it, so that a number at its very end may have gone on.

    >>> from selfstudy_engine.data.properties import find_property
    >>> melting_point = find_property("melting_point")
    >>> parse_completion(" It is flat.\\nMelting point (°C): -12.5", melting_point)
    Answer(reason='It is flat.', value=-12.5, is_range=False, is_other_unit=False)
    >>> parse_completion(" It is flat.\\nMelting point (°C): 80-82", melting_point).is_range
    True
    """
    reason, found, rest = text.partition(f"\n{value_label(prop, template)}")
    another = _NEXT_QUESTION.search(reason)
    reason = " ".join(reason.split())
    is_unfinished = is_cut_off and "\n" not in rest.lstrip()
    if not found or another or is_unfinished:  # what follows another question answers that one
        return Answer(reason, None)
    line = rest.strip().split("\n", 1)[0].strip()
    value, unit = _read(line, prop)
    if value is None:
        return Answer(reason, None, is_range=bool(_RANGE.match(line)))
    return Answer(reason, value, is_other_unit=unit not in spellings(prop.unit))


def read_number(text: str, prop: Property) -> float | None:
    """Return the one number that the first line of a text consists of, in the property's unit.

    A unit may follow: the property's own, or one that is converted into it. Anything else, a range
    or a value outside the property's limits is None.
    """
    return _read(text.strip().split("\n", 1)[0].strip(), prop)[0]


def _read(line: str, prop: Property) -> tuple[float | None, str]:
    """Return a line's value in the property's unit, and the unit in which it stood there."""
    match = _line_pattern(prop.unit).fullmatch(line)
    if match is None:
        return None, prop.unit
    unit = match["unit"] or prop.unit
    value = convert(float(match["value"].replace("\u2212", "-")), unit, prop.unit)
    return (value if prop.minimum <= value <= prop.maximum else None), unit


@lru_cache(maxsize=64)
def _line_pattern(unit: str) -> re.Pattern[str]:
    units = "|".join(re.escape(name) for name in sorted(commensurable(unit), key=len, reverse=True))
    return re.compile(rf"{_NUMBER}\s*+(?:(?P<unit>{units})\s*+)?\.?")
