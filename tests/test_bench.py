"""The benchmark counts right; how fast anything is, no test says."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Self

import orjson
import pytest
from conftest import MakeAdapter, MakeConfig
from fake_vllm import FakeVllm
from safetensors.torch import load_file

from selfstudy_engine.data import devices
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import Placement
from selfstudy_engine.data.errors import BenchmarkError, UsageError
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.data.schema import Completion
from selfstudy_engine.data.task import load_task
from selfstudy_engine.engine import bench_lineup
from selfstudy_engine.engine.bench import (
    EXTRAS,
    FULL,
    QUICK,
    _impossible,
    _with_dummy_model,
    parse_wanted,
)
from selfstudy_engine.engine.bench_chart import save_chart
from selfstudy_engine.engine.bench_contenders import ReferenceContender, peak_memory_gib
from selfstudy_engine.engine.bench_dummy import make_dummy_checkpoint
from selfstudy_engine.engine.bench_lineup import LABELS, Lineup, share_gpu
from selfstudy_engine.engine.bench_reference import OfflineReference, ReferenceSettings
from selfstudy_engine.engine.bench_results import Results, save_results
from selfstudy_engine.engine.bench_workloads import (
    Measurement,
    Pass,
    Workload,
    make_workloads,
    measure,
)
from selfstudy_engine.engine.bench_yield import measure_yield
from selfstudy_engine.engine.connection import Connection


@pytest.fixture(scope="module")
def workloads(small_config: MakeConfig) -> dict[str, Workload]:
    config = small_config(generation__samples_per_molecule=2)
    return {
        w.name: w
        for w in make_workloads(
            config, load_task(config), num_prompts=8, num_real=20, max_tokens=6, num_long=4
        )
    }


def answer(text: str, num_tokens: int = 6, reason: str = "stop") -> Completion:
    return Completion(text, reason, num_prompt_tokens=10, num_output_tokens=num_tokens)


def test_workloads_ask_for_as_many_completions(workloads: dict[str, Workload]) -> None:
    assert workloads["fixed"].params.ignore_eos
    assert [len(w.prompts) * w.params.n for w in workloads.values()] == [8, 20, 4]
    assert len(set(workloads["fixed"].prompts)) == 8
    long = workloads["long"]
    assert long.one_by_one
    assert long.params.max_tokens == 1
    prefixes = {prompt[:200] for prompt in long.prompts}
    assert len(prefixes) > 1, "they share no prefix that a cache could know"


def test_a_subset_and_a_short_form_keep_the_rest(workloads: dict[str, Workload]) -> None:
    fixed = workloads["fixed"]
    assert fixed.first(3).prompts == fixed.prompts[:3]
    assert fixed.first(None) == fixed
    assert fixed.shortened(2).params.max_tokens == 2
    assert fixed.shortened(2).prompts == fixed.prompts


def test_tokens_and_distinct_accepted_texts_are_counted(
    workloads: dict[str, Workload], small_config: MakeConfig
) -> None:
    asked = workloads["real"].first(2)
    values = [molecule.value for molecule in asked.molecules]
    right = f" It is a flat ring.\nMelting point (°C): {values[0]:.0f}"
    wrong = f" It is a flat ring.\nMelting point (°C): {values[1] + 500:.0f}"
    done = Pass(2.0, [[answer(right), answer(right)], [answer(wrong, 3), answer("babble", 1)]])
    found = measure(asked, done, small_config())
    assert found.num_completions == 4
    assert found.num_output_tokens == 16
    assert found.num_prompt_tokens == 20
    assert found.num_accepted_distinct == 1, "the same text twice is one sample"
    assert found.output_tokens_per_second == 8
    assert found.completions_per_second == 2
    assert found.accepted_distinct_per_second == 0.5


def test_no_more_texts_of_a_molecule_count_than_a_loop_keeps(
    workloads: dict[str, Workload], small_config: MakeConfig
) -> None:
    asked = replace(workloads["real"].first(1), params=replace(workloads["real"].params, n=8))
    value = asked.molecules[0].value
    texts = [f" It has {n} rings.\nMelting point (°C): {value:.0f}" for n in range(8)]
    config = small_config(verdict__max_accepted_per_molecule=3, verdict__reject=["no value"])
    done = Pass(1.0, [[answer(text) for text in texts]])
    assert measure(asked, done, config).num_accepted_distinct == 3


@pytest.mark.parametrize(
    ("completions", "message"),
    [
        ([[answer("x")]] * 7, "asked were 8 x 1 completions"),
        ([[answer("x"), answer("x")]] * 8, "asked were 8 x 1 completions"),
        ([[answer("x", 5)]] * 8, r"must have 6 tokens, given \[5\]"),
    ],
)
def test_an_answer_to_something_else_is_refused(
    workloads: dict[str, Workload],
    small_config: MakeConfig,
    completions: list[list[Completion]],
    message: str,
) -> None:
    with pytest.raises(BenchmarkError, match=message):
        measure(workloads["fixed"], Pass(1.0, completions), small_config())


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


def measurement(seconds: float, num_tokens: int = 100) -> Measurement:
    return Measurement(
        seconds=seconds,
        num_prompts=10,
        num_completions=10,
        num_output_tokens=num_tokens,
        num_prompt_tokens=100,
        num_accepted_distinct=3,
        idle_share=None,
        prefix_hit_share=None,
    )


@pytest.fixture
def results(small_config: MakeConfig) -> Results:
    found = Results({"host": {"processor": "test", "num_cpus": 2}}, small_config())
    for key, factor in (("1", 100.0), ("3", 1.0), ("5", 1.25)):
        found.contenders[key] = {"label": LABELS[key], "startup_seconds": 1.0}
        for turn in (1.0, 2.0, 8.0):  # the machine slows down: the ratio within a turn stays
            for workload in ("fixed", "real"):
                found.measurements[workload][key].append(measurement(turn * factor))
    return found


def test_ratios_are_medians_of_those_within_a_turn(results: Results) -> None:
    ratios = results.ratios()
    assert ratios["merged_over_offline"] == pytest.approx(0.8)
    assert ratios["engine_over_original"] == pytest.approx(80)
    assert "fast_lora_over_stock" not in ratios, "what wasn't measured isn't there"
    results.extras["swap"] = {"seconds_median": 0.5, "seconds_worst": 0.7}
    assert results.ratios()["swap_seconds_worst"] == 0.7


def test_a_benchmark_that_is_not_over_can_be_saved(results: Results, tmp_path: Path) -> None:
    results.measurements["fixed"]["3"].append(measurement(8.0))  # the others' turn is to come
    save_results(results, tmp_path / "bench.json")
    content: dict[str, Any] = orjson.loads((tmp_path / "bench.json").read_bytes())
    assert content["ratios"]["merged_over_offline"] == pytest.approx(0.8)
    turns = content["contenders"]["3"]["workloads"]["fixed"]["output_tokens_per_second"]["turns"]
    assert len(turns) == 4


def test_the_document_has_every_turn(results: Results, tmp_path: Path) -> None:
    save_results(results, tmp_path / "out" / "bench.json")
    content: dict[str, Any] = orjson.loads((tmp_path / "out" / "bench.json").read_bytes())
    fixed = content["contenders"]["3"]["workloads"]["fixed"]["output_tokens_per_second"]
    assert fixed == {"median": 50, "low": 12.5, "high": 100, "turns": [100, 50, 12.5]}
    assert content["ratios"] == pytest.approx(results.ratios())
    assert content["command"].startswith("selfstudy-engine")
    assert RunConfig.model_validate(content["config"]) == results.config


def test_the_chart_names_host_and_contenders(results: Results, tmp_path: Path) -> None:
    save_chart(results, tmp_path / "bench")
    svg = (tmp_path / "bench.svg").read_text("utf-8")
    assert "our server, merged adapter" in svg
    assert "test, 2 CPUs" in svg
    assert (tmp_path / "bench.png").read_bytes().startswith(b"\x89PNG")


def with_own_code(model: Path, folder: Path) -> Path:
    """Copy a checkpoint of Llama's to one of a class, and with settings, that come with it."""
    shutil.copytree(model, folder)
    (folder / "generation_config.json").write_text('{"repetition_penalty": 5.0, "top_k": 3}')
    code = """
import os, pathlib
visible = os.environ.get("CUDA_VISIBLE_DEVICES", "all")
pathlib.Path(os.environ["HF_MODULES_CACHE"], "visible").write_text(visible)
from transformers import LlamaConfig, LlamaForCausalLM
class OwnConfig(LlamaConfig):
    model_type = "own"
class OwnModel(LlamaForCausalLM):
    config_class = OwnConfig
"""
    (folder / "own.py").write_text(code, "utf-8")
    config = orjson.loads((folder / "config.json").read_bytes())
    classes = {"AutoConfig": "own.OwnConfig", "AutoModelForCausalLM": "own.OwnModel"}
    changed = config | {"model_type": "own", "architectures": ["OwnModel"], "auto_map": classes}
    (folder / "config.json").write_bytes(orjson.dumps(changed))
    return folder


