"""Molecules that are another one in another form: its salts, charged forms and tautomers."""

import re
from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors, rdMolHash
from rdkit.Chem.MolStandardize import rdMolStandardize

from selfstudy_engine.data.rdkit_logs import quiet_rdkit
from selfstudy_engine.data.schema import Molecule

_ALKALI_SALT = "[Li,Na,K,Rb,Cs,Ca,Sr,Ba,$([Mg;D1,D2]);!$(*~[#6])]~[N,O,F,S,Cl,Se,Br,I]"
_OTHER_SALT = (
    "[Be,Mg,Al,Ti,V,Cr,Mn,Fe,Co,Ni,Cu,Zn,Ga,Y,Zr,Pd,Ag,Cd,In,Sn,Sb,La,Ce,Pt,Au,Hg,Tl,Pb,Bi"
    ";!$(*~[#6])]~[O;$(O~[C,N,P,S]~[O,S])]"
)
"""Bonds that some draw in salts: of alkali and alkaline earth metals, and of others to an acid.
Organometallics, complexes (chlorophyll, cisplatin) and alkoxides of others stay whole."""

_COUNTER_IONS = (
    *("OC=O", "CC(=O)O", "CC(O)C(=O)O", "OC(=O)O", "OC(=O)C(F)(F)F", "OC(=O)C(=O)O"),
    *("OC(=O)CC(=O)O", "OC(=O)CCC(=O)O", "OC(=O)C=CC(=O)O", "OC(=O)CC(O)C(=O)O"),
    *("OC(=O)C(O)C(O)C(=O)O", "OC(=O)CC(O)(CC(=O)O)C(=O)O", "OCC(O)C(O)C(O)C(O)C(=O)O"),
    *("OC(=O)c1ccccc1", "OC(=O)c1ccccc1O", "CS(=O)(=O)O", "OS(=O)(=O)C(F)(F)F"),
    *("OS(=O)(=O)c1ccccc1", "Cc1ccc(S(=O)(=O)O)cc1", "CC1(C)C2CCC1(CS(=O)(=O)O)C(=O)C2"),
    *("O=[N+]([O-])c1cc([N+](=O)[O-])c(O)c([N+](=O)[O-])c1", "COS(=O)(=O)O", "SC#N"),
    *("CO", "CCO", "CC(C)=O", "CC#N", "CN(C)C=O", "CS(C)=O"),
)
"""Acids and solvents that many different substances are crystallised with."""

_HEMIACETAL = Chem.MolFromSmarts("[OX2]@[CX4][OX2H1]")
_PROTONATED_OXIDE = Chem.MolFromSmarts("[OX2H1]-[#7+;H0;!$(*~[O-])]")
_MOST_TAUTOMERS = 200
"""Of one molecule; a large polyphenol has thousands, at milliseconds each."""
_REMEMBERED = 2**16
"""Molecules whose parts are known from the split when it is checked, and checked again."""
_HYDROGEN_AND_CHARGE = re.compile(r"H(?![a-z])[0-9]*|[+-][0-9]*$")


class Relatives:
    """Finds salts, charged forms and tautomers of some molecules.

    They share the heavy atoms of an organic part: few molecules need the costly comparison.
    """

    def __init__(self, molecules: Iterable[Molecule]) -> None:
        self._with_atoms: defaultdict[str, list[Molecule]] = defaultdict(list)
        for molecule in molecules:
            for atoms in _heavy_atoms(molecule.smiles):
                self._with_atoms[atoms].append(molecule)

    def has(self, molecule: Molecule) -> Molecule | None:
        """Return a molecule that is another form of this one."""
        for atoms in _heavy_atoms(molecule.smiles):
            for other in self._with_atoms.get(atoms, ()):
                if are_related(
                    _families(other.smiles), _families(molecule.smiles)
                ) or are_tautomers(other.smiles, molecule.smiles):
                    return other
        return None


@lru_cache(maxsize=_REMEMBERED)
def _families(smiles: str) -> frozenset[str]:
    return frozenset(family(Chem.MolToSmiles(part)) for part in organic_parts(smiles))


@lru_cache(maxsize=_REMEMBERED)
def _heavy_atoms(smiles: str) -> frozenset[str]:
    """Return the formula of each organic part, without hydrogen and charge."""
    return frozenset(
        _HYDROGEN_AND_CHARGE.sub("", rdMolDescriptors.CalcMolFormula(part))
        for part in organic_parts(smiles)
    )


def family(smiles: str) -> str:
    """Return what a molecule shares with its salts, its charged forms and its tautomers.

    The largest organic fragment, uncharged, with sugars' rings opened, hashed without the place of
    its mobile hydrogens (RDKit's HetAtomTautomerv2), without stereo, isotopes and atoms' numbers.

    >>> family("CC(=O)[O-].[Na+]") == family("CC(=O)O")
    True
    >>> family("Oc1ccccn1") == family("O=c1cccc[nH]1")
    True
    >>> family("C[N+](C)(C)CC(=O)[O-]") == family("C[N+](C)(C)CC(=O)O.[Cl-]")
    True
    >>> family("C[N+](C)(C)O.[Cl-]") == family("C[N+](C)(C)[O-]")
    True
    >>> family("CCO") == family("CCN")
    False
    """
    with quiet_rdkit():
        mol = parent(Chem.MolFromSmiles(smiles), force=True)
        for oxygen, _ in mol.GetSubstructMatches(_PROTONATED_OXIDE):  # which no uncharger sees to
            mol.GetAtomWithIdx(oxygen).SetFormalCharge(-1)
            mol.GetAtomWithIdx(oxygen).SetNumExplicitHs(0)
        for atom in mol.GetAtoms():
            atom.SetIsotope(0)
            atom.SetAtomMapNum(0)
        Chem.RemoveStereochemistry(mol)
        mol = _opened(Chem.MolFromSmiles(Chem.MolToSmiles(mol)) or mol)
        return str(rdMolHash.MolHash(mol, rdMolHash.HashFunction.HetAtomTautomerv2))


