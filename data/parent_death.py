"""A process that must not outlive the one that started it."""

import ctypes
import signal


def end_with_parent(by: signal.Signals = signal.SIGTERM) -> None:
    """Have the kernel end this process when its parent dies, however that dies (Linux)."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, by)