def test_references_answer_as_asked_and_greedily_alike(
    tiny_model: Path, workloads: dict[str, Workload], tmp_path: Path, small_config: MakeConfig
) -> None:
    config = small_config()
    fixed, real, long = workloads["fixed"].first(4), workloads["real"].first(2), workloads["long"]
    models = {"original": tiny_model, "transformers": with_own_code(tiny_model, tmp_path / "own")}
    texts = []
    for kind, model in models.items():
        contender = ReferenceContender(
            "1",
            LABELS["1"],
            kind=kind,
            settings=ReferenceSettings(
                str(model), "float32", None, {}, trust_remote_code=kind == "transformers"
            ),
            environment=os.environ | {"HF_MODULES_CACHE": str(tmp_path / "modules")},
            log=tmp_path / "log",
        )
        with contender:
            contender.wait_ready()
            process = contender.process
            done = contender.run(fixed)
            assert measure(fixed, done, config).num_output_tokens == 24
            texts.append([one[0].text for one in done.completions])
            done = contender.run(real)
            assert measure(real, done, config).num_completions == 4
            lengths = [c.num_output_tokens for one in done.completions for c in one]
            assert max(lengths) <= real.params.max_tokens
            assert measure(long, contender.run(long), config).num_output_tokens == 4
            if kind == "transformers":
                one_token = replace(real.params, n=400, max_tokens=1, temperature=1, top_p=1)
                [drawn] = contender.run(replace(real.first(1), params=one_token)).completions
                assert len({one.text for one in drawn}) > 50, "from all that there are"
            assert peak_memory_gib(process) > 0.1
        assert not Path(f"/proc/{process}").exists()
    assert texts[0] == texts[1]


