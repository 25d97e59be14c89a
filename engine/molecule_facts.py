"""A molecule in, the facts that a reason can be held against out: counts, rings, weight, formula.

Each fact is computed when it is first asked for and kept; a few thousand molecules are remembered.
"""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from rdkit import Chem
from rdkit.Chem import rdMolDescriptors

from selfstudy_engine.data.errors import UsageError, shown
from selfstudy_engine.data.smiles import parse_smiles
from selfstudy_engine.engine.claim_lexicon import Pattern

REMEMBERED_MOLECULES = 8192

_ELEMENT = re.compile(r"([A-Z][a-z]?)([0-9]{0,3})")
_DONOR = Chem.MolFromSmarts("[$([#7,#8;!H0])]")
_POSSIBLE_DONOR = Chem.MolFromSmarts("[$([#7,#8,#16;!H0]),$([CX2;H1]),$([Cl,Br,I;H1])]")
_POSSIBLE_ACCEPTOR = Chem.MolFromSmarts("[#7,#8,#9,#16,#17]")


@dataclass(frozen=True, slots=True)
class Range:
    """How many of something a molecule has: `sure` by any definition, at most `most`."""

    sure: int
    most: int


@dataclass(frozen=True, slots=True)
class Ring:
    """One ring of the smallest set of rings, as reasons speak of it."""

    size: int
    aromatic: bool
    conjugated: bool
    """Every atom is sp2: a quinone's ring, which some call aromatic."""
    saturated: bool
    heterocyclic: bool
    fused: bool
    """Shares a bond with another ring."""
    joined: bool
    """Shares an atom with another ring."""


class MoleculeFacts:
    """What RDKit finds in one molecule, each fact computed once.

    Raises:
        UsageError: RDKit finds no molecule in the SMILES.
    """

    def __init__(self, smiles: str) -> None:
        mol = parse_smiles(smiles)
        if mol is None or mol.GetNumAtoms() == 0:
            raise UsageError(
                f"SMILES {shown(smiles)} can't be parsed; give the molecule that the reason is "
                "about"
            )
        self.mol: Any = mol
        self._counts: dict[Pattern, int] = {}

    def count(self, pattern: Pattern) -> int:
        """Return how many places match: counted atoms, or rings for a pattern of rings."""
        if pattern not in self._counts:
            found: set[Any] = set()
            for query in pattern.queries:
                matches = self.mol.GetSubstructMatches(query)
                found.update(map(frozenset, matches) if pattern.rings else (m[0] for m in matches))
            if pattern.hydrogens:
                atoms = [self.mol.GetAtomWithIdx(index) for index in found]
                self._counts[pattern] = sum(atom.GetTotalNumHs() for atom in atoms)
            else:
                self._counts[pattern] = len(found)
        return self._counts[pattern]

    def count_range(self, strict: Pattern, loose: Pattern, enough: int) -> Range:
        """Return the count by a narrow and by a wide definition of one thing.

        The wide one is only looked for where the narrow one finds fewer than `enough`.
        """
        sure = self.count(strict)
        return Range(sure, sure if sure >= enough else max(sure, self.count(loose)))

    @cached_property
    def rings(self) -> Sequence[Ring]:
        """The smallest set of smallest rings, symmetrised."""
        info = self.mol.GetRingInfo()
        rings = []
        for atom_indices, bond_indices in zip(info.AtomRings(), info.BondRings(), strict=True):
            atoms = [self.mol.GetAtomWithIdx(index) for index in atom_indices]
            bonds = [self.mol.GetBondWithIdx(index) for index in bond_indices]
            aromatic = all(bond.GetIsAromatic() for bond in bonds)
            sp3 = Chem.HybridizationType.SP3
            rings.append(
                Ring(
                    size=len(atoms),
                    aromatic=aromatic,
                    conjugated=aromatic or all(atom.GetHybridization() != sp3 for atom in atoms),
                    saturated=all(bond.GetBondType() == Chem.BondType.SINGLE for bond in bonds),
                    heterocyclic=any(atom.GetAtomicNum() != 6 for atom in atoms),
                    fused=any(info.NumBondRings(index) > 1 for index in bond_indices),
                    joined=any(info.NumAtomRings(index) > 1 for index in atom_indices),
                )
            )
        return rings

    @cached_property
    def donors(self) -> Range:
        """Hydrogen-bond donors: atoms that carry hydrogen, at most their hydrogens.

        A thiol and an alkyne's C-H are donors to some; a hydrochloride's HCl may be drawn apart.
        """
        atoms = [self.mol.GetAtomWithIdx(m[0]) for m in self.mol.GetSubstructMatches(_DONOR)]
        others = len(self.mol.GetSubstructMatches(_POSSIBLE_DONOR)) - len(atoms)
        return Range(len(atoms), others + sum(atom.GetTotalNumHs() for atom in atoms))

    @cached_property
    def acceptors(self) -> Range:
        """Hydrogen-bond acceptors by RDKit's definition, at most all N, O, F, S and Cl."""
        most = len(self.mol.GetSubstructMatches(_POSSIBLE_ACCEPTOR))
        return Range(min(rdMolDescriptors.CalcNumHBA(self.mol), most), most)

    @cached_property
    def canonical_smiles(self) -> str:
        """RDKit's canonical SMILES."""
        return str(Chem.MolToSmiles(self.mol))

    @cached_property
    def weights(self) -> tuple[float, float]:
        """Average and monoisotopic molecular weight, in g/mol."""
        table = Chem.GetPeriodicTable()
        average = sum(table.GetAtomicWeight(s) * n for s, n in self.composition.items())
        return average, float(rdMolDescriptors.CalcExactMolWt(self.mol))

    @cached_property
    def formula(self) -> str:
        """Hill formula: "C8H9NO2"."""
        return str(rdMolDescriptors.CalcMolFormula(self.mol))

    @cached_property
    def composition(self) -> Counter[str]:
        """Atoms of each element, hydrogens included."""
        return parse_formula(self.formula)


def parse_formula(formula: str) -> Counter[str]:
    """Count the atoms of a formula without parentheses, condensed or not.

    >>> parse_formula("CH3CH2OH") == parse_formula("C2H6O")
    True
    """
    counts: Counter[str] = Counter()
    for symbol, number in _ELEMENT.findall(formula):
        counts[symbol] += int(number or 1)
    return counts


@lru_cache(maxsize=REMEMBERED_MOLECULES)
def facts_of(smiles: str) -> MoleculeFacts:
    """Return the facts of a molecule; asked for again, they are the same object.

    Raises:
        UsageError: RDKit finds no molecule in the SMILES.
    """
    return MoleculeFacts(smiles)
