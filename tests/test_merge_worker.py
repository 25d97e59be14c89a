"""merge() against PEFT's own merge_and_unload, tensor by tensor, for each family."""

import shutil
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import orjson
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from tiny_model import FAMILIES, make_tiny_model
from transformers import AutoModelForCausalLM

from selfstudy_engine.data.adapters import (
    Adapter,
    Probe,
    manifest_probes,
    publish_adapter,
    read_adapter,
)
from selfstudy_engine.data.errors import AdapterError
from selfstudy_engine.engine.merge_worker import MergeWorker, block_of, load_deltas, merge
from selfstudy_engine.train.targets import lora_targets

CPU = torch.device("cpu")
Publish = Callable[..., Adapter]
Tensors = Iterable[tuple[str, torch.Tensor]]


@pytest.fixture
def publish(tiny_model: Path, tmp_path: Path) -> Publish:
    """Publish a random adapter of a tiny model; keywords go to PEFT's LoraConfig."""

    def make(name: str = "a", model_folder: Path = tiny_model, **lora: object) -> Adapter:
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(model_folder, dtype=torch.float32)
        targets = lora_targets(base, "all-linear")
        options = {"r": 4, "lora_alpha": 8, "target_modules": targets} | lora
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
        for key, parameter in model.named_parameters():
            if "lora_B" in key:  # PEFT starts it at 0
                torch.nn.init.normal_(parameter, std=0.1)
        manifest = {
            "name": name,
            "base_model": str(tiny_model),
            "base_fingerprint": "hub:tiny",
            "canary": manifest_probes([Probe([1, 2], [-1.0], [-2.0], -0.5)]),
            "training": {},
        }
        with publish_adapter(tmp_path / name, manifest) as folder:
            model.save_pretrained(folder)
        return read_adapter(tmp_path / name)

    return make


def republish(adapter: Adapter, change: Callable[[dict[str, torch.Tensor]], None]) -> Adapter:
    """Copy an adapter with other tensors, its hashes right."""
    folder = adapter.folder.with_name("changed")
    manifest = orjson.loads((adapter.folder / "manifest.json").read_bytes())
    tensors = load_file(adapter.folder / "adapter_model.safetensors")
    change(tensors)
    with publish_adapter(folder, manifest) as temporary:
        shutil.copy(adapter.folder / "adapter_config.json", temporary)
        save_file(tensors, temporary / "adapter_model.safetensors")
    return read_adapter(folder)


def merge_all(base: Tensors, adapter: Adapter) -> dict[str, torch.Tensor]:
    """What is loaded into a server that serves the base model."""
    deltas = load_deltas(adapter)
    merged = dict(merge(base, deltas, CPU, blocks={block_of(name) for name in deltas}))
    assert deltas == {}, "each product found its tensor"
    return merged


def merged_by_peft(model: Path, adapter: Adapter, folder: Path) -> dict[str, torch.Tensor]:
    """The checkpoint that PEFT and transformers make of both."""
    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    PeftModel.from_pretrained(loaded, adapter.folder).merge_and_unload().save_pretrained(folder)
    return load_file(folder / "model.safetensors")


@pytest.mark.parametrize(
    "lora",
    [
        {},
        {"r": 16, "lora_alpha": 4},
        {"use_rslora": True},
        {"target_modules": ["q_proj", "down_proj"]},
    ],
    ids=["all-linear", "another scaling", "rank-stabilised", "two kinds of layers"],
)
def test_merge_is_what_peft_merges(
    publish: Publish, tiny_model: Path, tmp_path: Path, lora: dict[str, object]
) -> None:
    adapter = publish(**lora)
    merged = merge_all(load_file(tiny_model / "model.safetensors").items(), adapter)
    expected = merged_by_peft(tiny_model, adapter, tmp_path / "merged")
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[key], atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_isnt_loaded_is_what_no_adapter_changes(
    publish: Publish, tmp_path: Path, family: str
) -> None:
    """Of each family: embeddings, heads, norms of layers and experts stay where they are."""
    model = make_tiny_model(tmp_path / family, family)
    adapter = publish(model_folder=model)
    base = load_file(model / "model.safetensors")
    merged = merge_all(base.items(), adapter)
    expected = merged_by_peft(model, adapter, tmp_path / "merged")
    assert merged.keys() < base.keys() == expected.keys()
    assert not any("embed" in key or "lm_head" in key or "experts" in key for key in merged)
    for key, tensor in expected.items():
        torch.testing.assert_close(merged.get(key, base[key]), tensor, atol=1e-6, rtol=1e-6)


def test_neighbours_of_what_changes_are_loaded_too(publish: Publish, tiny_model: Path) -> None:
    """vLLM fuses q_proj with k_proj and v_proj; they pass through untouched."""
    adapter = publish(target_modules=["q_proj"])
    base = load_file(tiny_model / "model.safetensors")
    before = {key: tensor.clone() for key, tensor in base.items()}
    merged = merge_all(base.items(), adapter)
    assert merged.keys() == {key for key in base if ".self_attn." in key}
    changed = {key for key, tensor in merged.items() if tensor is not base[key]}
    assert changed == {key for key in base if ".q_proj." in key}
    assert all(torch.equal(base[key], before[key]) for key in base)  # nor is the base written to


def test_what_an_adapter_before_changed_goes_back_to_the_base(
    publish: Publish, tiny_model: Path
) -> None:
    deltas = load_deltas(publish(target_modules=["q_proj"]))
    base = load_file(tiny_model / "model.safetensors")
    blocks = {block_of(name) for name in deltas} | {"model.layers.0.mlp"}
    merged = dict(merge(base.items(), deltas, CPU, blocks=blocks))
    again = {key for key in merged if key.startswith("model.layers.0.mlp.")}
    assert len(again) == 3
    assert all(merged[key] is base[key] for key in again)