def test_a_contender_that_fails_shows_its_last_lines(tmp_path: Path) -> None:
    contender = ReferenceContender(
        "2",
        LABELS["2"],
        kind="transformers",
        settings=ReferenceSettings(str(tmp_path), "float32", None, {}),
        environment=os.environ,
        log=tmp_path / "log",
    )
    with pytest.raises(BenchmarkError, match=r"contender 2 .* leave it out with --only"), contender:
        contender.wait_ready()


def test_a_configuration_alone_becomes_a_checkpoint(
    tiny_model: Path, small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Where the servers compute, by code that comes with it if that is trusted."""
    gpus = tuple(Gpu(key, f"GPU-{key}", "NVIDIA H100", 80 * 2**30, 9.0) for key in "01")
    monkeypatch.setattr(devices, "visible_gpus", lambda: gpus)
    monkeypatch.setenv("HF_MODULES_CACHE", str(tmp_path / "modules"))
    bare = with_own_code(tiny_model, tmp_path / "bare")
    (bare / "model.safetensors").unlink()
    config = small_config(
        devices__server="cuda:1", model__path=str(bare), model__trust_remote_code=True
    )
    made = Path(str(_with_dummy_model(config, tmp_path / "model").model.path))
    found, expected = (load_file(one / "model.safetensors") for one in (made, tiny_model))
    assert {n: t.shape for n, t in found.items()} == {n: t.shape for n, t in expected.items()}
    assert (made / "own.py").is_file()
    assert (tmp_path / "modules" / "visible").read_text() == "1"
    with pytest.raises(BenchmarkError, match=r"trust_remote_code.*that transformers knows"):
        make_dummy_checkpoint(bare, tmp_path / "other", "bfloat16", devices={})
    with pytest.raises(UsageError, match=r"has no config.json"):
        make_dummy_checkpoint(tmp_path, tmp_path / "other", "bfloat16", devices={})


def test_the_servers_device_decides_what_is_possible(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu("0", "GPU-0", "NVIDIA H100", 80 * 2**30, 9.0)
    monkeypatch.setattr(devices, "visible_gpus", lambda: (gpu,))
    assert _impossible(small_config()) == {"7"}
    assert _impossible(small_config(devices__server="cpu")) == set()


class Started:
    """Takes the place of a contender's process: what it would get."""

    process = 0

    def __init__(self, key: str, label: str, **given: Any) -> None:
        self.key, self.label, self.given = key, label, given

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def wait_ready(self) -> None:
        pass


@pytest.mark.parametrize(("device", "visible"), [("cuda:1", "1"), ("cpu", ""), ("auto", "0")])
def test_references_compute_where_the_servers_do(
    small_config: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    device: str,
    visible: str,
) -> None:
    """And they trust the same code."""
    gpus = tuple(Gpu(key, f"GPU-{key}", "NVIDIA H100", 80 * 2**30, 9.0) for key in "01")
    monkeypatch.setattr(devices, "visible_gpus", lambda: gpus)
    monkeypatch.setattr(bench_lineup, "ReferenceContender", Started)
    config = small_config(devices__server=device, model__trust_remote_code=True)
    with Lineup(
        config,
        str(config.model.path),
        None,
        wanted={"1", "2", "3", "3d"},
        max_prompts={},
        logs=tmp_path,
        at_once=True,
        on_phase=lambda phase: None,
    ) as lineup:
        started: Any = lineup.contenders
        assert {
            one.key: one.given["environment"]["CUDA_VISIBLE_DEVICES"] for one in started
        } == dict.fromkeys(("1", "2", "3", "3d"), visible)
        assert all(one.given["settings"].trust_remote_code for one in started)
        for one in started:
            assert one.given["environment"].get("VLLM_USE_FLASHINFER_SAMPLER", "0") == "0"


def test_vllms_own_way_on_a_gpu_is_all_there_is(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Its workers know no other, and say so with an error."""
    gpu = Gpu("0", "GPU-0", "NVIDIA H100", 80 * 2**30, 9.0)
    adapter: Any = object()
    called: list[Any] = []

    class Asked:
        def swap_to(self, wanted: object) -> None:
            called.append(wanted)

        def use_fast_lora(self, enabled: bool) -> None:
            called.append(enabled)

        def reset_prefix_cache(self) -> None:
            """Nothing is cached."""

    for placement, expected in (
        (Placement((gpu,), (gpu,)), [adapter]),
        (Placement((), ()), [False, adapter]),
    ):
        monkeypatch.setattr(bench_lineup, "placement_of", lambda config, found=placement: found)
        called.clear()
        lineup = Lineup(
            small_config(),
            str(small_config().model.path),
            adapter,
            wanted={"6"},
            max_prompts={},
            logs=tmp_path,
            at_once=True,
            on_phase=lambda phase: None,
        )
        asked: Any = Asked()
        lineup._add_runtime(asked, 1, 1.0)
        lineup.contenders[0].prepare()
        assert called == expected


def test_vllm_offline_trusts_code_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=SimpleNamespace))
    for trust in (True, False):
        settings = ReferenceSettings("a model", "float32", None, {}, trust)
        given: Any = OfflineReference(settings)._llm
        assert given.trust_remote_code is trust


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


@pytest.mark.parametrize(
    ("wanted", "share"),
    [({"3", "4", "5", "6"}, 0.283), ({"4", "5"}, 0.85), ({"1", "2", "3", "5"}, 0.399)],
)
def test_engines_share_a_gpu(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch, wanted: set[str], share: float
) -> None:
    """Each gets its KV cache in bytes, so that all can start at once."""
    gpu = Gpu("0", "GPU-0", "NVIDIA H100", 80 * 2**30, 9.0)
    monkeypatch.setattr(bench_lineup, "placement_of", lambda config: Placement((gpu,), (gpu,)))
    config = small_config(server__extra_args=["--seed", "1"])
    shared, arguments = share_gpu(config, str(config.model.path), wanted)
    assert shared.server.gpu_memory_utilization == arguments["gpu_memory_utilization"] == share
    flag, cache, *others = shared.server.extra_args
    assert (flag, others) == ("--kv-cache-memory-bytes", ["--seed", "1"])
    assert int(cache) == arguments["kv_cache_memory_bytes"]
    assert 0 < share * 80 - int(cache) / 2**30 - 2 < 0.1, "2 GiB and a tiny model"


def test_engines_that_dont_fit_a_gpu_are_refused(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu = Gpu("0", "GPU-0", "NVIDIA T4", 4 * 2**30, 9.0)
    monkeypatch.setattr(bench_lineup, "placement_of", lambda config: Placement((gpu,), (gpu,)))
    config = small_config()
    with pytest.raises(UsageError, match=r"4 engines of 2\.\d GiB .* GPU of 4\.0 GiB.*--only"):
        share_gpu(config, str(config.model.path), {"3", "3d", "4", "6"})
    with pytest.raises(UsageError, match=r"1 engines .* beside transformers' 2\.\d GiB"):
        share_gpu(config, str(config.model.path), {"2", "4"})
