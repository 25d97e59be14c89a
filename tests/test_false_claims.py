"""What a run's reasons are held against: its own molecules' names, and the values it may know."""

from pathlib import Path

import orjson
import pytest
from samples import SHIPPED

from selfstudy_engine.data.molecules import to_molecule
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.split_record import save_places, to_places
from selfstudy_engine.data.splits import Split
from selfstudy_engine.engine.false_claims import claims_check, finds_false, stored_claims_check

MELTING_POINT = find_property("melting_point")


def molecule(smiles: str, name: str, value: float) -> Molecule:
    found = to_molecule(smiles, name, value)
    assert found
    return found


HEXANE = molecule("CCCCCC", "hexane", -95.0)
PARTS = Split(
    [HEXANE, molecule("CC(C)c1ccc(C)cc1O", "thymol", 50.0)],
    [molecule("COc1ccc(C=CC)cc1", "anethole", 21.0)],
)


@pytest.mark.parametrize(
    ("reason", "is_false"),
    [
        ("Thymol has a melting point of 50 °C.", False),
        ("Thymol has a melting point of 200 °C.", True),
        ("Two nitro groups make it polar.", True),
        ("A flexible chain of carbon atoms.", False),
    ],
)
def test_structure_and_known_values_are_checked(reason: str, is_false: bool) -> None:
    check = finds_false(claims_check(PARTS, SHIPPED, MELTING_POINT))
    assert check(reason, HEXANE) is is_false


def test_an_exemplars_value_is_known() -> None:
    check = finds_false(claims_check(PARTS, SHIPPED, MELTING_POINT))
    shown = next(e.molecule for e in SHIPPED if e.molecule.name.isalpha())
    reason = "{} has a melting point of {} °C."
    assert check(reason.format(shown.name, shown.value + 100), HEXANE)
    assert not check(reason.format(shown.name, shown.value), HEXANE)


def test_a_test_molecules_value_is_never_judged_but_its_name_is_another_compounds() -> None:
    """Else true ones would be kept and false ones not: the test set's values would be learned."""
    check = claims_check(PARTS, SHIPPED, MELTING_POINT)
    for value in (21, 300):
        assert check(f"Anethole has a melting point of {value} °C.", HEXANE) == []
    about_another = "Anethole has one benzene ring."
    assert not finds_false(check)(about_another, HEXANE)
    without = claims_check(Split(PARTS.pool, []), SHIPPED, MELTING_POINT)
    assert finds_false(without)(about_another, HEXANE)


def test_a_run_is_checked_as_it_lies_in_its_folder(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    reason = "Thymol has a melting point of 200 °C."
    example = {"name": "x", "smiles": "CCO", "value": 1.0, "reason": "A chain."}
    folder.exemplars().write_bytes(orjson.dumps(example))
    assert not stored_claims_check(folder, MELTING_POINT)(reason, HEXANE)
    save_places(folder.split, to_places(PARTS))
    assert stored_claims_check(folder, MELTING_POINT)(reason, HEXANE)
