"""What a model takes, read from its files, and how server and training divide a GPU."""

import math
import struct
from pathlib import Path
from typing import Any, Literal

import huggingface_hub
import orjson
import pytest
import torch
from huggingface_hub.utils._paths import filter_repo_objects
from safetensors.torch import load_file
from test_fast_training import loss_of_row, make_model, with_lora

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.config_sources import ModelConfig
from selfstudy_engine.data.devices import Placement
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.gpu_memory import (
    GIB,
    activation_bytes,
    gpu_share,
    local_folder,
    server_bytes,
    server_share,
    share_beside_training,
    tokens_at_once,
    training_bytes,
)
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.data.model_size import ModelSize, measure_model
from selfstudy_engine.train.attention import attention_by_sequence
from selfstudy_engine.train.benchmark import bytes_expected, gpu_peak
from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.fast_lora import fast_lora
from selfstudy_engine.train.loading import load_base
from selfstudy_engine.train.packing import pack_row

LLAMA_7B = {"hidden": 4096, "inner": 11008, "layers": 32, "heads": 32, "key_heads": 32}
SMOLLM = {"hidden": 576, "inner": 1536, "layers": 30, "heads": 9, "key_heads": 3}


def write_heads(folder: Path, shape: dict[str, int], vocabulary: int, tied: bool) -> Path:
    """Write a checkpoint whose files end after their heads."""
    hidden, inner = shape["hidden"], shape["inner"]
    keys = hidden // shape["heads"] * shape["key_heads"]
    linear = {"self_attn.q_proj": (hidden, hidden), "self_attn.k_proj": (keys, hidden)}
    linear |= {"self_attn.v_proj": (keys, hidden), "self_attn.o_proj": (hidden, hidden)}
    linear |= {"mlp.gate_proj": (inner, hidden), "mlp.up_proj": (inner, hidden)}
    linear |= {"mlp.down_proj": (hidden, inner)}
    tensors: dict[str, tuple[int, ...]] = {"model.embed_tokens.weight": (vocabulary, hidden)}
    for layer in range(shape["layers"]):
        prefix = f"model.layers.{layer}."
        tensors |= {f"{prefix}{name}.weight": size for name, size in linear.items()}
        tensors[f"{prefix}input_layernorm.weight"] = (hidden,)
        tensors[f"{prefix}post_attention_layernorm.weight"] = (hidden,)
    tensors["model.norm.weight"] = (hidden,)
    if not tied:
        tensors["lm_head.weight"] = (vocabulary, hidden)
    half = len(tensors) // 2
    parts = {"a.safetensors": list(tensors)[:half], "b.safetensors": list(tensors)[half:]}
    for file, names in parts.items():
        entries: dict[str, Any] = {
            name: {"dtype": "BF16", "shape": tensors[name], "data_offsets": [0, 0]}
            for name in names
        }
        head = orjson.dumps(entries | {"__metadata__": {"format": "pt"}})
        (folder / file).write_bytes(struct.pack("<Q", len(head)) + head)
    index = {name: file for file, names in parts.items() for name in names}
    (folder / "model.safetensors.index.json").write_bytes(orjson.dumps({"weight_map": index}))
    (folder / "consolidated.safetensors").write_bytes(b"the same weights again")
    config = {
        "hidden_size": hidden,
        "num_hidden_layers": shape["layers"],
        "num_attention_heads": shape["heads"],
        "num_key_value_heads": shape["key_heads"],
    }
    (folder / "config.json").write_bytes(orjson.dumps(config))
    return folder


@pytest.fixture
def llama(tmp_path: Path) -> ModelSize:
    return measure_model(write_heads(tmp_path, LLAMA_7B, 32000, tied=False), "bfloat16")


@pytest.fixture
def smollm(tmp_path: Path) -> ModelSize:
    return measure_model(write_heads(tmp_path, SMOLLM, 49152, tied=True), "bfloat16")


