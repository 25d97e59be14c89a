"""One evaluation of an adapter: its answers on the test set and on trained molecules, in a file.

Metrics are derived from the answers whenever they are needed; the file holds the answers alone.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from selfstudy_engine.data.files import ON_DISK, Files
from selfstudy_engine.data.metrics import (
    ENOUGH_FOR_A_VERDICT,
    Change,
    Floats,
    Interval,
    Metrics,
    half_quartile_range,
    measure,
    measure_change,
)
from selfstudy_engine.data.rows import load_rows, save_rows


@dataclass(frozen=True, slots=True)
class Evaluated:
    """What an adapter answered about one molecule: one greedy answer, or the median of several."""

    split: str
    """"test", or "train" for a molecule whose accepted sample was trained on."""
    molecule_id: str
    name: str
    smiles: str
    measured: float
    predicted: float | None
    """In the property's unit; None where the model gave no well-formed value."""
    reason: str
    """Of several answers, that of the one nearest to their median; so is the completion."""
    completion: str
    values: tuple[float, ...] = ()
    """Of several answers, each well-formed value."""
    num_answers: int = 1
    """Answers that were asked for; 1 is the greedy one."""
    adapter_sha256: str = ""
    """Of the adapter's weights; empty for the base model, and in a loop's evaluation of earlier
    versions."""

    @property
    def spread(self) -> float | None:
        """Half the range between the values' quartiles; None with fewer than two values."""
        return half_quartile_range(self.values)


_TYPES = {
    "measured": pa.float64(),
    "predicted": pa.float64(),
    "values": pa.list_(pa.float64()),
    "num_answers": pa.int32(),
}
"""Columns that aren't text."""


def save_evaluation(path: Path, answers: list[Evaluated], files: Files = ON_DISK) -> None:
    """Write the answers, atomically."""
    names = Evaluated.__dataclass_fields__
    schema = pa.schema([(name, _TYPES.get(name, pa.string())) for name in names])
    save_rows(path, map(asdict, answers), schema, files)


def load_evaluation(path: Path, *, withdrawn: bool = False) -> list[Evaluated]:
    """Read the answers back; files of earlier versions have fewer columns.

    Args:
        path: of the file.
        withdrawn: with those about rows that the table has no more, whose `measured` is NaN.

    Raises:
        StoreError: it is damaged.
    """
    remedy = "restore it from a copy, or remove it: `loop` asks its adapter again, if that is there"
    answers = load_rows(path, _to_evaluated, remedy)
    return [answer for answer in answers if withdrawn or not math.isnan(answer.measured)]


def _to_evaluated(row: dict[str, Any]) -> Evaluated:
    return Evaluated(**(row | {"values": tuple(row.get("values") or ())}))


def errors_of(answers: Sequence[Evaluated], split: str, fallback: float) -> Floats:
    """Return predicted - measured of one split, by molecule id.

    Args:
        answers: of one evaluation.
        split: "test" or "train".
        fallback: prediction where there is none: the training median.
    """
    measured, predicted = _values(answers, split)
    return np.where(np.isnan(predicted), fallback, predicted) - measured


def commonest_value(answers: Sequence[Evaluated]) -> tuple[float, float] | None:
    """Return the value that test molecules are given most often, and how large a share of them.

    None where none got a value, or so few were asked about that two of them say nothing.
    """
    tested = [answer.predicted for answer in answers if answer.split == "test"]
    values = Counter(value for value in tested if value is not None)
    if not values or len(tested) < ENOUGH_FOR_A_VERDICT:
        return None
    value, count = values.most_common(1)[0]
    return value, count / len(tested)


def compute_metrics(
    answers: Sequence[Evaluated], split: str, fallback: float, tolerance: float
) -> Metrics | None:
    """Return the metrics of one split, or None where it is empty."""
    measured, predicted = _values(answers, split)
    return measure(measured, predicted, fallback, tolerance) if len(measured) else None


def paired_change(
    before: Sequence[Evaluated], after: Sequence[Evaluated], fallback: float, tolerance: float
) -> Change:
    """Return what changed on the test set, paired by molecule; see `measure_change`.

    Molecules of one evaluation alone, as of a row that was withdrawn for a while, don't count.

    Raises:
        ValueError: the two evaluations have no test molecule in common.
    """
    ids = [{a.molecule_id for a in answers if a.split == "test"} for answers in (before, after)]
    both = ids[0] & ids[1]
    if not both:
        raise ValueError("the two evaluations have no test molecule in common")
    old, new = (
        errors_of([a for a in answers if a.molecule_id in both], "test", fallback)
        for answers in (before, after)
    )
    return measure_change(old, new, tolerance)


def paired_difference(
    before: Sequence[Evaluated], after: Sequence[Evaluated], fallback: float
) -> Interval:
    """Return the change of the test set's MAE alone; see `paired_change`."""
    return paired_change(before, after, fallback, tolerance=0).mae


def _values(answers: Sequence[Evaluated], split: str) -> tuple[Floats, Floats]:
    """Return measured and predicted values by molecule id; NaN where none is predicted."""
    chosen = sorted((a for a in answers if a.split == split), key=lambda a: a.molecule_id)
    predicted = [math.nan if a.predicted is None else a.predicted for a in chosen]
    return np.array([a.measured for a in chosen]), np.array(predicted)
