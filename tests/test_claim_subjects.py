"""Claims: is it the molecule that is spoken of, or another compound?"""

import pytest
from claim_truths import ASPIRIN, HEXANE, truths

from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.claims import check_claims
from selfstudy_engine.engine.known_values import KnownValues


@pytest.mark.parametrize(
    "reason",
    [
        "Unlike phenacetin, which has an ether and a ring, it is flexible.",
        "It is flexible, unlike hydroquinone, which has two OH groups.",
        "Compared with phenol (mp 41 °C, one hydroxyl group), it is flexible.",
        "Compared to phenol (41 °C), whose hydroxyl group bonds, it is flexible.",
        "For comparison, p-dibromobenzene with two bromine atoms is flat.",
        "Alkanes with ten carbons melt higher.",
        "Phenol (41 °C) has a hydroxyl group.",
        "Phenol, its aromatic cousin, has a ring.",
        "In benzene, the ring is rigid.",
        "It lies between that of an ester and that of a carboxylic acid.",
        "Compare benzamide with its primary amide group.",
        "However, phenol has a hydroxyl group.",
        "In contrast, phenol has a hydroxyl group.",
        "Since phenol has a hydroxyl group, it melts higher.",
        "Phenol's one hydroxyl group is a donor.",
        "Compared to a nitro group, it's small.",
        "It melts higher than an ester.",
        "Unlike a ketone, it doesn't react.",
        "If it had a nitro group, it would melt higher.",
        "It may contain a nitro group.",
        "A nitro group would raise it.",
        "Replacing the nitro group changes all.",
        "An additional nitro group raises it.",
        "Another ketone would help.",
        "The basic unit is a benzene ring with a nitro group.",
        "The parent compound has a nitro group.",
        "It is a derivative of an ester with a ketone.",
        "Ethanol has a hydroxyl group.",
        "The nitro group of nitrobenzene is polar.",
        "Compounds with a nitro group melt high.",
        "Polar groups such as nitro groups are good.",
        "A nitro group raises the melting point.",
        "Each nitro group adds 20 °C.",
        "Nitro groups typically raise it.",
        "It isn't a ketone.",
        "Fluorenone (84 °C) has three rings.",
        "However, malonic acid (mp 135 °C) has two carboxyl groups.",
        "Histidine also has a carboxylic acid.",
        "2-Pyrrolidone itself has an N-H.",
        "Diphenyl disulfide has two sulfur atoms and melts at 61 °C.",
        "PABA carries a free carboxylic acid and melts at 188 °C.",
        "It loses water to give caprolactam, a seven-membered lactam.",
        "It comes from an anhydride, which has two carbonyls.",
        "The aldehyde of the open-chain form is masked.",
        "The enol form has an OH group.",
        "It hydrolyses to an alcohol and a carboxylic acid.",
        "Hydrolysis first gives an amide, then a carboxylic acid.",
        "It is hydrolysed in vivo to benzyl alcohol, containing an OH.",
        "Oxidation yields a disulfide.",
        "Loss of water gives a lactone, a five-membered ring.",
        "Condensation with an aldehyde gives an imine.",
        "A nitro group in para position would give 52 °C.",
        "It is easily reduced to an alcohol.",
        "Ring opening with an amine gives a product with an OH.",
        "It reacts with an alcohol to give a carbonate.",
        "It is made from an aldehyde and an amine.",
        "It is formed by condensation of an aldehyde with an amine.",
        "The tetrazole is a bioisostere of a carboxylic acid.",
        "It is related to chlorpromazine, which contains a sulfur.",
        "It is flexible. Theophylline keeps one N-H and a ring.",
        "It is flexible, whereas cimetidine contains an imidazole ring.",
        "It is flexible, and methyl orange carries a sulfonate.",
        "It lies above benzil (95 °C), which is a diketone with a ring.",
        "It is flexible. Styrene, the product of dehydrogenation, has a vinyl group.",
        "It is flexible. Xylose, a pentose with four hydroxyl groups, is its source.",
        "Phenol melts at 41 °C. It has one hydroxyl group.",
        "It differs from phenol and aniline. Those have a ring.",
        "Ring opening would produce tartronic acid, with a carboxylic acid.",
        "Nitration would introduce a nitro group.",
        "Birch reduction turns it into an enol ether.",
        "It gives amantadine, a primary amine.",
        "In contrast to procaine, an ester, it is flexible.",
        "Its esters are liquids.",
        "Its dimethyl ester melts at 10 °C.",
        "The ester has a low melting point.",
        "The O-methyl ether has a low melting point.",
        "Its disulfide, formed by air, is a solid.",
        "Its photoproduct quadricyclane has two cyclopropane rings.",
        "It trimerises to melamine with a triazine ring.",
        "The product contains an amide.",
        "The sodium salt has a carboxylate group.",
        "Protonated quinuclidine has an N-H donor.",
    ],
)
def test_what_is_not_said_of_the_molecule_is_never_false(reason: str) -> None:
    claims = check_claims(reason, HEXANE)
    assert claims
    assert {claim.truth for claim in claims} == {"unverifiable"}