def test_names_are_compared_as_vllm_calls_them(publish: Publish, tiny_model: Path) -> None:
    """Gemma 3's checkpoints have language_model.model, its adapters model.language_model."""
    adapter = publish()
    base = load_file(tiny_model / "model.safetensors")
    stored = {key.replace("model.", "language_model.model.", 1): base[key] for key in base}

    def rename(name: str) -> str:
        return name.replace("language_model.model.", "").removeprefix("model.")

    deltas = {rename(name): delta for name, delta in load_deltas(adapter).items()}
    blocks = {block_of(name) for name in deltas}
    merged = dict(merge(stored.items(), deltas, CPU, blocks=blocks, rename=rename))
    assert deltas == {}
    for key, tensor in merge_all(base.items(), adapter).items():
        assert torch.equal(merged[key.replace("model.", "language_model.model.", 1)], tensor)


def test_the_sum_is_float32_whatever_the_base_is(publish: Publish, tiny_model: Path) -> None:
    adapter = publish(target_modules=["q_proj"])
    deltas = load_deltas(adapter)
    base = {
        key: tensor.to(torch.bfloat16)
        for key, tensor in load_file(tiny_model / "model.safetensors").items()
    }
    for key, tensor in merge_all(base.items(), adapter).items():
        if key in deltas:
            factor_b, factor_a = deltas[key]
            assert tensor.dtype == torch.float32
            expected = base[key].float() + factor_b @ factor_a
            torch.testing.assert_close(tensor, expected, atol=1e-6, rtol=1e-6)
        else:
            assert tensor.dtype == torch.bfloat16


def test_merge_streams(publish: Publish, tiny_model: Path) -> None:
    """One tensor at a time: the base may be larger than the memory."""
    drawn = []

    def base() -> Iterator[tuple[str, torch.Tensor]]:
        for item in load_file(tiny_model / "model.safetensors").items():
            drawn.append(item[0])
            yield item

    deltas = load_deltas(publish())
    merged = merge(base(), deltas, CPU, blocks={block_of(name) for name in deltas})
    assert drawn == []
    first, _ = next(merged)
    assert drawn[-1] == first
    assert len(drawn) < 8, "up to the first that is changed"


def test_what_a_failed_merge_left_half_loaded_is_given_up(
    publish: Publish, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An empty load ends it: vLLM counts what is loaded of a fused matrix over several calls."""
    base = load_file(tiny_model / "model.safetensors")

    def get_all_weights(*which: object) -> Iterator[tuple[str, torch.Tensor]]:
        yield from list(base.items())[:5]
        raise MemoryError("CUDA out of memory")

    module = "vllm.model_executor.model_loader"
    loader = SimpleNamespace(get_all_weights=get_all_weights)
    monkeypatch.setitem(
        sys.modules, module, SimpleNamespace(get_model_loader=lambda config: loader)
    )
    loaded: list[int] = []

    class Worker(MergeWorker):
        vllm_config: Any = SimpleNamespace(load_config=None, model_config=None)
        device = CPU
        model_runner = SimpleNamespace(get_model=object)

        def reload_weights(self, **given: Any) -> None:
            loaded.append(len(list(given["weights_iterator"])))

    with pytest.raises(MemoryError):
        Worker().serve_merged(str(publish().folder))
    assert loaded == [0]


def test_products_without_a_base_tensor_are_left_over(publish: Publish, tiny_model: Path) -> None:
    deltas = load_deltas(publish())
    base = load_file(tiny_model / "model.safetensors")
    missing = "model.layers.1.self_attn.q_proj.weight"
    del base[missing]
    blocks = {block_of(name) for name in deltas}
    assert missing not in dict(merge(base.items(), deltas, CPU, blocks=blocks))
    assert deltas.keys() == {missing}


def test_a_tensor_that_isnt_a_factor_is_an_error(publish: Publish) -> None:
    def change(tensors: dict[str, torch.Tensor]) -> None:
        tensors["base_model.model.lm_head.weight"] = torch.zeros(2, 2)

    with pytest.raises(AdapterError, match=r"lm_head.weight' can't be merged"):
        load_deltas(republish(publish(), change))


@pytest.mark.parametrize("factor", ["lora_A", "lora_B"])
def test_half_a_product_is_an_error(publish: Publish, factor: str) -> None:
    """Either factor without the other: nothing of an adapter is dropped silently."""

    def change(tensors: dict[str, torch.Tensor]) -> None:
        del tensors[next(key for key in sorted(tensors) if factor in key)]

    changed = republish(publish(), change)
    with pytest.raises(AdapterError, match="lora_"):
        load_deltas(changed)


def test_a_layer_that_is_stored_transposed_is_refused(publish: Publish, tmp_path: Path) -> None:
    """GPT-2's Conv1D: B @ A would be added the wrong way round to a square matrix, silently."""
    adapter = publish()
    folder = tmp_path / "transposed"
    manifest = orjson.loads((adapter.folder / "manifest.json").read_bytes())
    with publish_adapter(folder, manifest) as temporary:
        shutil.copy(adapter.folder / "adapter_model.safetensors", temporary)
        config = orjson.loads((adapter.folder / "adapter_config.json").read_bytes())
        config["fan_in_fan_out"] = True
        (temporary / "adapter_config.json").write_bytes(orjson.dumps(config))
    with pytest.raises(AdapterError, match="fan_in_fan_out"):
        load_deltas(read_adapter(folder))
