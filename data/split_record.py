"""The split that a run began with, in its folder; and what has changed in the table since.

The parts stay as they were: a corrected row keeps its place, a withdrawn one leaves it (and comes
back to it), and a new one joins the pool unless it is a relative of a test molecule or exemplar.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import pyarrow as pa

from selfstudy_engine.data.files import ON_DISK, Files
from selfstudy_engine.data.rows import load_rows, save_rows
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.splits import Split, unrelated

_COLUMNS: dict[str, pa.DataType] = {
    "molecule_id": pa.string(),
    "name": pa.string(),
    "smiles": pa.string(),
    "value": pa.float64(),
    "part": pa.string(),
}


@dataclass(frozen=True, slots=True)
class Place:
    """A molecule's place in a run's split."""

    molecule_id: str
    name: str
    smiles: str
    value: float | None
    """In the property's unit; None if the row is no longer in the table, NaN while what depends on
    it is brought in line with a change."""
    part: str
    """pool, test or relative."""


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed in a run's table since the last call."""

    values: dict[str, float | None]
    """By molecule id: the corrected value, or None for a withdrawn row."""
    num_added: int

    def __bool__(self) -> bool:
        return bool(self.values) or self.num_added > 0

    def __str__(self) -> str:
        num_withdrawn = sum(value is None for value in self.values.values())
        num_corrected = len(self.values) - num_withdrawn
        return f"{num_corrected} values corrected, {num_withdrawn} withdrawn, {self.num_added} new"


def to_places(split: Split) -> list[Place]:
    """Return the places of a fresh split."""
    parts = {"pool": split.pool, "test": split.test, "relative": split.relatives}
    return [
        Place(m.molecule_id, m.name, m.smiles, m.value, part)
        for part, molecules in parts.items()
        for m in molecules
    ]


def to_split(places: Sequence[Place]) -> Split:
    """Return the split of those molecules that the table still has, with a value that is known."""
    parts: dict[str, list[Molecule]] = {"pool": [], "test": [], "relative": []}
    for place in places:
        if place.value is not None and not math.isnan(place.value):
            molecule = Molecule(place.molecule_id, place.name, place.smiles, place.value)
            parts[place.part].append(molecule)
    return Split(parts["pool"], parts["test"], parts["relative"])


def settle(
    places: Sequence[Place], molecules: Sequence[Molecule], exemplars: Sequence[Molecule]
) -> tuple[list[Place], Changes]:
    """Put a table's present molecules into the places of a run.

    Args:
        places: as the run knows them.
        molecules: of the table now.
        exemplars: of the run; they never change.
    """
    now = {molecule.molecule_id: molecule for molecule in molecules}
    settled: list[Place] = []
    values: dict[str, float | None] = {}
    for place in places:
        molecule = now.pop(place.molecule_id, None)
        value = None if molecule is None else molecule.value
        if value != place.value:
            values[place.molecule_id] = value
        name = place.name if molecule is None else molecule.name
        settled.append(replace(place, name=name, value=value))
    test = [Molecule(p.molecule_id, "", p.smiles, 0.0) for p in places if p.part == "test"]
    added = unrelated(list(now.values()), [*test, *exemplars])
    settled += [Place(m.molecule_id, m.name, m.smiles, m.value, "pool") for m in added]
    return settled, Changes(values, len(added))


def in_doubt(places: Sequence[Place], changes: Changes) -> list[Place]:
    """Return the places while changes are followed: whatever the table says next is a change.

    So that a call that is stopped halfway is made good by the next, though the table be put back.
    """
    return [
        replace(place, value=math.nan) if place.molecule_id in changes.values else place
        for place in places
    ]


def save_places(path: Path, places: Sequence[Place], files: Files = ON_DISK) -> None:
    """Write a run's split."""
    save_rows(path, map(asdict, places), pa.schema(_COLUMNS), files)


def load_places(path: Path) -> list[Place]:
    """Read a run's split back.

    Raises:
        StoreError: it is damaged.
    """
    return load_rows(path, lambda row: Place(**row), "restore it from a copy")
