"""Trainings of a tiny model in the test's own process, and what they are held against."""

from pathlib import Path
from typing import Any

import orjson
import pytest
import torch

from selfstudy_engine.data.config import RunConfig


def train_here(config: RunConfig, model: Path, output: Path, **job: Any) -> dict[str, Any]:
    """Train in this process, which has imported torch already."""
    from selfstudy_engine.train.trainer import TrainingJob, train_adapter

    defaults: dict[str, Any] = {"exemplars": None, "samples": None, "before_round": None}
    return train_adapter(
        TrainingJob(config=config, model=str(model), output=output, **(defaults | job))
    )


def main_here(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, dict[str, Any]]:
    """Run the process's main function; returns its exit code and last line."""
    from selfstudy_engine.train.__main__ import main

    code = main([str(argument) for argument in arguments])
    return code, orjson.loads(capsys.readouterr().out.splitlines()[-1])


def adapter_logprobs(model: Path, adapter: Path | None, token_ids: list[int]) -> torch.Tensor:
    """Log-probabilities of every next token, from a fresh load."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    loaded = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32)
    if adapter:
        loaded = PeftModel.from_pretrained(loaded, adapter)
    with torch.inference_mode():
        logits = loaded.eval()(input_ids=torch.tensor([token_ids])).logits[0]
    return torch.as_tensor(logits.log_softmax(-1))


def first_loss(log: str) -> float:
    records = [orjson.loads(line) for line in log.splitlines() if line.startswith("{")]
    return float(next(r["loss"] for r in records if r["event"] == "log" and r["step"] == 1))
