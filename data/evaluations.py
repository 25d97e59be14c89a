"""One evaluation of an adapter: its answers on the test set and on trained molecules, in a file.

Metrics are derived from the answers whenever they are needed; the file holds the answers alone.
"""

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet

from selfstudy_engine.data.files import write_atomic

NUM_RESAMPLES = 2000
"""Bootstrap resamples behind an interval."""
_CONFIDENCE = 0.95
Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Evaluated:
    """One greedy answer to one molecule."""

    split: str
    """"test", or "train" for a molecule whose accepted sample was trained on."""
    molecule_id: str
    name: str
    smiles: str
    measured: float
    predicted: float | None
    """In the property's unit; None where the model gave no well-formed value."""
    reason: str
    completion: str


@dataclass(frozen=True, slots=True)
class Interval:
    """An estimate with its bootstrap 95% interval."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Metrics:
    """How good the answers on one split are; errors in the property's unit."""

    num_molecules: int
    answered: float
    """Fraction with a well-formed value; the others count as the training median."""
    mae: Interval
    rmse: Interval
    mse: float
    median_error: float
    r2: float | None
    """None where all measured values are the same."""
    within_tolerance: float


def save_evaluation(path: Path, answers: list[Evaluated]) -> None:
    """Write the answers, atomically."""
    sink = pa.BufferOutputStream()
    schema = pa.schema(
        [
            (name, pa.float64() if name in ("measured", "predicted") else pa.string())
            for name in Evaluated.__dataclass_fields__
        ]
    )
    table = pa.Table.from_pylist([asdict(answer) for answer in answers], schema=schema)
    pa.parquet.write_table(table, sink, compression="zstd")
    write_atomic(path, sink.getvalue().to_pybytes())


def load_evaluation(path: Path) -> list[Evaluated]:
    """Read the answers back."""
    return [Evaluated(**row) for row in pa.parquet.read_table(path).to_pylist()]


def errors_of(answers: list[Evaluated], split: str, fallback: float) -> Floats:
    """Return predicted - measured of one split, by molecule id.

    Args:
        answers: of one evaluation.
        split: "test" or "train".
        fallback: prediction where there is none: the training median.
    """
    chosen = sorted((a for a in answers if a.split == split), key=lambda a: a.molecule_id)
    return np.array(
        [(fallback if a.predicted is None else a.predicted) - a.measured for a in chosen]
    )


def compute_metrics(
    answers: list[Evaluated], split: str, fallback: float, tolerance: float
) -> Metrics | None:
    """Return the metrics of one split, or None where it is empty."""
    errors = errors_of(answers, split, fallback)
    if not len(errors):
        return None
    chosen = [a for a in answers if a.split == split]
    measured = np.array([a.measured for a in chosen])
    absolute, squared = np.abs(errors), errors**2
    spread = float(((measured - measured.mean()) ** 2).sum())
    mse = bootstrap(squared)
    return Metrics(
        num_molecules=len(errors),
        answered=sum(a.predicted is not None for a in chosen) / len(chosen),
        mae=bootstrap(absolute),
        rmse=Interval(mse.value**0.5, mse.low**0.5, mse.high**0.5),
        mse=mse.value,
        median_error=float(np.median(absolute)),
        r2=1 - float(squared.sum()) / spread if spread else None,
        within_tolerance=float((absolute <= tolerance).mean()),
    )


def paired_difference(before: list[Evaluated], after: list[Evaluated], fallback: float) -> Interval:
    """Return the mean change of the test set's absolute error, resampled by molecule.

    Negative is better; an interval without 0 is a change that the test set can tell from noise.

    Raises:
        ValueError: the two evaluations are of different molecules.
    """
    ids = [{a.molecule_id for a in answers if a.split == "test"} for answers in (before, after)]
    if ids[0] != ids[1]:
        raise ValueError("the two evaluations are of different test molecules")
    old, new = (np.abs(errors_of(answers, "test", fallback)) for answers in (before, after))
    return bootstrap(new - old)


def bootstrap(values: Floats, seed: int = 0) -> Interval:
    """Return the mean and its percentile bootstrap interval (Efron & Tibshirani 1993, ch. 13)."""
    generator = np.random.default_rng(seed)
    picks = generator.integers(0, len(values), size=(NUM_RESAMPLES, len(values)))
    means = values[picks].mean(axis=1)
    tail = (1 - _CONFIDENCE) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return Interval(float(values.mean()), float(low), float(high))
