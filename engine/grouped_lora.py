"""LoRA products of a mixed batch: one dense product per adapter in it, none for base rows.

Rows, stacked factors and outputs come in as tensors; the products are added to the outputs in
place. It knows torch alone: `grouped_punica` fits it to vLLM.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

import torch

Product = Callable[[torch.Tensor], torch.Tensor]
"""Multiplies [rows, in] by a fixed matrix."""
Rows = slice | torch.Tensor
"""Rows of a batch: one run of neighbours, or any (int64 indices, ascending)."""
Stack = tuple[torch.Tensor, ...]
"""A layer's A or B factors: one tensor per slice (q, k, v), each [slots, 1, out, in]."""
_FEW_ROWS = 256


@dataclass(frozen=True, slots=True)
class RowGroups:
    """Which rows of a batch belong to which adapter; the base model's are in no group."""

    num_rows: int
    groups: tuple[tuple[int, Rows], ...]
    """(slot that holds the adapter, its rows)."""
    uniform: bool
    """All rows belong to the same adapter, or all to the base model."""

    def check_covers(self, num_rows: int) -> None:
        """Refuse a batch of another size, unless that makes no difference.

        For prompt_logprobs, vLLM asks for the logits of one request's whole prompt while its
        mapping has a row for each request, and doesn't say which request it is.

        Raises:
            ValueError: it can't be told which rows belong to which adapter.
        """
        if num_rows != self.num_rows and not self.uniform:
            raise ValueError(
                f"a layer got {num_rows} rows, but the batch has {self.num_rows} of several models;"
                " ask for prompt_logprobs of one model at a time"
            )


def group_rows(slots: torch.Tensor) -> RowGroups:
    """Group a batch's rows by adapter; to be done once a step, for all layers.

    Args:
        slots: of each row, shape [rows]; -1 for the base model.

    Example:
        >>> group_rows(torch.tensor([1, 1, -1, 0])).groups
        ((1, slice(0, 2, None)), (0, slice(3, 4, None)))
    """
    found, counts = torch.unique_consecutive(slots, return_counts=True)
    ends = list(accumulate(counts.tolist()))
    runs: dict[int, list[slice]] = {}
    for slot, start, end in zip(found.tolist(), [0, *ends], ends, strict=False):
        if slot >= 0:
            runs.setdefault(slot, []).append(slice(start, end))
    indices = torch.arange(len(slots), device=slots.device)
    groups = tuple(
        (slot, where[0] if len(where) == 1 else torch.cat([indices[run] for run in where]))
        for slot, where in runs.items()
    )
    return RowGroups(len(slots), groups, len(ends) <= 1)


def torch_product(matrix: torch.Tensor) -> Product:
    """Return the product with a matrix, [in, out]."""
    return lambda x: torch.mm(x, matrix)


@dataclass(frozen=True, slots=True)
class Factors:
    """One adapter's part in one layer, laid out for dense products: y += (x @ down) @ up."""

    down: Product | None
    """With the slices' A side by side, [in, ranks]; None if x is shrunk already (an embedding)."""
    dtype: torch.dtype
    """What `down` is computed in."""
    ups: tuple[tuple[slice, slice, torch.Tensor], ...]
    """Per slice: its columns of y, its columns of x @ down, and its B, [rank, columns]."""
    joined: Product | None
    """With all B in one block-diagonal matrix, [ranks, columns of y], where that is faster."""

    def add_to(self, y: torch.Tensor, x: torch.Tensor, scale: float = 1.0) -> None:
        """Add the product to y, [rows, columns], for x, [rows, in]."""
        if self.down is not None:
            x = self.down(x.to(self.dtype))
        x = x.to(y.dtype)
        if self.joined is not None and len(x) <= _FEW_ROWS:
            y.add_(self.joined(x), alpha=scale)
            return
        for columns, ranks, up in self.ups:
            y[:, columns].addmm_(x[:, ranks], up, alpha=scale)


