"""The part of the swap that runs inside vLLM's worker processes: adapter + base -> served weights.

vLLM mixes `MergeWorker` into its worker class (--worker-extension-cls) and calls it through
/collective_rpc, on every tensor-parallel rank. Nothing of the merged model touches the disk, and
what an adapter changed is read from the base's own files again, never subtracted back. The rest of
the model, such as embeddings and experts, stays where it is.
"""

import logging
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
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


def block_of(tensor: str) -> str:
    """Return the part of the model that is loaded as one.

    vLLM fuses neighbours, such as the projections of one attention: one of them can't be loaded
    without the others.

    >>> block_of("model.layers.0.self_attn.q_proj.weight")
    'model.layers.0.self_attn'
    """
    return tensor.rsplit(".", 2)[0]


def merge(
    base: Iterable[tuple[str, torch.Tensor]],
    deltas: dict[str, tuple[torch.Tensor, torch.Tensor]],
    device: torch.device,
    *,
    blocks: Collection[str],
    rename: Callable[[str], str] = str,
) -> Iterator[tuple[str, torch.Tensor]]:
    """Yield the base tensors of some blocks; those that the adapter changes as W + B @ A, float32.

    vLLM's loader casts them to the served format and cuts them into this rank's shard, so that
    nothing is rounded twice and tensor parallelism needs no case of its own.

    Args:
        base: the checkpoint's tensors, under its own names.
        deltas: of `load_deltas`; keys are `rename`d names. Those that are used are taken out.
        device: where the sums are made.
        blocks: those that are yielded (see `block_of`), as `rename`d names.
        rename: what makes names of checkpoint and adapter comparable.
    """
    for name, weight in base:
        served_name = rename(name)
        if block_of(served_name) not in blocks:
            continue
        delta = deltas.pop(served_name, None)
        if delta is None:
            yield name, weight
            continue
        factor_b, factor_a = (factor.to(device) for factor in delta)
        # In place, in a copy: the memory that is moved is what a swap takes. In two steps, as torch
        # would widen on the CPU what goes to a GPU, and send twice the bytes.
        merged = weight.to(device).to(torch.float32, copy=True)
        yield name, merged.addmm_(factor_b, factor_a)


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

        Raises:
            AdapterError: the base has no tensor for one of the adapter's.
        """
        from vllm.model_executor.model_loader import get_model_loader

        loader: Any = get_model_loader(self.vllm_config.load_config)
        model = self.model_runner.get_model()
        rename = _renaming_of(model)
        sha256, deltas = "", {}
        if adapter_folder is not None:
            adapter = read_adapter(Path(adapter_folder))
            sha256 = adapter.sha256
            deltas = {rename(name): delta for name, delta in load_deltas(adapter).items()}
        # Also what adapters before this one changed: it must go back to the base's.
        changed = vars(self).setdefault("_changed_blocks", set())
        changed |= {block_of(name) for name in deltas}
        if changed:
            base = loader.get_all_weights(self.vllm_config.model_config, model)
            weights = merge(base, deltas, self.device, blocks=changed, rename=rename)
            with _partial_reload_expected():
                try:
                    self.reload_weights(weights_iterator=weights)
                except BaseException:
                    # vLLM would count what is half loaded as loaded at the next swap, and leave
                    # the rest of it unset. Loading nothing ends that; the next one loads it whole.
                    self.reload_weights(weights_iterator=())
                    raise
        if deltas:
            raise AdapterError(
                f"the base model has no tensor for {len(deltas)} of the adapter's "
                f"({min(deltas)}, ...); serve this adapter with --adapter-mode runtime"
            )
        return sha256


def _renaming_of(model: Any) -> Callable[[str], str]:
    """Return what turns names of a checkpoint and of transformers' modules into vLLM's.

    They differ where vLLM's class is laid out otherwise: Gemma 3's layers lie under
    `language_model.model` in checkpoints and under `model.language_model` in transformers.
    """
    mapper = getattr(model, "hf_to_vllm_mapper", None)
    if mapper is None:
        return str
    for method in ("get_rename_mapper", "get_unstacked_mapper"):  # before 0.29: the latter
        if hasattr(mapper, method):
            mapper = getattr(mapper, method)()
            break
    return lambda name: mapper._map_name(name) or name


@contextmanager
def _partial_reload_expected() -> Iterator[None]:
    """Keep vLLM from warning of each layer that isn't reloaded."""
    logger = logging.getLogger("vllm.model_executor.model_loader.reload")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
