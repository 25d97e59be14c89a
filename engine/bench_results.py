"""What a benchmark found, as one JSON document: contenders, ratios, extras, host and command."""

import shlex
import statistics
import sys
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.engine.bench_workloads import Measurement

RATES = {
    "fixed": ("output_tokens_per_second",),
    "real": ("completions_per_second", "output_tokens_per_second", "accepted_distinct_per_second"),
    "long": ("seconds_per_prompt",),
}
"""The figures that each workload is about; the first is the one that ratios are made of."""
_OBSERVED = ("idle_share", "prefix_hit_share")
_RATIOS = {
    "merged_over_offline": ("fixed", "5", "3"),
    "merged_over_stock_lora": ("fixed", "5", "6"),
    "fast_lora_over_stock": ("fixed", "7", "6"),
    "engine_over_original": ("real", "5", "1"),
    "stock_lora_first_token_over_merged": ("long", "6", "5"),
    "stock_lora_first_token_over_fast": ("long", "6", "7"),
}
"""name -> workload, contender, contender that it is divided by."""


@dataclass(slots=True)
class Results:
    """Collects measurements; `to_json` says what they come to."""

    host: dict[str, Any]
    config: RunConfig
    measurements: dict[str, dict[str, list[Measurement]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(list))
    )
    """workload -> contender -> one for each turn."""
    contenders: dict[str, dict[str, Any]] = field(default_factory=dict)
    """contender -> label, startup_seconds, peak_memory_gib."""
    extras: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Name of the part -> its figures."""

    def ratios(self) -> dict[str, float]:
        """Return the ratios that could be measured: medians of those within each turn."""
        found = {}
        for name, (workload, above, below) in _RATIOS.items():
            turns = self.measurements[workload]
            rate = RATES[workload][0]
            pair = [[getattr(turn, rate) for turn in turns[key]] for key in (above, below)]
            if all(pair):
                found[name] = within_turns(*pair)
        sources = {
            "swap_seconds_median": ("swap", "seconds_median"),
            "swap_seconds_worst": ("swap", "seconds_worst"),
            "client_completions_per_second": ("client", "completions_per_second"),
            "overlap_idle_share": ("overlap", "idle_share"),
            "rescore_seconds_per_million": ("rescore", "seconds_per_million"),
            "training_speedup": ("training", "speedup"),
        }
        for name, (part, key) in sources.items():
            if part in self.extras:
                found[name] = self.extras[part][key]
        return found

    def to_json(self) -> dict[str, Any]:
        """Return everything, with the command that gave it."""
        return {
            "command": shlex.join(["selfstudy-engine", *sys.argv[1:]]),
            **self.host,
            "config": self.config.model_dump(mode="json", exclude_none=True),
            "ratios": self.ratios(),
            "contenders": {
                key: facts | {"workloads": self._workloads_of(key)}
                for key, facts in self.contenders.items()
            },
            "extras": self.extras,
        }

    def _workloads_of(self, key: str) -> dict[str, Any]:
        found = {}
        for workload, rates in RATES.items():
            turns = self.measurements[workload][key]
            if turns:
                found[workload] = {
                    "num_prompts": turns[0].num_prompts,
                    "prompt_tokens_mean": turns[0].num_prompt_tokens / turns[0].num_prompts,
                    "output_tokens": [turn.num_output_tokens for turn in turns],
                    **{
                        rate: _summary(values)
                        for rate in (*rates, *_OBSERVED)
                        if (values := [v for t in turns if (v := getattr(t, rate)) is not None])
                    },
                }
        return found


def within_turns(above: Sequence[float], below: Sequence[float]) -> float:
    """Return the median of the turns' ratios: within a turn the machine is the same for both.

    Of a benchmark that isn't over, one of them may be a turn ahead.

    >>> within_turns([2, 8, 9], [1, 2])
    3.0
    """
    return statistics.median(a / b for a, b in zip(above, below, strict=False))


def _summary(values: list[float]) -> dict[str, Any]:
    return {
        "median": statistics.median(values),
        "low": min(values),
        "high": max(values),
        "turns": values,
    }


def save_results(results: Results, path: Path) -> None:
    """Write everything as one JSON file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    options = orjson.OPT_INDENT_2 | orjson.OPT_NON_STR_KEYS
    write_atomic(path, orjson.dumps(results.to_json(), option=options) + b"\n")
