"""What makes a training step fast changes neither its loss nor its gradients."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch.nn.functional import cross_entropy
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from selfstudy_engine.data.config_training import TrainConfig
from selfstudy_engine.train.answer_trainer import answer_loss
from selfstudy_engine.train.attention import (
    SUPPORTED,
    RowLayout,
    attention_by_sequence,
    row_attention,
    row_layout_of,
)
from selfstudy_engine.train.examples import TokenSequence
from selfstudy_engine.train.fast_lora import LoraProduct, fast_lora
from selfstudy_engine.train.fitting import fit
from selfstudy_engine.train.packing import PackedRow, pack_row

SHARING = [
    TokenSequence([5, 6, 7, 8, 20, 21, 22], 4),
    TokenSequence([5, 6, 7, 8, 20, 31], 4),
    TokenSequence([5, 6, 40, 41, 42, 43, 44, 45, 46], 3),
    TokenSequence([9, 50, 51, 52], 1),
]
SETTINGS: dict[str, dict[str, Any]] = {"mixtral": {"num_local_experts": 4}}
SETTINGS["qwen3_moe"] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}


def make_model(family: str, dtype: torch.dtype = torch.float32, **settings: Any) -> Any:
    torch.manual_seed(0)
    config = CONFIG_MAPPING[family](
        **{
            "vocab_size": 64,
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "max_position_embeddings": 128,
            "initializer_range": 0.2,
            "pad_token_id": 0,
            **SETTINGS.get(family, {}),
            **settings,
        }
    )
    attention = "eager" if family == "gemma2" else "sdpa"  # as train.loading has it
    return AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation=attention)


def with_lora(model: Any, **settings: Any) -> PeftModel:
    config = LoraConfig(task_type="CAUSAL_LM", r=4, target_modules="all-linear", **settings)
    adapted = get_peft_model(model, config)
    assert isinstance(adapted, PeftModel)
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:  # else it is 0, and so is the gradient of A
            parameter.data.normal_(std=0.3)
    return adapted


def loss_alone(model: Any, sequences: list[TokenSequence]) -> torch.Tensor:
    """Mean over the answers' tokens, one sequence at a time, by transformers' own attention."""
    losses = []
    for sequence in sequences:
        ids, start = torch.tensor(sequence.token_ids), sequence.num_prompt_tokens
        logits = model(input_ids=ids[None], use_cache=False).logits[0].float()
        losses.append(cross_entropy(logits[start - 1 : -1], ids[start:], reduction="none"))
    return torch.cat(losses).mean()


def loss_of_row(model: Any, row: PackedRow) -> torch.Tensor:
    logits = model(
        input_ids=torch.tensor([row.input_ids]),
        position_ids=torch.tensor([row.position_ids]),
        logits_to_keep=torch.tensor(row.predicting),
        use_cache=False,
        row_layout=row_layout_of(row),
    ).logits[0]
    return cross_entropy(logits.float(), torch.tensor(row.targets))


def gradients(model: Any, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(trained.values()))
    return dict(zip(trained, found, strict=True))


@pytest.mark.parametrize("family", sorted(SUPPORTED))
def test_a_row_gives_the_loss_and_gradients_of_its_sequences_alone(family: str) -> None:
    """Of every weight, so that nothing leaks between sequences; with shared beginnings and not."""
    model = make_model(family)
    expected = loss_alone(model, SHARING)
    of_weights = gradients(model, expected)
    for shared in (True, False):
        with attention_by_sequence(model, longest=9) as by_sequence:
            assert by_sequence
            loss = loss_of_row(model, pack_row(SHARING, shared=shared))
        assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
        for name, gradient in gradients(model, loss).items():
            torch.testing.assert_close(gradient, of_weights[name], atol=2e-5, rtol=1e-4, msg=name)


def test_afterwards_the_model_attends_as_before() -> None:
    model = make_model("llama")
    expected = loss_alone(model, SHARING)
    with pytest.raises(ZeroDivisionError), attention_by_sequence(model, longest=9):
        1 / 0  # noqa: B018
    assert model.config._attn_implementation == "sdpa"
    assert torch.equal(loss_alone(model, SHARING), expected)


@pytest.mark.parametrize(
    ("family", "settings"),
    [
        ("gemma2", {}),  # caps its scores
        ("mistral", {"sliding_window": 8}),  # shorter than the longest sequence
    ],
)
def test_what_another_attention_would_get_wrong_keeps_its_own(
    family: str, settings: dict[str, Any]
) -> None:
    model = make_model(family, **settings)
    before = model.config._attn_implementation
    with attention_by_sequence(model, longest=9) as by_sequence:
        assert not by_sequence
        assert model.config._attn_implementation == before


def test_a_window_that_holds_every_sequence_is_none() -> None:
    with attention_by_sequence(make_model("mistral", sliding_window=9), longest=9) as by_sequence:
        assert by_sequence


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("lengths", [[600, 3], [130, 90], [20, 30, 25]])
def test_short_and_long_sequences_agree_with_the_definition(
    dtype: torch.dtype, lengths: list[int]
) -> None:
    """Both ways that a CPU has; and grouped heads."""
    torch.manual_seed(0)
    sequences = [TokenSequence([n] * length, 1) for n, length in enumerate(lengths)]
    layout: RowLayout = row_layout_of(pack_row(sequences))
    shapes = [(1, heads, sum(lengths), 16) for heads in (6, 2, 2)]
    query, key, value = (torch.randn(*shape).to(dtype) for shape in shapes)
    found, _ = row_attention(
        torch.nn.Identity(), query, key, value, None, scaling=0.25, row_layout=layout
    )
    expected = []
    parts = [heads[0].float().split(lengths, dim=1) for heads in (query, key, value)]
    for q, k, v in zip(*parts, strict=True):
        keys, values = (heads.repeat_interleave(3, 0) for heads in (k, v))
        scores = (0.25 * q @ keys.transpose(1, 2)).masked_fill(
            torch.ones(q.shape[1], q.shape[1]).triu(1).bool(), -torch.inf
        )
        expected.append((scores.softmax(-1) @ values).transpose(0, 1))
    tolerance = 1e-5 if dtype == torch.float32 else 2e-2
    torch.testing.assert_close(
        found[0].float(), torch.cat(expected), atol=tolerance, rtol=tolerance
    )


def test_a_weight_scales_the_loss_of_its_targets_and_of_no_others() -> None:
    torch.manual_seed(0)
    logits, targets = torch.randn(4, 9), torch.tensor([1, 5, 8, 0])
    each = cross_entropy(logits, targets, reduction="none")
    assert torch.equal(answer_loss(logits, targets, torch.ones(4)), each.mean())
    weights = torch.tensor([1.0, 0.5, 0.5, 1.0])
    torch.testing.assert_close(answer_loss(logits, targets, weights), (each * weights).sum() / 4)
    light = answer_loss(logits, targets, torch.full((4,), 0.5))
    torch.testing.assert_close(light, each.mean() / 2)


@pytest.mark.parametrize("weight", [1.0, 0.5])
def test_a_training_weighs_its_sequences(weight: float) -> None:
    """One step: its loss is that of the untrained model, times the weight."""
    model = with_lora(make_model("llama"))
    alone = loss_alone(model, SHARING).item()
    train = TrainConfig(epochs=1, min_steps=1, tokens_per_step=64)
    done = fit(model, [replace(sequence, weight=weight) for sequence in SHARING], train, seed=0)
    assert done.steps == 1
    assert done.loss == pytest.approx(weight * alone, abs=1e-4)


def test_a_shape_that_is_new_waits_for_no_plan_of_cudnns() -> None:
    """As each row's is; on a Hopper GPU torch would ask cuDNN first."""
    model = with_lora(make_model("llama"))
    in_training: list[bool] = []
    layer = next(module for name, module in model.named_modules() if name.endswith("self_attn"))
    layer.register_forward_pre_hook(
        lambda *_: in_training.append(torch.backends.cuda.cudnn_sdp_enabled())
    )
    fit(model, SHARING, TrainConfig(epochs=1, min_steps=1, tokens_per_step=64), seed=0)
    assert set(in_training) == {False}
    assert torch.backends.cuda.cudnn_sdp_enabled()