def test_the_size_of_llama_2_7b(llama: ModelSize) -> None:
    assert llama.weight_bytes == 2 * 6_738_415_616  # its published number of parameters
    assert llama.kv_bytes_per_token == 512 * 1024  # 0.5 MiB, as is well known
    assert llama.lora_features * 16 == 39_976_960  # PEFT's count for r = 16 on all linear layers
    assert (llama.vocabulary, llama.expert_bytes) == (32000, 0)
    assert llama.active_features == llama.lora_features


def test_the_size_of_a_real_checkpoint(tiny_model: Path) -> None:
    size = measure_model(tiny_model, "float32")
    tensors = load_file(tiny_model / "model.safetensors")
    assert size.weight_bytes == sum(tensor.nbytes for tensor in tensors.values())
    assert measure_model(tiny_model, "bfloat16").weight_bytes == size.weight_bytes // 2
    assert size.vocabulary == 512


@pytest.mark.parametrize("four_bits", [False, True])
def test_what_is_held_against_the_formula_is_what_a_training_allots_itself(
    tiny_model: Path, monkeypatch: pytest.MonkeyPatch, four_bits: bool
) -> None:
    """Activations, logits, gradients and AdamW's moments: weights are there before it begins."""
    config = load_config(
        None,
        {
            "model.dtype": "float32",
            "train.rank": 4,
            "train.tokens_per_step": 4096,
            "train.quantization": "nf4" if four_bits else "none",
        },
    )
    size = measure_model(tiny_model, "float32")
    logits = 4096 * size.vocabulary * (12 + 2 * 4)
    adapter = 4 * size.lora_features * (4 + 8 + 2 * 4)
    kept = activation_bytes(size, 4096, four_bits=four_bits)
    assert bytes_expected(config, str(tiny_model)) == kept + logits + adapter
    with gpu_peak() as peak:
        torch.zeros(1000)
    assert peak() == 0
    for name, value in {
        "is_available": True,
        "reset_peak_memory_stats": None,
        "memory_allocated": 5,
        "max_memory_allocated": 12,
    }.items():
        monkeypatch.setattr(torch.cuda, name, lambda value=value: value)
    with gpu_peak() as peak:
        pass
    assert peak() == 12 - 5


def make_checkpoint(family: str, dtype: str, folder: Path) -> torch.nn.Module:
    shape = {"hidden_size": 256, "intermediate_size": 688, "num_attention_heads": 4}
    shape |= {"num_key_value_heads": 2, "head_dim": 64, "max_position_embeddings": 1024}
    model = make_model(family, getattr(torch, dtype), num_hidden_layers=3, **shape)
    model.save_pretrained(folder)
    assert isinstance(model, torch.nn.Module)
    return model


@pytest.mark.filterwarnings("ignore:The following (rank|alpha)_pattern:RuntimeWarning")
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "gemma", "mistral", "mixtral"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_formula_bounds_what_autograd_keeps(family: str, dtype: str, tmp_path: Path) -> None:
    """And isn't far off: all storages that a step's graph holds on to, weights apart."""
    adapted = with_lora(make_checkpoint(family, dtype, tmp_path)).train()
    found = kept_bytes(adapted, num_tokens=600)
    assert 0.5 < found / activation_bytes(measure_model(tmp_path, dtype), 600) < 1


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_four_bits_are_counted(dtype: Literal["float32", "bfloat16"], tmp_path: Path) -> None:
    """The weights with their scales, and what PEFT's own layers keep (Qwen3: the most of all)."""
    make_checkpoint("qwen3", dtype, tmp_path)
    size = measure_model(tmp_path, dtype)
    model = load_base(str(tmp_path), ModelConfig(dtype=dtype), four_bits=True)
    stored = sum(weight.nbytes for weight in model.parameters())
    for layer in model.modules():
        if hasattr(layer, "quant_state"):
            state = layer.weight.quant_state
            stored += state.absmax.nbytes + state.state2.absmax.nbytes
    whole, small = (training_bytes(size, 1, 0, 0, four_bits=bits) for bits in (False, True))
    assert stored == pytest.approx(size.weight_bytes - (whole - small), rel=1e-3)
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=dtype == "bfloat16")
    with autocast:  # as the Trainer does
        found = kept_bytes(with_lora(model).train(), num_tokens=600)
    assert 0.5 < found / activation_bytes(size, 600, four_bits=True) < 1


