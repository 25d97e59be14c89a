"""Adapter folders: PEFT's own files and a manifest that says what they are and how to know them.

A folder appears whole or not at all, and never changes after that.
"""

import hashlib
import json
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import orjson
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open

from selfstudy_engine.data.adapter_manifest import (
    LoraShape,
    Manifest,
    is_sealed,
    seal_manifest,
)
from selfstudy_engine.data.errors import AdapterError, shown, shown_text
from selfstudy_engine.data.files import publish_folder, sha256_of

MANIFEST = "manifest.json"
WEIGHTS = "adapter_model.safetensors"
PEFT_CONFIG = "adapter_config.json"
FORMAT = 1
NUM_PROBES = 3
MAX_PROBE_TOKENS = 96
"""At least one whole KV block, so that a stale prefix cache shows itself; no more than needed."""
NUM_CONTINUED = 4
"""Tokens by which the canary has a server continue a probe, and by which that falls short of the
text's end: there the value stands, of which two adapters think most differently."""
_HEAD_BYTES = 1 << 20
_PICKLES = frozenset([".bin", ".pt", ".pth", ".ckpt", ".pkl", ".pickle"])
"""Suffixes of files that run code when they are loaded."""


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
        (temporary / MANIFEST).write_bytes(orjson.dumps(seal_manifest(content), option=option))


def read_adapter(folder: Path) -> Adapter:
    """Read and verify an adapter folder: every file is there, and has the hash it was made with.

    Raises:
        AdapterError: it is missing, damaged, unsafe, or in a form that can't be served.
    """
    content = _read_json(folder / MANIFEST, "train one with `selfstudy-engine train`")
    if content.get("format") != FORMAT:
        raise AdapterError(
            f"adapter {folder} has format {shown(content.get('format'))}, this version reads "
            f"{FORMAT}"
        )
    if not is_sealed(content):
        raise _damaged(folder, MANIFEST, "its SHA-256 isn't the one that it states")
    try:
        manifest = Manifest.model_validate(content)
    except ValidationError as error:
        raise _damaged(folder, MANIFEST, _first(error)) from error
    _check_files(folder, manifest.files)
    config = _read_json(folder / PEFT_CONFIG, "it must be a PEFT adapter")
    shape = _lora_shape(folder, config)
    _check_weights(folder, shape.r)
    return Adapter(
        folder=folder,
        name=manifest.name,
        sha256=manifest.files[WEIGHTS],
        base_model=manifest.base_model,
        base_fingerprint=manifest.base_fingerprint,
        rank=shape.r,
        scaling=shape.scaling,
        canary=[Probe(**probe.model_dump()) for probe in manifest.canary],
        training=manifest.training,
    )


def _damaged(folder: Path, name: str, why: str) -> AdapterError:
    return AdapterError(
        f"adapter {folder}: {name} isn't what was published ({why}); restore it from a copy; "
        "without one, delete the folder: `loop` trains it again, unless its round is recorded"
    )


def _first(error: ValidationError) -> str:
    """Return the first thing that is wrong, as a message shows it."""
    problem = error.errors()[0]
    place = ".".join(map(str, problem["loc"]))
    return shown_text(f"{place}: {problem['msg']}")


def _check_files(folder: Path, hashes: Mapping[str, str]) -> None:
    there = {path.name: path for path in folder.iterdir()}
    for name, path in there.items():
        if path.is_symlink() or path.suffix.lower() in _PICKLES:
            raise AdapterError(
                f"adapter {folder}: file {shown(name)} is a link, or runs code when it is loaded; "
                "only safetensors in the folder itself are served: remove it"
            )
    for name in (*hashes, WEIGHTS, PEFT_CONFIG):
        if name not in there or not there[name].is_file():
            raise AdapterError(
                f"adapter {folder}: file {shown(name)} is missing or a link; restore it"
            )
        if sha256_of(there[name]) != hashes.get(name):
            raise _damaged(folder, shown_text(name), "its SHA-256 differs from the manifest's")


def _check_weights(folder: Path, rank: int) -> None:
    """Read the tensors' names and shapes, which takes no time, and nothing of theirs."""
    try:
        with safe_open(folder / WEIGHTS, framework="np") as file:
            shapes = {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as error:
        raise _damaged(folder, WEIGHTS, shown_text(str(error))) from error
    for name, shape in shapes.items():
        if ".lora_A." in name and shape[:1] != [rank]:
            raise AdapterError(
                f"adapter {folder}: tensor {shown(name)} has shape {shape}, not {rank} rows as its "
                f"{PEFT_CONFIG} says (r); export the adapter again with PEFT"
            )


def _read_json(path: Path, remedy: str) -> dict[str, Any]:
    try:
        content = orjson.loads(path.read_bytes())
    except OSError as error:
        raise AdapterError(f"can't read {path}: {error.strerror}; {remedy}") from error
    except orjson.JSONDecodeError as error:
        raise AdapterError(f"{path} isn't JSON ({shown_text(str(error))}); {remedy}") from error
    if not isinstance(content, dict):
        raise AdapterError(f"{path} isn't a JSON object; {remedy}")
    return content


def _lora_shape(folder: Path, config: dict[str, Any]) -> LoraShape:
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
            f"adapter {folder} can't be served: peft_type {shown(config.get('peft_type'))}"
            + (f" with {', '.join(used)}" if used else "")
            + "; only plain LoRA can be swapped"
        )
    try:
        return LoraShape.model_validate(config)
    except ValidationError as error:
        raise AdapterError(
            f"adapter {folder} can't be served: in its {PEFT_CONFIG}, {_first(error)}; train it "
            "with another rank or alpha"
        ) from error


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
