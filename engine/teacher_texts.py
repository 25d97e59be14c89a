r"""What a teacher's answer says: without what it thought first, without its markup.

Chat models write "**About 85 °C**" where one number is asked for, and many servers leave what a
model thinks in its answer. Answers of our own adapters are read strictly, by `data.prompts`.
"""

import re

from selfstudy_engine.data.prompts import read_number
from selfstudy_engine.data.properties import Property

_TAG = r"(?:\w{1,8}[:|])?think(?:ing|_\w{1,8})?"
_THOUGHT_BEGINS = re.compile(rf"\s*(?:<{_TAG}>|\[think\]|<\|start_thinking\|>)", re.IGNORECASE)
_THOUGHT_ENDS = re.compile(rf"</{_TAG}>|\[/think\]|<\|end_thinking\|>", re.IGNORECASE)
"""As Qwen, DeepSeek, GLM, Seed, MiniMax, Magistral and Command have it; the opening tag is often
in the prompt already."""
_EMPHASIS = re.compile(r"\*\*|`")
_DEGREES = re.compile(r"\^?\s{0,3}\{?\s{0,3}\\circ\s{0,3}\}?\s{0,3}")
_MARKUP = re.compile(r"\\(?:boxed|text|mathrm)\b|\\[()\[\],;]|[${}*`]")
_WORDY_DEGREES = re.compile(r"\bdeg(?:rees?|\.)?\s*(?=[CF]\b|celsius|fahrenheit)", re.IGNORECASE)
_UNIT_NAMES = re.compile(r"\b(?:celsius|fahrenheit|kelvin)\b", re.IGNORECASE)
_LEAD_IN = re.compile(
    r"(?:[^0-9]*(?:[:=]|\b(?:is|be|at|of|predict|estimate|guess|say)\b))?\s*"
    r"(?:approximately|approx\.?|about|around|roughly|circa|ca\.|[~\u2248\u223c])?\s*"
    r"(?=[+\-\u2212]?[0-9])",
    re.IGNORECASE,
)
"""Up to a value. A bound ("below 85") isn't one."""


def without_thoughts(text: str) -> str:
    """Return what an answer says once the model has thought; nothing if it never got that far.

    >>> without_thoughts("<think>It has a ring.</think>\\n\\nA flat ring.")
    'A flat ring.'
    """
    *thoughts, said = _THOUGHT_ENDS.split(text)
    if not thoughts and _THOUGHT_BEGINS.match(text):
        return ""
    return said.strip()


def read_reason(text: str) -> str:
    """Return the reason in an answer, on one line."""
    return " ".join(_EMPHASIS.sub("", without_thoughts(text)).split())


def read_prediction(text: str, prop: Property) -> float | None:
    """Return the value that an answer begins or else ends with, in the property's unit.

    None where its first and its last line both state none, or a range, or a bound.

    >>> from selfstudy_engine.data.properties import find_property
    >>> read_prediction("The melting point is about **85 °C**.", find_property("melting_point"))
    85.0
    """
    lines = without_thoughts(text).splitlines()
    for line in (lines[:1], lines[-1:]):
        value = _read_line("".join(line), prop)
        if value is not None:
            return value
    return None


def _read_line(line: str, prop: Property) -> float | None:
    value = read_number(line, prop)  # as it is, first: a unit may have a star in it
    if value is not None:
        return value
    plain = _MARKUP.sub("", _DEGREES.sub("°", line))
    plain = _UNIT_NAMES.sub(lambda name: name[0].lower(), _WORDY_DEGREES.sub("", plain))
    lead_in = _LEAD_IN.match(plain)
    return read_number(plain[lead_in.end() :], prop) if lead_in else None
