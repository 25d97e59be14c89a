"""What config.json says about a base model, and what is made of it before anything starts."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson
import pytest
from safetensors.torch import save_file
from tiny_model import FAMILIES

from selfstudy_engine.data.base_model import (
    ATTENTION_LAYERS,
    PROVEN_FAMILIES,
    check_number_format,
    read_base_model,
)
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.engine import base_model
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.loop import run_loop

LLAMA = {"architectures": ["LlamaForCausalLM"], "model_type": "llama"}
BERT = {"architectures": ["BertForMaskedLM"], "model_type": "bert"}
TINY = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "vocab_size": 512,
}


def write_model(folder: Path, **shape: Any) -> Path:
    """A folder that looks like a checkpoint; its weights are never read."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_bytes(orjson.dumps(shape, option=orjson.OPT_NON_STR_KEYS))
    save_file({}, folder / "model.safetensors")
    return folder


def configured(model: Path, **values: Any) -> RunConfig:
    return load_config(None, {"model.path": str(model), "model.dtype": "float32"} | values)


@pytest.mark.parametrize("family", FAMILIES)
def test_the_families_are_known(family: str, tmp_path: Path) -> None:
    kind, settings = FAMILIES[family]
    shape = kind(**settings).to_dict() | {"architectures": [f"{family.title()}ForCausalLM"]}
    base = read_base_model(str(write_model(tmp_path, **shape)))
    assert base.model_type in PROVEN_FAMILIES
    assert base.is_proven
    assert base.is_mixture == (family == "mixtral")
    assert base.quantization == ""


def test_every_family_that_counts_as_proven_is_tested() -> None:
    assert {kind.model_type for kind, _ in FAMILIES.values()} == PROVEN_FAMILIES


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (BERT, "is a BertForMaskedLM, not a decoder that generates text .*--model"),
        (LLAMA | {"architectures": ["LlamaModel"]}, "is a LlamaModel, not a decoder"),
        (
            {
                "architectures": ["T5ForConditionalGeneration"],
                "model_type": "t5",
                "is_encoder_decoder": True,
            },
            "is a T5ForConditionalGeneration, not a decoder",
        ),
        ({"model_type": "llama"}, "names no architecture"),
        ({"architectures": ["LlamaForCausalLM"]}, "names no architecture or model_type"),
    ],
)
def test_what_generates_no_text_is_refused(
    shape: dict[str, Any], message: str, tmp_path: Path
) -> None:
    with pytest.raises(UsageError, match=message):
        read_base_model(str(write_model(tmp_path, **shape)))


