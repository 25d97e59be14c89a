"""Many reasons in, their claims and the figures of the whole out; also with molecules swapped.

The swap holds each reason against another row's molecule: a check that sees nothing wrong there
sees nothing.
"""

import codecs
import random
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.claims import Claim, check_claims
from selfstudy_engine.engine.known_values import KnownValues
from selfstudy_engine.engine.molecule_facts import facts_of


@dataclass(frozen=True, slots=True)
class ReasonRow:
    """One line of a file of reasons."""

    molecule: Molecule | None
    """None where RDKit can't read the SMILES: there is nothing to hold the reason against."""
    reason: str
    columns: dict[str, Any]
    """The line as it was."""


@dataclass(slots=True)
class ClaimReport:
    """Figures over many reasons."""

    num_reasons: int = 0
    num_unparsable: int = 0
    """Reasons that weren't checked, because their SMILES can't be parsed."""
    num_claims: int = 0
    num_true: int = 0
    num_false: int = 0
    num_unverifiable: int = 0
    num_reasons_with_false: int = 0

    def add(self, claims: Sequence[Claim] | None) -> None:
        """Count one reason's claims; None stands for a molecule that can't be parsed."""
        if claims is None:
            self.num_unparsable += 1
            return
        num_false = sum(claim.truth == "false" for claim in claims)
        num_true = sum(claim.truth == "true" for claim in claims)
        self.num_reasons += 1
        self.num_claims += len(claims)
        self.num_false += num_false
        self.num_true += num_true
        self.num_unverifiable += len(claims) - num_false - num_true
        self.num_reasons_with_false += num_false > 0

    def as_dict(self) -> dict[str, Any]:
        """Return all figures; a fraction of nothing is None."""
        return asdict(self) | {
            "false_claim_fraction": _share(self.num_false, self.num_claims),
            "reasons_with_false_fraction": _share(self.num_reasons_with_false, self.num_reasons),
        }


def _share(part: int, whole: int) -> float | None:
    return part / whole if whole else None


def read_reasons(path: Path) -> list[ReasonRow]:
    """Read JSON lines with smiles and reason, and name where there is one.

    Raises:
        UsageError: the file can't be read, or a line isn't such an object; it is named by number.
    """
    try:
        lines = path.read_bytes().removeprefix(codecs.BOM_UTF8).split(b"\n")
    except OSError as error:
        raise UsageError(f"can't read reasons {path}: {error.strerror}") from error
    rows = [
        _read_row(line, f"reasons {path}, line {number}")
        for number, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not rows:
        raise UsageError(f"reasons {path} has no line; give one JSON object per line")
    return rows


def _read_row(line: bytes, where: str) -> ReasonRow:
    try:
        columns = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{where}: isn't JSON ({error})") from error
    if not isinstance(columns, dict):
        raise UsageError(f"{where}: isn't a JSON object; give one with smiles and reason")
    for field in ("smiles", "reason"):
        if not isinstance(columns.get(field), str):
            raise UsageError(f"{where}: has no text {field!r}; each line needs smiles and reason")
    smiles, name = columns["smiles"], columns.get("name")
    try:
        key = facts_of(smiles).canonical_smiles
    except UsageError:
        return ReasonRow(None, columns["reason"], columns)
    molecule = Molecule(key, name if isinstance(name, str) else "", smiles, float("nan"))
    return ReasonRow(molecule, columns["reason"], columns)


def check_rows(
    rows: Iterable[ReasonRow], known: KnownValues | None
) -> Iterator[list[Claim] | None]:
    """Yield each row's claims; None where its molecule can't be parsed."""
    for row in rows:
        yield check_claims(row.reason, row.molecule, known) if row.molecule else None


def swap_molecules(rows: Sequence[ReasonRow], seed: int = 0) -> list[ReasonRow]:
    """Give each reason the molecule of another row, at random but never its own again.

    Rows without a molecule are left out; so are all if there is only one molecule.
    """
    owned = [(row, row.molecule) for row in rows if row.molecule]
    # Each once: among rows that are nearly all of one molecule, few draws would hit another.
    molecules = list({own.molecule_id: own for _, own in owned}.values())
    if len(molecules) < 2:
        return []
    rng = random.Random(seed)
    swapped = []
    for row, own in owned:
        other = own
        while other.molecule_id == own.molecule_id:
            other = rng.choice(molecules)
        swapped.append(ReasonRow(other, row.reason, row.columns))
    return swapped
