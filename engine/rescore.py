"""A store of samples -> what another tolerance or parser would make of it; nothing is written.

Streams, so that memory doesn't grow with the store. It needs neither a server nor a model.
"""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from selfstudy_engine.data.properties import Property
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.verify import judge

_COLUMNS = ("completion", "finish_reason", "measured", "accepted", "rejections")


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


def rescore(store: SampleStore, prop: Property) -> RescoreResult:
    """Check every completion of a store again.

    Args:
        store: its damaged shards are set aside with a warning, as by every reader.
        prop: the property, with the tolerance to apply.

    Raises:
        StoreError: a shard can't be opened.
    """
    # Millions of samples take few different ways from verdict to verdict.
    ways: Counter[tuple[bool, tuple[str, ...], tuple[str, ...]]] = Counter()
    for text, finish_reason, measured, accepted, rejections in _rows(store):
        verdict = judge(text, finish_reason, measured, prop)
        ways[accepted, tuple(rejections), verdict.rejections] += 1
    return _count(ways)


def _rows(store: SampleStore) -> Iterator[tuple[Any, ...]]:
    for batch in store.batches(columns=_COLUMNS, whole=False):
        yield from zip(*(column.to_pylist() for column in batch.columns), strict=True)


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
