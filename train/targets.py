"""Which layers of a base model get an adapter."""

from collections.abc import Iterator
from typing import Any

from torch import nn

from selfstudy_engine.data.errors import UsageError

ALL_LINEAR = "all-linear"


def lora_targets(model: Any, wanted: str | list[str]) -> list[str]:
    """Return the names of the text decoder's linear layers that get an adapter.

    Never the output head, nor what sees images. In a mixture of experts neither the experts nor
    what chooses among them: a server on a CPU can't give them adapters, and both ways to swap must
    serve the same model.

    Args:
        model: of transformers, for text generation.
        wanted: "all-linear", or last parts of layers' names ("q_proj").

    Raises:
        UsageError: there are none, or none of one that was asked for.
    """
    found = {name: name.rpartition(".")[2] for name in _linear_layers(model)}
    kinds = sorted(set(found.values()))
    if not kinds:
        raise UsageError(
            f"{type(model).__name__} has no linear layer that an adapter could be given; choose "
            "another base model with --model"
        )
    asked = kinds if wanted == ALL_LINEAR else [wanted] if isinstance(wanted, str) else wanted
    missing = sorted(set(asked) - set(kinds))
    if missing:
        raise UsageError(
            f"train.target_modules: {type(model).__name__} has no linear layers named "
            f"{', '.join(missing)}; it has {', '.join(kinds)}"
        )
    return [name for name, kind in found.items() if kind in asked]


def _linear_layers(model: Any) -> Iterator[str]:
    decoder = model.get_decoder()
    prefix = next(name for name, module in model.named_modules() if module is decoder)
    names = {name: module for name, module in decoder.named_modules() if name}
    # The block that holds the experts, with all that it holds.
    mixtures = {name.rpartition(".")[0] for name in names if name.endswith(".experts")}
    for name, module in names.items():
        if not _is_linear(module):
            continue
        if any(name.startswith(f"{mixture}.") for mixture in mixtures):
            continue
        yield f"{prefix}.{name}" if prefix else name


def _is_linear(module: nn.Module) -> bool:
    """Tell whether it is a linear layer, of torch or of a library for quantised weights."""
    return hasattr(module, "in_features") and hasattr(module, "out_features")
