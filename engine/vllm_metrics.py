"""vLLM's /metrics page in, numbers out."""

import re

_SAMPLE = re.compile(
    r"^vllm:(\w+)(?:\{.*\})? ([0-9]{1,18}(?:\.[0-9]{0,18})?(?:e[+-]?[0-9]{1,2})?)$",
    re.MULTILINE | re.IGNORECASE | re.ASCII,
)


def parse_metrics(page: str) -> dict[str, list[float]]:
    """Return the values of each of vLLM's metrics: one for each engine and label.

    >>> parse_metrics('vllm:num_requests_running{engine="0"} 3.0\\npython_info 1.0')
    {'num_requests_running': [3.0]}
    """
    found: dict[str, list[float]] = {}
    for name, value in _SAMPLE.findall(page):
        found.setdefault(name, []).append(float(value))
    return found
