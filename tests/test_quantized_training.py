"""Adapters trained on a base model in four bits, for the whole one that is served."""

import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from tiny_model import make_quantized
from tiny_training import adapter_logprobs, first_loss, train_here

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.config_sources import ModelConfig
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.train.loading import load_base

MakeConfig = Callable[..., RunConfig]


def test_an_adapter_is_trained_on_four_bits_and_proven_on_the_whole_model(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = small_config(train__quantization="nf4", train__min_steps=8)
    figures = train_here(config, tiny_model, tmp_path / "a")
    loss = first_loss(capsys.readouterr().out)
    train_here(small_config(train__min_steps=8), tiny_model, tmp_path / "whole")
    # A first step has changed nothing yet: its loss is the base model's own.
    assert abs(loss - first_loss(capsys.readouterr().out)) > 1e-3
    assert figures["quantization"] == "nf4"
    quantized = load_base(str(tiny_model), ModelConfig(dtype="float32"), four_bits=True)
    trained_on = PeftModel.from_pretrained(quantized, tmp_path / "a").eval()
    for probe in read_adapter(tmp_path / "a").canary:
        ids = torch.tensor([probe.token_ids])
        served = adapter_logprobs(tiny_model, tmp_path / "a", probe.token_ids)
        of_tokens = served[:-1].gather(-1, ids[0, 1:, None])[:, 0]
        assert of_tokens.tolist() == pytest.approx(probe.adapter_logprobs, abs=1e-3)
        with torch.inference_mode():
            logprobs = trained_on(input_ids=ids).logits[0].log_softmax(-1)
        assert (logprobs - served).abs().mean() > 1e-2


def test_an_adapter_of_four_bits_that_learned_nothing_isnt_published(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    config = small_config(train__quantization="nf4", train__learning_rate=1e-9)
    with pytest.raises(RuntimeError, match="learned nothing"):
        train_here(config, tiny_model, tmp_path / "adapters" / "a")
    assert list((tmp_path / "adapters").iterdir()) == []


def test_quantised_weights_arent_quantised_again(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path
) -> None:
    model = make_quantized(tiny_model, tmp_path / "quantised")
    config = small_config(train__quantization="nf4", model__path=str(model))
    with pytest.raises(UsageError, match=r"quantised already \(compressed-tensors\); leave out"):
        choose_base_model(config)


def test_without_bitsandbytes_nothing_starts(
    small_config: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "bitsandbytes", None)
    with pytest.raises(UsageError, match=r"needs bitsandbytes; `pip install .*\[qlora\]`"):
        choose_base_model(small_config(train__quantization="nf4"))
    choose_base_model(small_config())
