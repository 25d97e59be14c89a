"""A SMILES from anybody's hands in, RDKit's molecule out; None where the whole text isn't one."""

from rdkit import Chem

from selfstudy_engine.data.rdkit_logs import quiet_rdkit

MAX_SMILES_LENGTH = 2000
"""Characters. RDKit's time grows with the square and the cube of them (2,000: 0.2 s, 10,000: 4 s),
and InChI knows no molecule of more than 1,023 atoms."""


def parse_smiles(text: str) -> Chem.Mol | None:
    """Return the molecule that a text is the SMILES of.

    Stricter than RDKit, which takes what follows a blank or a NUL for a name.

    >>> parse_smiles("CCO").GetNumAtoms()
    3
    >>> parse_smiles("CCO CC") is None, parse_smiles("C" * 5000) is None
    (True, True)
    """
    if len(text) > MAX_SMILES_LENGTH or not text.isascii() or not text.isprintable():
        return None
    if not text or " " in text:
        return None
    with quiet_rdkit():
        return Chem.MolFromSmiles(text)
