"""The benchmark counts right; how fast anything is, no test says."""

import pytest
from conftest import MakeAdapter, MakeConfig
from fake_vllm import FakeVllm

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.task import load_task
from selfstudy_engine.engine.bench import EXTRAS, FULL, QUICK, parse_wanted
from selfstudy_engine.engine.bench_lineup import LABELS
from selfstudy_engine.engine.bench_yield import measure_yield
from selfstudy_engine.engine.connection import Connection


def test_only_names_contenders_and_parts() -> None:
    assert parse_wanted(None, quick=False) == {*LABELS, *EXTRAS} - {"yield"}
    assert parse_wanted(None, quick=True) == {*LABELS, *EXTRAS} - {*("2", "3d", "overlap", "yield")}
    assert parse_wanted("5, swap", quick=False) == {"5", "swap"}
    for wrong in ("8", "3,fast", ""):
        with pytest.raises(UsageError, match="choose from 1, 2, 3"):
            parse_wanted(wrong, quick=False)


def test_the_quick_form_asks_less_of_everything() -> None:
    for name in QUICK.__dataclass_fields__.keys() - {"start_at_once"}:
        quick, full = getattr(QUICK, name), getattr(FULL, name)
        assert full is None or quick <= full


def test_more_prompts_grow_all_batches_alike() -> None:
    grown = FULL.with_prompts(4 * FULL.num_prompts)
    assert (grown.num_prompts, grown.num_real) == (256, 4 * FULL.num_real)
    assert grown.overlap_batch == 4 * FULL.overlap_batch
    assert grown.training_steps == 4 * FULL.training_steps
    assert grown.transformers_prompts == 4 * FULL.transformers_prompts
    assert (grown.repeats, grown.original_prompts) == (FULL.repeats, FULL.original_prompts)
    assert FULL.with_prompts(FULL.num_prompts) == FULL


def test_each_way_to_ask_starts_without_cached_prompts(
    fake: FakeVllm, make_adapter: MakeAdapter, small_config: MakeConfig
) -> None:
    config = small_config(server__url=fake.url)
    with Connection(config, "owner/tiny", (), fake.api_key) as connection:
        connection.connect()
        found = measure_yield(connection, make_adapter("a"), config, load_task(config), 8)
    asked: list[set[int]] = [set()]
    for request in fake.requests:
        if request.path == "/reset_prefix_cache":
            asked.append(set())
        elif request.kind == "/v1/completions":
            asked[-1].add(request.body["n"])
    expected = [{setting["n"]} for setting in found["settings"]]
    assert len(expected) == 8
    assert [ns for ns in asked if ns] == expected
