"""What a run works on: exemplars, the molecules to learn from, and those to be measured on."""

from dataclasses import dataclass
from pathlib import Path

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.config_sources import TableConfig
from selfstudy_engine.data.embedded import embedded_model, embedded_table
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.exemplars import load_exemplars, shipped_exemplars
from selfstudy_engine.data.molecules import Table, canonicalize
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.data.split_record import load_places, to_split
from selfstudy_engine.data.splits import Split, check_leaks, split
from selfstudy_engine.data.table_files import read_rows


@dataclass(frozen=True, slots=True)
class Task:
    """Table, split and exemplars of a run."""

    table: Table
    split: Split
    exemplars: list[Exemplar]


def load_table(config: RunConfig) -> Table:
    """Return the run's table: the user's, or the embedded one.

    Raises:
        TableError: it can't be used.
        UsageError: no table is given for a property that the embedded one doesn't have, or for the
            columns and rules that are named.
    """
    if config.table.path is None:
        _check_no_rules(config.table)
        return embedded_table(config.property)
    path = Path(config.table.path)
    rows = read_rows(path, config.table, config.property)
    return canonicalize(rows, config.property, config.table, str(path))


def _check_no_rules(table: TableConfig) -> None:
    """Refuse settings that would say nothing about the embedded table, which has its own rules."""
    default = TableConfig()
    for field in TableConfig.model_fields.keys() - {"path", "split", "test_size"}:
        value = getattr(table, field)
        if value != getattr(default, field):
            raise UsageError(
                f"table.{field} ({value!r}) is of a table of your own: name its file with --table, "
                f"or leave out --{field.replace('_', '-')}"
            )


def load_task(config: RunConfig, exemplars: list[Exemplar] | None = None) -> Task:
    """Read table and exemplars, and split.

    Args:
        config: of the run.
        exemplars: those of a run that began already; None reads those that the config names.

    Raises:
        UsageError: one of them can't be used; the message says what to change.
    """
    table = load_table(config)
    if exemplars is None:
        exemplars = configured_exemplars(config)
    shown = [exemplar.molecule for exemplar in exemplars]
    parts = _split(table, shown, config)
    check_leaks(parts.pool, parts.test, shown)
    return Task(table, parts, exemplars)


def split_of_run(folder: RunFolder, config: RunConfig) -> Split:
    """Return the split that a run began with, as it was when a loop last looked at the table.

    Raises:
        UsageError: an earlier version made the run and kept no split, and its table is gone.
    """
    if folder.split.exists():
        return to_split(load_places(folder.split))
    return load_task(config, load_exemplars(folder.exemplars())).split


def split_table(table: Table, config: RunConfig) -> tuple[Split, list[Exemplar]]:
    """Return how a table would be split, with the exemplars where the property has some.

    Raises:
        TableError: it is too small.
        UsageError: the exemplars that the config names can't be read.
    """
    named = config.teacher.exemplars is not None
    exemplars = configured_exemplars(config) if named else shipped_exemplars(config.property)
    return _split(table, [exemplar.molecule for exemplar in exemplars], config), exemplars


def _split(table: Table, exemplars: list[Molecule], config: RunConfig) -> Split:
    size, by = config.table.test_size, config.table.split
    return split(table.molecules, exemplars, size, config.seed, by)


def configured_exemplars(config: RunConfig) -> list[Exemplar]:
    """Return the exemplars of a file, or those that are shipped for the property.

    Raises:
        UsageError: they can't be read, one has a value that no answer may have, or none are
            shipped.
    """
    prop = config.property
    if config.teacher.exemplars is not None:
        exemplars = load_exemplars(Path(config.teacher.exemplars))
        for molecule in (exemplar.molecule for exemplar in exemplars):
            if not prop.minimum <= molecule.value <= prop.maximum:
                raise UsageError(
                    f"exemplars {config.teacher.exemplars}: {molecule.name or molecule.smiles} has "
                    f"a {prop.name} of {molecule.value:g} {prop.unit}, not {prop.minimum:g} to "
                    f"{prop.maximum:g}; correct it, or the property's minimum and maximum"
                )
        return exemplars
    shipped = shipped_exemplars(prop)
    if not shipped:
        raise UsageError(
            f"no exemplars are shipped for {prop.name} in {prop.unit}; "
            "pass --exemplars FILE or --teacher-url URL"
        )
    return shipped


def resolve_model(config: RunConfig) -> str:
    """Return the base model's folder or hub id.

    Raises:
        UsageError: a folder without configuration or weights, or no embedded model.
    """
    if config.model.path is None:
        return str(embedded_model())
    folder = Path(config.model.path)
    if folder.is_dir():
        for pattern, what in (("config.json", "config.json"), ("*.safetensors", "weights")):
            if not any(folder.glob(pattern)):
                raise UsageError(
                    f"model folder {folder} has no {what} ({pattern}); give a checkpoint in "
                    "transformers' format, or a hub id"
                )
    elif config.model.path.startswith(("/", ".", "~")) or config.model.path.count("/") != 1:
        raise UsageError(
            f"model {config.model.path!r} is neither a folder nor a hub id (owner/name)"
        )
    return config.model.path
