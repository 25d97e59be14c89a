"""Why a training process ended without saying so itself, as far as its log shows."""

import re
import signal
from pathlib import Path

from selfstudy_engine.data.errors import last_lines

_OUT_OF_MEMORY = (
    "; if nobody killed it, the system did as memory ran out: leave it more (server.kv_cache_gib, "
    "other programs), or begin another --run with a lower train.tokens_per_step"
)
_FIRST_FAILURE = re.compile(r"failed \(exitcode: (-?\d+)\) local_rank: (\d+)")
"""How torch's launcher names the process that failed first; its own traceback follows."""


def explain_failure(code: int, log: Path) -> str:
    """Return a message for an exit code; of several processes, for that of the first that failed.

    Args:
        code: of the process that we started; negative: the signal that ended it.
        log: what it has written, earlier processes' lines before it.
    """
    lines = log.read_text("utf-8", errors="replace").splitlines()
    who = "the training process"
    for index in reversed(range(len(lines))):
        if found := _FIRST_FAILURE.search(lines[index]):
            code, who = int(found[1]), f"process {found[2]} of the training"
            lines = lines[:index]
            break
    return (
        f"{who} ended with exit code {code}{_OUT_OF_MEMORY if code == -signal.SIGKILL else ''}; "
        f"the last lines of {log}:\n{last_lines(lines)}"
    )
