"""Training where memory runs out: the same adapter in smaller parts, or what to lower."""

from pathlib import Path

import orjson
import pytest
import torch
from conftest import MakeConfig
from safetensors.torch import load_file
from tiny_training import train_here

from selfstudy_engine.data.adapters import WEIGHTS
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.train.answer_trainer import answer_loss


def test_a_row_that_memory_is_too_small_for_is_computed_in_parts(
    small_config: MakeConfig,
    tiny_model: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And comes to the same adapter."""
    config = small_config(train__min_steps=8, train__tokens_per_step=512)
    sizes = limit_memory(monkeypatch, 10_000, "")
    train_here(config, tiny_model, tmp_path / "whole")
    limit = max(sizes) // 3
    sizes = limit_memory(monkeypatch, limit, "DefaultCPUAllocator: can't allocate memory")
    capsys.readouterr()
    train_here(config, tiny_model, tmp_path / "parts")
    assert max(sizes) <= limit
    records = [orjson.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [r["parts"] for r in records if r["event"] == "memory"] == [2, 4]
    whole, parts = (load_file(tmp_path / name / WEIGHTS) for name in ("whole", "parts"))
    for name, expected in whole.items():
        torch.testing.assert_close(parts[name], expected, rtol=1e-3, atol=1e-5)


def test_memory_that_is_too_small_for_one_sequence_says_what_to_lower(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 10, "CUDA out of memory. Tried to allocate 2.00 GiB.")
    with pytest.raises(TrainingError, match=r"one sequence of \d+ tokens .* lower train\.rank"):
        train_here(small_config(), tiny_model, tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_another_error_of_a_step_isnt_taken_for_memory(
    small_config: MakeConfig, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit_memory(monkeypatch, 10, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train_here(small_config(), tiny_model, tmp_path / "a")


def limit_memory(monkeypatch: pytest.MonkeyPatch, num_tokens: int, message: str) -> list[int]:
    """Fail as torch does where more tokens are computed at once; returns what was computed."""
    sizes: list[int] = []

    def limited(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
        if len(targets) > num_tokens:
            raise RuntimeError(message)
        sizes.append(len(targets))
        return answer_loss(logits, targets, weights)

    monkeypatch.setattr("selfstudy_engine.train.answer_trainer.answer_loss", limited)
    return sizes
