"""The resolved configuration of a run: defaults < a run that goes on < TOML < command line.

Every option has one home: a field of a section (`config_sources`, `config_rounds`,
`config_training`, `config_machines`) or of the run itself, with its default, its limits and (as
docstring) the text that the command line shows. The resolved configuration is written into the run
folder as run.toml, and the training process reads that file.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, Self

import tomli_w
from pydantic import Field, ValidationError, field_validator, model_validator

from selfstudy_engine.data.config_keys import explain, flatten, nest, read_toml
from selfstudy_engine.data.config_machines import DevicesConfig, ServerConfig
from selfstudy_engine.data.config_rounds import (
    GenerationConfig,
    RationalizeConfig,
    SamplerConfig,
    VerdictConfig,
)
from selfstudy_engine.data.config_section import Section
from selfstudy_engine.data.config_sources import ModelConfig, TableConfig, TeacherConfig
from selfstudy_engine.data.config_training import TrainConfig
from selfstudy_engine.data.errors import UsageError, shown
from selfstudy_engine.data.properties import Property, find_property
from selfstudy_engine.data.remote_address import RemoteAddress

_HOW_AND_WHERE: dict[str, Any] = {
    "server": True,
    "devices": True,
    "report": True,
    "track": True,
    "generation": {"concurrency", "request_timeout_seconds"},
    "train": {"timeout_seconds", "stall_seconds"},
    "teacher": {"concurrency", "timeout_seconds", "price_in", "price_out", "max_cost"},
}
"""What may differ between two calls of one run: how and where the server runs and is asked, where
rounds are shown, how long anything may take, and what a teacher may cost."""
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
Tracker = Literal["tensorboard", "wandb", "mlflow", "trackio"]
"""Names of accelerate's trackers."""


class RunConfig(Section):
    """Everything that decides what a run does."""

    name: str = "default"
    """Name of the run; its folder is RUNS/NAME."""
    rounds: int = Field(default=3, ge=1)
    """Rounds of generate, evaluate, train and swap."""
    seed: int = Field(default=0, ge=0, lt=2**32)
    """Seed of the split, the sampler and the training."""
    overlap: bool = False
    """Train the next adapter while its predecessor generates; pays on a second device."""
    gate: bool = False
    """Keep the last adapter answering where a new one is significantly worse on the test set, which
    then helps to choose: its error is a little too low. Below 20 molecules it can't tell."""
    property: Property = Field(default_factory=lambda: find_property("melting_point"))
    """What is predicted [default: melting_point]."""
    remote: str | None = None
    """S3 address, such as s3://bucket/runs, that keeps the run: its folder is a working copy then,
    and another machine can continue it."""
    report: Literal["round", "end", "off"] = "round"
    """When report.html is written: after each round and at the end, at the end alone, or never."""
    track: list[Tracker] = Field(default=[])
    """Where rounds are also shown: tensorboard, wandb, mlflow or trackio, through accelerate."""
    test_answers: int = Field(default=1, ge=1, le=128)
    """Answers behind each value of an evaluation: 1 is the greedy one; of several the median
    counts, as `predict` gives it, which costs as many times more and is less a matter of luck."""
    train_evaluation_size: int = Field(default=50, ge=0)
    """Trained-on molecules that are evaluated too. Their error is below the test set's already
    because each had an answer near its value; the report says what a constant gets on them."""
    table: TableConfig = TableConfig()
    model: ModelConfig = ModelConfig()
    teacher: TeacherConfig = TeacherConfig()
    generation: GenerationConfig = GenerationConfig()
    sampler: SamplerConfig = SamplerConfig()
    verdict: VerdictConfig = VerdictConfig()
    rationalize: RationalizeConfig = RationalizeConfig()
    train: TrainConfig = TrainConfig()
    server: ServerConfig = ServerConfig()
    devices: DevicesConfig = DevicesConfig()

    @field_validator("name")
    @classmethod
    def _name_is_a_folders(cls, name: str) -> str:
        if not _NAME.fullmatch(name):
            raise ValueError(
                "a run is named with letters, digits, '.', '_' and '-', the first of them a letter "
                "or digit"
            )
        return name

    @model_validator(mode="after")
    def _remote_is_an_address(self) -> Self:
        # Not a check of the field alone: its message would show the value, which may hold a key.
        if self.remote is not None:
            RemoteAddress.parse(self.remote)
        return self

    @model_validator(mode="after")
    def _hinted_share_is_a_molecule(self) -> Self:
        generation, hinted = self.generation, self.rationalize
        if hinted.enabled and hinted.fraction * generation.batch < generation.samples_per_molecule:
            least = generation.samples_per_molecule / generation.batch
            raise ValueError(
                f"rationalize.fraction ({hinted.fraction:g}) of a batch of {generation.batch} is "
                f"less than the {generation.samples_per_molecule} completions of one molecule; "
                f"give {least:.3g} or more"
            )
        return self

    def to_toml(self) -> str:
        """Write the configuration so that `load_config` reads the same one back."""
        return tomli_w.dumps(self.model_dump(exclude_none=True), multiline_strings=False)

    def differences(self, other: "RunConfig") -> list[str]:
        """Return "key: mine -> other's" for all that decides what the run computes.

        `rounds` may grow, and a run be moved to S3 or within it: what there is of it there is
        compared when it is opened.
        """
        free = _HOW_AND_WHERE | {"rounds": True, "remote": other.remote is not None}
        mine, theirs = (flatten(c.model_dump(exclude=free)) for c in (self, other))
        return [
            f"{key}: {mine.get(key)!r} -> {theirs.get(key)!r}"
            for key in sorted(mine.keys() | theirs.keys())
            if mine.get(key) != theirs.get(key)
        ]

    def kept(self) -> dict[str, Any]:
        """Return by dotted keys what a run that goes on has of itself; see `settle_config`.

        Its name is that of its folder, and an address in S3 is always given: a copy that was left
        on a machine isn't the run.
        """
        free = _HOW_AND_WHERE | {"name": True, "remote": True}
        return flatten(self.model_dump(exclude=free, exclude_none=True))


