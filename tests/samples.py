"""Things of the vocabulary made up for tests: each argument that matters is given by name."""

from pathlib import Path
from typing import Any

import numpy as np
import orjson
from safetensors.numpy import save

from selfstudy_engine.data.adapters import Probe, manifest_probes, publish_adapter
from selfstudy_engine.data.evaluations import Evaluated
from selfstudy_engine.data.exemplars import shipped_exemplars
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Molecule, Sample

SHIPPED = shipped_exemplars(find_property("melting_point"))
"""Ten exemplars of melting points."""
LORA: dict[str, Any] = {"peft_type": "LORA", "r": 16, "lora_alpha": 32, "bias": "none"}


def make_sample(molecule_id: str = "KEY-A-N", **changes: Any) -> Sample:
    """Return an accepted sample of round 0."""
    values: dict[str, Any] = {
        "run": "default",
        "round": 0,
        "molecule_id": molecule_id,
        "sample_index": 0,
        "adapter": "round-0000",
        "adapter_sha256": "ab" * 32,
        "name": "ethanol",
        "smiles": "CCO",
        "measured": -114.1,
        "prompt": "Name: ethanol\nSMILES: CCO\nReason:",
        "completion": " Small and polar.\nMelting point (°C): -110",
        "finish_reason": "stop",
        "num_prompt_tokens": 12,
        "num_output_tokens": 9,
        "reason": "Small and polar.",
        "predicted": -110.0,
        "error": 4.1,
        "accepted": True,
        "rejections": (),
        "created_at": 1.7e9,
    }
    return Sample(**(values | changes))


def make_rejected(molecule_id: str = "KEY-R-N", **changes: Any) -> Sample:
    """Return a sample without a value."""
    verdict = {"accepted": False, "rejections": ("no value",), "predicted": None, "error": None}
    return make_sample(molecule_id, **(verdict | changes))


def make_pool(size: int) -> list[Molecule]:
    """Return molecules of different skeletons with the values 0, 1, 2, ..."""
    return [
        Molecule(f"{index:014d}-UHFFFAOYSA-N", "", "C" * (index + 1), float(index))
        for index in range(size)
    ]


def make_evaluated(molecule_id: str, measured: float, predicted: float | None) -> Evaluated:
    """Return an answer to a molecule of the test set."""
    return Evaluated("test", molecule_id, "", "C", measured, predicted, "a reason", "text")


def write_adapter(folder: Path, config: dict[str, Any] | None = None, **manifest: Any) -> Path:
    """Publish a folder that looks like an adapter, with weights of nought."""
    probe = Probe([1, 2, 3], [-0.5, -0.25], [-1.5, -2.5], -0.125)
    content = {
        "name": folder.name,
        "base_model": "owner/model",
        "base_fingerprint": "hub:owner/model",
        "canary": manifest_probes([probe]),
        "training": {"num_samples": 3, "loss": 1.5},
    }
    with publish_adapter(folder, content | manifest) as temporary:
        peft = LORA | (config or {})
        rank = int(peft["r"]) if peft["r"] in range(1, 513) else 1
        factors = {"lora_A": np.zeros((rank, 2)), "lora_B": np.zeros((2, rank))}
        tensors = {f"layer.{name}.weight": factor for name, factor in factors.items()}
        (temporary / "adapter_model.safetensors").write_bytes(save(tensors))
        (temporary / "adapter_config.json").write_bytes(orjson.dumps(peft))
    return folder
