"""The same LoRA layers with fewer steps: y = x W^T + s (x A^T) B^T, and its gradients.

PEFT's own forward call builds the sum out of five operations, whose results autograd keeps or makes
again. Here the low-rank product is added in place into the frozen layer's result, forward and
backward, and no gradient of W is thought of.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft.tuners.lora import Linear as LoraLinear
from torch.nn.functional import linear


class LoraProduct(torch.autograd.Function):
    """x W^T + b + s (x A^T) B^T, for a frozen W and b.

    Shapes: x (..., in), W (out, in), b (out), A (rank, in), B (out, rank). A and B may be of a
    wider number format than x; they are cast to that of x, and get gradients of their own. Under
    autocast its format takes the place of x's, which a layer norm on a GPU has made float32.
    """

    @staticmethod
    def forward(  # noqa: PLR0917 - autograd passes no keywords
        ctx: Any,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        lora_a: torch.Tensor,
        lora_b: torch.Tensor,
        scaling: float,
    ) -> torch.Tensor:
        """Return shape (..., out), in the number format of x, or of autocast."""
        kind = x.device.type
        dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else x.dtype
        rows, weight = x.reshape(-1, x.shape[-1]).to(dtype), weight.to(dtype)
        cast_a, cast_b = lora_a.to(dtype), lora_b.to(dtype)
        low = rows @ cast_a.t()
        result = linear(rows, weight, bias).addmm_(low, cast_b.t(), alpha=scaling)
        ctx.save_for_backward(rows, weight, cast_a, cast_b, low)
        ctx.scaling, ctx.dtype, ctx.like_x = scaling, lora_a.dtype, (x.shape, x.dtype)
        return result.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> Any:
        """Return the gradients of x (if wanted), A and B."""
        rows, weight, cast_a, cast_b, low = ctx.saved_tensors
        gradient = gradients[0].reshape(-1, weight.shape[0])
        of_low = (gradient @ cast_b).mul_(ctx.scaling)
        of_a = (of_low.t() @ rows).to(ctx.dtype)
        of_b = (gradient.t() @ low).to(ctx.dtype).mul_(ctx.scaling)
        of_x = None
        if ctx.needs_input_grad[0]:
            shape, dtype = ctx.like_x
            of_x = (gradient @ weight).addmm_(of_low, cast_a).view(shape).to(dtype)
        return of_x, None, None, of_a, of_b, None


@contextmanager
def fast_lora(model: torch.nn.Module) -> Iterator[int]:
    """Let a PEFT model's plain LoRA layers compute `LoraProduct` while the context lasts.

    Layers with dropout or a variant (DoRA, ...), or on a base layer that isn't an ordinary linear
    one (quantised), keep PEFT's forward call.

    Yields:
        The number of layers that do.
    """
    layers = [layer for layer in model.modules() if _is_plain(layer)]
    for layer in layers:
        layer.forward = _product_of(layer)
    try:
        yield len(layers)
    finally:
        for layer in layers:
            del layer.forward  # the class's own shows again


def _is_plain(layer: torch.nn.Module) -> bool:
    if not isinstance(layer, LoraLinear) or len(layer.active_adapters) != 1:
        return False
    name = layer.active_adapters[0]
    return (
        type(layer.base_layer) is torch.nn.Linear
        and layer.base_layer.weight.is_floating_point()
        and not layer.base_layer.weight.requires_grad
        and isinstance(layer.lora_dropout[name], torch.nn.Identity)
        and not (layer.lora_variant or layer.merged or layer.disable_adapters)
        and not (layer.fan_in_fan_out or layer.lora_bias[name])
    )


def _product_of(layer: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    name = layer.active_adapters[0]
    base, scaling = layer.base_layer, layer.scaling[name]
    lora_a, lora_b = layer.lora_A[name].weight, layer.lora_B[name].weight

    def forward(x: torch.Tensor) -> torch.Tensor:
        result = LoraProduct.apply(  # type: ignore[no-untyped-call]
            x, base.weight, base.bias, lora_a, lora_b, scaling
        )
        return cast(torch.Tensor, result)

    return forward
