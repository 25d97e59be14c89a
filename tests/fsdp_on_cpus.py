"""The training process, with FSDP on CPUs: accelerate spreads models over GPUs only, so it is told
that those are there; torch, which spreads and computes, sees the CPUs.
"""

import sys
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType

from selfstudy_engine.train import trainer
from selfstudy_engine.train.__main__ import main
from selfstudy_engine.train.lines import write_line
from selfstudy_engine.train.loading import load_base
from selfstudy_engine.train.processes import processes

_init = PartialState.__init__


def _with_gpus(state: PartialState, *args: Any, **kwargs: Any) -> None:
    _init(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


def _load_and_tell(*args: Any, **kwargs: Any) -> Any:
    base = load_base(*args, **kwargs)
    values = sum(int(torch.count_nonzero(weight)) for weight in base.parameters())
    write_line({"event": "loaded", "main": processes().is_main_process, "any": values > 0})
    return base


trainer.load_base = _load_and_tell  # type: ignore[attr-defined]
PartialState.__init__ = _with_gpus
sys.exit(main(sys.argv[1:]))
