"""What is masked in a reason, and what isn't."""

import pytest

from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.masking import mask_reason
from selfstudy_engine.engine.told_values import mask_value, tells_value

MELTING_POINT = find_property("melting_point")
VANILLIN = Molecule("MWOOGOJBHIARFG-UHFFFAOYSA-N", "vanillin", "COc1cc(C=O)ccc1O", 82.0)


@pytest.mark.parametrize(
    ("reason", "masked"),
    [
        ("Vanillin is flat.", "[name] is flat."),
        ("The vanillins, VANILLIN's ring", "The [name], [name] ring"),
        ("Ethylvanillin and vanillinate stay.", "Ethylvanillin and vanillinate stay."),
        ("COc1cc(C=O)ccc1O has a ring.", "[SMILES] has a ring."),
        ("The SMILES (O=Cc1ccc(O)c(OC)c1) shows it.", "The SMILES ([SMILES]) shows it."),
        ("Ends in C=O; has c1ccccc1.", "Ends in C=O; has c1ccccc1."),
        ("It is COc1cc(C=O)ccc1O.", "It is [SMILES]."),
        ("One ring: [vanillin] at 82 °C", "One ring: [[name]] at [value]"),
        ("Nothing of it.", "Nothing of it."),
        ("", ""),
    ],
)
def test_name_and_smiles_are_masked(reason: str, masked: str) -> None:
    assert mask_reason(reason, VANILLIN, MELTING_POINT) == masked


@pytest.mark.parametrize(
    ("name", "reason", "masked"),
    [
        ("acetic acid", "Acetic  acid and acetic-acid", "[name] and [name]"),
        ("2-butanethiol", "2‑Butanethiol, a thiol", "[name], a thiol"),
        ("N,N'-di(x)ene [1+]", "N,N'-di(x)ene [1+] is odd", "[name] is odd"),
        ("Im", "Im ring", "Im ring"),
        ("", "A ring", "A ring"),
    ],
)
def test_names_of_every_form(name: str, reason: str, masked: str) -> None:
    molecule = Molecule("K", name, "CC(=O)O", 400.0)
    assert mask_reason(reason, molecule, MELTING_POINT) == masked


@pytest.mark.parametrize(
    "text",
    [
        "82 °C",
        "82°C",
        "82.0 °C",
        "about 82",
        "82 degrees",
        "82 degrees Celsius",
        "85 degrees C",
        "180 degrees Fahrenheit",
        "355 degrees Kelvin",
        "75 to 180 degrees F",
        "82 C",
        "355 K",
        "179.6 °F",
        "80-85 °C",
        "80 to 85 °C",
        "near 60 °C",
        "= 82 °C",
        "+82",
        "(82)",
        "82.",
        "100 °C",
        "eighty-two degrees Celsius",
        "about eighty degrees",
        "a hundred degrees",
        "One hundred and five °C",
        "between twenty and ninety degrees",
        "three hundred fifty-five kelvin",
    ],
)
def test_a_number_that_tells_the_value_is_masked(text: str) -> None:
    assert tells_value(f"So {text}", 82.0, MELTING_POINT)
    assert "82" not in mask_value(f"So {text}", 82.0, MELTING_POINT)


@pytest.mark.parametrize(
    "text",
    [
        "300 °C",
        "20 °C",
        "82-membered",
        "4,82-dimethyl",
        "182 atoms",
        "820",
        "82.5",
        "C82 and x82",
        "80 atoms",
        "83 C",
        "82 degrees Fahrenheit",
        "82 kelvin",
        "200 K",
        "-82 °C",
        "two hundred degrees",
        "minus eighty-two degrees",
        "eighty-two degrees below zero",
        "eighty-two degrees Fahrenheit",
        "eighty-two C atoms",
        "eighty-two",
        "",
    ],
)
def test_another_number_stays(text: str) -> None:
    assert mask_value(f"So {text}", 82.0, MELTING_POINT) == f"So {text}"


@pytest.mark.parametrize("text", ["-34 °C", "\u221234 °C", "\u201334", "239 K", "-33.9 °C"])
def test_signs_are_read(text: str) -> None:
    assert mask_value(f"so {text}", -33.9, MELTING_POINT) == "so [value]"


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("minus 114 °C", "[value]"),
        ("negative 114 degrees", "[value]"),
        ("minus 110 to minus 120 °C", "[value] to [value]"),
        ("minus 114", "[value]"),
        ("114 degrees below zero", "[value] below zero"),
        ("110 to 118 °C below 0", "[value] to [value] below 0"),
        ("114 below zero", "[value] below zero"),
        ("-114,1 °C", "[value]"),
        ("-113,5 to -114,5 °C", "[value] to [value]"),
        ("159,1 K", "[value]"),
        ("- 114 °C", "- [value]"),
        ("\u2212 114.0 °C", "\u2212 [value]"),
        ("- 110 \u00b1 5 °C", "- [value] \u00b1 5 °C"),
        ("ring - 114 atoms", "ring - 114 atoms"),
        ("114 °C", "114 °C"),
        ("minus 14 °C", "minus 14 °C"),
        ("-1,141 °C", "-1,141 °C"),
        ("114 °C below 0.5", "114 °C below 0.5"),
        ("nominus 114 °C", "nominus 114 °C"),
    ],
)
def test_negative_values_in_words_and_decimal_commas(text: str, masked: str) -> None:
    assert mask_value(f"so {text}", -114.1, MELTING_POINT) == f"so {masked}"


def test_a_comma_may_stand_between_thousands_or_locants() -> None:
    assert mask_value("1,234 °C", 1234.0, MELTING_POINT) == "[value]"
    assert mask_value("at 2,4 and 12,5", 12.5, MELTING_POINT) == "at 2,4 and 12,5"
    assert mask_value("12,5 °C", 12.5, MELTING_POINT) == "[value]"


def test_a_value_may_have_an_uncertainty() -> None:
    assert mask_value("82 ± 2 °C or 82 +/- 2 K", 83, MELTING_POINT) == (
        "[value] ± 2 °C or 82 +/- 2 K"
    )


def test_a_count_is_no_value() -> None:
    assert mask_value("2 rings and 6 C atoms", 2.0, MELTING_POINT) == "2 rings and 6 C atoms"
    assert mask_value("2 rings, 2 °C", 2.0, MELTING_POINT) == "2 rings, [value]"
    assert mask_value("12 carbons", 12.0, MELTING_POINT) == "[value] carbons"


def test_other_properties_have_their_own_unit_and_tolerance() -> None:
    solubility = Property(name="solubility", unit="log(mol/L)", tolerance=0.5, decimals=2)
    said = "about -3.1 log(mol/L), not -5 log(mol/L) and not 3 °C"
    assert mask_value(said, -3.0, solubility) == "about [value], not -5 log(mol/L) and not 3 °C"
    kelvin = Property(name="boiling point", unit="K", tolerance=10)
    assert mask_value("350 K or 80 °C or 20 °C", 353.0, kelvin) == "[value] or [value] or 20 °C"
    assert mask_value("80 degrees Celsius or 353 degrees", 353.0, kelvin) == "[value] or [value]"
    assert mask_value("353 degrees Celsius", 353.0, kelvin) == "353 degrees Celsius"


def test_what_is_masked_stays_masked() -> None:
    once = mask_reason("Vanillin, COc1cc(C=O)ccc1O, 82 °C.", VANILLIN, MELTING_POINT)
    assert once == "[name], [SMILES], [value]."
    assert mask_reason(once, VANILLIN, MELTING_POINT) == once
