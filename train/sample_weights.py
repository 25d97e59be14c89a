"""Values asked about and values accepted in, the weight of each accepted sample out.

A model is right where it guesses, around the commonest values, and what was accepted is what it
learns to guess from next. With these weights it learns from the values that it was asked about.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.metrics import Floats
from selfstudy_engine.data.schema import Sample
from selfstudy_engine.data.store import SampleStore

MOST = 4.0
"""Largest ratio of a band's shares that counts, and the inverse of the smallest: the one sample of
a band isn't worth thirty."""


@dataclass(frozen=True, slots=True)
class BandWeights:
    """A weight for each band of values; on average over the accepted samples it is 1."""

    edges: Floats
    """Shape (bands - 1,), ascending, in the property's unit; a value on an edge lies above it."""
    weights: Floats
    """Shape (bands,)."""

    def of(self, value: float) -> float:
        """Return the weight of a sample whose measured value this is."""
        return float(self.weights[np.searchsorted(self.edges, value, side="right")])


_NO_BANDS = BandWeights(np.empty(0), np.ones(1))


def balanced_weights(
    asked: Sequence[float], accepted: Sequence[float], num_bands: int
) -> BandWeights:
    """Weigh each band by its share of what was asked over its share of what was accepted.

    That is the inverse of how often an answer is accepted there (Horvitz and Thompson 1952).

    Args:
        asked: measured values of the molecules, each once.
        accepted: measured values of the accepted samples.
        num_bands: quantiles of `asked`.

    >>> weights = balanced_weights([0, 10, 20, 30], [0, 1, 2, 30], num_bands=2)
    >>> [round(weights.of(value), 2) for value in (5, 30)]
    [0.67, 2.0]
    """
    if not accepted:
        return _NO_BANDS
    edges = np.asarray(np.quantile(asked, np.arange(1, num_bands) / num_bands), dtype=np.float64)

    def counts(values: Sequence[float]) -> Floats:
        bands = np.searchsorted(edges, np.asarray(values, dtype=float), side="right")
        return np.bincount(bands, minlength=num_bands).astype(float)

    expected, found = counts(asked) / len(asked) * len(accepted), counts(accepted)
    ratios = np.divide(expected, found, out=np.ones(num_bands), where=found > 0)
    ratios = ratios.clip(1 / MOST, MOST)
    return BandWeights(edges, ratios / np.average(ratios, weights=found))


def sample_weights(
    store: SampleStore, before_round: int | None, config: RunConfig
) -> Callable[[Sample], float]:
    """Return what tells the weight of the loss on an accepted sample.

    Args:
        store: of the run.
        before_round: only samples of rounds before it are trained on; None means all.
        config: of the run.
    """
    train = config.train
    bands = _NO_BANDS
    if train.sample_weights == "balanced":
        asked, accepted = _values(store, before_round)
        bands = balanced_weights(asked, accepted, config.sampler.num_value_bands)

    def weight_of(sample: Sample) -> float:
        return bands.of(sample.measured) * (train.hinted_weight if sample.hinted else 1.0)

    return weight_of


def _values(store: SampleStore, before_round: int | None) -> tuple[list[float], list[float]]:
    """Return the measured values of the molecules that were asked about, and of what was accepted.

    A molecule counts once, however often it was asked about: else those that keep failing, which
    are asked again, would count for more. One that is no longer in the table doesn't count.
    """
    asked: dict[str, float] = {}
    accepted = []
    columns = ("molecule_id", "measured", "accepted", "rejections")
    for index in store.rounds():
        if before_round is not None and index >= before_round:
            break
        for molecule_id, measured, is_accepted, rejections in store.rows(index, *columns):
            if "withdrawn" not in rejections:
                asked[molecule_id] = measured
            if is_accepted:
                accepted.append(measured)
    return list(asked.values()), accepted
