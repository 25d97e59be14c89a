"""A configuration as values: nested as in TOML, or flat by dotted keys; and what is wrong in it."""

import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from selfstudy_engine.data.errors import UsageError, shown, shown_text

_MOST_EXPLAINED = 5


def flatten(table: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested tables as one: "train.rank" for `rank` in the table `train`."""
    flat: dict[str, Any] = {}
    for key, value in table.items():
        if isinstance(value, Mapping):
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[prefix + key] = value
    return flat


def nest(flat: Mapping[str, Any], path: Path | None) -> dict[str, Any]:
    """Return the opposite of `flatten`; `path` is where the values are from, if from a file.

    Raises:
        UsageError: a key is a table and a value.
    """
    source = f" in {path}" if path else ""
    nested: dict[str, Any] = {}
    for key, value in flat.items():
        *sections, leaf = key.split(".")
        table = nested
        for section in sections:
            table = table.setdefault(section, {})
            if not isinstance(table, dict):
                raise UsageError(
                    f"config key {shown(section)}{source} must be a table, not {shown(table)}"
                )
        table[leaf] = value
    return nested


def read_toml(path: Path) -> dict[str, Any]:
    """Read a TOML file.

    Raises:
        UsageError: it isn't there, isn't text, or isn't TOML; the message has line and column.
    """
    try:
        tables = tomllib.loads(path.read_text("utf-8-sig"))  # as Notepad saves it
        flatten(tables)  # here, where a nesting that is too deep has a message
        return tables
    except OSError as error:
        raise UsageError(f"can't read config {path}: {error.strerror}; check the path") from error
    except ValueError as error:
        raise UsageError(f"config {path} isn't valid TOML: {shown_text(str(error))}") from error
    except RecursionError as error:
        raise UsageError(
            f"config {path} nests its tables too deeply; two levels are used"
        ) from error


def explain(error: ValidationError, known: Iterable[str], path: Path | None) -> str:
    """Say what is wrong with values out of a file, if any, in one line; `known` are all keys."""
    lines: list[str] = []
    # A default that is computed from values that are wrong is no problem of its own.
    problems = [item for item in error.errors() if item["type"] != "default_factory_not_called"]
    for item in problems[:_MOST_EXPLAINED]:
        key = ".".join(str(part) for part in item["loc"]) or "config"
        if item["type"] == "extra_forbidden":
            lines.append(f"{shown_text(key)}: unknown key{_suggestion(key, known)}")
        else:
            message = item["msg"].removeprefix("Value error, ")
            if item["type"] == "model_type":
                message = f"it is a table of settings, which are written below [{key}]"
            value = "" if isinstance(item["input"], dict) else f" (got {shown(item['input'])})"
            lines.append(f"{shown_text(key)}: {message}{value}")
    if len(problems) > _MOST_EXPLAINED:
        lines.append(f"and {len(problems) - _MOST_EXPLAINED} more")
    if any(line.endswith(": unknown key") for line in lines):
        lines.append("known keys: " + ", ".join(sorted(known)))
    source = f" in {path}" if path else ""
    return f"invalid configuration{source}: " + "; ".join(lines)


def _suggestion(key: str, known: Iterable[str]) -> str:
    import difflib

    near = [name for name in known if name.endswith(f".{key}")]  # as an option is called
    sections = {name.partition(".")[0] for name in known}
    near = near or difflib.get_close_matches(key, [*known, *sections], n=1)
    return f", did you mean {' or '.join(near)}?" if near else ""
