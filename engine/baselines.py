"""What methods without a language model make of the same labels: molecules in, predictions out.

Predictions are cached by what they were made from (labels, questions, versions), in the user's
cache: a round of a run is computed once, and shared by all runs of one split.
"""

import hashlib
import logging
import os
from collections.abc import Callable, Mapping, Sequence
from importlib.metadata import version
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet

from selfstudy_engine.data.embedded import cache_folder, read_cached
from selfstudy_engine.data.features import counts_and_descriptors, joback_counts, similarities
from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.metrics import Floats
from selfstudy_engine.data.parquet import to_parquet
from selfstudy_engine.data.schema import Molecule

NUM_TREES = 300
NUM_NEIGHBOURS = 5
MEDIAN = "training median"
NEIGHBOURS = "5 nearest neighbours"
JOBACK = "Joback groups, refitted"
FOREST = "random forest"
BOOSTING = "gradient boosting + extra trees"
_FORMAT = 3
"""Another number makes the cached predictions of earlier versions unknown."""
_MAX_FEATURES = 0.33
"""Share of the features that each split of a tree chooses from."""
_PENALTIES = (0.1, 1.0, 10.0, 100.0, 1000.0)
_SEED = 0
Fit = Callable[[Sequence[str], Floats, Sequence[str]], Floats]
logger = logging.getLogger(__name__)


def predict_baselines(
    labelled: Sequence[Molecule], asked: Sequence[Molecule], names: Sequence[str] | None = None
) -> dict[str, Floats]:
    """Return each baseline's predictions, computed or from the cache.

    Args:
        labelled: at least one molecule; their values are the labels.
        asked: what is predicted; their values are not used.
        names: of `BASELINES`; None means all.

    Returns:
        For each name an array of shape (len(asked),), in the labels' unit.
    """
    names = list(BASELINES if names is None else names)
    cached = cache_folder() / "baselines" / f"{_key(labelled, asked, names)}.parquet"
    table = read_cached(cached)
    if table is not None:
        return {name: table[name].to_numpy() for name in names}
    smiles = [molecule.smiles for molecule in labelled]
    values = np.array([molecule.value for molecule in labelled])
    questions = [molecule.smiles for molecule in asked]
    found = {name: BASELINES[name](smiles, values, questions) for name in names}
    try:
        cached.parent.mkdir(parents=True, exist_ok=True)
        columns = pa.table({name: pa.array(values) for name, values in found.items()})
        write_atomic(cached, to_parquet(columns))
    except OSError as error:
        logger.warning("baselines can't be cached in %s: %s", cached.parent, error.strerror)
    return found


def _key(labelled: Sequence[Molecule], asked: Sequence[Molecule], names: Sequence[str]) -> str:
    digest = hashlib.sha256()
    packages = [version(package) for package in ("scikit-learn", "rdkit", "numpy")]
    digest.update(f"{_FORMAT} {packages} {names}\n".encode())
    for molecule in labelled:
        digest.update(f"{molecule.smiles} {molecule.value!r}\n".encode())
    digest.update(b"\n")
    for molecule in asked:
        digest.update(f"{molecule.smiles}\n".encode())
    return digest.hexdigest()


def _median(smiles: Sequence[str], values: Floats, asked: Sequence[str]) -> Floats:
    del smiles
    return np.full(len(asked), np.median(values))


def _nearest(smiles: Sequence[str], values: Floats, asked: Sequence[str]) -> Floats:
    """Return the mean of the most similar labelled molecules, the earlier one where they tie."""
    order = np.argsort(-similarities(asked, smiles), axis=1, kind="stable")
    nearest: Floats = values[order[:, :NUM_NEIGHBOURS]]
    return np.asarray(nearest.mean(axis=1))


def _joback(smiles: Sequence[str], values: Floats, asked: Sequence[str]) -> Floats:
    """Fit what each group contributes, with the penalty that leaving one label out finds best.

    A sum goes on for ever; predictions stay within the labels, as those of the other methods do.
    """
    from sklearn.linear_model import RidgeCV

    if len(values) == 1:  # none can be left out
        return np.full(len(asked), values[0])
    model = RidgeCV(alphas=_PENALTIES).fit(joback_counts(smiles), values)
    return np.clip(_predicted(model, joback_counts(asked)), values.min(), values.max())


def _forest(smiles: Sequence[str], values: Floats, asked: Sequence[str]) -> Floats:
    from sklearn.ensemble import RandomForestRegressor

    model = RandomForestRegressor(
        NUM_TREES, max_features=_MAX_FEATURES, n_jobs=_num_cpus(), random_state=_SEED
    ).fit(counts_and_descriptors(smiles), values)
    return _predicted(model, counts_and_descriptors(asked))


def _boosting(smiles: Sequence[str], values: Floats, asked: Sequence[str]) -> Floats:
    """Return the mean of boosted trees and of extremely random ones."""
    from sklearn.ensemble import ExtraTreesRegressor, HistGradientBoostingRegressor
    from threadpoolctl import threadpool_limits

    features, questions = counts_and_descriptors(smiles), counts_and_descriptors(asked)
    # One thread: where something else computes, its threads wait for each other (100 x slower).
    with threadpool_limits(1, "openmp"):
        boosted = HistGradientBoostingRegressor(
            max_iter=NUM_TREES,
            learning_rate=0.06,
            max_bins=63,
            max_features=_MAX_FEATURES,
            random_state=_SEED,
        ).fit(features, values)
    random = ExtraTreesRegressor(
        NUM_TREES, max_features=_MAX_FEATURES, n_jobs=_num_cpus(), random_state=_SEED
    ).fit(features, values)
    return (_predicted(boosted, questions) + _predicted(random, questions)) / 2


BASELINES: Mapping[str, Fit] = {
    MEDIAN: _median,
    NEIGHBOURS: _nearest,
    JOBACK: _joback,
    FOREST: _forest,
    BOOSTING: _boosting,
}
"""By name: SMILES with shape-(n,) values and m SMILES in, shape-(m,) predictions out."""


def _predicted(model: Any, features: Any) -> Floats:
    return np.asarray(model.predict(features), dtype=np.float64)


def _num_cpus() -> int:
    return len(os.sched_getaffinity(0))
