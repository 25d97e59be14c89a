"""What a check of a completion can find, by name; which of them reject is configuration."""

from typing import Literal, get_args

Finding = Literal[
    "truncated",
    "no value",
    "value range",
    "other unit",
    "no reason",
    "boilerplate reason",
    "out of tolerance",
    "answer leaked",
    "arithmetic misses prediction",
    "false claim",
    "repeated for molecule",
    "near-duplicate",
    "molecule has enough",
    "withdrawn",
]
"""In the order in which they are checked.

truncated: cut off at the token limit. no value: nothing that the strict grammar takes for one, or
a number at which the text was cut off.
value range: a range or an interval where one number belongs; such an answer has no value either.
other unit: the value came in another unit of the same quantity, and was converted.
no reason, boilerplate reason: nothing, a refusal, a few words, or the same words again and again.
out of tolerance: too far from the measured value. answer leaked: "the actual value", or the
number in the middle of the reason. arithmetic misses prediction: the reason's own sum comes to
another value. false claim: it says of the molecule what isn't so. repeated for molecule: nearly
a text accepted for the same molecule. near-duplicate: nearly one accepted for another. molecule
has enough: as many texts are accepted for it as may be. withdrawn: its row is no longer in the
table; that always rejects.
"""

FINDINGS: tuple[Finding, ...] = get_args(Finding)

BESIDE_EARLIER_TEXTS: frozenset[Finding] = frozenset(
    {"repeated for molecule", "near-duplicate", "molecule has enough"}
)
"""What only texts that were accepted before make a finding: they say nothing of the answer."""

REJECT_BY_DEFAULT: tuple[Finding, ...] = (
    "truncated",
    "no value",
    "no reason",
    "boilerplate reason",
    "out of tolerance",
    "answer leaked",
    "arithmetic misses prediction",
    "false claim",
    "repeated for molecule",
    "molecule has enough",
    "withdrawn",
)
