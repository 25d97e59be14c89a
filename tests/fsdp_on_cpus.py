"""The training process, with FSDP on CPUs: accelerate spreads models over GPUs only, so it is told
that those are there; torch, which spreads and computes, sees the CPUs.
"""

import sys
from typing import Any

from accelerate import PartialState
from accelerate.utils import DistributedType

from selfstudy_engine.train.__main__ import main

_init = PartialState.__init__


def _with_gpus(state: PartialState, *args: Any, **kwargs: Any) -> None:
    _init(state, *args, **kwargs)
    if state.distributed_type == DistributedType.MULTI_CPU:
        state.distributed_type = DistributedType.MULTI_GPU


PartialState.__init__ = _with_gpus  # type: ignore[method-assign]
sys.exit(main(sys.argv[1:]))
