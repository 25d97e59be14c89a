"""Attention over a packed row, one sequence at a time.

With a mask, the usual kernels compute the blocks between a row's sequences too, to throw them away.
Here the row's queries, keys and values are laid into lines, one for each sequence, padded on the
right: causal attention never looks there, so that no mask is needed. What sequences have in common
stands in the row once and in each of their lines.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, PreTrainedModel

from selfstudy_engine.train.packing import PackedRow

SUPPORTED = frozenset({"gemma", "llama", "mistral", "mixtral", "qwen2", "qwen3", "qwen3_moe"})
"""Families (model_type) whose attention is softmax(scale Q K^T) V under a causal mask; tested."""

_NAME = "selfstudy_rows"
_LONGEST_PRODUCTS = {torch.float32: 128, torch.bfloat16: 512, torch.float16: 512}
"""On a CPU two batched products beat torch's fused kernel up to that many tokens a sequence
(docs/decisions.md, "Attention of a packed row")."""


class RowLayout(NamedTuple):
    """The way from a packed row to lines of equal length, one for each sequence, and back."""

    to_lines: torch.Tensor
    """The row's token at each place of each line, shape (sequences, longest); a line that is
    shorter repeats its last token: any finite value will do."""
    to_row: torch.Tensor
    """Where in the flattened lines each token stands, shape (tokens,)."""


def row_layout_of(row: PackedRow) -> RowLayout:
    """Return a row's layout.

    Example:
        >>> from selfstudy_engine.train.examples import TokenSequence
        >>> from selfstudy_engine.train.packing import pack_row
        >>> row = pack_row([TokenSequence([7, 8, 1], 2), TokenSequence([7, 3], 1)])
        >>> layout = row_layout_of(row)
        >>> layout.to_lines.tolist(), layout.to_row.tolist()
        ([[0, 1, 2], [0, 3, 3]], [0, 1, 2, 4])
    """
    longest = row.longest
    lines = [path + path[-1:] * (longest - len(path)) for path in row.paths]
    places = zip(row.first_path, row.position_ids, strict=True)
    to_row = [number * longest + position for number, position in places]
    return RowLayout(torch.tensor(lines), torch.tensor(to_row))


def row_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    *,
    scaling: float,
    row_layout: RowLayout,
    dropout: float = 0.0,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within each sequence of a packed row; transformers' attention interface.

    Args:
        module: the model's attention layer; not looked at.
        query: shape (1, query heads, tokens, head size).
        key: shape (1, key heads, tokens, head size); query heads are a multiple of key heads.
        value: as key.
        attention_mask: None; the layout says who attends to whom.
        scaling: factor of the products.
        row_layout: passed to the model's forward call as `row_layout`.
        dropout: of the attention weights.
        kwargs: what else the layer says; a sliding window is no shorter than the sequences.

    Returns:
        Shape (1, tokens, query heads, head size), and no weights.
    """
    del module, attention_mask, kwargs
    short = row_layout.to_lines.shape[1] <= _LONGEST_PRODUCTS.get(query.dtype, 0)
    attend = _attend_products if query.device.type == "cpu" and short and not dropout else _attend
    query, key, value = (_to_lines(heads, row_layout) for heads in (query, key, value))
    attended = attend(query, key, value, scaling, dropout)
    by_token = attended.transpose(1, 2).flatten(0, 1)
    return by_token[row_layout.to_row.to(by_token.device)][None], None


def _to_lines(heads: torch.Tensor, layout: RowLayout) -> torch.Tensor:
    """(1, heads, tokens, size) -> (sequences, heads, longest, size)."""
    by_token = heads[0].transpose(0, 1)
    places = layout.to_lines.to(by_token.device)
    lines = by_token.index_select(0, places.flatten())
    return lines.view(*places.shape, *lines.shape[1:]).transpose(1, 2)


def _attend(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float
) -> torch.Tensor:
    grouped = query.shape[1] != key.shape[1]
    return scaled_dot_product_attention(
        query, key, value, dropout_p=dropout, is_causal=True, scale=scaling, enable_gqa=grouped
    )


def _attend_products(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, scaling: float, dropout: float
) -> torch.Tensor:
    """Two batched products; the query heads of one key head are rows of the same product."""
    del dropout  # none here
    num_lines, num_heads, longest, size = query.shape
    groups = num_heads // key.shape[1]
    future = torch.full((longest, longest), -torch.inf, dtype=query.dtype).triu(1)
    scores = torch.baddbmm(
        future.repeat(groups, 1),
        query.reshape(-1, groups * longest, size),
        key.flatten(0, 1).transpose(1, 2),
        alpha=scaling,
    )
    attended = torch.bmm(scores.softmax(-1), value.flatten(0, 1))
    return attended.view(num_lines, num_heads, longest, size)


AttentionInterface.register(_NAME, row_attention)


@contextmanager
def attention_by_sequence(model: PreTrainedModel, longest: int) -> Iterator[bool]:
    """Let a model attend sequence by sequence while the context lasts.

    Inside, each forward call takes one packed row and its `row_layout`.

    Args:
        model: the base model, or one that PEFT made of it.
        longest: tokens of the longest sequence to come.

    Yields:
        Whether it does; else the model masks what it isn't to see, as transformers has it.
    """
    config = model.config
    window = getattr(config, "sliding_window", None) or longest
    if config.model_type not in SUPPORTED or window < longest:
        yield False
        return
    before = config._attn_implementation
    model.set_attn_implementation(_NAME)
    try:
        yield True
    finally:
        model.set_attn_implementation(before)
