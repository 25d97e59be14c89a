"""Canonical molecules and dropped rows out: as files, and as a line of figures."""

import csv
import io
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import pyarrow as pa
import pyarrow.csv

from selfstudy_engine.data.errors import counted
from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.parquet import to_parquet
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.splits import Split

SUFFIXES = (".csv", ".tsv", ".parquet")


def write_molecules(path: Path, molecules: Sequence[Molecule]) -> None:
    """Write molecule_id, name, smiles and value; `path` ends in one of SUFFIXES."""
    table = pa.Table.from_pylist([asdict(molecule) for molecule in molecules])
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        write_atomic(path, to_parquet(table))
        return
    sink = pa.BufferOutputStream()
    options = pa.csv.WriteOptions(delimiter="\t" if suffix == ".tsv" else ",")
    pa.csv.write_csv(table, sink, options)
    write_atomic(path, sink.getvalue().to_pybytes())


def write_dropped(path: Path, dropped: Mapping[str, Sequence[str]]) -> None:
    """Write a CSV of reason and row, a line for each dropped row."""
    text = io.StringIO()
    writer = csv.writer(text)
    writer.writerow(["reason", "row"])
    writer.writerows((reason, row) for reason, rows in dropped.items() for row in rows)
    write_atomic(path, text.getvalue().encode())


def describe_split(num_molecules: int, parts: Split) -> str:
    """Return how many of a table's molecules are in which part, as a sum."""
    pool, test, aside = (len(part) for part in (parts.pool, parts.test, parts.relatives))
    return (
        f"{pool} pool + {test} test + {aside} set aside (stereoisomers, salts or tautomers of test "
        f"molecules or exemplars) + {num_molecules - pool - test - aside} exemplars"
    )


def describe_values(values: Sequence[float], digits: int) -> str:
    """Return number, range, mean, deviation (both with so many digits) and quartiles.

    >>> describe_values([1.0, 2.0, 3.0, 4.0], 1)
    '4 values from 1 to 4, mean 2.5, SD 1.3, quartiles 1.75 / 2.5 / 3.25'
    """
    if len(values) < 2:
        return ", ".join([counted(len(values), "value"), *(f"{value:g}" for value in values)])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return (
        f"{counted(len(values), 'value')} from {min(values):g} to {max(values):g}, "
        f"mean {statistics.mean(values):.{digits}f}, SD {statistics.stdev(values):.{digits}f}, "
        f"quartiles {low:g} / {middle:g} / {high:g}"
    )
