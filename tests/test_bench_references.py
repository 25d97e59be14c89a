"""The contenders that aren't a server, and checkpoints that are made for a benchmark."""

import os
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
from conftest import MakeConfig
from safetensors.torch import load_file

from selfstudy_engine.data import devices
from selfstudy_engine.data.errors import BenchmarkError, UsageError
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.engine.bench import _with_dummy_model
from selfstudy_engine.engine.bench_contenders import ReferenceContender, peak_memory_gib
from selfstudy_engine.engine.bench_dummy import make_dummy_checkpoint
from selfstudy_engine.engine.bench_lineup import LABELS
from selfstudy_engine.engine.bench_reference import OfflineReference, ReferenceSettings
from selfstudy_engine.engine.bench_workloads import Workload, measure


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


def test_vllm_offline_trusts_code_where_it_is_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", SimpleNamespace(LLM=SimpleNamespace))
    for trust in (True, False):
        settings = ReferenceSettings("a model", "float32", None, {}, trust)
        given: Any = OfflineReference(settings)._llm
        assert given.trust_remote_code is trust
