"""Every Python process of a chaos run imports this: it may kill itself at a boundary of a file.

CHAOS_KILL names one, PROCESS:CALL:NUMBER: `loop:rename:3` is just before the loop's third
os.rename, `train:after-fsync:1` just after the first os.fsync of training. At `loop:full-fsync:2`
nobody is killed: the disk is full for that one call.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable
from typing import Any

_TRAIN = "selfstudy_engine.train"


def _process() -> str:
    return "train" if _TRAIN in sys.orig_argv else "loop"


def _kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _fill_disk() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _nothing() -> None:
    pass


_WHEN = {"after": (_nothing, _kill), "full": (_fill_disk, _nothing), "": (_kill, _nothing)}
"""Prefix -> what happens before the call, and after it."""


def _harmed(call: Callable[..., Any], number: int, when: str) -> Callable[..., Any]:
    left = number
    before, after = _WHEN[when]

    def counted(*args: Any, **kwargs: Any) -> Any:
        nonlocal left
        left -= 1
        this_one = left == 0
        if this_one:
            before()
        result = call(*args, **kwargs)
        if this_one:
            after()
        return result

    return counted


def _install(order: str) -> None:
    process, call, number = order.split(":")
    if process == _process():
        when, _, name = call.rpartition("-")
        setattr(os, name, _harmed(getattr(os, name), int(number), when))


if order := os.environ.get("CHAOS_KILL"):
    _install(order)
