"""A property table in, canonical molecules out; and their split into pool and test set.

Nothing is dropped without a named reason; values are converted into the property's unit.
"""

import hashlib
import re
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet
from rdkit import Chem, rdBase

from selfstudy_engine.data.config import TableConfig
from selfstudy_engine.data.errors import TableError
from selfstudy_engine.data.properties import Property, convert
from selfstudy_engine.data.schema import Molecule

MAX_LISTED = 5
"""Rows that an error message lists at most."""

ORGANIC_ELEMENTS = frozenset(["H", "B", "C", "N", "O", "F", "Si", "P", "S", "Cl", "Se", "Br", "I"])
MAX_HEAVY_ATOMS = 70


@dataclass(frozen=True, slots=True)
class Row:
    """One row of a table as it was read: `line` is what an editor shows."""

    line: int
    name: str
    smiles: str
    value: float


@dataclass(frozen=True, slots=True)
class Table:
    """Canonical molecules, and under each reason the rows that were left out."""

    molecules: list[Molecule]
    dropped: dict[str, list[str]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Split:
    """Molecules to learn from, and molecules that are only ever measured on."""

    pool: list[Molecule]
    test: list[Molecule]


@contextmanager
def quiet_rdkit() -> Iterator[None]:
    """Keep RDKit from writing each SMILES that it can't parse to stderr."""
    block = rdBase.BlockLogs()
    try:
        yield
    finally:
        del block


def read_rows(path: Path, table: TableConfig, prop: Property) -> list[Row]:
    """Read a CSV, TSV or Parquet table, its values converted into the property's unit.

    Raises:
        TableError: unreadable, without a named column, empty, or with values that aren't numbers.
    """
    wanted = [table.smiles_column, table.value_column, *filter(None, [table.name_column])]
    columns = _read_columns(path, wanted)
    smiles = columns[table.smiles_column].to_pylist()
    values = columns[table.value_column].to_pylist()
    names = columns[table.name_column].to_pylist() if table.name_column else [""] * len(smiles)
    unit = table.value_unit or prop.unit
    rows, bad = [], []
    for line, (name, text, value) in enumerate(zip(names, smiles, values, strict=True), start=2):
        number = _to_number(value)
        if number is None:
            bad.append(f"line {line}: {value!r}")
        else:
            converted = convert(number, unit, prop.unit)
            rows.append(Row(line, str(name or "").strip(), str(text or "").strip(), converted))
    if bad:
        raise TableError(
            f"table {path}: column {table.value_column!r} has {len(bad)} values that aren't "
            f"finite numbers ({_listed(bad)}); correct or remove these rows"
        )
    return rows


def read_smiles(path: Path, smiles_column: str, name_column: str | None) -> list[tuple[str, str]]:
    """Read (name, SMILES) pairs, as they stand, of a CSV, TSV or Parquet table.

    Raises:
        TableError: unreadable, or without a named column.
    """
    columns = _read_columns(path, [smiles_column, *filter(None, [name_column])])
    smiles = [str(text or "").strip() for text in columns[smiles_column].to_pylist()]
    names = columns[name_column].to_pylist() if name_column else [""] * len(smiles)
    return [(str(name or "").strip(), text) for name, text in zip(names, smiles, strict=True)]


def _read_columns(path: Path, wanted: Sequence[str]) -> pa.Table:
    columns = _read_table(path)
    for column in wanted:
        if column not in columns.column_names:
            raise TableError(
                f"table {path} has no column {column!r} (it has: "
                f"{', '.join(columns.column_names)}); name it with --smiles-column, "
                "--value-column or --name-column"
            )
        if columns.column_names.count(column) > 1:
            raise TableError(f"table {path} has several columns {column!r}; rename all but one")
    return columns


def _read_table(path: Path) -> pa.Table:
    try:
        if path.suffix.lower() in {".parquet", ".pq"}:
            return pa.parquet.read_table(path)
        header = pa.csv.open_csv(path, parse_options=_delimiter(path)).schema.names
        # Text for every column: a type guessed from the first rows would fail later without a line.
        options = pa.csv.ConvertOptions(column_types=dict.fromkeys(header, pa.string()))
        return pa.csv.read_csv(path, parse_options=_delimiter(path), convert_options=options)
    except (OSError, pa.ArrowException, UnicodeDecodeError) as error:
        raise TableError(
            f"can't read table {path}: {error}; give a CSV (UTF-8, with a header line), TSV or "
            "Parquet file"
        ) from error


def _delimiter(path: Path) -> pa.csv.ParseOptions:
    delimiter = "\t" if path.suffix.lower() in {".tsv", ".tab"} else ","
    # Empty lines stay, so that a row's number is the line that an editor shows.
    return pa.csv.ParseOptions(
        delimiter=delimiter, newlines_in_values=True, ignore_empty_lines=False
    )


_NUMBER = re.compile(r"\s*[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([eE][+-]?[0-9]+)?\s*")


def _to_number(value: Any) -> float | None:
    # Stricter than float(), which also takes "1_000" and digits of other scripts.
    if isinstance(value, str) and not _NUMBER.fullmatch(value):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if abs(number) < float("inf") else None


def _listed(items: list[str]) -> str:
    more = f", and {len(items) - MAX_LISTED} more" if len(items) > MAX_LISTED else ""
    return "; ".join(items[:MAX_LISTED]) + more


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


def canonicalize(rows: Iterable[Row], prop: Property, conflicts: str, source: str) -> Table:
    """Turn rows into molecules: one for each InChIKey, its value the median of its rows.

    Args:
        rows: in the property's unit.
        prop: its tolerance decides from where on two values of one molecule conflict.
        conflicts: "refuse" raises, "drop" leaves the molecule out and says so.
        source: what error messages call the table.

    Raises:
        TableError: conflicting values (with "refuse"), or no usable row at all.
    """
    found: dict[str, list[tuple[Row, Molecule]]] = defaultdict(list)
    dropped: dict[str, list[str]] = defaultdict(list)
    for row in rows:
        molecule = to_molecule(row.smiles, row.name, row.value)
        if molecule is None:
            dropped["unparsable SMILES"].append(f"line {row.line}: {row.smiles!r}")
        else:
            found[molecule.molecule_id].append((row, molecule))
    molecules, conflicting = [], []
    for same in found.values():
        values = [row.value for row, _ in same]
        if max(values) - min(values) > prop.tolerance:
            lines = ", ".join(str(row.line) for row, _ in same)
            conflicting.append(
                f"{same[0][1].smiles} (lines {lines}: {min(values)} to {max(values)})"
            )
            continue
        first = same[0][1]
        name = next((molecule.name for _, molecule in same if molecule.name), "")
        value = statistics.median(values)
        molecules.append(Molecule(first.molecule_id, name, first.smiles, value))
    if conflicting and conflicts == "refuse":
        raise TableError(
            f"table {source}: {len(conflicting)} molecules have values further apart than the "
            f"tolerance of {prop.tolerance:g} {prop.unit} ({_listed(conflicting)}); correct them, "
            "or leave these molecules out with --conflicts drop"
        )
    if conflicting:
        dropped["conflicting values"] = conflicting
    if not molecules:
        raise TableError(
            f"table {source} has no usable row ({_listed(dropped['unparsable SMILES']) or 'empty'})"
            "; check --smiles-column"
        )
    return Table(molecules, dict(dropped))


def _rank(seed: int, skeleton: str) -> str:
    return hashlib.sha256(f"{seed}:{skeleton}".encode()).hexdigest()


def split(molecules: list[Molecule], held_out: set[str], test_size: int, seed: int) -> Split:
    """Split at random by skeleton, so that no test molecule has a stereoisomer in the pool.

    The rank of a skeleton depends on the seed and itself alone: rows that are added to a table
    later don't reshuffle the rest.

    Args:
        molecules: all molecules.
        held_out: skeletons in neither part (those of the exemplars).
        test_size: molecules in the test set, each of its own skeleton.
        seed: of the shuffle.

    Raises:
        TableError: the table is too small for that test set.
    """
    groups: dict[str, list[Molecule]] = defaultdict(list)
    for molecule in molecules:
        if molecule.skeleton not in held_out:
            groups[molecule.skeleton].append(molecule)
    if test_size >= len(groups):
        raise TableError(
            f"test size {test_size} leaves nothing to learn from: the table has {len(groups)} "
            f"distinct molecules besides the exemplars; lower --test-size below that"
        )
    ranked = sorted(groups, key=lambda skeleton: _rank(seed, skeleton))
    test = [groups[skeleton][0] for skeleton in ranked[:test_size]]
    pool = [molecule for skeleton in ranked[test_size:] for molecule in groups[skeleton]]
    return Split(pool, test)
