"""Verdicts of a store against verdicts made anew, and the benchmarks of both ends of it."""

from pathlib import Path

import pytest
from samples import make_rejected, make_sample
from stored_samples import fill

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.properties import find_property
from selfstudy_engine.data.schema import Completion, Molecule
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.bench_rescore import make_samples, measure_rescore
from selfstudy_engine.engine.rescore import ReasonChange, RescoreResult, rescore
from selfstudy_engine.engine.verify import Rules, judge, verify

MELTING_POINT = find_property("melting_point")


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    """Samples that are off by 4.1 °C (A), 40 °C (B), without a value (C), and cut off (D)."""
    made = SampleStore(tmp_path)
    far = "out of tolerance"
    text = " Small and polar beside water.\nMelting point (°C): -74.1"
    off = make_sample("B", completion=text, accepted=False, rejections=(far,))
    silent = make_rejected("C", completion=" Small and polar beside water.")
    fill(made, [make_sample("A")], [off, silent])
    cut = {"finish_reason": "length", "accepted": False, "rejections": ("truncated",)}
    text = " Small and polar.\nMelting point (°C): -110\nName"
    fill(made, [make_sample("D", round=1, completion=text, **cut)], round_index=1)
    return made


def at(tolerance: float, store: SampleStore) -> RescoreResult:
    return rescore(store, RunConfig(), tolerance)


def test_the_same_rules_change_nothing(store: SampleStore) -> None:
    result = at(30, store)
    assert (result.num_samples, result.num_changed) == (4, 0)
    assert result.num_accepted_before == result.num_accepted_after == 1
    assert (result.num_newly_accepted, result.num_newly_rejected) == (0, 0)
    assert result.reasons == {
        "no value": ReasonChange(1, 1, 0, 0),
        "out of tolerance": ReasonChange(1, 1, 0, 0),
        "truncated": ReasonChange(1, 1, 0, 0),
    }


def test_a_wider_tolerance_accepts_more(store: SampleStore) -> None:
    result = at(50, store)
    assert (result.num_accepted_before, result.num_accepted_after) == (1, 2)
    assert (result.num_newly_accepted, result.num_newly_rejected, result.num_changed) == (1, 0, 1)
    assert result.reasons["out of tolerance"] == ReasonChange(1, 0, 0, 1)


def test_a_narrower_one_rejects_more_and_adds_reasons(store: SampleStore) -> None:
    """D was rejected before: its verdict changes, its outcome doesn't."""
    result = at(4, store)
    assert (result.num_accepted_before, result.num_accepted_after) == (1, 0)
    assert (result.num_newly_accepted, result.num_newly_rejected, result.num_changed) == (0, 1, 2)
    assert result.reasons["out of tolerance"] == ReasonChange(1, 3, 2, 0)
    assert result.reasons["truncated"] == ReasonChange(1, 1, 0, 0)


def test_an_outcome_that_its_reasons_dont_explain_is_a_change(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    with store.writer(0) as writer:
        writer.add([make_sample("A", accepted=False)])
    assert at(30, store).num_changed == 1
    assert at(30, store).num_newly_accepted == 1


def test_an_empty_store_and_a_damaged_shard(store: SampleStore, tmp_path: Path) -> None:
    assert at(30, SampleStore(tmp_path / "nothing")).num_samples == 0
    store.shards(0)[0].write_bytes(b"not parquet")
    assert at(30, store).num_samples == 3


def test_columns_are_judged_as_completions_are() -> None:
    text = " Small, flat and polar.\nMelting point (°C): 120"
    molecule = Molecule("K", "", "C", 80.0)
    rules = Rules.of(RunConfig())
    verdict = judge(text, "stop", molecule, rules).verdict
    assert verdict == verify(Completion(text, "stop", 1, 1), molecule, rules)
    assert verdict.rejections == ("out of tolerance",)


def test_the_benchmarks_samples_are_verdicts_of_all_kinds() -> None:
    molecules = embedded_table().molecules[:50]
    samples = list(make_samples(molecules, MELTING_POINT, 0, 0, 400))
    assert len({sample.key for sample in samples}) == 400
    assert samples == list(make_samples(molecules, MELTING_POINT, 0, 0, 400))
    assert {name for s in samples for name in s.rejections} >= {
        *("truncated", "no value", "out of tolerance")
    }
    assert 100 < sum(sample.accepted for sample in samples) < 300


def test_the_benchmark_reads_everything_that_was_made() -> None:
    figures = measure_rescore(4_500)
    assert (figures["num_samples"], figures["num_shards"]) == (4_500, 2)
    assert 0 < figures["num_changed"] < 4_500
    assert figures["seconds_per_million"] > 0
    assert figures["peak_rss_mb"] > 50


def test_other_rules_apply_to_a_whole_store(tmp_path: Path) -> None:
    """Of three like texts about one molecule the first stays; without the cap's help."""
    store = SampleStore(tmp_path)
    with store.writer(0) as writer:
        writer.add([make_sample("A", sample_index=index) for index in range(3)])
        writer.add([make_sample("B")])
    result = rescore(store, RunConfig())
    assert (result.num_accepted_before, result.num_accepted_after) == (4, 2)
    assert result.reasons == {"repeated for molecule": ReasonChange(0, 2, 2, 0)}
    lenient = load_config(None, {"verdict.reject": ["no value"]})
    assert rescore(store, lenient).num_changed == 0
    strict = load_config(None, {"verdict.reject": ["no value", "near-duplicate"]})
    assert rescore(store, strict).num_accepted_after == 3


def test_each_samples_own_tolerance_and_its_false_claims_stay(tmp_path: Path) -> None:
    store = SampleStore(tmp_path)
    far = {"accepted": False, "rejections": ("out of tolerance",), "tolerance": 4.0}
    false = {"accepted": False, "rejections": ("false claim",), "findings": ("false claim",)}
    with store.writer(0) as writer:
        writer.add([make_sample("A", **far), make_sample("B", **false)])
    assert rescore(store, RunConfig()).num_changed == 0
    assert rescore(store, RunConfig(), 5.0).num_newly_accepted == 1
    lenient = load_config(None, {"verdict.reject": ["no value"]})
    assert rescore(store, lenient).num_newly_accepted == 2
