"""merge() against PEFT's own merge_and_unload, tensor by tensor."""

import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from selfstudy_engine.data.adapters import Adapter, publish_adapter, read_adapter
from selfstudy_engine.data.errors import AdapterError
from selfstudy_engine.engine.merge_worker import load_deltas, merge

CPU = torch.device("cpu")
Publish = Callable[..., Adapter]


@pytest.fixture
def publish(tiny_model: Path, tmp_path: Path) -> Publish:
    """Publish a random adapter of the tiny model; keywords go to PEFT's LoraConfig."""

    def make(name: str = "a", **lora: object) -> Adapter:
        torch.manual_seed(1)
        base = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
        options = {"r": 4, "lora_alpha": 8, "target_modules": "all-linear"} | lora
        model = get_peft_model(base, LoraConfig(task_type="CAUSAL_LM", **options))
        for key, parameter in model.named_parameters():
            if "lora_B" in key:  # PEFT starts it at 0
                torch.nn.init.normal_(parameter, std=0.1)
        manifest = {
            "name": name,
            "base_model": str(tiny_model),
            "base_fingerprint": "",
            "canary": [],
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
    publish: Publish, tiny_model: Path, lora: dict[str, object]
) -> None:
    adapter = publish(**lora)
    base = load_file(tiny_model / "model.safetensors")
    merged = dict(merge(base.items(), load_deltas(adapter), CPU))
    loaded = AutoModelForCausalLM.from_pretrained(tiny_model, dtype=torch.float32)
    reference = PeftModel.from_pretrained(loaded, adapter.folder).merge_and_unload()
    expected = {key: value for key, value in reference.state_dict().items() if key in merged}
    assert merged.keys() == base.keys() == expected.keys()
    for key, tensor in merged.items():
        torch.testing.assert_close(tensor, expected[key], atol=1e-6, rtol=1e-6)


def test_tensors_without_a_delta_pass_through_untouched(publish: Publish, tiny_model: Path) -> None:
    deltas = load_deltas(publish(target_modules=["q_proj"]))
    base = load_file(tiny_model / "model.safetensors")
    before = {key: tensor.clone() for key, tensor in base.items()}
    merged = dict(merge(base.items(), deltas, CPU))
    changed = {key for key in base if merged[key] is not base[key]}
    assert changed == set(deltas)
    assert all(key.endswith("q_proj.weight") for key in changed)
    assert all(torch.equal(base[key], before[key]) for key in base)  # nor is the base written to


def test_the_sum_is_float32_whatever_the_base_is(publish: Publish, tiny_model: Path) -> None:
    deltas = load_deltas(publish())
    base = {
        key: tensor.to(torch.bfloat16)
        for key, tensor in load_file(tiny_model / "model.safetensors").items()
    }
    for key, tensor in merge(base.items(), deltas, CPU):
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

    def base() -> object:
        for item in load_file(tiny_model / "model.safetensors").items():
            drawn.append(item[0])
            yield item

    merged = merge(base(), load_deltas(publish()), CPU)  # type: ignore[arg-type]
    assert drawn == []
    next(merged)
    assert len(drawn) == 1


def test_a_base_without_the_adapters_tensors_is_an_error(
    publish: Publish, tiny_model: Path
) -> None:
    deltas = load_deltas(publish())
    base = load_file(tiny_model / "model.safetensors")
    missing = "model.layers.1.self_attn.q_proj.weight"
    del base[missing]
    with pytest.raises(AdapterError, match=rf"no tensor for 1 of .*{missing}.*runtime"):
        list(merge(base.items(), deltas, CPU))


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
