"""Grouped products against a dense reference that adds each row's product by itself."""

from itertools import pairwise

import pytest
import torch

from selfstudy_engine.engine.grouped_lora import FactorCache, Stack, group_rows, pack

RANK = 8
NUM_SLOTS = 3
QKV = (24, 8, 8)
TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def make_stacks(
    widths: tuple[int, ...], inputs: int = 16, dtype: torch.dtype = torch.float32
) -> tuple[Stack, Stack]:
    """Make factors as vLLM keeps them: [slots, 1, rank, in] and [slots, 1, out, rank]."""
    a = tuple(torch.randn(NUM_SLOTS, 1, RANK, inputs).to(dtype) for _ in widths)
    b = tuple((torch.randn(NUM_SLOTS, 1, width, RANK) / 8).to(dtype) for width in widths)
    return a, b


def reference(
    y: torch.Tensor, x: torch.Tensor, stacks: tuple[Stack, Stack], slots: list[int], scale: float
) -> torch.Tensor:
    """Add, in float64, each row's full product."""
    result = y.double()
    for row, slot in enumerate(slots):
        if slot >= 0:
            products = [
                b[slot, 0].double() @ (a[slot, 0].double() @ x[row].double())
                for a, b in zip(*stacks, strict=True)
            ]
            result[row] += scale * torch.cat(products)
    return result


def scattered(num_rows: int, seed: int) -> list[int]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, NUM_SLOTS, (num_rows,), generator=generator).tolist()


BATCHES = {
    "one adapter": [1] * 9,
    "base alone": [-1] * 5,
    "one row": [2],
    "one base row": [-1],
    "a run of each": [0] * 4 + [-1] * 3 + [2] * 2,
    "taken in turns": [0, -1, 2, 0, -1, 2, 1],
    "base at both ends": [-1, 1, 1, -1],
    "scattered": scattered(64, seed=0),
    "more than few": scattered(700, seed=1),
    "many of one": [1] * 300,
    "empty": [],
}


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("widths", [(20,), (12, 12), QKV], ids=["one", "gate_up", "qkv"])
@pytest.mark.parametrize("slots", BATCHES.values(), ids=list(BATCHES))
def test_products_are_those_of_each_row_alone(
    slots: list[int], widths: tuple[int, ...], dtype: torch.dtype
) -> None:
    torch.manual_seed(0)
    stacks = make_stacks(widths, dtype=dtype)
    x = torch.randn(len(slots), 16).to(dtype)
    y = torch.randn(len(slots), sum(widths)).to(dtype)
    before = y.clone()
    expected = reference(y, x, stacks, slots, scale=0.5)
    FactorCache().add_products(y, x, stacks, group_rows(torch.tensor(slots).long()), 0.5)
    tolerance = TOLERANCE[dtype]
    torch.testing.assert_close(y.double(), expected, atol=4 * tolerance, rtol=tolerance)
    base = [row for row, slot in enumerate(slots) if slot < 0]
    assert torch.equal(y[base], before[base]), "not one bit of a base row changes"


