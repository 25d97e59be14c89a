"""Rows in, canonical molecules out: no row is lost without a named reason."""

import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from rdkit import Chem
from rdkit.Chem import rdMolHash
from rdkit.Chem.MolStandardize import rdMolStandardize

from selfstudy_engine.data.config import TableConfig
from selfstudy_engine.data.errors import TableError
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.rdkit_logs import quiet_rdkit
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.table_files import Row, listed

ORGANIC_ELEMENTS = frozenset(["H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"])
MAX_HEAVY_ATOMS = 70

UNPARSABLE = "unparsable SMILES"
NOT_ORGANIC = "not a small organic molecule"
SALT = "salt or mixture"
CONFLICTING = "conflicting values"
OUT_OF_LIMITS = "value outside the property's limits"

_CAS_NUMBER = re.compile(r"[0-9]{2,7}-[0-9]{2}-[0-9]")


@dataclass(frozen=True, slots=True)
class Table:
    """Canonical molecules, and under each reason the rows that were left out."""

    molecules: list[Molecule]
    dropped: dict[str, list[str]] = field(default_factory=dict)
    num_merged: int = 0
    """Further rows of a molecule that went into its median."""
    num_cas_names: int = 0
    """Rows whose name was a bare CAS number, and was left out."""


def to_molecule(smiles: str, name: str = "", value: float = float("nan")) -> Molecule | None:
    """Return the canonical molecule of a SMILES, or None where RDKit finds none in it.

    >>> to_molecule("OCC").smiles
    'CCO'
    """
    with quiet_rdkit():
        mol = Chem.MolFromSmiles(smiles)
        if mol is None or mol.GetNumAtoms() == 0:
            return None
        key: str = Chem.MolToInchiKey(mol)  # type: ignore[no-untyped-call]
        return Molecule(key, name, Chem.MolToSmiles(mol), value) if key else None


def is_small_organic(smiles: str) -> bool:
    """Tell whether a SMILES is one neutral organic molecule (the rule of the embedded table).

    One fragment, no charge, isotope or radical, a C-H or C-C bond, elements H B C N O F Si P S
    Cl Se Br I, at most 70 heavy atoms.

    >>> is_small_organic("CCO"), is_small_organic("O=C=O"), is_small_organic("[Na+].[Cl-]")
    (True, False, False)
    """
    with quiet_rdkit():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None or "." in smiles or not 1 <= mol.GetNumHeavyAtoms() <= MAX_HEAVY_ATOMS:
        return False
    atoms = list(mol.GetAtoms())
    if Chem.GetFormalCharge(mol) or any(
        atom.GetSymbol() not in ORGANIC_ELEMENTS
        or atom.GetIsotope()
        or atom.GetNumRadicalElectrons()
        for atom in atoms
    ):
        return False
    carbons = [atom for atom in atoms if atom.GetSymbol() == "C"]
    return any(
        atom.GetTotalNumHs() or any(other.GetSymbol() == "C" for other in atom.GetNeighbors())
        for atom in carbons
    )


def family(smiles: str) -> str:
    """Return what a molecule shares with its salts, its charged forms and its tautomers.

    The largest organic fragment, uncharged, hashed without the place of its mobile hydrogens
    (RDKit's HetAtomTautomerv2) and without stereo.

    >>> family("CC(=O)[O-].[Na+]") == family("CC(=O)O")
    True
    >>> family("Oc1ccccn1") == family("O=c1cccc[nH]1")
    True
    >>> family("CCO") == family("CCN")
    False
    """
    with quiet_rdkit():
        mol = parent(Chem.MolFromSmiles(smiles))
        Chem.RemoveStereochemistry(mol)
        mol = Chem.MolFromSmiles(Chem.MolToSmiles(mol)) or mol
        return str(rdMolHash.MolHash(mol, rdMolHash.HashFunction.HetAtomTautomerv2))


