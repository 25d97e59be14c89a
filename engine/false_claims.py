"""A run's molecules in, the check of what reasons claim about them out.

Values of named compounds are those that the run learns from. A test molecule is known by its name
alone: were what reasons say of its value sorted by truth, that value would be learned with them.
"""

from collections.abc import Iterable
from functools import cache, partial

from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.data.split_record import load_places, to_split
from selfstudy_engine.data.splits import Split
from selfstudy_engine.engine.claims import check_claims
from selfstudy_engine.engine.known_values import KnownValues
from selfstudy_engine.engine.reason_quality import CheckReason
from selfstudy_engine.engine.verify import HasFalseClaim


def claims_check(parts: Split, exemplars: Iterable[Exemplar], prop: Property) -> CheckReason:
    """Return the check of a run's reasons, with the values of the compounds that it may know."""
    learned = [*parts.pool, *(exemplar.molecule for exemplar in exemplars)]
    secret = [*parts.test, *parts.relatives]
    return partial(check_claims, known=KnownValues.from_molecules(learned, prop, secret))


def finds_false(check: CheckReason) -> HasFalseClaim:
    """Return whether a check finds anything false in a reason; another process can be sent it."""
    return partial(_has_false_claim, check)


def _has_false_claim(check: CheckReason, reason: str, molecule: Molecule) -> bool:
    return any(claim.truth == "false" for claim in check(reason, molecule))


def stored_claims_check(folder: RunFolder, prop: Property) -> HasFalseClaim:
    """Return the check of a run as it lies in its folder; read at the first question."""

    @cache
    def check() -> HasFalseClaim:
        places = load_places(folder.split) if folder.split.exists() else []
        exemplars = load_exemplars(folder.exemplars())
        return finds_false(claims_check(to_split(places), exemplars, prop))

    def has_false_claim(reason: str, molecule: Molecule) -> bool:
        return check()(reason, molecule)

    return has_false_claim
