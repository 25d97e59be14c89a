"""Facts about a molecule that RDKit computes, as one line of a prompt.

Small models read a SMILES poorly; what a tool computes needs no reading. Facts are remembered.
"""

from functools import lru_cache

from rdkit import Chem
from rdkit.Chem import Descriptors, rdMolDescriptors

from selfstudy_engine.data.errors import counted
from selfstudy_engine.data.rdkit_logs import quiet_rdkit

REMEMBERED_MOLECULES = 65_536

# Counted by the atom that a pattern begins with, and named in this order. Each leaves out what
# a more telling one before it names.
_GROUPS = {
    "carboxylic acid": "[CX3;H1,$(C[#6])](=[OX1])[OX2H]",
    "ester": "[CX3;!$([CX3](O)(=O)[O,N])](=[OX1])[OX2;H0][#6;!$([#6]=[O,S,N])]",
    "amide": "[CX3;H1,$(C[#6])](=[OX1])[NX3;!$(N([CX3]=O)[CX3]=O)]",
    "imide": "[CX3;!$(C[OX2])](=[OX1])[NX3][CX3;!$(C[OX2])]=[OX1]",
    "urea": "[CX3](=[OX1])([NX3])[NX3]",
    "carbamate": "[CX3](=[OX1])([NX3])[OX2;H0]",
    "sulfonamide": "[SX4](=O)(=O)[NX3]",
    "sulfone": "[SX4](=O)(=O)([#6])[#6]",
    "nitro group": "[NX3+](=O)[O-]",
    "nitrile": "[CX2]#[NX1]",
    "aldehyde": "[CX3;$([H1][#6]),H2]=[OX1]",
    "ketone": "[CX3](=[OX1])([#6])[#6]",
    "phenol": "[OX2H]c",
    "alcohol": "[OX2H][CX4]",
    "aromatic amine": "[NX3;!$(N[C,S]=[O,S,N]);!$(N~[!#6])]c",
    "amine": "[NX3;!$(N[C,S]=[O,S,N]);!$(N~[!#6]);!$(Nc)][CX4]",
    "ether": "[OX2;H0;!$(O[#6]=[O,S,N])]([#6])[#6]",
    "thiol": "[SX2H]",
    "thioether": "[SX2;H0;!$(S[#6]=[O,S,N])]([#6])[#6]",
    "alkene": "[CX3;!$(C=[!#6])]=[CX3;!$(C=[!#6])]",
    "alkyne": "[CX2]#[CX2]",
    "fluorine": "[F]",
    "chlorine": "[Cl]",
    "bromine": "[Br]",
    "iodine": "[I]",
}
_PATTERNS = {name: Chem.MolFromSmarts(smarts) for name, smarts in _GROUPS.items()}


@lru_cache(maxsize=REMEMBERED_MOLECULES)
def describe_facts(smiles: str) -> str:
    """Return formula, weight, rings, hydrogen bonds, flexibility, groups and symmetry in a line.

    Args:
        smiles: that RDKit can read.

    >>> describe_facts("COc1cc(C=O)ccc1O")  # doctest: +NORMALIZE_WHITESPACE
    'C8H8O3, 152.1 g/mol; 1 ring, 1 aromatic ring; 1 H-bond donor, 3 acceptors; 2 rotatable bonds;
    1 aldehyde, 1 phenol, 1 ether; 11 of 11 heavy atoms differ'
    """
    with quiet_rdkit():
        mol = Chem.MolFromSmiles(smiles)
    num_aromatic = rdMolDescriptors.CalcNumAromaticRings(mol)
    num_acceptors = rdMolDescriptors.CalcNumHBA(mol)
    groups = []
    for name, pattern in _PATTERNS.items():
        count = len({match[0] for match in mol.GetSubstructMatches(pattern)})
        if count:
            groups.append(counted(count, name))
    kinds = len(set(Chem.CanonicalRankAtoms(mol, breakTies=False)))
    parts = [
        f"{rdMolDescriptors.CalcMolFormula(mol)}, {Descriptors.MolWt(mol):.1f} g/mol",  # type: ignore[attr-defined]
        f"{counted(rdMolDescriptors.CalcNumRings(mol), 'ring')}, "
        f"{counted(num_aromatic, 'aromatic ring')}",
        f"{counted(rdMolDescriptors.CalcNumHBD(mol), 'H-bond donor')}, "
        f"{counted(num_acceptors, 'acceptor')}",
        counted(rdMolDescriptors.CalcNumRotatableBonds(mol), "rotatable bond"),
        ", ".join(groups),
        f"{kinds} of {mol.GetNumHeavyAtoms()} heavy atoms differ",
    ]
    return "; ".join(part for part in parts if part)