@pytest.mark.parametrize("seed", range(20))
def test_random_shapes(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)

    def draw(low: int, high: int) -> int:
        return int(torch.randint(low, high, (), generator=generator))

    widths = tuple(draw(1, 40) for _ in range(draw(1, 5)))
    stacks = make_stacks(widths, inputs := draw(1, 50))
    slots = scattered(draw(0, 100), seed)
    x, y = torch.randn(len(slots), inputs), torch.randn(len(slots), sum(widths))
    expected = reference(y, x, stacks, slots, scale=1)
    FactorCache().add_products(y, x, stacks, group_rows(torch.tensor(slots).long()))
    torch.testing.assert_close(y.double(), expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("slots", BATCHES.values(), ids=list(BATCHES))
def test_every_adapter_row_is_in_one_group(slots: list[int]) -> None:
    rows = group_rows(torch.tensor(slots).long())
    assert rows.num_rows == len(slots)
    assert rows.uniform == (len(set(slots)) <= 1)
    found = [-1] * len(slots)
    for slot, chosen in rows.groups:
        indices = torch.arange(len(slots))[chosen].tolist()
        assert all(here < there for here, there in pairwise(indices))
        for index in indices:
            assert found[index] == -1
            found[index] = slot
    assert found == slots


def test_neighbours_need_no_copy() -> None:
    """Requests of one adapter that lie side by side are a slice, which is a view."""
    rows = group_rows(torch.tensor([0, 0, -1, 1, 1]))
    assert rows.groups == ((0, slice(0, 2)), (1, slice(3, 5)))


def test_what_an_adapter_leaves_alone_costs_nothing() -> None:
    """vLLM wraps every layer, the output head too, and fills with zeros what isn't there."""
    a, b = make_stacks(QKV)
    for stacked in (*a, *b):
        stacked[1] = 0
    y = torch.zeros(1, sum(QKV))
    assert pack(a, b, 1, y) is None
    assert pack(a, b, 0, y) is not None
    for stacked in (b[0], a[2]):  # v remains of slot 0, and k's rank is cut
        stacked[0] = 0
    b[1][0, 0, :, 3:] = 0
    factors = pack(a, b, 0, y)
    assert factors is not None
    [(columns, _, up)] = factors.ups
    assert columns == slice(24, 32)
    assert up.shape == (3, 8)


def test_a_smaller_rank_than_the_servers_limit_is_used() -> None:
    torch.manual_seed(0)
    a, b = make_stacks((20,))
    a[0][0, 0, 2:] = 0
    b[0][0, 0, :, 2:] = 0
    x, y = torch.randn(4, 16), torch.zeros(4, 20)
    expected = reference(y, x, (a, b), [0] * 4, scale=1)
    factors = pack(a, b, 0, y)
    assert factors is not None
    assert factors.down is not None
    assert factors.down(x).shape == (4, 2)
    factors.add_to(y, x)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("inference", [False, True])
def test_new_weights_in_a_slot_are_seen(inference: bool) -> None:
    """The way in which vLLM puts an adapter into a slot, or takes it out."""
    torch.manual_seed(0)
    a, b = make_stacks(QKV)
    cache, rows = FactorCache(), group_rows(torch.tensor([0, 0]))
    x = torch.randn(2, 16)

    def answer() -> torch.Tensor:
        y = torch.zeros(2, sum(QKV))
        cache.add_products(y, x, (a, b), rows)
        expected = reference(torch.zeros_like(y), x, (a, b), [0, 0], scale=1)
        torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
        return y

    with torch.inference_mode(inference):
        first = answer()
        for stacked in b:
            stacked[0, 0, :4, :4].copy_(torch.randn(4, 4))
        assert not torch.equal(answer(), first)
        for stacked in (*a, *b):
            stacked[0] = 0
        assert answer().abs().max() == 0


def test_an_embedding_is_shrunk_already() -> None:
    torch.manual_seed(0)
    _, b = make_stacks((20,))
    shrunk = torch.randn(3, RANK)
    y = torch.zeros(3, 20)
    FactorCache().add_products(y, shrunk, ((), b), group_rows(torch.tensor([0, -1, 2])))
    expected = torch.stack([b[0][0, 0] @ shrunk[0], torch.zeros(20), b[0][2, 0] @ shrunk[2]])
    torch.testing.assert_close(y, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("columns", [18, 23])
def test_padded_logits(columns: int) -> None:
    """Base logits and the adapter's may be padded differently."""
    torch.manual_seed(0)
    stacks = make_stacks((20,))
    x, y = torch.randn(2, 16), torch.zeros(2, columns)
    expected = reference(torch.zeros(2, 20), x, stacks, [1, 1], scale=1)
    FactorCache().add_products(y, x, stacks, group_rows(torch.tensor([1, 1])))
    both = min(columns, 20)
    torch.testing.assert_close(y[:, :both].double(), expected[:, :both], atol=1e-5, rtol=1e-5)
    assert y[:, both:].abs().sum() == 0


def test_float32_logits_of_a_half_precision_model_arent_rounded() -> None:
    torch.manual_seed(0)
    stacks = make_stacks((20,), dtype=torch.bfloat16)
    x, y = torch.randn(2, 16).to(torch.bfloat16), torch.zeros(2, 20)
    expected = reference(y, x, stacks, [1, 1], scale=1)
    FactorCache().add_products(y, x, stacks, group_rows(torch.tensor([1, 1])))
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)


def test_logits_of_a_whole_prompt() -> None:
    """prompt_logprobs: more rows than requests, which is fine while they are all alike."""
    torch.manual_seed(0)
    stacks = make_stacks((20,))
    x, y = torch.randn(7, 16), torch.zeros(7, 20)
    alike, mixed = group_rows(torch.tensor([1, 1])), group_rows(torch.tensor([1, -1]))
    expected = reference(y, x, stacks, [1] * 7, scale=1)
    FactorCache().add_products(y, x, stacks, alike)
    torch.testing.assert_close(y.double(), expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ValueError, match="7 rows, but the batch has 2 of several models"):
        FactorCache().add_products(y, x, stacks, mixed)
    stacks[1][0][1] = 0  # an adapter without an output head, like ours
    before = y.clone()
    FactorCache().add_products(y, x, stacks, mixed)
    assert torch.equal(y, before)
