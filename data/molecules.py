"""Rows in, canonical molecules out: no row is lost without a named reason."""

import re
import statistics
from array import array
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import lru_cache

from rdkit import Chem

from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.errors import TableError, counted, listed, shown, shown_text
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.rdkit_logs import quiet_rdkit
from selfstudy_engine.data.relatives import apart, strip
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.smiles import MAX_SMILES_LENGTH, parse_smiles
from selfstudy_engine.data.table_files import Row

ORGANIC_ELEMENTS = frozenset(["H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"])
MAX_HEAVY_ATOMS = 70

UNPARSABLE = "unparsable SMILES"
TOO_LONG = f"SMILES of more than {MAX_SMILES_LENGTH} characters"
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
    """Return the canonical molecule of a SMILES, or None where it isn't one (see `parse_smiles`).

    >>> to_molecule("OCC").smiles
    'CCO'
    """
    mol = parse_smiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        return None
    with quiet_rdkit():
        canonical = Chem.MolToSmiles(mol)
        if len(canonical) > MAX_SMILES_LENGTH:  # it is parsed again later
            return None
        key: str = Chem.MolToInchiKey(mol)
        return Molecule(key, name, canonical, value) if key else None


def by_name(molecules: Iterable[Molecule]) -> dict[str, list[Molecule]]:
    """Return the different molecules of each name, in lower case; several may share one.

    >>> found = by_name([to_molecule("CCO", "x"), to_molecule("C", "X")])
    >>> found.keys(), len(found["x"])
    (dict_keys(['x']), 2)
    """
    found: dict[str, dict[str, Molecule]] = defaultdict(dict)
    for molecule in molecules:
        if molecule.name:
            found[molecule.name.lower()][molecule.molecule_id] = molecule
    return {name: list(same.values()) for name, same in found.items()}


def is_small_organic(smiles: str) -> bool:
    """Tell whether a SMILES is one neutral organic molecule (the rule of the embedded table).

    One fragment, no charge, isotope or radical, a C-H or C-C bond, elements H B C N O F Si P S
    Cl Se Br I, at most 70 heavy atoms.

    >>> is_small_organic("CCO"), is_small_organic("O=C=O"), is_small_organic("[Na+].[Cl-]")
    (True, False, False)
    """
    mol = parse_smiles(smiles)
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


def canonicalize(rows: Iterable[Row], prop: Property, rules: TableConfig, source: str) -> Table:
    """Turn rows into molecules: one for each InChIKey, its value the median of its rows.

    A further row of a molecule takes 16 bytes, whatever its texts.

    Args:
        rows: in the property's unit.
        prop: values outside its limits are dropped; its tolerance stands for `max_spread` where
            the rules have none.
        rules: what to keep, and what to do about salts, duplicates and conflicts.
        source: what error messages call the table.

    Raises:
        TableError: conflicting values (where they are refused), or no usable row at all.
    """
    found: dict[str, _Rows] = {}
    dropped: dict[str, list[str]] = defaultdict(list)
    num_cas_names = 0
    for row in rows:
        molecule, reason = _read_smiles(row.smiles, rules)
        if molecule is None:
            dropped[reason].append(f"line {row.line}: {shown(row.smiles)}")
            continue
        if not prop.minimum <= row.value <= prop.maximum:  # no answer could ever state it
            dropped[OUT_OF_LIMITS].append(
                f"line {row.line}: {row.value:g} {prop.unit}, not {prop.minimum:g} to "
                f"{prop.maximum:g} ({shown(row.smiles)})"
            )
            continue
        is_cas_number = bool(_CAS_NUMBER.fullmatch(row.name))
        num_cas_names += is_cas_number
        by_skeleton = rules.duplicates == "skeleton"
        key = molecule.skeleton if by_skeleton else molecule.molecule_id
        same = found.setdefault(key, _Rows(molecule.molecule_id, molecule.smiles))
        same.add(row, "" if is_cas_number else row.name)
    max_spread = prop.tolerance if rules.max_spread is None else rules.max_spread
    conflicting = [same for same in found.values() if same.spread > max_spread]
    if conflicting and rules.conflicts == "refuse":
        raise TableError(
            f"table {source}: values of {counted(len(conflicting), 'molecule')} are further apart "
            f"than {max_spread:g} {prop.unit} "
            f"({listed([same.describe() for same in conflicting])}); correct them, leave these "
            "molecules out with --conflicts drop, or allow more with --max-spread"
        )
    for same in conflicting:
        dropped[CONFLICTING] += [f"line {line}: {same.describe()}" for line in same.lines]
    kept = [same for same in found.values() if same.spread <= max_spread]
    if not kept:
        rejected = [f"{reason}: {line}" for reason, lines in dropped.items() for line in lines]
        raise TableError(
            f"table {source} has no usable row ({listed(rejected) or 'empty'}); check "
            "--smiles-column, --organics, --salts and the property's minimum and maximum"
        )
    num_merged = sum(len(same.lines) - 1 for same in kept)
    return Table([same.molecule() for same in kept], dict(dropped), num_merged, num_cas_names)


@dataclass(slots=True)
class _Rows:
    """All rows of one molecule."""

    molecule_id: str
    smiles: str
    name: str = ""
    """The first that any of them has."""
    lines: "array[int]" = field(default_factory=lambda: array("q"))
    values: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, row: Row, name: str) -> None:
        """Take in a row, under a name that may not be its own."""
        self.name = self.name or name
        self.lines.append(row.line)
        self.values.append(row.value)

    @property
    def spread(self) -> float:
        """Largest value less the smallest."""
        return max(self.values) - min(self.values)

    def molecule(self) -> Molecule:
        """Return the molecule with the median of the values."""
        return Molecule(self.molecule_id, self.name, self.smiles, statistics.median(self.values))

    def describe(self) -> str:
        """Return what an error message says of rows that conflict."""
        low, high = min(self.values), max(self.values)
        lines = listed([str(line) for line in self.lines], ", ")
        return f"{shown_text(self.smiles)} (lines {lines}: {low} to {high}, spread {high - low:g})"


def _read_smiles(smiles: str, rules: TableConfig) -> tuple[Molecule | None, str]:
    """Return a row's molecule, or None and the reason why not."""
    if len(smiles) > MAX_SMILES_LENGTH:
        return None, TOO_LONG
    return _read_short_smiles(smiles, rules.salts, rules.organics)


@lru_cache(maxsize=4096)
def _read_short_smiles(smiles: str, salts: str, organics: bool) -> tuple[Molecule | None, str]:
    mol = parse_smiles(smiles)
    if mol is None or mol.GetNumAtoms() == 0:
        return None, UNPARSABLE
    is_salt = salts != "keep" and ("." in smiles or len(Chem.GetMolFrags(apart(mol))) > 1)
    if is_salt and salts == "drop":
        return None, SALT
    if is_salt:
        smiles = strip(smiles)
    if organics and not is_small_organic(smiles):
        return None, NOT_ORGANIC
    return to_molecule(smiles), UNPARSABLE
