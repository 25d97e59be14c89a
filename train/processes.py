"""The processes that train one adapter together: one alone, or those that accelerate started."""

import os
from typing import Any

import torch
from accelerate import PartialState
from accelerate.utils import parse_flag_from_env
from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict


def processes() -> PartialState:
    """Return which one this is, of how many, and its device; at the first call they meet."""
    return PartialState(cpu=not torch.cuda.is_available())


def launched() -> bool:
    """Tell whether accelerate's launcher started this process."""
    return "ACCELERATE_MIXED_PRECISION" in os.environ  # what every launch of its sets


def weights_are_spread() -> bool:
    """Tell whether each process holds a part of the model only (FSDP), not a copy of it."""
    return bool(parse_flag_from_env("ACCELERATE_USE_FSDP"))


def whole_weights(model: torch.nn.Module) -> dict[str, Any] | None:
    """Collect the trained weights of a model that is spread over processes; None if it isn't.

    All processes must call it; the first gets them.
    """
    if not weights_are_spread():
        return None
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    return dict(get_model_state_dict(model, options=options))
