"""Every Python process of a chaos run imports this: it may kill itself at a boundary of a file.

CHAOS_KILL names one, PROCESS:CALL:NUMBER: `loop:rename:3` is just before the loop's third
os.rename, `train:after-fsync:1` just after the first os.fsync of training.
"""

import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_TRAIN = "selfstudy_engine.train"


def _process() -> str:
    return "train" if _TRAIN in sys.orig_argv else "loop"


def _killing(call: Callable[..., Any], number: int, after: bool) -> Callable[..., Any]:
    left = number

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        if left == 0 and not after:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*args, **kwargs)
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return counted


def _install(order: str) -> None:
    process, call, number = order.split(":")
    if process == _process():
        name = call.removeprefix("after-")
        setattr(os, name, _killing(getattr(os, name), int(number), call.startswith("after-")))


if order := os.environ.get("CHAOS_KILL"):
    _install(order)