@pytest.mark.parametrize("bias", [True, False])
def test_the_product_has_the_gradients_of_its_formula(bias: bool) -> None:
    torch.manual_seed(0)
    made = [
        torch.randn(*shape, dtype=torch.float64) for shape in ((2, 3, 5), (4, 5), (2, 5), (4, 2))
    ]
    x, weight, a, b = made
    for trained in (x, a, b):
        trained.requires_grad_()
    added = torch.randn(4, dtype=torch.float64) if bias else None

    def product(*trained: torch.Tensor) -> torch.Tensor:
        x, a, b = trained
        return LoraProduct.apply(x, weight, added, a, b, 1.5)  # type: ignore[no-any-return, no-untyped-call]

    expected = torch.nn.functional.linear(x, weight, added) + 1.5 * x @ a.T @ b.T
    torch.testing.assert_close(product(x, a, b), expected)
    assert torch.autograd.gradcheck(product, (x, a, b))


@pytest.mark.parametrize(("family", "settings"), [("llama", {}), ("qwen2", {}), ("gemma", {})])
def test_fast_layers_give_pefts_loss_and_gradients(family: str, settings: dict[str, Any]) -> None:
    model = with_lora(make_model(family, **settings))
    expected = loss_alone(model, SHARING)
    of_weights = gradients(model, expected)
    with fast_lora(model) as num_fast:
        assert num_fast == 2 * 7
        loss = loss_alone(model, SHARING)
    assert loss.item() == pytest.approx(expected.item(), abs=1e-5)
    for name, gradient in gradients(model, loss).items():
        torch.testing.assert_close(gradient, of_weights[name], atol=1e-5, rtol=1e-4, msg=name)
    assert torch.equal(loss_alone(model, SHARING), expected)  # PEFT's own again


