"""A reason without what gives its molecule away: name, SMILES and value. Pure.

A value that can still be predicted from what is left was reasoned for, and not just said.
"""

import re
from functools import lru_cache

from rdkit import Chem

from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.smiles import parse_smiles
from selfstudy_engine.engine.told_values import mask_value

NAME, SMILES = "[name]", "[SMILES]"
"""What stands in the place of each."""

_MIN_NAME = 3
"""A shorter name is a word of its own more often than not."""
_MIN_SMILES = 2
_TOKEN = re.compile(r"[^\s\"'`,;]+")
_SMILES = re.compile(r"[A-Za-z0-9@+\-\[\]()=#$/\\%.*:~]+")
_AROUND = "().:!?*"
"""Punctuation that may stand around a SMILES in a sentence; brackets may also belong to it."""
_MOST_AROUND = 4
"""Characters of it on either side: each start is tried with each end."""


def mask_reason(reason: str, molecule: Molecule, prop: Property) -> str:
    """Return a reason with its molecule's name, SMILES and value masked.

    Masked are the name in any case, every token that is a SMILES of the molecule in any spelling,
    and what `mask_value` masks. Synonyms, formulas and parts of a SMILES stay.

    >>> from selfstudy_engine.data.properties import find_property
    >>> ethanol = Molecule("LFQSCWFLJHTTHZ-UHFFFAOYSA-N", "ethanol", "CCO", -114.1)
    >>> mask_reason("Ethanol (OCC) melts at -114 °C.", ethanol, find_property("melting_point"))
    '[name] ([SMILES]) melts at [value].'
    """
    return mask_value(
        _mask_smiles(_mask_name(reason, molecule.name), molecule.smiles), molecule.value, prop
    )


def _mask_name(reason: str, name: str) -> str:
    if len(name) < _MIN_NAME:
        return reason
    words = (re.escape(word) for word in re.split(r"[\s\-]+", name) if word)
    spelled = r"[\s\-\u2010\u2011]*".join(words)
    return re.sub(
        rf"(?<![A-Za-z0-9]){spelled}(?:'?s)?(?![A-Za-z0-9])", NAME, reason, flags=re.IGNORECASE
    )


def _mask_smiles(reason: str, smiles: str) -> str:
    canonical = _canonical(smiles) or smiles

    def mask(found: re.Match[str]) -> str:
        token = found.group()
        for end in range(len(token), max(0, len(token) - _MOST_AROUND - 1), -1):
            for start in range(min(end, _MOST_AROUND + 1)):
                if _canonical(token[start:end]) == canonical:
                    return token[:start] + SMILES + token[end:]
                if token[start] not in _AROUND:
                    break
            if token[end - 1] not in _AROUND:
                break
        return token

    return _TOKEN.sub(mask, reason)


@lru_cache(maxsize=4096)
def _canonical(text: str) -> str | None:
    if len(text) < _MIN_SMILES or not _SMILES.fullmatch(text):
        return None
    mol = parse_smiles(text)
    return Chem.MolToSmiles(mol) if mol else None
