"""Which layers get an adapter, and that each family is trained as it is served."""

from pathlib import Path

import pytest
import torch
from tiny_model import FAMILIES, make_quantized, make_tiny_model
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    GPT2Config,
    GPT2LMHeadModel,
    SiglipVisionConfig,
)

from selfstudy_engine.data.base_model import ATTENTION_LAYERS, LINEAR_LAYERS
from selfstudy_engine.data.config_sources import ModelConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.loading import load_base
from selfstudy_engine.train.packing import pack_row
from selfstudy_engine.train.targets import lora_targets

SETTINGS = ModelConfig(dtype="float32")


@pytest.fixture(scope="module", params=FAMILIES)
def family(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny checkpoint; the folder is named after its family."""
    return make_tiny_model(tmp_path_factory.mktemp("models") / request.param, request.param)


def test_linear_layers_of_the_decoder_get_an_adapter(family: Path) -> None:
    kinds = ATTENTION_LAYERS if family.name == "mixtral" else LINEAR_LAYERS
    targets = lora_targets(load_base(str(family), SETTINGS), "all-linear")
    assert len(targets) == 2 * len(kinds)  # two layers
    assert {target.rpartition(".")[2] for target in targets} == set(kinds)
    assert all(target.startswith("model.layers.") for target in targets)


def test_packed_rows_and_answer_positions_change_nothing(family: Path) -> None:
    """Windows and caps included: each sequence gets what it gets alone."""
    model = load_base(str(family), SETTINGS).eval()
    parts = [list(range(10, 60)), list(range(100, 120)), list(range(30, 95))]
    row = pack_row([TokenSequence(ids, 5) for ids in parts], shared=False)
    inputs = {key: torch.tensor([getattr(row, key)]) for key in ("input_ids", "position_ids")}
    answers = torch.tensor([7, 55, 100, 130])
    with torch.inference_mode():
        alone = torch.cat([model(input_ids=torch.tensor([ids])).logits[0] for ids in parts])
        packed = model(**inputs, use_cache=False).logits[0]
        kept = model(**inputs, use_cache=False, logits_to_keep=answers).logits[0]
    torch.testing.assert_close(packed, alone, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(kept, alone[answers], atol=1e-4, rtol=1e-4)


def test_the_cap_of_attention_scores_is_trained(tmp_path: Path) -> None:
    """torch's own attention would leave out Gemma 2's, without a word."""
    folder = make_tiny_model(tmp_path / "gemma2", "gemma2")
    text = torch.arange(1, 50)[None]
    with torch.inference_mode():
        logits = load_base(str(folder), SETTINGS).eval()(input_ids=text).logits
        uncapped = AutoModelForCausalLM.from_pretrained(
            folder, dtype=torch.float32, attn_implementation="sdpa"
        )(input_ids=text).logits
    assert float((logits - uncapped).abs().max()) > 0.1


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # compressed-tensors
def test_quantised_layers_get_an_adapter_too(tmp_path: Path) -> None:
    plain = make_tiny_model(tmp_path / "plain")
    quantised = load_base(str(make_quantized(plain, tmp_path / "quantised")), SETTINGS)
    expected = lora_targets(load_base(str(plain), SETTINGS), "all-linear")
    assert lora_targets(quantised, "all-linear") == expected
    weight = quantised.model.layers[0].mlp.up_proj.weight
    steps = (weight / weight.abs().amax(-1, keepdim=True) * 7).round()
    assert len(steps.unique()) == 15  # 4 bits, unpacked


def test_what_sees_images_gets_none() -> None:
    size = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    vision = SiglipVisionConfig(**size, num_attention_heads=2, image_size=28, patch_size=14)
    kind, settings = FAMILIES["gemma3"]
    text = kind(vocab_size=512, head_dim=32, num_attention_heads=2, **size, **settings)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(
            Gemma3Config(text_config=text, vision_config=vision)
        )
    targets = lora_targets(model, "all-linear")
    assert len(targets) == len(LINEAR_LAYERS)
    assert all(target.startswith("model.language_model.layers.") for target in targets)


def test_chosen_layers_alone(family: Path) -> None:
    model = load_base(str(family), SETTINGS)
    targets = lora_targets(model, ["q_proj", "o_proj"])
    assert {target.rpartition(".")[2] for target in targets} == {"q_proj", "o_proj"}
    with pytest.raises(UsageError, match=r"train.target_modules: .* no linear layers named wq; it"):
        lora_targets(model, ["q_proj", "wq"])


def test_a_model_without_linear_layers_is_refused() -> None:
    model = GPT2LMHeadModel(GPT2Config(n_embd=32, n_head=2, n_layer=1, vocab_size=512))
    with pytest.raises(UsageError, match=r"GPT2LMHeadModel has no linear layer .*--model"):
        lora_targets(model, "all-linear")
