"""The tolerance of a round: the property's, or a quantile of the errors of the round before.

Read from the store: a round that has begun keeps the tolerance of its samples.
"""

import numpy as np

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.store import SampleStore


def tolerance_of_round(store: SampleStore, round_index: int, config: RunConfig) -> float:
    """Return the largest error that a round accepts, in the property's unit.

    Args:
        store: of the run; the rounds before `round_index` are complete.
        round_index: 0, 1, ...; round 0 takes the property's tolerance.
        config: of the run.
    """
    largest = config.property.tolerance
    if config.verdict.tolerance_rule == "fixed":
        return largest
    begun = stored_tolerance(store, round_index)
    if begun is not None:
        return begun
    errors = [
        abs(error)
        for hinted, error in store.rows(round_index - 1, "hinted", "error")
        if error is not None and not hinted
    ]
    if not errors:
        return largest
    quantile = float(np.quantile(errors, config.verdict.tolerance_quantile))
    return min(largest, max(quantile, config.verdict.min_tolerance))


def stored_tolerance(store: SampleStore, round_index: int) -> float | None:
    """Return the tolerance by which a round's samples were judged; None if that isn't known."""
    known = (value for (value,) in store.rows(round_index, "tolerance") if value is not None)
    return next(known, None)
