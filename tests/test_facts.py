"""The line of facts that RDKit computes for a prompt."""

import pytest

from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.facts import describe_facts


@pytest.mark.parametrize(
    ("smiles", "facts"),
    [
        ("c1ccccc1", "C6H6, 78.1 g/mol; 1 ring, 1 aromatic; 0 H-bond donors, 0 acceptors; "
         "0 rotatable bonds; 1 of 6 heavy atoms differ"),
        ("OCCN", "C2H7NO, 61.1 g/mol; 0 rings, 0 aromatic; 2 H-bond donors, 2 acceptors; "
         "1 rotatable bond; alcohol, amine; 4 of 4 heavy atoms differ"),
    ],
)  # fmt: skip
def test_whole_lines(smiles: str, facts: str) -> None:
    assert describe_facts(smiles) == facts


@pytest.mark.parametrize(
    ("smiles", "groups"),
    [
        ("CC(=O)O", "carboxylic acid"),
        ("CC(=O)OCC", "ester"),
        ("O=C1OCCC1", "ester"),
        ("CC(=O)NC", "amide"),
        ("O=C1CCC(=O)N1", "imide"),
        ("CNC(=O)OC", "urea or carbamate"),
        ("NC(N)=O", "urea or carbamate"),
        ("CS(=O)(=O)N", "sulfonamide"),
        ("CS(C)(=O)=O", "sulfone"),
        ("C[N+](=O)[O-]", "nitro"),
        ("CC#N", "nitrile"),
        ("CC=O", "aldehyde"),
        ("CC(C)=O", "ketone"),
        ("Oc1ccc(O)cc1", "2 phenol"),
        ("Nc1ccccc1", "aromatic amine"),
        ("CCN(CC)CC", "amine"),
        ("COC", "ether"),
        ("CCS", "thiol"),
        ("CSC", "thioether"),
        ("CC=C", "alkene"),
        ("CC#C", "alkyne"),
        ("ClC(Cl)Cl", "3 chlorine"),
        ("O=C(O)c1ccccc1OC(C)=O", "carboxylic acid, ester"),
        ("CCCC", ""),
    ],
)
def test_groups_are_counted_once_and_under_their_most_telling_name(
    smiles: str, groups: str
) -> None:
    parts = describe_facts(smiles).split("; ")
    assert ", ".join(parts[4:-1]) == groups


def test_facts_are_remembered_and_hold_for_every_molecule_of_the_table() -> None:
    molecules = embedded_table().molecules[:200]
    lines = [describe_facts(molecule.smiles) for molecule in molecules]
    before = describe_facts.cache_info().hits
    assert [describe_facts(molecule.smiles) for molecule in molecules] == lines
    assert describe_facts.cache_info().hits == before + len(molecules)
    assert all(line.count(";") in (4, 5) and "\n" not in line for line in lines)
