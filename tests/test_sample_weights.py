"""What is asked about and what is accepted -> how much each accepted sample counts."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from samples import make_rejected, make_sample

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.train.sample_weights import MOST, balanced_weights, sample_weights

VALUES = st.lists(st.floats(-273, 2000), min_size=1, max_size=40)


def of_all(asked: Sequence[float], accepted: Sequence[float], num_bands: int) -> list[float]:
    weights = balanced_weights(asked, accepted, num_bands)
    return [weights.of(value) for value in accepted]


def test_each_band_counts_as_it_was_asked_about() -> None:
    asked = list(range(80))
    accepted = [5] * 2 + [25] * 3 + [45] * 4 + [75] * 3
    weights = balanced_weights(asked, accepted, num_bands=4)
    for low in (0, 20, 40, 60):
        counted = sum(weights.of(value) for value in accepted if low <= value < low + 20)
        assert counted == pytest.approx(len(accepted) / 4)


def test_what_is_accepted_as_it_is_asked_weighs_one() -> None:
    assert of_all([1, 2, 3, 4], [1, 2, 3, 4] * 3, num_bands=4) == [1] * 12


def test_a_lone_sample_isnt_worth_all_others() -> None:
    common, rare = of_all(range(100), [10.0] * 99 + [90.0], num_bands=2)[-2:]
    assert 3 < rare / common < 2 * MOST
    assert rare < MOST * 2


def test_a_value_on_an_edge_lies_above_it() -> None:
    weights = balanced_weights([0, 10, 20], [0, 10, 10, 20], num_bands=2)
    assert weights.edges.tolist() == [10]
    assert weights.of(10) == weights.of(20) < 1 < weights.of(9.9)


@pytest.mark.parametrize("asked", [[], [1, 2, 3, 4]])
def test_where_nothing_was_accepted_all_weigh_one(asked: list[float]) -> None:
    weights = balanced_weights(asked, [], num_bands=2)
    assert (weights.of(1), weights.of(4)) == (1, 1)


@given(VALUES, st.data(), st.integers(1, 12))
def test_the_mean_is_one_and_none_is_without_limits(
    asked: list[float], data: st.DataObject, num_bands: int
) -> None:
    """With one value many times, with more bands than values, with values beyond the others."""
    accepted = data.draw(st.lists(st.sampled_from(asked) | st.floats(-273, 2000), min_size=1))
    weights = of_all(asked, accepted, num_bands)
    assert np.mean(weights) == pytest.approx(1)
    assert max(weights) / min(weights) <= MOST**2 + 1e-9


def make_config(**train: Any) -> RunConfig:
    return RunConfig.model_validate({"sampler": {"num_value_bands": 2}, "train": train})


def test_the_store_tells_what_was_asked_about_and_accepted(tmp_path: Path) -> None:
    """Molecules count once, whatever was made of them; later rounds don't."""
    store = SampleStore(tmp_path)
    low, high = make_sample("LOW", measured=10.0), make_sample("HIGH", measured=100.0)
    with store.writer(0) as writer:
        writer.add(low._replace(sample_index=index) for index in range(4))
        writer.add([make_rejected("HIGH", measured=100.0), make_rejected("TOP", measured=120.0)])
        writer.add([high._replace(sample_index=1), make_rejected("LEAST", measured=0.0)])
    with store.writer(1) as writer:
        writer.add(high._replace(round=1, sample_index=index) for index in range(3))
    config = make_config(sample_weights="balanced")
    first = sample_weights(store, 1, config)
    assert (first(low), first(high)) == pytest.approx((0.625, 2.5))
    both = sample_weights(store, None, config)
    assert (both(low), both(high)) == (1, 1)


def test_molecules_that_left_the_table_dont_count(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    low, high = make_sample("A", measured=10.0), make_sample("B", measured=100.0)
    left = {"measured": 100.0, "rejections": ("withdrawn",)}
    with store.writer(0) as writer:
        writer.add([low, high, *(make_rejected(name, **left) for name in "CDEF")])
    weight_of = sample_weights(store, None, make_config(sample_weights="balanced"))
    assert (weight_of(low), weight_of(high)) == (1, 1)


def test_weights_are_equal_unless_balance_is_asked_for(tmp_path: Path) -> None:
    """The store, which needn't be there, isn't asked."""
    weight_of = sample_weights(SampleStore(tmp_path / "none"), None, make_config())
    assert {weight_of(make_sample(measured=value)) for value in (-200.0, 50.0, 900.0)} == {1.0}


def test_hinted_samples_weigh_less_beside_others_of_their_values(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    own = make_sample("A", measured=10.0)
    hinted = own._replace(sample_index=1, hinted=True)
    with store.writer(0) as writer:
        writer.add([own, hinted, make_sample("B", measured=100.0)])
    equal = sample_weights(store, None, make_config(hinted_weight=0.25))
    assert (equal(own), equal(hinted)) == (1.0, 0.25)
    balanced = sample_weights(
        store, None, make_config(hinted_weight=0.25, sample_weights="balanced")
    )
    assert (balanced(own), balanced(hinted)) == pytest.approx((0.75, 0.1875))
