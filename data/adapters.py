"""Adapter folders: PEFT's own files and a manifest that says what they are and how to know them.

A folder appears whole or not at all, and never changes after that.
"""

import hashlib
import json
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.errors import AdapterError
from selfstudy_engine.data.files import publish_folder, sha256_of

MANIFEST = "manifest.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
FORMAT = 1
NUM_PROBES = 3
MAX_PROBE_TOKENS = 96
"""At least one whole KV block, so that a stale prefix cache shows itself; no more than needed."""
_HEAD_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Probe:
    """One fixed prompt of the canary, and what the training process found for it.

    Log-probabilities are natural logarithms; those of a text start with its second token.
    """

    token_ids: list[int]
    adapter_logprobs: list[float]
    """Of each token of the text after the first, with the adapter: len(token_ids) - 1."""
    base_logprobs: list[float]
    """The same without the adapter."""
    next_logprob: float
    """Of the likeliest token after the text, with the adapter."""


@dataclass(frozen=True, slots=True)
class Adapter:
    """A verified adapter folder."""

    folder: Path
    name: str
    sha256: str
    """Of the weights file: what samples cite."""
    base_model: str
    base_fingerprint: str
    rank: int
    scaling: float
    """The product B @ A is multiplied by this: alpha / rank, or alpha / sqrt(rank) (rsLoRA)."""
    canary: list[Probe]
    training: dict[str, Any]
    """Figures of the training: num_samples, num_tokens, steps, loss, seconds."""


@contextmanager
def publish_adapter(folder: Path, manifest: dict[str, Any]) -> Iterator[Path]:
    """Yield a temporary folder for PEFT's files; on leaving, add the manifest and publish it.

    Args:
        folder: where the adapter appears; must not exist.
        manifest: name, base_model, base_fingerprint, canary, training; may still be filled in
            inside the block. Format and the files' hashes are added here.
    """
    with publish_folder(folder) as temporary:
        yield temporary
        files = {path.name: sha256_of(path) for path in sorted(temporary.iterdir())}
        content = {"format": FORMAT, **manifest, "files": files}
        option = orjson.OPT_INDENT_2
        (temporary / MANIFEST).write_bytes(orjson.dumps(content, option=option))


def read_adapter(folder: Path) -> Adapter:
    """Read and verify an adapter folder: every file is there, and has the hash it was made with.

    Raises:
        AdapterError: it is missing, damaged, or in a form that can't be served.
    """
    manifest = _read_json(folder / MANIFEST, "train one with `selfstudy-engine train`")
    if manifest.get("format") != FORMAT:
        raise AdapterError(
            f"adapter {folder} has format {manifest.get('format')!r}, this version reads {FORMAT}"
        )
    try:
        return _read_verified(folder, manifest)
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as error:
        if isinstance(error, AdapterError):
            raise
        raise AdapterError(
            f"adapter {folder} can't be read: its {MANIFEST} or {PEFT_CONFIG} lacks or garbles "
            f"{error}; restore it, or delete the folder to train it again"
        ) from error


def _read_verified(folder: Path, manifest: dict[str, Any]) -> Adapter:
    for name in {*manifest["files"], WEIGHTS, PEFT_CONFIG}:
        path = folder / name
        if Path(name).name != name or path.is_symlink() or not path.is_file():
            raise AdapterError(f"adapter {folder}: file {name!r} is missing or a link; restore it")
        if sha256_of(path) != manifest["files"][name]:
            raise AdapterError(
                f"adapter {folder}: {name} isn't what was published (its SHA-256 differs from the "
                "manifest's); restore it, or delete the folder to train it again"
            )
    config = _read_json(folder / PEFT_CONFIG, "it must be a PEFT adapter")
    rank, scaling = _lora_shape(folder, config)
    return Adapter(
        folder=folder,
        name=manifest["name"],
        sha256=manifest["files"][WEIGHTS],
        base_model=manifest["base_model"],
        base_fingerprint=manifest["base_fingerprint"],
        rank=rank,
        scaling=scaling,
        canary=[Probe(**probe) for probe in manifest["canary"]],
        training=dict(manifest["training"]),
    )


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise AdapterError(f"can't read {path}: {error.strerror}; {remedy}") from error
    except orjson.JSONDecodeError as error:
        raise AdapterError(f"{path} isn't JSON ({error}); {remedy}") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path} isn't a JSON object; {remedy}")
    return content


def _lora_shape(folder: Path, config: dict[str, Any]) -> tuple[int, float]:
    unsupported = {
        "use_dora": config.get("use_dora"),
        "bias": config.get("bias", "none") != "none",
        "modules_to_save": config.get("modules_to_save"),
        "rank_pattern": config.get("rank_pattern"),
        "alpha_pattern": config.get("alpha_pattern"),
        "fan_in_fan_out": config.get("fan_in_fan_out"),
    }
    used = [key for key, value in unsupported.items() if value]
    if config.get("peft_type") != "LORA" or used:
        raise AdapterError(
            f"adapter {folder} can't be served: peft_type {config.get('peft_type')!r}"
            + (f" with {', '.join(used)}" if used else "")
            + "; only plain LoRA can be swapped"
        )
    rank, alpha = int(config["r"]), float(config["lora_alpha"])
    return rank, alpha / (rank**0.5 if config.get("use_rslora") else rank)


def manifest_probes(canary: list[Probe]) -> list[dict[str, Any]]:
    """Return probes in the manifest's form."""
    return [asdict(probe) for probe in canary]


def base_fingerprint(model: str) -> str:
    """Return what tells two base models apart, of a folder or a hub id in the local cache.

    For a folder: SHA-256 over the configuration's shape and the head of each weights file, so that
    it takes no time for large models. For a hub id: the id itself.

    Raises:
        AdapterError: the folder holds no configuration or no safetensors weights.
    """
    folder = Path(model)
    if not folder.is_dir():
        return f"hub:{model}"
    digest = hashlib.sha256()
    shape = _read_json(folder / "config.json", "a model folder needs one; see --model")
    for key in ("architectures", "hidden_size", "num_hidden_layers", "vocab_size"):
        digest.update(json.dumps(shape.get(key)).encode())
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise AdapterError(f"model folder {folder} has no weights (*.safetensors)")
    for path in weights:
        with path.open("rb") as file:
            digest.update(struct.pack("<Q", path.stat().st_size) + file.read(_HEAD_BYTES))
    return digest.hexdigest()


def check_base(adapter: Adapter, model: str) -> None:
    """Refuse an adapter that was trained on another base model.

    Raises:
        AdapterError: naming both.
    """
    found = base_fingerprint(model)
    if adapter.base_fingerprint != found:
        raise AdapterError(
            f"adapter {adapter.folder} was trained on {adapter.base_model} "
            f"({adapter.base_fingerprint[:12]}), not on {model} ({found[:12]}); serve it with "
            f"--model {adapter.base_model}"
        )
