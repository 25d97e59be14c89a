"""What RDKit finds in a molecule, and the words and patterns that ask for it."""

import pytest

from selfstudy_engine.engine.claim_lexicon import Pattern, load_lexicon
from selfstudy_engine.engine.molecule_facts import Range, facts_of, parse_formula


def test_facts_are_kept() -> None:
    assert facts_of("CCO") is facts_of("CCO")


def test_counts_by_patterns() -> None:
    facts = facts_of("COC(=O)c1ccccc1OC")
    lexicon = load_lexicon()
    entry = lexicon.find(["methoxy"], 0)
    assert entry is not None
    assert entry.term.strict is not None
    assert entry.term.loose is not None
    assert facts.count_range(entry.term.strict, entry.term.loose, 1) == Range(1, 1)
    assert facts.count_range(entry.term.strict, entry.term.loose, 2) == Range(1, 2)


@pytest.mark.parametrize(
    ("smiles", "donors", "acceptors"),
    [
        ("CCO", Range(1, 1), Range(1, 1)),
        ("Nc1ccccc1", Range(1, 2), Range(1, 1)),
        ("Sc1ccccc1", Range(0, 1), Range(1, 1)),
        ("C#CC", Range(0, 1), Range(0, 0)),
        ("CCCC", Range(0, 0), Range(0, 0)),
    ],
)
def test_donors_and_acceptors(smiles: str, donors: Range, acceptors: Range) -> None:
    assert facts_of(smiles).donors == donors
    assert facts_of(smiles).acceptors == acceptors


def test_weight_and_composition() -> None:
    facts = facts_of("CC(=O)Oc1ccccc1C(=O)O")
    assert facts.weights == pytest.approx((180.16, 180.0423), abs=0.01)
    assert facts.formula == "C9H8O4"
    assert facts.composition == {"C": 9, "H": 8, "O": 4}
    assert parse_formula("Cl2CO") == {"Cl": 2, "C": 1, "O": 1}


def test_rings() -> None:
    naphthalene = facts_of("c1ccc2ccccc2c1").rings
    assert [(ring.size, ring.aromatic, ring.fused) for ring in naphthalene] == [(6, True, True)] * 2
    [quinone] = facts_of("O=C1C=CC(=O)C=C1").rings
    assert (quinone.aromatic, quinone.conjugated, quinone.saturated) == (False, True, False)
    spiro = facts_of("C1CCC2(C1)CCOC2").rings
    assert [(ring.fused, ring.joined) for ring in spiro] == [(False, True)] * 2
    assert sorted(ring.heterocyclic for ring in spiro) == [False, True]


MOLECULES = [
    "CC(=O)Oc1ccccc1C(=O)O",
    "CC(=O)Nc1ccc(O)cc1",
    "O=C1NC(=O)c2ccccc21",
    "CCO[N+](=O)[O-]",
    "CSCC(N)C(=O)OC",
    "N#Cc1ccncc1",
    "CC(C)(C)OC(=O)N1CCNCC1",
    "O=c1ccc2ccccc2o1",
    "CCCCCCCCCCCCC",
    "FC(F)(F)c1nnc(Cl)s1",
    "NC(=S)NN=Cc1ccco1",
    "C1CC2CCC1C2",
    "CCOP(=O)(OCC)OCC",
]


def patterns() -> list[tuple[str, Pattern, Pattern]]:
    """Return name, strict and loose pattern of every term that has them."""
    entries = [entry for found in load_lexicon().entries.values() for entry in found]
    terms = {id(entry.term): entry.term for entry in entries}.values()
    return [(t.name, t.strict, t.loose) for t in terms if t.strict and t.loose]


def test_every_pattern_is_understood() -> None:
    assert len(patterns()) > 200
    for name, strict, loose in patterns():
        assert all(query is not None for query in (*strict.queries, *loose.queries)), name


@pytest.mark.parametrize("smiles", MOLECULES)
def test_a_loose_pattern_finds_what_its_strict_one_finds(smiles: str) -> None:
    facts = facts_of(smiles)
    for name, strict, loose in patterns():
        assert bool(facts.count(loose)) >= bool(facts.count(strict)), name


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("nitro", "nitro"),
        ("carboxylic acids", "carboxylic acid"),
        ("phenyl ring", "benzene ring"),
        ("phenyl", "phenyl"),
        ("hydrogen bond donors", "hydrogen-bond donor"),
        ("trimethyl", "methyl"),
        ("trimethylsilyl", "trimethylsilyl"),
    ],
)
def test_the_longest_phrase_is_found(words: str, name: str) -> None:
    entry = load_lexicon().find(words.split(), 0)
    assert entry is not None
    assert entry.term.name == name


def test_no_plural_is_an_english_word() -> None:
    assert not {"is", "as", "os", "no"} & set(load_lexicon().entries)