def kept_bytes(adapted: torch.nn.Module, num_tokens: int) -> int:
    """Return the size of all storages that a step's graph holds on to, weights apart."""
    weights = {weight.untyped_storage().data_ptr() for weight in adapted.parameters()}
    kept: dict[int, int] = {}

    def remember(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    # Longer than what is computed with products, which keep their scores.
    row = pack_row([TokenSequence([number % 60 for number in range(num_tokens)], num_tokens - 1)])
    with (
        attention_by_sequence(adapted, num_tokens),
        fast_lora(adapted),
        torch.autograd.graph.saved_tensors_hooks(remember, lambda tensor: tensor),
    ):
        loss_of_row(adapted, row)
    return sum(kept.values())


def test_an_adapter_has_as_many_weights_as_counted(tmp_path: Path) -> None:
    model = make_model("llama")
    model.save_pretrained(tmp_path)
    trained = sum(p.numel() for p in with_lora(model).parameters() if p.requires_grad)
    assert trained == 4 * measure_model(tmp_path, "float32").lora_features


def test_the_parts_of_training(llama: ModelSize) -> None:
    """7B in bfloat16, rank 16, a step of 256 tokens: 12.6 GiB of weights and 4.2 more."""
    bare = training_bytes(llama, rank=1, num_tokens=0, num_answer_tokens=0)
    adapter = training_bytes(llama, rank=17, num_tokens=0, num_answer_tokens=0) - bare
    assert adapter == 39_976_960 * (4 + 4 + 4 + 4 + 2 + 2)
    logits = training_bytes(llama, rank=1, num_tokens=0, num_answer_tokens=256) - bare
    assert logits == 256 * 32000 * 16
    whole = training_bytes(llama, rank=16, num_tokens=256, num_answer_tokens=256)
    assert 16.5 < whole / GIB < 17


def test_7b_in_bfloat16_on_80_gb(llama: ModelSize) -> None:
    share = share_beside_training(llama, 81559 * 1024**2, RunConfig())
    assert share == 0.61  # 2,048 tokens in one sequence keep 14.3 GiB
    short = load_config(None, {"server.max_model_len": 512})
    assert share_beside_training(llama, 81559 * 1024**2, short) == 0.74


def test_135m_on_16_gb(smollm: ModelSize) -> None:
    share = share_beside_training(smollm, 16376 * 1024**2, RunConfig())
    assert 0.7 < share < 0.8
    assert share == server_share(
        16376 * 1024**2, training_bytes(smollm, 16, 2048, 256), server_bytes(smollm, 2048)
    )


def test_7b_on_16_gb_is_refused(llama: ModelSize) -> None:
    wanted = (
        r"needs 4\d\.\d GiB on this GPU \(15\.\d to serve, 2\d\.\d to train\), which has 15\.7; "
        r"use another GPU for training \(--train-device\), or a smaller model"
    )
    with pytest.raises(UsageError, match=wanted):
        share_beside_training(llama, 16376 * 1024**2, RunConfig())


def test_a_length_that_would_fit_is_named_and_fits(llama: ModelSize) -> None:
    total = 40960 * 1024**2
    with pytest.raises(UsageError, match=r"; use --max-model-len \d+, another") as caught:
        share_beside_training(llama, total, RunConfig())
    length = int(str(caught.value).split("--max-model-len ")[1].split(",")[0])
    fits = load_config(None, {"server.max_model_len": length})
    assert share_beside_training(llama, total, fits) * total > server_bytes(llama, length)
    longer = load_config(None, {"server.max_model_len": length + 128})
    with pytest.raises(UsageError):
        share_beside_training(llama, total, longer)


@pytest.mark.parametrize("training", [10, 30, 60])
def test_what_training_needs_stays_free(training: int) -> None:
    total = 80 * GIB
    share = server_share(total, training * GIB, 15 * GIB)
    assert share is not None
    assert share * total + training * GIB <= total
    assert share == math.floor(100 * share + 1e-9) / 100 <= 0.9
    assert server_share(total, training * GIB, 75 * GIB) is None


def test_several_gpus_divide_a_step_and_each_computes_a_part_at_once(llama: ModelSize) -> None:
    """Sequences are divided whole: a GPU has its part of the tokens, and one sequence more."""
    large = {"train.tokens_per_step": 16384, "server.max_model_len": 1024}
    for changes, num_gpus, expected in (
        ({}, 1, 16384),
        ({}, 4, 4096 + 1024),
        ({"devices.tokens_per_device": 512}, 4, 512),
        ({"train.tokens_per_step": 512}, 4, 512),
    ):
        config = load_config(None, large | changes)
        assert tokens_at_once(config, 1024, num_gpus) == expected
    config = load_config(None, large)
    shares = [share_beside_training(llama, 160 * GIB, config, 1, number) for number in (1, 4)]
    assert shares[0] < shares[1]


def test_7b_trains_in_four_bits_where_it_wouldnt_whole(llama: ModelSize) -> None:
    changes = {"train.quantization": "nf4", "server.max_model_len": 512}
    config = load_config(None, changes)
    assert 0.5 < share_beside_training(llama, 32 * GIB, config) < 0.8
    with pytest.raises(UsageError, match="to serve"):
        share_beside_training(llama, 32 * GIB, load_config(None, {"server.max_model_len": 512}))


def test_a_server_on_several_gpus_has_a_part_on_each(llama: ModelSize) -> None:
    alone, split = (server_bytes(llama, 2048, number) for number in (1, 4))
    assert split - 2 * GIB == (alone - 2 * GIB) // 4


def gpu(key: str, memory_gib: int | None) -> Gpu:
    return Gpu(key, f"GPU-{key}", "NVIDIA H100", memory_gib and memory_gib * GIB, 9.0)


def test_the_share_of_a_placement(tmp_path: Path) -> None:
    model = str(write_heads(tmp_path, SMOLLM, 49152, tied=True))
    config, large, small = load_config(None, {"model.dtype": "bfloat16"}), gpu("0", 80), gpu("1", 8)
    apart = Placement((large,), (small,))
    assert gpu_share(config, model, apart) == 0.9
    assert gpu_share(config, model, Placement((large,), (large,))) == 0.9
    assert gpu_share(config, model, Placement((small,), (small,))) < 0.6
    both = Placement((large, small), (small,))
    assert gpu_share(config, model, both) == gpu_share(config, model, Placement((small,), (small,)))
    given = load_config(None, {"server.gpu_memory_utilization": 0.3})
    assert gpu_share(given, "nowhere", Placement((small,), (small,))) == 0.3


def test_what_cant_be_computed_is_asked_for(tmp_path: Path) -> None:
    config = load_config(None, {"model.dtype": "bfloat16"})
    model = write_heads(tmp_path, SMOLLM, 49152, tied=True)
    part = gpu("MIG-1", None)
    with pytest.raises(UsageError, match=r"MIG-1.*isn't known.*--gpu-memory-utilization"):
        gpu_share(config, str(model), Placement((part,), (part,)))
    (model / "b.safetensors").write_bytes(b"short")
    one = gpu("0", 80)
    with pytest.raises(UsageError, match=r"can't read the size of model .*--gpu-memory"):
        gpu_share(config, str(model), Placement((one,), (one,)))


def test_a_hubs_model_is_downloaded_once_not_in_each_format(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mistral's repositories have the weights twice, early ones of Llama in a folder besides."""
    there = ["config.json", "model-00001-of-00002.safetensors", "model.safetensors.index.json"]
    twice = ["consolidated.safetensors", "original/consolidated.00.safetensors"]
    fetched: list[str] = []

    def download(model: str, **patterns: Any) -> str:
        fetched.extend(filter_repo_objects([*there, *twice], **patterns))
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert local_folder("owner/model") == tmp_path
    assert fetched == there