def load_config(path: Path | None, overrides: Mapping[str, Any] | None = None) -> RunConfig:
    """Resolve defaults < TOML at `path` < `overrides` (dotted keys, e.g. "generation.batch").

    A `property` that is a string names a built-in one.

    Raises:
        UsageError: an unknown key or a value outside its limits; each is named.
    """
    return settle_config(flatten(read_toml(path)) if path else {}, overrides or {}, path=path)


def settle_config(
    given: Mapping[str, Any],
    overrides: Mapping[str, Any],
    *,
    begun: RunConfig | None = None,
    path: Path | None = None,
) -> RunConfig:
    """Resolve defaults < a run that goes on < `given` < `overrides`, all by dotted keys.

    Args:
        given: by a file.
        overrides: of it.
        begun: of the run; what it keeps is in `RunConfig.kept`.
        path: of the file, for messages.

    Raises:
        UsageError: an unknown key or a value outside its limits; each is named.
    """
    tables, own = (begun.kept(), begun.property) if begun else ({}, None)
    for later in (given, overrides):
        tables = _lay_over(tables, later, own)
    if any(key.startswith("property.") for key in tables) and "property.name" not in tables:
        tables = _flat_property(find_property("melting_point")) | tables
    return _validate(tables, path)


def override(config: RunConfig, overrides: Mapping[str, Any]) -> RunConfig:
    """Return a configuration with some values (dotted keys) changed.

    Raises:
        UsageError: a value outside its limits.
    """
    tables = flatten(config.model_dump(exclude_none=True))
    return _validate(_lay_over(tables, overrides, config.property), None)


def _lay_over(
    tables: Mapping[str, Any], later: Mapping[str, Any], own: Property | None
) -> dict[str, Any]:
    """Return tables with later values; another property replaces the whole of the one before.

    The property that a configuration has already, `own`, is as it is there when it is named again.
    """
    later, named = dict(later), None
    if isinstance(later.get("property"), str):
        named = find_property(later.pop("property"))
    name = named.name if named else later.get("property.name")
    if name is None:
        return {**tables, **later}
    table = own if own and own.name == name else named
    others = {key: value for key, value in tables.items() if not key.startswith("property.")}
    return others | (_flat_property(table) if table else {}) | later


def _flat_property(prop: Property) -> dict[str, Any]:
    return {f"property.{key}": value for key, value in prop.model_dump(exclude_none=True).items()}


def _validate(tables: Mapping[str, Any], path: Path | None) -> RunConfig:
    source = f" in {path}" if path else ""
    try:
        config = RunConfig.model_validate(nest(tables, path))
    except ValidationError as error:
        raise UsageError(explain(error, flatten(RunConfig().model_dump()), path)) from error
    for key, value in flatten(config.model_dump()).items():
        if isinstance(value, int) and value >= 2**63:  # TOML's integers end there; none is below 0
            raise UsageError(
                f"invalid configuration{source}: {key}: {shown(value)} has over 64 bits"
            )
    return config
