"""Claims of numbers: weights and formulas, and numbers that are rough."""

import pytest
from claim_truths import ASPIRIN, HEXANE, NITROTOLUENE, PARACETAMOL, truths

from selfstudy_engine.engine.claims import check_claims


@pytest.mark.parametrize(
    ("smiles", "claim", "truth"),
    [
        (NITROTOLUENE, "one or two nitro groups", "unverifiable"),
        (NITROTOLUENE, "at most two nitro groups", "unverifiable"),
        (NITROTOLUENE, "up to two nitro groups", "unverifiable"),
        (NITROTOLUENE, "about 8 carbons", "unverifiable"),
        (NITROTOLUENE, "approx. 8 carbons", "unverifiable"),
        (NITROTOLUENE, "6 to 8 carbons", "unverifiable"),
        (NITROTOLUENE, "five/eight carbons", "unverifiable"),
        (NITROTOLUENE, "between six and eight carbons", "unverifiable"),
        (NITROTOLUENE, "a flat form, due to two nitro groups", "false"),
        (NITROTOLUENE, "a ring and two nitro groups", "false"),
        (NITROTOLUENE, "seven carbons around one nitro group", "true"),
        (NITROTOLUENE, "at least two nitro groups", "false"),
    ],
)
def test_a_rough_number_is_not_judged(smiles: str, claim: str, truth: str) -> None:
    assert list(truths(f"It has {claim}.", smiles).values())[-1] == truth


@pytest.mark.parametrize(
    ("reason", "truth"),
    [
        ("The molecular weight is 151.2 g/mol.", "true"),
        ("Its molar mass of about 153 is small.", "true"),
        ("Its MW: 149", "true"),
        ("The molecular weight is 165 g/mol.", "false"),
        ("A molecular mass of 1510.", "false"),
        ("The molecular weight is over 300 g/mol.", "false"),
        ("The molecular weight is below 200.", "true"),
        ("An increase in molecular weight of 35.", "unverifiable"),
        ("The molecular formula C8H9NO2 is small.", "true"),
        ("The molecular formula is C₈H₉NO₂.", "true"),
        ("The chemical formula: CH3CONHC6H4OH", "true"),
        ("The molecular formula C8H10NO2", "false"),
        ("Empirical formula C8H9NO2", "true"),
    ],
)
def test_weight_and_formula(reason: str, truth: str) -> None:
    assert list(truths(reason, PARACETAMOL).values()) == [truth]


@pytest.mark.parametrize(
    "reason",
    [
        "Its molecular weight is 14 g/mol higher than that of benzene.",
        "A molecular weight 14 g/mol lower than benzene.",
        "A molar mass of 14 g mol-1 more than benzene.",
        "Its MW is 30 units above that of benzene.",
        "Its mass is 30 g/mol above that of benzene.",
        "Bromine (atomic mass 79.9 g/mol) raises dispersion.",
        "Atomic weight 79.9 g/mol.",
        "The heavy bromine atom (80 g/mol) raises dispersion.",
        "The mass of bromine is 80 g/mol, which raises dispersion.",
        "Bromine's mass (80 g/mol) raises dispersion.",
        "The molecular weight is 80 g/mol (one Br) higher than that of toluene.",
        "The parent benzoic acid has a molecular weight of 122 g/mol.",
        "Benzene (MW 78 g/mol) is flat.",
        "Benzene has a molecular weight of 78 g/mol.",
        "Benzene's molar mass is 78 g/mol.",
        "The mass of benzene is 78 g/mol.",
        "Benzene weighs 78 g/mol.",
        "The mass of the nitro group is 46 g/mol.",
        "Compared with xylene (molecular weight 106 g/mol), it is heavy.",
        "Unlike xylene, whose molecular weight is 106 g/mol, it is polar.",
        "Compounds with a molecular weight of 300 g/mol melt higher.",
        "A molecular weight of 100-200 g/mol is low.",
        "A molecular weight of 100 to 200 g/mol is low.",
    ],
)
def test_a_difference_or_an_atoms_weight_is_not_the_molecules(reason: str) -> None:
    weights = [claim for claim in check_claims(reason, PARACETAMOL) if claim.kind == "weight"]
    assert {claim.truth for claim in weights} <= {"unverifiable"}


@pytest.mark.parametrize(
    "reason",
    [
        "The molecular weight of 180.2 g/mol, higher than benzene's.",
        "The molecular weight (180.2 g/mol) more than explains it.",
        "A molecular weight of 180.2 g/mol.",
        "With ten atoms more, its mass is 180 g/mol.",
    ],
)
def test_a_weight_beside_a_comparison_is_judged(reason: str) -> None:
    assert list(truths(reason, ASPIRIN).values()) == ["true"]
    assert list(truths(reason, HEXANE).values()) == ["false"]


@pytest.mark.parametrize(
    ("reason", "smiles"),
    [
        ("Benzene, with the molecular formula C6H6, is flat.", PARACETAMOL),
        ("Toluene (molecular formula C7H8) is flat.", PARACETAMOL),
        ("The chemical formula C6H5OMe is short.", "COc1ccccc1"),
        ("The formula PhCH3 is short.", "Cc1ccccc1"),
    ],
)
def test_another_compounds_or_an_abbreviated_formula_is_not_judged(
    reason: str, smiles: str
) -> None:
    assert set(truths(reason, smiles).values()) <= {"unverifiable"}


@pytest.mark.parametrize("reason", ["MW > 00 g/mol", "A molecular weight over 00.", "MW 100 g/mol"])
def test_a_weight_of_zero_is_a_weight(reason: str) -> None:
    for smiles in ("CC", "*"):
        [claim] = check_claims(reason, smiles)
        assert claim.kind == "weight"


@pytest.mark.parametrize(
    "formula",
    [
        "C6H5-CH3", "CH3-CH2-OH", "C6H5CH=CH2", "C6H5-NO2", "C10H15N·HCl", "C10H15N · HCl",
        "C10H15N.HCl", "C6H5C≡CH", "(CH3)2CO", "CH3CH2-(CH2)4CH3", "C4H5N·xH2O",
    ],
)  # fmt: skip
def test_a_formula_is_not_cut_at_a_bond_a_dot_or_a_bracket(formula: str) -> None:
    assert truths(f"The molecular formula {formula} is small.", PARACETAMOL) == {}


@pytest.mark.parametrize(
    "end",
    [". It is flat.", ".", ", flat", " - flat", "; flat", ")", " • flat", "** flat", "\u2014It"],
)
def test_a_formula_ends_with_its_sentence(end: str) -> None:
    assert truths(f"The molecular formula C6H6{end}", "c1ccccc1") == {"C6H6": "true"}


def test_an_empirical_formula_is_a_ratio() -> None:
    assert list(truths("The empirical formula CH2O", "CC(=O)O").values()) == ["true"]
    assert list(truths("The molecular formula CH2O", "CC(=O)O").values()) == ["false"]
