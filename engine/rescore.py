"""A store of samples -> what another tolerance or parser would make of it; nothing is written.

Streams, so that memory doesn't grow with the store. It needs neither a server nor a model.
"""

from collections import Counter
from dataclasses import dataclass, replace

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.accepted_texts import AcceptedTexts
from selfstudy_engine.engine.verify import HasFalseClaim, Rules, compare, judge

_COLUMNS = (
    *("completion", "finish_reason", "molecule_id", "name", "smiles", "measured"),
    *("tolerance", "hinted", "reason", "accepted", "rejections", "findings"),
)


@dataclass(frozen=True, slots=True)
class ReasonChange:
    """How many samples one reason for rejection holds for."""

    before: int
    after: int
    gained: int
    """Samples that it holds for now and didn't before."""
    lost: int
    """Samples that it held for and doesn't any more."""


@dataclass(frozen=True, slots=True)
class RescoreResult:
    """Verdicts as stored against verdicts made anew, counted."""

    num_samples: int
    num_accepted_before: int
    num_accepted_after: int
    num_newly_accepted: int
    num_newly_rejected: int
    num_changed: int
    """Verdicts with another outcome or other reasons."""
    reasons: dict[str, ReasonChange]
    """By reason, in alphabetical order; those that never held are left out."""


def rescore(
    store: SampleStore,
    config: RunConfig,
    tolerance: float | None = None,
    has_false_claim: HasFalseClaim | None = None,
    *,
    claims_again: bool = False,
) -> RescoreResult:
    """Check every completion of a store again, in the order in which it was stored.

    What was accepted before a sample is what these rules accept. A claim that was found to be
    false stays so: the text and the molecule are the same.

    Args:
        store: its damaged shards are set aside with a warning, as by every reader.
        config: with the rules to apply.
        tolerance: to apply, in the property's unit; None takes the one that each sample was
            judged by.
        has_false_claim: checks the claims of reasons that are read otherwise than before.
        claims_again: check the claims of all reasons.

    Raises:
        StoreError: a shard can't be opened.
    """
    rules = Rules.of(config, tolerance, has_false_claim)
    seen = AcceptedTexts(config.verdict.similarity)
    # Millions of samples take few different ways from verdict to verdict.
    ways: Counter[tuple[bool, tuple[str, ...], tuple[str, ...]]] = Counter()
    for row in store.rows(None, *_COLUMNS):
        text, finish_reason, molecule_id, name, smiles, measured, judged_by, hinted, *stored = row
        reason, accepted, rejections, findings = stored
        limit = judged_by if tolerance is None and judged_by is not None else rules.tolerance
        applied = rules.for_stored(limit, findings, reason)
        if claims_again:
            applied = replace(rules, tolerance=limit)
        molecule = Molecule(molecule_id, name, smiles, measured)
        judged = judge(text, finish_reason, molecule, applied, hinted=hinted)
        now: tuple[str, ...] = compare(judged, molecule, applied, seen).rejections
        if "withdrawn" in findings:
            now = (*now, "withdrawn")
        if not now and judged.fingerprint:
            seen.add(molecule_id, judged.fingerprint)
        ways[accepted, tuple(rejections), now] += 1
    return _count(ways)


def _count(ways: Counter[tuple[bool, tuple[str, ...], tuple[str, ...]]]) -> RescoreResult:
    def total(*, before: bool | None = None, after: bool | None = None) -> int:
        return sum(
            count
            for (accepted, _, rejections), count in ways.items()
            if before in (None, accepted) and after in (None, not rejections)
        )

    names = sorted({name for _, old, new in ways for name in (*old, *new)})
    return RescoreResult(
        num_samples=ways.total(),
        num_accepted_before=total(before=True),
        num_accepted_after=total(after=True),
        num_newly_accepted=total(before=False, after=True),
        num_newly_rejected=total(before=True, after=False),
        num_changed=sum(
            count
            for (accepted, old, new), count in ways.items()
            if old != new or accepted is bool(new)
        ),
        reasons={name: _change(name, ways) for name in names},
    )


def _change(
    name: str, ways: Counter[tuple[bool, tuple[str, ...], tuple[str, ...]]]
) -> ReasonChange:
    counts: Counter[tuple[bool, bool]] = Counter()
    for (_, old, new), count in ways.items():
        counts[name in old, name in new] += count
    gained, lost, kept = counts[False, True], counts[True, False], counts[True, True]
    return ReasonChange(before=kept + lost, after=kept + gained, gained=gained, lost=lost)
