"""The things that travel through the loop, and their Arrow schema with units.

One class for each word of the vocabulary: tuples where the loop makes thousands of them a second.
`SAMPLE_SCHEMA` is what a store's shard holds.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple, Self

import pyarrow as pa

NO_ADAPTER = "base"
"""The adapter name of completions that the base model answered."""


@dataclass(frozen=True, slots=True)
class Molecule:
    """A row of the property table, canonical and checked."""

    molecule_id: str
    """InChIKey (27 characters); its first block (14) is the skeleton that splits go by."""
    name: str
    """Name as in the table; empty where it has none."""
    smiles: str
    """RDKit's canonical SMILES."""
    value: float
    """Measured value in the property's unit."""

    @property
    def skeleton(self) -> str:
        """InChIKey's first block: the connectivity without stereo, isotopes and charge layers."""
        return self.molecule_id.split("-")[0]


@dataclass(frozen=True, slots=True)
class Exemplar:
    """A molecule with a teacher's reason; always trained on, and shown in few-shot prompts."""

    molecule: Molecule
    reason: str
    source: str
    """Where the reason came from: "shipped", a file's name, or a teacher's model name."""


class Completion(NamedTuple):
    """One returned text of a model; a tuple, as the loop makes thousands of them a second."""

    text: str
    finish_reason: str
    """`stop` (ended by itself) or `length` (cut off at the token limit)."""
    num_prompt_tokens: int
    num_output_tokens: int
    """The request's output tokens divided by its n where the server counts them together."""

    @property
    def is_cut_off(self) -> bool:
        """Whether the token limit ended it."""
        return self.finish_reason == "length"


class Verdict(NamedTuple):
    """The outcome of checking one completion; `rejections` holds every reason why not.

    A tuple, as verdicts come from other processes by the thousand: a dataclass takes ten times as
    long to unpickle.
    """

    reason: str
    predicted: float | None
    """Parsed value in the property's unit; None where there is none."""
    error: float | None
    """predicted - measured, in the property's unit."""
    accepted: bool
    rejections: tuple[str, ...]
    """Findings that reject it; empty for an accepted one."""
    findings: tuple[str, ...]
    """Everything that was found wrong with it, rejecting or not: see `findings.py`."""
    tolerance: float
    """Largest error that was accepted, in the property's unit."""


class Sample(NamedTuple):
    """Prompt, completion, verdict and provenance: one row of the store, in its columns' order.

    (run, round, molecule_id, sample_index) is its key. A tuple, as the loop makes thousands of them
    a second: a frozen dataclass takes several times as long.
    """

    run: str
    round: int
    molecule_id: str
    sample_index: int
    """0 .. n-1 among the completions of this molecule in this round."""
    adapter: str
    """Name of the adapter that answered; see `NO_ADAPTER`."""
    adapter_sha256: str
    """Hash of that adapter's weights; empty for the base model."""
    name: str
    smiles: str
    measured: float
    """In the property's unit, as the table said at the time."""
    prompt: str
    completion: str
    finish_reason: str
    num_prompt_tokens: int
    num_output_tokens: int
    reason: str
    predicted: float | None
    error: float | None
    accepted: bool
    rejections: tuple[str, ...]
    created_at: float
    """Seconds since 1970 (UTC) when the completion arrived."""
    findings: tuple[str, ...] = ()
    """All findings; of a sample that was stored before they were kept, those that rejected it."""
    tolerance: float | None = None
    """By which it was judged, in the property's unit; None for one stored before it was kept."""
    hinted: bool = False
    """The reason was given in sight of the measured value; the value followed from prompt and
    reason alone. See `engine.rationalize`."""

    @property
    def key(self) -> tuple[str, int, str, int]:
        """What makes this sample one and the same, whatever its text."""
        return (self.run, self.round, self.molecule_id, self.sample_index)

    @classmethod
    def from_row(cls, row: dict[str, Any]) -> Self:
        """Rebuild a sample from a row; columns of later versions are left out."""
        known = {name: row[name] for name in cls._fields}
        lists = {key: tuple(row[key]) for key in ("rejections", "findings")}
        return cls(**(known | lists))


def _field(
    name: str, kind: pa.DataType, unit: str = "", nullable: bool = False
) -> "pa.Field[pa.DataType]":
    return pa.field(name, kind, nullable=nullable, metadata={"unit": unit} if unit else None)


SAMPLE_SCHEMA = pa.schema(
    [
        _field("run", pa.string()),
        _field("round", pa.int32()),
        _field("molecule_id", pa.string()),
        _field("sample_index", pa.int32()),
        _field("adapter", pa.string()),
        _field("adapter_sha256", pa.string()),
        _field("name", pa.string()),
        _field("smiles", pa.string()),
        _field("measured", pa.float64(), "property"),
        _field("prompt", pa.string()),
        _field("completion", pa.string()),
        _field("finish_reason", pa.string()),
        _field("num_prompt_tokens", pa.int32(), "tokens"),
        _field("num_output_tokens", pa.int32(), "tokens"),
        _field("reason", pa.string()),
        _field("predicted", pa.float64(), "property", nullable=True),
        _field("error", pa.float64(), "property", nullable=True),
        _field("accepted", pa.bool_()),
        _field("rejections", pa.list_(pa.field("item", pa.string(), nullable=False))),
        _field("created_at", pa.float64(), "s since 1970-01-01 UTC"),
        _field("findings", pa.list_(pa.field("item", pa.string(), nullable=False))),
        _field("tolerance", pa.float64(), "property", nullable=True),
        _field("hinted", pa.bool_()),
    ],
    metadata={"selfstudy_engine.format": "1"},
)


def to_table(samples: Sequence[Sample]) -> pa.Table:
    """Return samples as a table of `SAMPLE_SCHEMA`.

    Column by column: rows, as dictionaries, take three times as long.
    """
    values = zip(*samples, strict=True) if samples else repeat((), len(SAMPLE_SCHEMA))
    columns = [
        pa.array(column, field.type) for column, field in zip(values, SAMPLE_SCHEMA, strict=True)
    ]
    return pa.Table.from_arrays(columns, schema=SAMPLE_SCHEMA)


ADDED_COLUMNS: dict[str, str | bool | None] = {
    "findings": "rejections",
    "tolerance": None,
    "hinted": False,
}
"""Columns that older shards lack, and the column whose content stands for them; or the value that
does (None: nulls)."""
