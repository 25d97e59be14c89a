"""The part of the swap that runs inside vLLM's worker processes: adapter + base -> served weights.

vLLM mixes `MergeWorker` into its worker class (--worker-extension-cls) and calls it through
/collective_rpc, on every tensor-parallel rank. Nothing of the merged model touches the disk, and
the base is read from its own files each time, never subtracted back.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors.torch import load_file

from selfstudy_engine.data.adapters import WEIGHTS, Adapter, read_adapter
from selfstudy_engine.data.errors import AdapterError

if TYPE_CHECKING:
    from vllm.config import VllmConfig

_PEFT_PREFIX = "base_model.model."


def load_deltas(adapter: Adapter) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """Read an adapter's low-rank factors under the names of the base tensors that they change.

    Returns:
        name -> (B of shape [out, rank], scaled by the adapter's scaling; A of shape [rank, in]),
        float32, on the CPU.

    Raises:
        AdapterError: it holds tensors that aren't LoRA factors.
    """
    folder, scaling = adapter.folder, adapter.scaling
    tensors = load_file(folder / WEIGHTS)
    deltas = {}
    for key in sorted(tensors):
        twin = key.replace(".lora_A.", ".lora_B.")
        if key == twin:
            twin = key.replace(".lora_B.", ".lora_A.")
        if key == twin or twin not in tensors:
            raise AdapterError(
                f"adapter {folder}: tensor {key!r} can't be merged: it isn't one of a pair of "
                "lora_A and lora_B"
            )
        if ".lora_A." in key:
            module = key.removeprefix(_PEFT_PREFIX).partition(".lora_A.")[0]
            deltas[f"{module}.weight"] = (tensors[twin].float() * scaling, tensors[key].float())
    return deltas


def merge(
    base: Iterable[tuple[str, torch.Tensor]],
    deltas: dict[str, tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the base tensors, those that the adapter changes as W + B @ A in float32.

    vLLM's loader casts them to the served format and cuts them into this rank's shard, so that
    nothing is rounded twice and tensor parallelism needs no case of its own.

    Raises:
        AdapterError: at the end, if the base has no tensor for one of the adapter's.
    """
    left = dict(deltas)
    for name, weight in base:
        delta = left.pop(name, None)
        if delta is None:
            yield name, weight
            continue
        factor_b, factor_a = (factor.to(device) for factor in delta)
        yield name, torch.addmm(weight.to(device, torch.float32), factor_b, factor_a)
    if left:
        raise AdapterError(
            f"the base model has no tensor for {len(left)} of the adapter's ({min(left)}, ...); "
            "serve this adapter with --adapter-mode runtime"
        )


class MergeWorker:
    """Methods that vLLM's worker gains; `self` is that worker."""

    if TYPE_CHECKING:
        vllm_config: VllmConfig
        device: torch.device
        model_runner: Any

        def reload_weights(self, **kwargs: Any) -> None:
            """vLLM's own: load weights into the running model."""

    def serve_merged(self, adapter_folder: str | None) -> str:
        """Load base + adapter (None: the base alone) into the running model.

        The caller drains the server before and resets the prefix cache after.

        Returns:
            The adapter's SHA-256, empty for the base.
        """
        from vllm.model_executor.model_loader import get_model_loader

        loader: Any = get_model_loader(self.vllm_config.load_config)
        model = self.model_runner.get_model()
        weights = loader.get_all_weights(self.vllm_config.model_config, model)
        sha256 = ""
        if adapter_folder is not None:
            adapter = read_adapter(Path(adapter_folder))
            sha256 = adapter.sha256
            weights = merge(weights, load_deltas(adapter), self.device)
        self.reload_weights(weights_iterator=weights)
        return sha256
