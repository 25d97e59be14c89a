"""Molecules -> pool and test set."""

from dataclasses import replace

import pytest
from samples import make_pool

from selfstudy_engine.data.errors import TableError
from selfstudy_engine.data.molecules import to_molecule
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.splits import check_leaks, scaffold, split, unrelated
from selfstudy_engine.data.table_output import describe_split


def molecules_of(*smiles: str) -> list[Molecule]:
    found = [to_molecule(text) for text in smiles]
    return [replace(m, value=float(n)) for n, m in enumerate(found) if m]


def test_split_is_deterministic_and_complete() -> None:
    pool = make_pool(50)
    parts = split(pool, [], 10, seed=3)
    assert parts == split(pool, [], 10, seed=3)
    assert parts.test != split(pool, [], 10, seed=4).test
    assert len(parts.test) == 10
    assert {m.molecule_id for m in parts.test + parts.pool} == {m.molecule_id for m in pool}


def test_split_does_not_depend_on_the_order_of_rows() -> None:
    pool = make_pool(50)
    assert split(pool, [], 10, 0) == split(pool[::-1], [], 10, 0)


def test_split_is_disjoint_by_skeleton() -> None:
    stereo = [
        Molecule(f"{i % 20:014d}-{i // 20:010d}-N", "", "C" * (i % 20 + 1), 0.0) for i in range(60)
    ]
    parts = split(stereo, [], 8, seed=0)
    tested = {molecule.skeleton for molecule in parts.test}
    assert len(tested) == len(parts.test) == 8
    assert not tested & {molecule.skeleton for molecule in parts.pool}
    assert len(parts.pool) == 36


def test_split_moves_few_molecules_when_rows_are_added() -> None:
    before = split(make_pool(100), [], 20, 0)
    after = split(make_pool(110), [], 20, 0)
    kept = {m.skeleton for m in before.test} & {m.skeleton for m in after.test}
    assert len(kept) >= 15
    displaced = {m.skeleton for m in before.pool} & {m.skeleton for m in after.test}
    assert not displaced


def test_exemplars_are_in_neither_part() -> None:
    pool = make_pool(10)
    parts = split(pool, [pool[3], Molecule("ABSENT", "", "N", 0.0)], 4, 0)
    assert pool[3] not in parts.pool + parts.test
    assert len(parts.pool) + len(parts.test) == 9


def test_a_test_set_as_large_as_the_table_is_refused() -> None:
    pool = make_pool(10)
    assert len(split(pool, [pool[0]], 8, 0).pool) == 1
    with pytest.raises(TableError, match=r"1 distinct molecule besides .* takes two at least"):
        split(make_pool(1), [], 1, 0)
    with pytest.raises(TableError, match=r"test size 9 .* 9 distinct .*--test-size"):
        split(pool, [pool[0]], 9, 0)


def test_relatives_of_test_molecules_and_exemplars_are_set_aside() -> None:
    forms = ("CC(=O)CC(C)=O", "CC(O)=CC(C)=O", "CC(=O)[O-].[Na+]", "CC(=O)O", "CCO", "CCC", "CCCC")
    molecules = molecules_of(*forms)
    exemplar = molecules_of("CC(=O)O")
    for seed in range(10):
        parts = split(molecules, exemplar, 2, seed)
        everything = [*parts.pool, *parts.test, *parts.relatives, *exemplar]
        assert {m.smiles for m in everything} == {m.smiles for m in molecules}
        assert "CC(=O)[O-].[Na+]" in {m.smiles for m in parts.relatives}
        check_leaks(parts.pool, parts.test, exemplar)


def test_every_molecule_of_a_table_is_in_one_part_or_is_an_exemplar() -> None:
    """Stereoisomers, too: of each pair one may be tested, and the other then isn't learned from."""
    pairs = [f"C[C@{at}H](O)C{'C' * n}N" for n in range(4) for at in ("", "@")]
    molecules = molecules_of(*pairs, "CCO")
    exemplars = molecules_of(pairs[0])
    parts = split(molecules, exemplars, 2, 0)
    assert [len(part) for part in (parts.pool, parts.test, parts.relatives)] == [3, 2, 3]
    everything = [*parts.pool, *parts.test, *parts.relatives, *exemplars]
    assert sorted(m.smiles for m in everything) == sorted(m.smiles for m in molecules)
    told = describe_split(len(molecules), parts)
    assert told.startswith("3 pool + 2 test + 3 set aside (stereoisomers, ")
    assert told.endswith(" + 1 exemplars")