def pack(
    a_stacked: Stack,
    b_stacked: Stack,
    slot: int,
    y: torch.Tensor,
    make_product: Callable[[torch.Tensor], Product] = torch_product,
) -> Factors | None:
    """Lay out what a slot of a layer's stacks holds; ranks that are zero are left out.

    Args:
        a_stacked: empty where x is shrunk already.
        b_stacked: their columns lie side by side in y.
        slot: of the adapter.
        y: an output of the layer: its number format is computed in (or A's, if that is wider),
            and B is cut to its columns, since either may be padded.
        make_product: matrix, [in, out] -> product with it.

    Returns:
        None if the adapter leaves the layer as it is.
    """
    downs: list[torch.Tensor] = []
    ups: list[tuple[slice, slice, torch.Tensor]] = []
    column = rank = 0
    for index, stacked in enumerate(b_stacked):
        b = stacked[slot].squeeze(0)
        start, column = column, column + len(b)
        b = b[: max(0, y.shape[1] - start)]
        used = (b != 0).any(0)
        if a_stacked:
            a = a_stacked[index][slot].squeeze(0)
            used &= (a != 0).any(1)
            downs.append(a[used])
            b = b[:, used]
        if used.any():
            columns, ranks = slice(start, start + len(b)), slice(rank, rank + b.shape[1])
            ups.append((columns, ranks, b.t().to(y.dtype).contiguous()))
            rank = ranks.stop
    if not ups:
        return None
    down = joined = None
    dtype = y.dtype
    if downs:
        dtype = torch.promote_types(downs[0].dtype, dtype)
        down = make_product(torch.cat(downs).to(dtype).t())
    # In half precision a product takes 10-20 us however small it is: more than the zeros do.
    if y.dtype in (torch.bfloat16, torch.float16):
        blocks = y.new_zeros(y.shape[1], rank)
        for columns, ranks, up in ups:
            blocks[columns, ranks] = up.t()
        joined = make_product(blocks.t())
    return Factors(down, dtype, tuple(ups), joined)


class FactorCache:
    """The packed factors of all layers and slots, packed anew when vLLM writes to the stacks."""

    def __init__(self, make_product: Callable[[torch.Tensor], Product] = torch_product) -> None:
        self._make_product = make_product
        # The stacks are kept, so that an id stays theirs.
        self._layers: dict[int, tuple[int, Stack, dict[int, Factors | None]]] = {}

    def factors(
        self, a_stacked: Stack, b_stacked: Stack, slot: int, y: torch.Tensor
    ) -> Factors | None:
        """See `pack`."""
        # torch counts each write to a tensor or a view of it.
        version = sum([stacked._version for stacked in a_stacked + b_stacked])
        key = id(b_stacked[0])
        layer = self._layers.get(key)
        if layer is None or layer[0] != version:
            layer = self._layers[key] = (version, a_stacked + b_stacked, {})
        packed = layer[2]
        if slot not in packed:
            packed[slot] = pack(a_stacked, b_stacked, slot, y, self._make_product)
        return packed[slot]

    def add_products(
        self,
        y: torch.Tensor,
        x: torch.Tensor,
        stacks: tuple[Stack, Stack],
        rows: RowGroups,
        scale: float = 1.0,
    ) -> None:
        """Add each adapter's product to its rows of y.

        Args:
            y: the layer's output, [rows, columns].
            x: the layer's input, [rows, in].
            stacks: the layer's A and B factors.
            rows: of this batch.
            scale: of the products.
        """
        for slot, chosen in rows.groups:
            factors = self.factors(*stacks, slot, y)
            if factors is None:
                continue
            rows.check_covers(len(x))
            if rows.uniform:
                factors.add_to(y, x, scale)
            elif isinstance(chosen, slice):
                factors.add_to(y[chosen], x[chosen], scale)
            else:
                part = y.index_select(0, chosen)
                factors.add_to(part, x.index_select(0, chosen), scale)
                y.index_copy_(0, chosen, part)