def parent(mol: Chem.Mol) -> Chem.Mol:
    """Return the largest organic fragment of a molecule, uncharged."""
    if len(Chem.GetMolFrags(mol)) > 1:
        mol = rdMolStandardize.LargestFragmentChooser(preferOrganic=True).choose(mol)
    charged = any(atom.GetFormalCharge() for atom in mol.GetAtoms())
    return rdMolStandardize.Uncharger().uncharge(mol) if charged else Chem.Mol(mol)


def canonicalize(rows: Iterable[Row], prop: Property, rules: TableConfig, source: str) -> Table:
    """Turn rows into molecules: one for each InChIKey, its value the median of its rows.

    Args:
        rows: in the property's unit.
        prop: values outside its limits are dropped; its tolerance stands for `max_spread` where
            the rules have none.
        rules: what to keep, and what to do about salts, duplicates and conflicts.
        source: what error messages call the table.

    Raises:
        TableError: conflicting values (where they are refused), or no usable row at all.
    """
    found: dict[str, list[tuple[Row, Molecule]]] = defaultdict(list)
    dropped: dict[str, list[str]] = defaultdict(list)
    num_cas_names = 0
    for row in rows:
        molecule, reason = _read_row(row, rules)
        if molecule is None:
            dropped[reason].append(f"line {row.line}: {row.smiles!r}")
            continue
        if not prop.minimum <= row.value <= prop.maximum:  # no answer could ever state it
            dropped[OUT_OF_LIMITS].append(
                f"line {row.line}: {row.value:g} {prop.unit}, not {prop.minimum:g} to "
                f"{prop.maximum:g} ({row.smiles!r})"
            )
            continue
        if _CAS_NUMBER.fullmatch(molecule.name):
            molecule, num_cas_names = replace(molecule, name=""), num_cas_names + 1
        by_skeleton = rules.duplicates == "skeleton"
        found[molecule.skeleton if by_skeleton else molecule.molecule_id].append((row, molecule))
    max_spread = prop.tolerance if rules.max_spread is None else rules.max_spread
    molecules, num_merged, conflicting = [], 0, []
    for same in found.values():
        values = [row.value for row, _ in same]
        if max(values) - min(values) > max_spread:
            conflicting.append(same)
            continue
        first = same[0][1]
        name = next((molecule.name for _, molecule in same if molecule.name), "")
        value = statistics.median(values)
        molecules.append(Molecule(first.molecule_id, name, first.smiles, value))
        num_merged += len(same) - 1
    if conflicting and rules.conflicts == "refuse":
        raise TableError(
            f"table {source}: {len(conflicting)} molecules have values further apart than "
            f"{max_spread:g} {prop.unit} ({listed([_describe(same) for same in conflicting])}); "
            "correct them, leave these molecules out with --conflicts drop, or allow more with "
            "--max-spread"
        )
    for same in conflicting:
        dropped[CONFLICTING] += [f"line {row.line}: {_describe(same)}" for row, _ in same]
    if not molecules:
        rejected = [f"{reason}: {line}" for reason, lines in dropped.items() for line in lines]
        raise TableError(
            f"table {source} has no usable row ({listed(rejected) or 'empty'}); check "
            "--smiles-column, --organics, --salts and the property's minimum and maximum"
        )
    return Table(molecules, dict(dropped), num_merged, num_cas_names)


def _describe(same: Sequence[tuple[Row, Molecule]]) -> str:
    values = [row.value for row, _ in same]
    lines = ", ".join(str(row.line) for row, _ in same)
    low, high = min(values), max(values)
    return f"{same[0][1].smiles} (lines {lines}: {low} to {high}, spread {high - low:g})"


def _read_row(row: Row, rules: TableConfig) -> tuple[Molecule | None, str]:
    """Return a row's molecule, or None and the reason why not."""
    smiles = row.smiles
    with quiet_rdkit():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        return None, UNPARSABLE
    if "." in smiles and rules.salts == "drop":
        return None, SALT
    if "." in smiles and rules.salts == "strip":
        with quiet_rdkit():
            smiles = Chem.MolToSmiles(parent(mol))
    if rules.organics and not is_small_organic(smiles):
        return None, NOT_ORGANIC
    return to_molecule(smiles, row.name, row.value), UNPARSABLE
