"""How fast this host multiplies matrices, and how much of that a token of training needs.

The two together are the tokens a second that no training here can exceed.
"""

import time
from collections import Counter
from collections.abc import Sequence

import torch
from torch.nn.functional import linear

from selfstudy_engine.train.examples import TokenSequence

_SECONDS_PER_SHAPE = 0.1
_TRIALS = 5


def matmul_gflops(model: torch.nn.Module, num_rows: int) -> float:
    """Measure x W^T for each shape of frozen linear layer that a model has, weighted by number.

    Args:
        model: with its adapter; its own weights are used. The output head is left out.
        num_rows: of x, as the tokens of a step.

    Returns:
        10^9 floating-point operations per second, of the best of several trials; under 1 s here.
    """
    head = _head(model)
    layers = {tuple(layer.weight.shape): layer for layer in _linear(model, trained=False)}
    counts = Counter(
        tuple(layer.weight.shape)
        for layer in _linear(model, trained=False)
        if layer.weight is not head
    )
    seconds = sum(
        count * _seconds_of_product(layers[shape].weight, num_rows)
        for shape, count in counts.items()
    )
    operations = sum(2 * count * num_rows * shape[0] * shape[1] for shape, count in counts.items())
    return operations / seconds / 1e9


@torch.no_grad()
def _seconds_of_product(weight: torch.Tensor, num_rows: int) -> float:
    x = torch.randn(num_rows, weight.shape[1], dtype=weight.dtype, device=weight.device)

    def seconds(times: int) -> float:
        started = time.perf_counter()
        for _ in range(times):
            linear(x, weight)
        if weight.device.type == "cuda":
            torch.cuda.synchronize(weight.device)
        return (time.perf_counter() - started) / times

    seconds(3)
    times = max(1, int(_SECONDS_PER_SHAPE / _TRIALS / seconds(3)))
    return min(seconds(times) for _ in range(_TRIALS))


def flops_per_token(model: torch.nn.Module, sequences: Sequence[TokenSequence]) -> float:
    """Count the operations that training a LoRA adapter needs for a token, on average.

    For each weight of a linear layer two forward and two for the gradient of its input; two more
    for its own gradient where it is trained (Kaplan et al. 2020, arXiv 2001.08361, section 2.1);
    the output head where an answer is predicted only. The products of attention (2% of the
    embedded model's at 70 tokens) and experts that aren't linear layers are left out.

    Args:
        model: with its adapter.
        sequences: what it is trained on.
    """
    head = _head(model)
    num_tokens = sum(map(len, sequences))
    num_predicted = sum(one.num_targets for one in sequences)
    operations = 0
    for layer in _linear(model, trained=False):
        is_head = layer.weight is head
        operations += 4 * layer.weight.numel() * (num_predicted if is_head else num_tokens)
    for layer in _linear(model, trained=True):
        operations += 6 * layer.weight.numel() * num_tokens
    return operations / num_tokens


def _linear(model: torch.nn.Module, *, trained: bool) -> list[torch.nn.Linear]:
    return [
        module
        for module in model.modules()
        if isinstance(module, torch.nn.Linear) and module.weight.requires_grad == trained
    ]


def _head(model: torch.nn.Module) -> torch.Tensor:
    """Return the output head's weight; PEFT's models pass the question on."""
    weight: torch.Tensor = model.get_output_embeddings().weight  # type: ignore[operator]
    return weight
