"""Molecules that reasons in the tests are about, and what is found in a reason."""

from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.claims import check_claims

NITROTOLUENE = "Cc1ccc([N+](=O)[O-])cc1"
PARACETAMOL = "CC(=O)Nc1ccc(O)cc1"
ASPIRIN = "CC(=O)Oc1ccccc1C(=O)O"
PHTHALIMIDE = "O=C1NC(=O)c2ccccc21"
HEXANE = "CCCCCC"


def truths(reason: str, smiles: str, name: str = "") -> dict[str, str]:
    molecule = Molecule("", name, smiles, 0.0)
    return {claim.text: claim.truth for claim in check_claims(reason, molecule)}
