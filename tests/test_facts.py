"""The line of facts that RDKit computes for a prompt."""

from collections import Counter

import pytest

from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.facts import describe_facts
from selfstudy_engine.engine.claims import check_claims


@pytest.mark.parametrize(
    ("smiles", "facts"),
    [
        ("c1ccccc1", "C6H6, 78.1 g/mol; 1 ring, 1 aromatic ring; 0 H-bond donors, 0 acceptors; "
         "0 rotatable bonds; 1 of 6 heavy atoms differ"),
        ("OCCN", "C2H7NO, 61.1 g/mol; 0 rings, 0 aromatic rings; 2 H-bond donors, 2 acceptors; "
         "1 rotatable bond; 1 alcohol, 1 amine; 4 of 4 heavy atoms differ"),
    ],
)  # fmt: skip
def test_whole_lines(smiles: str, facts: str) -> None:
    assert describe_facts(smiles) == facts


@pytest.mark.parametrize(
    ("smiles", "groups"),
    [
        ("CC(=O)O", "1 carboxylic acid"),
        ("CC(=O)OCC", "1 ester"),
        ("O=C1OCCC1", "1 ester"),
        ("CC(=O)NC", "1 amide"),
        ("O=CN(C)C", "1 amide"),
        ("[2H]C(=O)N(C)C", "1 amide"),
        ("NC=O", "1 amide"),
        ("OC=O", "1 carboxylic acid"),
        ("[H]C([H])=O", "1 aldehyde"),
        ("O=CC=O", "2 aldehydes"),
        ("O=COC", "1 ester"),
        ("O=C(O)O", ""),
        ("O=C1CCC(=O)N1", "1 imide"),
        ("O=C1c2ccccc2C(=O)N1C(=O)OC", "1 imide, 1 carbamate"),
        ("CNC(=O)OC", "1 carbamate"),
        ("NC(N)=O", "1 urea"),
        ("CS(=O)(=O)N", "1 sulfonamide"),
        ("CS(C)(=O)=O", "1 sulfone"),
        ("C[N+](=O)[O-]", "1 nitro group"),
        ("CC#N", "1 nitrile"),
        ("CC=O", "1 aldehyde"),
        ("CC(C)=O", "1 ketone"),
        ("Oc1ccc(O)cc1", "2 phenols"),
        ("Nc1ccccc1", "1 aromatic amine"),
        ("CCN(CC)CC", "1 amine"),
        ("COC", "1 ether"),
        ("CCS", "1 thiol"),
        ("CSC", "1 thioether"),
        ("CC=C", "1 alkene"),
        ("CC#C", "1 alkyne"),
        ("ClC(Cl)Cl", "3 chlorines"),
        ("O=C(O)c1ccccc1OC(C)=O", "1 carboxylic acid, 1 ester"),
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


def test_a_reason_that_repeats_facts_states_nothing_false() -> None:
    """What the prompt says and what the check of claims finds come from different patterns."""
    truths: Counter[str] = Counter()
    for molecule in embedded_table().molecules[::8]:
        facts = describe_facts(molecule.smiles).partition("; ")[2]
        claims = check_claims(facts, molecule.smiles)
        assert not [claim for claim in claims if claim.truth == "false"], molecule.smiles
        truths.update(claim.truth for claim in claims)
    assert truths["true"] > 100 * truths["unverifiable"]
