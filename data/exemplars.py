"""Exemplars: molecules with a teacher's reason, read from JSON lines and written to them.

The ten that are shipped for each property were written for this project (Apache-2.0); their values
stand in the embedded tables, and those of solubilities in Delaney's (ESOL). The source molecule of
each exemplar is in neither pool nor test set.
"""

import codecs
from collections.abc import Iterable
from importlib import resources
from pathlib import Path

import orjson

from selfstudy_engine.data.errors import UsageError, shown
from selfstudy_engine.data.molecules import to_molecule
from selfstudy_engine.data.properties import Property, built_in_properties
from selfstudy_engine.data.schema import Exemplar

SHIPPED = "shipped"
_FIELDS = ("name", "smiles", "value", "reason")


def shipped_exemplars(prop: Property) -> list[Exemplar]:
    """Return the exemplars that are shipped for a property; none for one that isn't built in."""
    for key, known in built_in_properties().items():
        if (known.name, known.unit) == (prop.name, prop.unit):
            file = resources.files("selfstudy_engine.data").joinpath(f"exemplars_{key}.jsonl")
            return middle_first(_parse_lines(file.read_bytes(), SHIPPED))
    return []


def middle_first(exemplars: Iterable[Exemplar]) -> list[Exemplar]:
    """Return exemplars so that the first few, which prompts show, are spread over all values.

    The median first, then quartiles, then ever finer (van der Corput's sequence). By value, prompts
    would show the lowest.
    """
    ordered = sorted(exemplars, key=lambda exemplar: exemplar.molecule.value)
    bits = len(ordered).bit_length()
    reversed_bits = (int(f"{number:0{bits}b}"[::-1], 2) for number in range(1, 2**bits))
    ranks = dict.fromkeys(number * len(ordered) >> bits for number in reversed_bits)
    return [ordered[rank] for rank in ranks]


def load_exemplars(path: Path) -> list[Exemplar]:
    """Read exemplars from a JSONL file (name, smiles, value, reason).

    A further field "source" says who gave the reason; without it, that is the file. Where prompts
    show only some, these are the first.

    Args:
        path: values in the property's unit.

    Raises:
        UsageError: a line that isn't such an object; it is named by number.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"can't read exemplars {path}: {error.strerror}") from error
    return _parse_lines(content, path.name)


def _parse_lines(content: bytes, source: str) -> list[Exemplar]:
    content = content.removeprefix(codecs.BOM_UTF8)
    lines = [line for line in enumerate(content.splitlines(), start=1) if line[1].strip()]
    if not lines:
        raise UsageError(f"exemplars {source} has no line; give one JSON object per line")
    return [_parse(text, f"exemplars {source}, line {number}", source) for number, text in lines]


def _parse(line: bytes, where: str, source: str) -> Exemplar:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError as error:
        raise UsageError(f"{where}: isn't JSON ({error})") from error
    missing = [key for key in _FIELDS if not isinstance(record, dict) or key not in record]
    if missing:
        raise UsageError(f"{where}: has no {', '.join(missing)}; each line needs {_FIELDS}")
    value, reason = record["value"], record["reason"]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise UsageError(f"{where}: value {shown(value)} isn't a number")
    if not isinstance(reason, str) or not reason.strip():
        raise UsageError(f"{where}: reason is empty, or no text")
    name, given_source = record["name"] or "", record.get("source") or source
    if not isinstance(name, str) or not isinstance(given_source, str):
        raise UsageError(
            f"{where}: name {shown(name)} or source {shown(given_source)} isn't a text"
        )
    smiles = record["smiles"]
    molecule = to_molecule(smiles, name, float(value)) if isinstance(smiles, str) else None
    if molecule is None:
        raise UsageError(f"{where}: SMILES {shown(smiles)} can't be parsed")
    return Exemplar(molecule, " ".join(reason.split()), given_source)


def to_lines(exemplars: Iterable[Exemplar]) -> bytes:
    """Return the JSON lines that `load_exemplars` reads back."""
    return b"".join(
        orjson.dumps(
            {
                "name": exemplar.molecule.name,
                "smiles": exemplar.molecule.smiles,
                "value": exemplar.molecule.value,
                "reason": exemplar.reason,
                "source": exemplar.source,
            },
            option=orjson.OPT_APPEND_NEWLINE,
        )
        for exemplar in exemplars
    )
