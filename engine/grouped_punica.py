"""vLLM's LoRA metadata and layers on a CPU, with the products of `grouped_lora`.

vLLM makes one wrapper per worker, tells it each step which row belongs to which adapter, and calls
it from every layer. Whatever isn't overridden here is vLLM's own.
"""

import logging
from typing import Any

import torch
from vllm import _custom_ops as vllm_ops
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from selfstudy_engine.engine.grouped_lora import (
    FactorCache,
    Product,
    RowGroups,
    Stack,
    group_rows,
    torch_product,
)

# Below vLLM's own logger, whose lines the server's log shows.
logger = logging.getLogger("vllm.selfstudy_engine")
_PREPARED_SIZES = 32
"""Batch sizes that a product stays set up for, as for vLLM's own layers."""


def make_product(matrix: torch.Tensor) -> Product:
    """Return the product with a matrix, [in, out], in the way that vLLM multiplies by its own.

    In half precision torch sets up each small product anew, which takes longer than computing it.
    """
    if matrix.dtype == torch.float32 or not vllm_ops._supports_onednn:
        return torch_product(matrix)
    try:
        prepared = vllm_ops.create_onednn_mm(matrix, _PREPARED_SIZES)
    except RuntimeError:  # oneDNN has none in half precision without AVX-512; torch emulates it
        return torch_product(matrix)
    return lambda x: vllm_ops.onednn_mm(prepared, x, None)


class GroupedPunicaWrapper(PunicaWrapperCPU):  # type: ignore[misc]
    """vLLM's wrapper for a CPU, but for the copy of the weights that it gathers for each row."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._cache = FactorCache(make_product)
        self._tokens = self._requests = RowGroups(0, (), uniform=True)
        # Layers with such factors shrink and expand by calls of their own, which stay vLLM's.
        self._possible = not kwargs["lora_config"].fully_sharded_loras
        self.grouped = self.use_grouped(True)
        if self.grouped:
            logger.info("Runtime adapters take the grouped products of selfstudy-engine.")
        else:
            logger.warning("Fully sharded adapters take vLLM's own products.")

    def use_grouped(self, enabled: bool) -> bool:
        """Turn the grouped products on or vLLM's own; returns whether they are grouped now."""
        self.grouped = enabled and self._possible
        return self.grouped

    def update_metadata(self, *args: Any, **kwargs: Any) -> None:
        """Take in a step's rows; vLLM calls it when they have changed."""
        super().update_metadata(*args, **kwargs)
        self._tokens = group_rows(self.token_lora_indices)
        self._requests = group_rows(self.sampler_indices)

    def add_lora_linear(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: Stack,
        lora_b_stacked: Stack,
        scale: float,
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Add the adapters' products to a linear layer's output."""
        if self.grouped:
            stacks = (lora_a_stacked, lora_b_stacked)
            self._cache.add_products(y, x, stacks, self._tokens, scale)
        else:
            super().add_lora_linear(y, x, lora_a_stacked, lora_b_stacked, scale, *args, **kwargs)

    def add_lora_embedding(
        self, y: torch.Tensor, x: torch.Tensor, lora_b_stacked: torch.Tensor, **kwargs: Any
    ) -> None:
        """Add the adapters' products to embeddings; x are the rows that were looked up in A."""
        if self.grouped:
            self._cache.add_products(y, x, ((), (lora_b_stacked,)), self._tokens)
        else:
            super().add_lora_embedding(y, x, lora_b_stacked, **kwargs)

    def add_lora_logits(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        lora_a_stacked: torch.Tensor,
        lora_b_stacked: torch.Tensor,
        scale: float,
        **kwargs: Any,
    ) -> None:
        """Add the adapters' products to logits, of which there is a row per request."""
        if self.grouped:
            stacks = ((lora_a_stacked,), (lora_b_stacked,))
            self._cache.add_products(y, x, stacks, self._requests, scale)
        else:
            super().add_lora_logits(y, x, lora_a_stacked, lora_b_stacked, scale, **kwargs)