def test_in_bfloat16_weights_of_the_adapter_and_their_gradients_stay_float32() -> None:
    model = with_lora(make_model("llama", torch.bfloat16))
    expected = loss_alone(model, SHARING).item()
    with fast_lora(model):
        loss = loss_alone(model, SHARING)
    assert loss.item() == pytest.approx(expected, abs=0.05)
    found = gradients(model, loss)
    assert {gradient.dtype for gradient in found.values()} == {torch.float32}
    assert all(gradient.abs().max() > 0 for gradient in found.values())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_wider_input_under_autocast_gives_pefts_result_and_gradients(dtype: torch.dtype) -> None:
    """On a GPU, autocast makes a layer norm's result float32, which is the next layer's input."""
    model = with_lora(make_model("llama", dtype))
    layer = model.base_model.model.model.layers[0].mlp.up_proj
    x = torch.randn(2, 3, 32, requires_grad=True)
    trained = {"x": x, "A": layer.lora_A.default.weight, "B": layer.lora_B.default.weight}

    def computed() -> dict[str, torch.Tensor]:
        with torch.autocast("cpu", torch.bfloat16):
            result = layer(x)
        found = torch.autograd.grad(result.float().square().sum(), list(trained.values()))
        return {"result": result, **dict(zip(trained, found, strict=True))}

    expected = computed()
    with fast_lora(model):
        found = computed()
    for name, tensor in found.items():
        allowed = 0.02 * expected[name].abs().max().item()  # bfloat16 has 8 bits
        torch.testing.assert_close(tensor, expected[name], atol=allowed, rtol=0, msg=name)


@pytest.mark.parametrize("settings", [{"lora_dropout": 0.5}, {"use_dora": True}])
def test_layers_that_do_more_keep_pefts_forward_call(settings: dict[str, Any]) -> None:
    model = with_lora(make_model("llama"), **settings)
    with fast_lora(model) as num_fast:
        assert num_fast == 0
        assert "forward" not in vars(model.base_model.model.model.layers[0].mlp.up_proj)
