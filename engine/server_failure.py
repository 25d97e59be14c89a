"""Why a vLLM server ended, as far as its log shows."""

import re
from collections.abc import Sequence

from selfstudy_engine.data.errors import last_lines

_STARTED = "$ "
"""Begins the line that a log has for each start."""
_POINTER = "root cause"
"""In the errors by which vLLM's outer processes point to what an inner one said."""
_RAISED = re.compile(r"(?:\(.*?\) ERROR .*?\] )?((?:\w+\.)*\w*(?:Error|Exception)\b.*)")


def explain_end(log: Sequence[str]) -> str:
    """Return the log's last lines, indented; before them what they call the root cause.

    >>> print(explain_end([
    ...     "(EngineCore pid=7) ERROR 11-29 08:35:41 [core.py:1510] RuntimeError: no space",
    ...     *(["  File ..."] * 20),
    ...     "RuntimeError: Engine core initialization failed. See root cause above.",
    ... ]).splitlines()[0])
      RuntimeError: no space
    """
    tail = last_lines(log)
    if _POINTER not in tail:
        return tail
    starts = [i for i, line in enumerate(log) if line.startswith(_STARTED)]
    for line in log[starts[-1] if starts else 0 :]:
        found = _RAISED.fullmatch(line)
        if found and _POINTER not in line:
            cause = last_lines([found[1]])
            return tail if found[1] in tail else f"{cause}\n  ...\n{tail}"
    return tail