def _opened(mol: Chem.Mol) -> Chem.Mol:
    """Return a molecule with its rings of hemiacetals opened: glucose as an aldehyde."""
    while found := mol.GetSubstructMatch(_HEMIACETAL):
        oxygen, carbon, hydroxyl = found
        opened = Chem.RWMol(mol)
        opened.RemoveBond(oxygen, carbon)
        opened.GetBondBetweenAtoms(carbon, hydroxyl).SetBondType(Chem.BondType.DOUBLE)
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(opened))
    return mol


def are_tautomers(one: str, other: str) -> bool:
    """Tell whether a molecule is another one with a hydrogen elsewhere, a carbon's included.

    `family` tells those apart whose hydrogen moves to a carbon: a ketone and its enol, often.

    >>> are_tautomers("CC1=NN(c2ccccc2)C(=O)C1", "Cc1cc(=O)n(-c2ccccc2)[nH]1")
    True
    >>> are_tautomers("C=CCC", "CC=CC")
    False
    """
    return _atoms_and_bonds(one) == _atoms_and_bonds(other) and _tautomer(one) == _tautomer(other)


@lru_cache(maxsize=_REMEMBERED)
def _atoms_and_bonds(smiles: str) -> tuple[str, str]:
    """Return the formula, and the graph of elements: what all tautomers have in common."""
    mol = Chem.MolFromSmiles(smiles)
    graph = rdMolHash.MolHash(mol, rdMolHash.HashFunction.ElementGraph)
    return rdMolDescriptors.CalcMolFormula(mol), str(graph)


@lru_cache(maxsize=4096)
def _tautomer(smiles: str) -> str:
    enumerator = rdMolStandardize.TautomerEnumerator()
    enumerator.SetMaxTautomers(_MOST_TAUTOMERS)
    with quiet_rdkit():
        mol = Chem.MolFromSmiles(smiles)
        Chem.RemoveStereochemistry(mol)
        return Chem.MolToSmiles(enumerator.Canonicalize(mol))


def are_related(families: frozenset[str], others: frozenset[str]) -> bool:
    """Tell whether one molecule is a salt, a charged form or a tautomer of another.

    It is where the organic parts of one are all in the other (an acid or a base and its salt), or
    where they share one that is no common counter-ion or solvent: two tosylates aren't related.

    Args:
        families: of the organic parts of one.
        others: of those of the other.
    """
    shared = families & others
    return bool(shared) and (shared in (families, others) or not shared <= _counter_ions())


@lru_cache(maxsize=1)
def _counter_ions() -> frozenset[str]:
    return frozenset(map(family, _COUNTER_IONS))


def organic_parts(smiles: str) -> list[Chem.Mol]:
    """Return the organic fragments of a molecule, or its parent where none is.

    >>> [Chem.MolToSmiles(part) for part in organic_parts("CC(=O)[O-].C[NH3+].O")]
    ['CC(=O)[O-]', 'C[NH3+]']
    """
    with quiet_rdkit():
        mol = Chem.MolFromSmiles(smiles)
        if not set(".[") & set(smiles):  # which every salt and every metal has
            return [mol]
        mol = apart(mol)
        if len(Chem.GetMolFrags(mol)) == 1:
            return [mol]
        fragments = Chem.GetMolFrags(mol, asMols=True)
        organic = [f for f in fragments if any(a.GetSymbol() == "C" for a in f.GetAtoms())]
        return organic or [parent(mol)]


def strip(smiles: str) -> str:
    """Return the largest organic part that is no common counter-ion or solvent, uncharged.

    >>> strip("CC[NH3+].Cc1ccc(S(=O)(=O)[O-])cc1")
    'CCN'
    """
    parts = [Chem.MolToSmiles(part) for part in organic_parts(smiles)]
    own = [part for part in parts if family(part) not in _counter_ions()]
    with quiet_rdkit():
        return Chem.MolToSmiles(parent(Chem.MolFromSmiles(".".join(own or parts))))


def apart(mol: Chem.Mol) -> Chem.Mol:
    """Return a molecule with a salt's metals as ions, also where they are drawn with a bond.

    >>> Chem.MolToSmiles(apart(Chem.MolFromSmiles("CC(=O)O[Na]")))
    'CC(=O)[O-].[Na+]'
    """
    with quiet_rdkit():
        return _disconnector().Disconnect(mol)


@lru_cache(maxsize=1)
def _disconnector() -> rdMolStandardize.MetalDisconnector:
    disconnector = rdMolStandardize.MetalDisconnector()
    disconnector.SetMetalNof(Chem.MolFromSmarts(_ALKALI_SALT))
    disconnector.SetMetalNon(Chem.MolFromSmarts(_OTHER_SALT))
    return disconnector


def parent(mol: Chem.Mol, *, force: bool = False) -> Chem.Mol:
    """Return the largest organic fragment of a molecule, uncharged.

    Args:
        mol: any molecule.
        force: also where that leaves a charge which can't go: a betaine's acid is protonated.
    """
    mol = apart(mol)
    if len(Chem.GetMolFrags(mol)) > 1:
        mol = rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(mol)
    charged = any(atom.GetFormalCharge() for atom in mol.GetAtoms())
    return rdMolStandardize.Uncharger(True, force).uncharge(mol) if charged else Chem.Mol(mol)
