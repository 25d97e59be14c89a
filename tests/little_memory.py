"""The training process; the second of several has memory for 60 answer tokens at once."""

import os
import sys

import torch

from selfstudy_engine.train import answer_trainer
from selfstudy_engine.train.__main__ import main

_loss = answer_trainer.answer_loss


def _limited(logits: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor) -> torch.Tensor:
    if len(targets) > 60:
        raise RuntimeError("DefaultCPUAllocator: can't allocate memory")
    return _loss(logits, targets, weights)


if os.environ["RANK"] == "1":
    answer_trainer.answer_loss = _limited
sys.exit(main(sys.argv[1:]))
