"""SMILES: real ones and what mutations make of them; a molecule is what the whole text says."""

import re
from collections import Counter

from fuzzing import NASTY_TEXTS, fuzz, mutated
from hypothesis import strategies as st
from rdkit import Chem

from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.molecules import is_small_organic, to_molecule
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.smiles import MAX_SMILES_LENGTH

REAL = [m.smiles for m in embedded_table(find_property("melting_point")).molecules[::40]]
TOKENS = (
    "C",
    "c",
    "N",
    "n",
    "O",
    "[nH]",
    "[O-]",
    "[N+]",
    "[Na+].",
    ".",
    "=",
    "#",
    "$",
    ":",
    "~",
    "/",
    "\\",
    "(",
    ")",
    "[",
    "]",
    "1",
    "2",
    "%10",
    "%99",
    "%",
    "0",
    "[C@H]",
    "[C@@H]",
    "@",
    "[13C]",
    "[H]",
    "[2H]",
    "*",
    "[*:1]",
    "[Xx]",
    "[U+6]",
    "[C+99]",
    "[99999C]",
    "[CH9]",
    "[C:1]",
    "C1CC1",
    "c1ccccc1",
    "B",
    "b",
    "Cl",
    "Br",
    "[Se]",
    "->",
    "<-",
    "{",
    "|",
    "|$;$|",
    ">>",
    " ",
    " ethanol",
    "\t",
    "\n",
    "CC CC",
    "[C@TH1](F)",
    "[Co@OH12]",
)
smiles = mutated(REAL, st.sampled_from(TOKENS) | st.sampled_from(NASTY_TEXTS), most=5)
_ATOM = re.compile(
    r"\[[0-9]*(?P<bracket>[A-Z][a-z]?|[a-z]{1,2}|\*)[^\]]*\]|(?P<plain>Cl|Br|[BCNOPSFIbcnops*])"
)


def heavy_atoms(text: str) -> Counter[str]:
    """Count the atoms that a SMILES writes, but for hydrogens."""
    found = Counter(
        (match["bracket"] or match["plain"]).capitalize() for match in _ATOM.finditer(text)
    )
    del found["H"]
    return found


@fuzz(95, short=40, text=smiles)
def test_a_molecule_is_what_its_smiles_says(text: str) -> None:
    molecule = to_molecule(text, "name", 1.0)
    if molecule is None:
        return
    assert re.fullmatch("[A-Z]{14}-[A-Z]{10}-[A-Z]", molecule.molecule_id)
    assert len(molecule.smiles) <= MAX_SMILES_LENGTH
    assert heavy_atoms(molecule.smiles) == heavy_atoms(text)
    assert Chem.MolFromSmiles(molecule.smiles) is not None


@fuzz(20, text=smiles)
def test_a_small_organic_is_small_and_organic(text: str) -> None:
    if is_small_organic(text):
        atoms = heavy_atoms(text)
        assert 1 <= atoms.total() <= 70
        assert atoms.keys() <= {"B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"}
        assert "C" in atoms
        assert "." not in text


@fuzz(
    6,
    unit=st.sampled_from([*TOKENS, "C(", "C1CC1", "c1ccccc1", "C[C@H](F)", "N(C)", "[", "C%11C"]),
    times=st.sampled_from([100, 1000, 10_000, 100_000]),
)
def test_a_long_smiles_takes_no_long_time(unit: str, times: int) -> None:
    text = unit * times
    molecule = to_molecule(text)
    assert molecule is None or len(text) <= MAX_SMILES_LENGTH