def test_the_molecules_own_name_is_no_other_compound() -> None:
    reason = "Phenol has a hydroxyl group."
    assert truths(reason, "Oc1ccccc1", "phenol") == {"a hydroxyl group": "true"}
    assert truths(reason, "Oc1ccccc1C", "o-cresol") == {"a hydroxyl group": "unverifiable"}


def test_a_compound_that_shares_a_word_of_the_name_is_another() -> None:
    values = {"phthalic acid": 207.0, "phthalic anhydride": 131.0, "aniline": -6.0}
    known = KnownValues(values, find_property("melting_point"))
    anhydride = Molecule("", "phthalic anhydride", "O=C1OC(=O)c2ccccc21", 131.0)
    [claim] = check_claims("Phthalic acid has two carboxylic acids.", anhydride, known)
    assert claim.truth == "unverifiable"
    salt = Molecule("", "aniline hydrochloride", "Nc1ccccc1.Cl", 198.0)
    [claim] = check_claims("Aniline hydrochloride has an amino group.", salt, known)
    assert claim.truth == "true"


def test_a_reason_opens_with_its_molecule_by_any_name() -> None:
    reason = "Aspirin has an ester and an amide. Aspirin has one ring."
    found = truths(reason, ASPIRIN, "acetylsalicylic acid")
    assert found == {"an ester": "true", "an amide": "false", "one ring": "true"}
    reason = "Aspirin has an amide, so it melts at 135 °C."
    assert truths(reason, ASPIRIN, "acetylsalicylic acid") == {"an amide": "false"}
    reason = "N-Methylcaprolactam has no N-H. Caprolactam has one."
    assert truths(reason, "O=C1CCCCCN1", "caprolactam") == {"no N-H": "unverifiable"}


def test_a_part_of_a_salts_name_is_another_compound_by_itself() -> None:
    saccharin = "[Na+].O=C1[N-]S(=O)(=O)c2ccccc12"
    reason = "Saccharin itself has an N-H."
    assert truths(reason, saccharin, "saccharin sodium") == {"an N-H": "unverifiable"}


@pytest.mark.parametrize(
    "reason",
    [
        "It also has a ring.",
        "The molecule also has a ring.",
        "The compound (69 °C) has a ring.",
        "Hexane (69 °C) has a ring.",
        "Hexane itself has a ring.",
        "Hexane has a ring and melts low.",
        "It has a ring and melts at 69 °C.",
        "Molecule has a ring and melts at 69 °C.",
        "The compound contains a ring and melts at 69 °C.",
        "Each chain also has a ring.",
        "Its reduced symmetry is due to a ring.",
        "It is a liquid formed by a ring.",
        "Hexane is flexible. However, hexane has a ring.",
        "It is flexible, and symmetry is increased by a ring.",
        "Structure contains a ring.",
        "It has stronger dispersion, and the compound in question has a ring.",
        "It is symmetric, thus has a ring.",
        "It is a hydrocarbon. It has a ring.",
        "Its flexible chain has a ring.",
    ],
)
def test_a_value_or_also_makes_no_other_compound_of_the_molecule(reason: str) -> None:
    assert truths(reason, HEXANE, "hexane")["a ring"] == "false"
