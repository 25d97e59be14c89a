"""The file that `accelerate config` writes, as far as it concerns us; accelerate reads it, too."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from selfstudy_engine.data.errors import UsageError, shown, shown_text

_REPLICATED = {"NO", "MULTI_CPU", "MULTI_GPU"}
_SPREAD = "FSDP"


@dataclass(frozen=True, slots=True)
class AccelerateConfig:
    """How processes are to train together."""

    spread: bool
    """Each process holds a part of the model (FSDP), not all of it (DDP)."""
    num_processes: int | None


def read_accelerate_config(path: Path) -> AccelerateConfig:
    """Read accelerate's file, and refuse what training can't do.

    Raises:
        UsageError: it can't be read, or asks for more than DDP or FSDP2 on one machine.
    """
    try:
        content = yaml.safe_load(path.read_text("utf-8"))
    except OSError as error:
        raise UsageError(
            f"can't read accelerate's config {path}: {error.strerror}; check --accelerate-config"
        ) from error
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise _refusal(path, f"isn't YAML ({shown_text(str(error))})") from error
    if not isinstance(content, dict):
        raise _refusal(path, f"is {shown(content)}, not a table")
    kind = content.get("distributed_type", "NO")
    if kind not in (*sorted(_REPLICATED), _SPREAD):
        raise _refusal(path, f"has distributed_type {shown(kind)}; training knows DDP and FSDP")
    version = _table(content.get("fsdp_config")).get("fsdp_version", 1)
    if kind == _SPREAD and version != 2:
        raise _refusal(path, f"has fsdp_version {shown(version)}; training knows 2")
    if content.get("num_machines", 1) != 1:
        raise _refusal(path, f"has num_machines {shown(content['num_machines'])}, but one trains")
    number = content.get("num_processes")
    if number is not None and (type(number) is not int or number < 1):
        raise _refusal(path, f"has num_processes {shown(number)}, which must be 1 or more")
    return AccelerateConfig(kind == _SPREAD, number)


def _table(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _refusal(path: Path, why: str) -> UsageError:
    return UsageError(
        f"accelerate's config {path} {why}; write it anew with `accelerate config --config_file "
        "FILE`"
    )