@pytest.mark.parametrize(
    ("trained", "message"),
    [
        ("C[C@H](O)F", "pool C.*F is C.*F"),
        ("CC(=O)[O-].[K+]", r"pool CC\(=O\)\[O-\].* is a form of CC\(=O\)O"),
        ("CC(=O)O[K]", r"pool CC\(=O\)\[O\]\[K\] is a form of CC\(=O\)O"),
        ("[2H]C([2H])([2H])C(=O)[O-].[Na+]", r"pool \[2H\].* is a form of CC\(=O\)O"),
        ("[13CH3]C(=O)[O-].[Na+]", r"pool \[13CH3\].* is a form of CC\(=O\)O"),
        ("Oc1ccccn1", "pool Oc1ccccn1 is"),
    ],
)
def test_a_leak_fails(trained: str, message: str) -> None:
    test = molecules_of("C[C@@H](O)F", "CC(=O)O", "O=c1cccc[nH]1")
    check_leaks(molecules_of("CCO"), test, [])
    with pytest.raises(TableError, match=f"1 molecules.*{message}"):
        check_leaks(molecules_of("CCO", trained), test, [])
    with pytest.raises(TableError, match="exemplar"):
        check_leaks([], test, molecules_of(trained))


TOSYLATE = "Cc1ccc(S(=O)(=O)[O-])cc1"
TARTRATE = "OC(=O)C(O)C(O)C(=O)[O-]"
NICOTINE = "C[NH+]1CCCC1c1cccnc1"


@pytest.mark.parametrize(
    ("one", "other", "related"),
    [
        ("CCN", f"CC[NH3+].{TOSYLATE}", True),
        ("CCN", "CCN.Cc1ccc(S(=O)(=O)O)cc1", True),
        ("Cc1ccc(S(=O)(=O)O)cc1", f"CC[NH3+].{TOSYLATE}", True),
        ("CC[NH3+].[Cl-]", f"CC[NH3+].{TOSYLATE}", True),
        (f"CC[NH3+].{TARTRATE}", f"CC[NH3+].{TOSYLATE}", True),
        (f"{NICOTINE}.{TARTRATE}", f"{NICOTINE}.{TOSYLATE}", True),
        (f"CC[NH3+].{TOSYLATE}", f"CC[NH3+].{TOSYLATE}.O", True),
        (f"CC[NH3+].{TOSYLATE}", f"CCC[NH3+].{TOSYLATE}", False),
        (f"{NICOTINE}.{TARTRATE}", f"CC[NH3+].{TARTRATE}", False),
        ("CCCN", f"CC[NH3+].{TOSYLATE}", False),
        ("CC(=O)O", "CCO.O", False),
        ("C[N+](C)(C)CC(=O)[O-]", "C[N+](C)(C)CC(=O)O.[Cl-]", True),
        ("CC1=NN(c2ccccc2)C(=O)C1", "Cc1cc(=O)n(-c2ccccc2)[nH]1", True),
        ("O=C1c2c(O)cccc2Cc2cccc(O)c21", "Oc1cccc2cc3cccc(O)c3c(O)c12", True),
        ("CC(C)N=O", "CC(C)=NO", True),
        ("C=CCc1ccc2c(c1)OCO2", "CC=Cc1ccc2c(c1)OCO2", False),
    ],
)
def test_a_salt_is_related_to_its_acid_and_its_base(one: str, other: str, related: bool) -> None:
    for first, second in ((one, other), (other, one)):
        left = unrelated(molecules_of(first), molecules_of(second))
        assert (not left) is related


def test_scaffolds_stay_together_and_the_rarest_are_tested() -> None:
    benzenes = [f"{'C' * n}c1ccccc1" for n in range(1, 7)]
    pyridines = [f"{'C' * n}c1ccncc1" for n in range(1, 4)]
    molecules = molecules_of(*benzenes, *pyridines, "C1CC1", "CCO", "CCC")
    parts = split(molecules, [], 4, 0, "scaffold")
    cores = [{scaffold(m.smiles) for m in part} for part in (parts.test, parts.pool)]
    assert not cores[0] & cores[1]
    assert {m.smiles for m in parts.test} == {"C1CC1", "CCO", "CCC"}
    assert len(split(molecules, [], 6, 0, "scaffold").test) == 6
    assert split(molecules, [], 4, 0, "scaffold") == split(molecules[::-1], [], 4, 0, "scaffold")
    with pytest.raises(TableError, match="the rarest has 6"):
        split(molecules_of(*benzenes), [], 4, 0, "scaffold")
