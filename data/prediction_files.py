"""Columns of a user's table, with the columns of a prediction beside them, out as a file."""

import csv
import io
from collections import Counter
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import orjson
import pyarrow as pa
from rdkit import Chem

from selfstudy_engine.data.errors import UsageError, listed, shown
from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.parquet import to_parquet
from selfstudy_engine.data.rdkit_logs import quiet_rdkit
from selfstudy_engine.data.smiles import parse_smiles

_LIVE = tuple("=+-@\t\r\n")
"""What a cell begins with that a spreadsheet takes for a formula."""
SUFFIXES = (".csv", ".tsv", ".parquet", ".jsonl", ".sdf")


def check_columns(columns: Sequence[str], added: Sequence[str], path: Path) -> None:
    """Refuse a table whose columns are named alike, or as those that are added.

    Raises:
        UsageError: with the names.
    """
    alike = [name for name, count in Counter(columns).items() if count > 1]
    if alike:
        raise UsageError(
            f"table {path} has several columns of one name ({listed(list(map(shown, alike)))}), of "
            "which only one could be kept; rename all but one"
        )
    taken = sorted(set(columns) & set(added))
    if taken:
        raise UsageError(
            f"table {path} has columns that a prediction would write ({', '.join(taken)}); rename "
            "them, or predict from a copy without them"
        )


def write_rows(
    path: Path, rows: Sequence[dict[str, Any]], smiles_column: str, added: Collection[str]
) -> None:
    """Write rows as the file's suffix says: CSV, TSV, Parquet, JSON lines or SDF; atomically.

    In CSV and TSV, a text of the added columns that a spreadsheet would compute gets an apostrophe
    before it (OWASP, "CSV Injection"). The table's own cells are given back as they came.

    Args:
        path: ends in one of SUFFIXES.
        rows: at least one, all with the same keys.
        smiles_column: what an SDF record's structure is made from.
        added: columns that aren't the table's own; their texts may be a model's.
    """
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        content = to_parquet(pa.Table.from_pylist(list(rows)))
    elif suffix == ".jsonl":
        options = orjson.OPT_APPEND_NEWLINE | orjson.OPT_NON_STR_KEYS
        content = b"".join(orjson.dumps(row, default=str, option=options) for row in rows)
    elif suffix == ".sdf":
        content = _to_sdf(rows, smiles_column).encode()
    else:
        text = io.StringIO()
        delimiter = "\t" if suffix == ".tsv" else ","
        writer = csv.DictWriter(text, list(rows[0]), delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows(
            {key: _inert(cell) if key in added else cell for key, cell in row.items()}
            for row in rows
        )
        content = text.getvalue().encode()
    write_atomic(path, content)


def _inert(cell: Any) -> Any:
    live = isinstance(cell, str) and cell.startswith(_LIVE)
    return f"'{cell}" if live else cell


def _to_sdf(rows: Sequence[dict[str, Any]], smiles_column: str) -> str:
    """Return a record for each row; one without a readable structure has no atoms."""
    text = io.StringIO()
    with quiet_rdkit(), Chem.SDWriter(text) as writer:
        for row in rows:
            mol = parse_smiles(str(row[smiles_column] or "").strip()) or Chem.Mol()
            for key, value in row.items():
                mol.SetProp(_one_line(key) or "unnamed", _one_line(value))
            if row.get("name"):
                mol.SetProp("_Name", _one_line(row["name"]))
            writer.write(mol)
    return text.getvalue()


def _one_line(cell: Any) -> str:
    """Return a cell as an SDF takes it: RDKit leaves out fields with an empty line."""
    return "" if cell is None else " ".join(str(cell).split())