@pytest.mark.parametrize(("content", "message"), [(b"{", "isn't JSON"), (b"[]", "JSON object")])
def test_a_damaged_config_is_named(content: bytes, message: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(UsageError, match=message):
        read_base_model(str(tmp_path))


def test_a_model_that_the_hub_doesnt_give_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(UsageError, match=r"can't read config.json of nobody/no-such-model"):
        read_base_model("nobody/no-such-model")


@pytest.mark.parametrize("key", ["quantization_config", "compression_config"])
def test_quantised_weights_are_seen(key: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path, **LLAMA, **{key: {"quant_method": "awq"}})
    base = read_base_model(str(folder))
    assert base.quantization == "awq"
    assert not base.is_proven


@pytest.mark.parametrize(
    ("flag", "dtype", "message"),
    [
        ("avx2", "float32", r"quantised \(awq\), and on a CPU without AVX-512.*serve it on a GPU"),
        ("avx2", "bfloat16", "on a CPU without AVX-512"),
        ("avx512f", "float32", r"quantised \(awq\).*not in float32; choose --dtype bfloat16"),
    ],
)
def test_quantised_weights_that_this_cpu_cant_compute_are_refused(
    flag: str, dtype: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base_model, "cpu_flags", lambda: {flag})
    folder = write_model(tmp_path, **LLAMA, quantization_config={"quant_method": "awq"})
    with pytest.raises(UsageError, match=message):
        choose_base_model(configured(folder, **{"model.dtype": dtype, "devices.server": "cpu"}))


def test_gemma_isnt_computed_in_float16(tmp_path: Path) -> None:
    gemma = {"architectures": ["Gemma2ForCausalLM"], "model_type": "gemma2"}
    base = read_base_model(str(write_model(tmp_path, **gemma)))
    check_number_format(base, "bfloat16")
    with pytest.raises(UsageError, match=r"gemma2.* overflows in float16; choose --dtype float32"):
        choose_base_model(configured(tmp_path, **{"model.dtype": "float16"}))


def test_a_proven_family_keeps_its_configuration(tmp_path: Path) -> None:
    config = configured(write_model(tmp_path, **LLAMA))
    assert choose_base_model(config) == (str(tmp_path), config)


def test_of_a_mixture_of_experts_the_attention_is_trained(tmp_path: Path) -> None:
    """Also with the configuration that a run wrote down, when it is continued."""
    shape = {"architectures": ["MixtralForCausalLM"], "model_type": "mixtral"}
    folder = write_model(tmp_path, **shape, num_local_experts=8)
    _, config = choose_base_model(configured(folder))
    assert config.train.target_modules == list(ATTENTION_LAYERS)
    assert choose_base_model(config) == (str(folder), config)
    with pytest.raises(UsageError, match=r"Mixtral.* no layers named w1 .*it has k_proj, o_proj"):
        choose_base_model(configured(folder, **{"train.target_modules": ["q_proj", "w1"]}))


def test_layers_that_arent_there_are_refused(tmp_path: Path) -> None:
    config = configured(write_model(tmp_path, **LLAMA), **{"train.target_modules": ["c_attn"]})
    with pytest.raises(UsageError, match=r"no layers named c_attn .*q_proj, up_proj, v_proj"):
        choose_base_model(config)


def test_the_loop_refuses_before_it_makes_anything(tmp_path: Path) -> None:
    config = configured(write_model(tmp_path / "bert", **BERT))
    with pytest.raises(UsageError, match="BertForMaskedLM"):
        run_loop(config, tmp_path / "runs", reporter=None)  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["bert"]


def refusal(tmp_path: Path, shape: dict[str, Any], **values: Any) -> str:
    folder = write_model(tmp_path / "model", **TINY, **shape)
    with pytest.raises(UsageError, match=r"can't be used: .*--model") as refused:
        choose_base_model(configured(folder, **values))
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    return str(refused.value)


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        (  # layers that are stored transposed: PEFT's adapters of them can't be served
            {"architectures": ["GPT2LMHeadModel"], "model_type": "gpt2", "n_embd": 32, "n_head": 4},
            "no linear layer that an adapter could be given",
        ),
        (
            LLAMA | {"quantization_config": {"quant_method": "fp8", "activation_scheme": "static"}},
            "can't train adapters on weights quantised with fp8",
        ),
    ],
    ids=["no layers", "no training"],
)
def test_transformers_is_asked_about_other_models(
    shape: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Alone, where a server runs already."""
    monkeypatch.setattr(base_model, "cpu_flags", lambda: {"avx512f"})
    values = {"server.url": "http://127.0.0.1:1", "model.dtype": "bfloat16"}
    assert message in refusal(tmp_path, shape, **values)


QWEN3_MOE = TINY | {
    "architectures": ["Qwen3MoeForCausalLM"],
    "model_type": "qwen3_moe",
    "num_experts": 4,
    "moe_intermediate_size": 32,
    "num_key_value_heads": 2,
}


def test_a_mixture_that_isnt_among_the_proven_families_is_taken(tmp_path: Path) -> None:
    folder = write_model(tmp_path, **QWEN3_MOE)
    _, config = choose_base_model(configured(folder, **{"server.url": "http://127.0.0.1:1"}))
    assert config.train.target_modules == list(ATTENTION_LAYERS)
    assert config.server.adapter_mode == "merged"


ASK_VLLM = """
import sys
import orjson
from selfstudy_engine.data.config import load_config
from selfstudy_engine.engine.vllm_check import check_servable_model

for model in sys.argv[1:]:
    answer = check_servable_model(load_config(None, {"model.dtype": "float32"}), model)
    print(orjson.dumps(answer).decode())
"""


@pytest.mark.vllm
def test_vllm_is_asked_about_other_models(tmp_path: Path) -> None:
    """One process for both; test_families.py has `choose_base_model` ask about a quantised one."""
    bert = {"architectures": ["BertLMHeadModel"], "model_type": "bert", "is_decoder": True}
    folders = [
        write_model(tmp_path / "bert", **TINY, **bert),
        write_model(tmp_path / "mixture", **QWEN3_MOE),
    ]
    command: list[str | Path] = [sys.executable, "-c", ASK_VLLM, *folders]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    refused, taken = map(orjson.loads, result.stdout.splitlines()[-2:])
    assert refused == {"refused": "vLLM has no class of its own for BertLMHeadModel"}
    assert taken == {}
