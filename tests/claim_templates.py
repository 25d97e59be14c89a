"""Claims whose truth is known without the checker: templates filled with what RDKit counts.

The counts come from RDKit's own fragment functions and descriptors, not from the patterns that
claims are checked with.
"""

# mypy: disable-error-code="attr-defined"
# RDKit makes its fragment functions and descriptors when it is imported.

import random
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rdkit import Chem
from rdkit.Chem import Descriptors, Fragments, rdMolDescriptors

from selfstudy_engine.data.schema import Molecule

NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten")
FRAMES = (
    "{} in all; hydrogen bonds decide: moderate.",
    "The structure shows {}, which raises the melting point by about 20 °C.",
    "It contains {}, so the lattice is stable.",
    "There is little flexibility here. With {}, the molecule packs well: high.",
    "Because of {}, the intermolecular forces are strong (+30 °C).",
    "Because the chain is short, it melts low. The compound has {}.",
)
GROUPS: Mapping[str, Callable[[Any], int]] = {
    "nitro group": Fragments.fr_nitro,
    "nitrile group": Fragments.fr_nitrile,
    "carboxylic acid": lambda m: Fragments.fr_Al_COO(m) + Fragments.fr_Ar_COO(m),
    "aldehyde group": Fragments.fr_aldehyde,
    "ketone": Fragments.fr_ketone,
    "ester": Fragments.fr_ester,
    "amide group": Fragments.fr_amide,
    "methoxy group": Fragments.fr_methoxy,
    "sulfonamide": Fragments.fr_sulfonamd,
    "sulfone": Fragments.fr_sulfone,
    "phenolic hydroxyl group": Fragments.fr_phenol,
    "thiol group": Fragments.fr_SH,
    "urea group": Fragments.fr_urea,
    "lactone": Fragments.fr_lactone,
    "epoxide": Fragments.fr_epoxide,
    "azide": Fragments.fr_azide,
    "isocyanate group": Fragments.fr_isocyan,
    "oxime": Fragments.fr_oxime,
    "carbonyl group": Fragments.fr_C_O,
    "hydroxyl group": lambda m: Fragments.fr_Al_OH(m) + Fragments.fr_Ar_OH(m),
}
RINGS: Mapping[str, Callable[[Any], int]] = {
    "benzene ring": Fragments.fr_benzene,
    "pyridine ring": Fragments.fr_pyridine,
    "furan ring": Fragments.fr_furan,
    "thiophene ring": Fragments.fr_thiophene,
    "imidazole ring": Fragments.fr_imidazole,
    "piperidine ring": Fragments.fr_piperdine,
    "morpholine ring": Fragments.fr_morpholine,
    "ring": rdMolDescriptors.CalcNumRings,
    "aromatic ring": rdMolDescriptors.CalcNumAromaticRings,
    "six-membered ring": lambda m: [len(r) for r in m.GetRingInfo().AtomRings()].count(6),
    "five-membered ring": lambda m: [len(r) for r in m.GetRingInfo().AtomRings()].count(5),
}
ELEMENTS = {
    "nitrogen atom": "N",
    "oxygen atom": "O",
    "fluorine atom": "F",
    "chlorine atom": "Cl",
    "bromine atom": "Br",
    "iodine atom": "I",
    "sulfur atom": "S",
    "phosphorus atom": "P",
    "silicon atom": "Si",
}
Kind = Literal["presence", "count", "denial", "weight", "formula", "value"]


@dataclass(frozen=True)
class Templated:
    """A reason with one claim."""

    molecule: Molecule
    reason: str
    span: tuple[int, int]
    kind: Kind
    true: bool


def count_everything(mol: Any) -> dict[str, int]:
    """Count groups, rings and elements by their names in the templates."""
    atoms = Counter(atom.GetSymbol() for atom in mol.GetAtoms())
    counts = {name: count(mol) for name, count in (*GROUPS.items(), *RINGS.items())}
    return counts | {name: atoms[symbol] for name, symbol in ELEMENTS.items()}


def make_claims(
    molecules: Sequence[Molecule], known: Sequence[Molecule], seed: int
) -> Iterator[Templated]:
    """Yield for each molecule one true claim of each kind, and its single-fact mutation."""
    rng = random.Random(seed)
    for molecule in molecules:
        mol = Chem.MolFromSmiles(molecule.smiles)
        counts = count_everything(mol)
        present = [name for name, count in counts.items() if count]
        there = rng.choice([name for name, count in counts.items() if not count])
        if present:
            here = rng.choice(present)
            number = counts[here]
            yield from _pair(rng, molecule, "presence", _article(here), _article(there))
            yield from _pair(rng, molecule, "denial", f"no {there}", f"no {here}")
            if number + 2 < len(NUMBERS):
                more = _counted(number + rng.choice((1, 2)), here)
                yield from _pair(rng, molecule, "count", _counted(number, here), more)
        weight = Descriptors.MolWt(mol)
        off = weight * (1 + rng.choice((-1, 1)) * rng.uniform(0.05, 0.4))
        text = f"a molecular weight of {{}} {rng.choice(('g/mol', 'Da'))}"
        yield from _pair(
            rng, molecule, "weight", text.format(f"{weight:.1f}"), text.format(f"{off:.1f}")
        )
        formula = rdMolDescriptors.CalcMolFormula(mol)
        text = "the molecular formula {}"
        yield from _pair(
            rng, molecule, "formula", text.format(formula), text.format(_mutated(formula, rng))
        )
        other = rng.choice(known)
        off = other.value + rng.choice((-1, 1)) * rng.uniform(40, 200)
        text = f"{other.name}, which has a melting point of {{:.0f}} °C"
        yield from _pair(
            rng, molecule, "value", text.format(other.value), text.format(off), "Compare {}."
        )


def _pair(
    rng: random.Random, molecule: Molecule, kind: Kind, true: str, false: str, frame: str = ""
) -> Iterator[Templated]:
    chosen = frame or rng.choice(FRAMES)
    for text, truth in ((true, True), (false, False)):
        start = chosen.index("{}")
        reason = chosen.format(text)
        if not start:
            reason = reason[0].upper() + reason[1:]
        yield Templated(molecule, reason, (start, start + len(text)), kind, truth)


def _article(name: str) -> str:
    return f"{'an' if name[0] in 'aeiou' else 'a'} {name}"


def _counted(number: int, name: str) -> str:
    return f"{NUMBERS[number]} {name}{'s' if number != 1 else ''}"


def _mutated(formula: str, rng: random.Random) -> str:
    """Add one to four hydrogens' worth: "C7H8O" -> "C7H10O"."""
    head, _, tail = formula.partition("H")
    digits = tail[: len(tail) - len(tail.lstrip("0123456789"))]
    if not _:
        return formula.replace("C", "N", 1)
    return f"{head}H{int(digits or 1) + rng.choice((1, 2, 4))}{tail[len(digits) :]}"
