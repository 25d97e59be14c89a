"""Ctrl-C, which RDKit would take: it handles SIGINT itself while it searches a molecule.

There (2026.9) one that comes is swallowed, and what was found by then is returned as if it were
all; and the handler that is put back afterwards has system calls begun again, so that no waiting
for a thread ends any more.
"""

import signal
import threading
from types import FrameType

_STAND_IN = signal.SIGRTMIN
"""Nobody else's."""


def guard_interrupts() -> None:
    """Have SIGINT reach Python under another number; to be called before any thread is started.

    It is blocked in all threads but one, which waits for it and passes it on to the main thread,
    where Python's handler of SIGINT takes it. Child processes inherit the block: they end with this
    one. Where SIGINT is ignored, as in a shell's background jobs, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is not signal.default_int_handler:
        return
    signal.signal(_STAND_IN, _interrupt)
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    threading.Thread(target=_pass_on, name="interrupts", daemon=True).start()


def _pass_on() -> None:
    main = threading.main_thread().ident
    assert main, "it runs"
    while True:
        signal.sigwait({signal.SIGINT})
        signal.pthread_kill(main, _STAND_IN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    del number
    handler = signal.getsignal(signal.SIGINT)  # asyncio has its own while it runs
    if callable(handler):
        handler(signal.SIGINT, frame)
