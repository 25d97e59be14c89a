"""What the GPU check aims for, and what the files of its steps say was reached."""

import re
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import orjson
from gpu_steps import STEPS

ENDING, HOST, TABLE = "ending.json", "host.json", "table.md"
ORIGINALS_COMPLETIONS_PER_HOUR = 120
_PEAK_TFLOPS = {
    "H100 PCIe": 756,
    "H100 NVL": 835,
    "H200 NVL": 835,
    "H100": 989,
    "H200": 989,
    "A100": 312,
}
"""Of NVIDIA's data sheets: bfloat16 with float32 sums, dense. The first part of a name counts."""


@dataclass(frozen=True)
class Ending:
    """How a step ended."""

    how: Literal["ok", "failed", "out of time"]
    seconds: float
    last_line: str = ""
    """That it printed, where it says what went wrong."""
    size: Literal["full", "short", "small"] = "full"


@dataclass(frozen=True)
class Figure:
    """One line of the table."""

    step: str
    what: str
    read: Callable[[Path], float | None]
    """Its value from OUT/STEP; None, or a missing file or key: it wasn't measured."""
    at_least: float | None = None
    at_most: float | None = None

    def wanted(self) -> str:
        """Return the aim in words."""
        if self.at_least is not None:
            return f"at least {self.at_least:,g}"
        return "" if self.at_most is None else f"at most {self.at_most:,g}"

    def met(self, value: float) -> str:
        """Return whether a value reaches the aim."""
        if self.at_least is not None:
            return "yes" if value >= self.at_least else "NO"
        return "" if self.at_most is None else "yes" if value <= self.at_most else "NO"


def _bench(*keys: str) -> Callable[[Path], float | None]:
    def read(folder: Path) -> float | None:
        found: Any = orjson.loads((folder / "bench.json").read_bytes())
        for key in keys:
            found = found[key]
        return None if found is None else float(found)

    return read


def _rounds(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "default" / "metrics.jsonl").read_bytes().splitlines()
    return [orjson.loads(line) for line in lines]


def num_completions(folder: Path) -> float:
    """Return what a loop has asked for in all its finished rounds."""
    return float(sum(record["num_completions"] for record in _rounds(folder)))


def completions_per_hour(folder: Path) -> float | None:
    """Return the same over the time of these rounds: training, swaps and evaluation included."""
    parts = ("train", "swap", "evaluate", "generate", "wait")
    seconds = sum(record["timing"][part] for record in _rounds(folder) for part in parts)
    return 3600 * num_completions(folder) / seconds if seconds else None


def swap_seconds(folder: Path) -> float:
    """Return the median of a loop's swaps, canary included."""
    return float(statistics.median(record["timing"]["swap"] for record in _rounds(folder)))


def canary(what: str) -> Callable[[Path], float | None]:
    """Return how far a loop's canaries were at most from what they are held against, in nats.

    Args:
        what: its name in the line that each logs.
    """

    def read(folder: Path) -> float | None:
        printed = (folder / "output.txt").read_text("utf-8")
        lines = [line for line in printed.splitlines() if "canary of " in line]
        found = [re.search(rf"{what}[ =]([\d.e+-]+)", line) for line in lines]
        return max((float(one[1]) for one in found if one), default=None)

    return read


def memory_share(folder: Path) -> float | None:
    """Return the part of the GPU that a loop's server was started with."""
    log = (folder / "default" / "logs" / "server.log").read_text("utf-8", errors="replace")
    found = re.search(r"--gpu-memory-utilization ([\d.]+)", log)
    return float(found[1]) if found else None


def share_of_peak(folder: Path) -> float | None:
    """Return how much of the GPU's arithmetic training a LoRA adapter reaches."""
    gpus = orjson.loads((folder.parent / HOST).read_bytes())["host"]["gpus"]
    peaks = [peak for name, peak in _PEAK_TFLOPS.items() if gpus and name in gpus[0]]
    found = orjson.loads((folder / "bench.json").read_bytes())["extras"]["training"]
    operations: float = found["tokens_per_second"] * found["flops_per_token"]
    return operations / (peaks[0] * 1e12) if peaks else None


_OFFLINE = "merged, of vLLM offline's tokens/s"
_STOCK = "merged, times stock runtime LoRA's tokens/s"
_FIXED = ("workloads", "fixed", "output_tokens_per_second", "median")
FIGURES = (
    Figure("loop", "completions", num_completions),
    Figure(
        "loop",
        "completions an hour, 1,000 times the original's",
        completions_per_hour,
        at_least=1000 * ORIGINALS_COMPLETIONS_PER_HOUR,
    ),
    Figure("loop", "swap, canary included, median, s", swap_seconds),
    # As allowed in bfloat16; decoded tokens are held against the same in a prompt.
    Figure("loop", "canary, worst, nats", canary("[( ]distance"), at_most=0.1),
    Figure("loop", "decoded by CUDA graphs, worst, nats", canary("decoded"), at_most=0.2),
    Figure("overlap", "completions an hour", completions_per_hour),
    Figure("overlap", "server's share of the GPU, computed", memory_share),
    Figure("bench", _OFFLINE, _bench("ratios", "merged_over_offline"), at_least=0.98),
    Figure("bench", _STOCK, _bench("ratios", "merged_over_stock_lora"), at_least=1.3),
    Figure("bench", "merged, tokens/s", _bench("contenders", "5", *_FIXED)),
    Figure("bench", "swap, median, s", _bench("ratios", "swap_seconds_median")),
    Figure("bench", "idle with --overlap", _bench("ratios", "overlap_idle_share"), at_most=0.05),
    Figure("four-api-servers", "merged, tokens/s", _bench("contenders", "5", *_FIXED)),
    Figure("wide-graphs", "merged, tokens/s", _bench("contenders", "5", *_FIXED)),
    Figure("bench-7b", _OFFLINE, _bench("ratios", "merged_over_offline"), at_least=0.98),
    Figure("bench-7b", _STOCK, _bench("ratios", "merged_over_stock_lora"), at_least=1.3),
    Figure("bench-7b", "swap, median, s", _bench("ratios", "swap_seconds_median"), at_most=2),
    Figure("bench-7b", "training, of the bfloat16 peak", share_of_peak, at_least=0.4),
    Figure(
        "bench-7b",
        "training, of what its products reach",
        _bench("extras", "training", "share_of_roofline"),
    ),
    Figure(
        "bench-7b",
        "training's memory beside the weights, of what is reserved",
        _bench("extras", "training", "memory_of_formula"),
        at_most=1,
    ),
)


def make_table(out: Path) -> str:
    """Return the table of all that a folder holds, in Markdown."""
    found = orjson.loads((out / HOST).read_bytes())
    host, versions = found["host"], found["versions"]
    gpus = ", ".join(host["gpus"]) or "no GPU"
    lines = [
        f"{gpus}; {host['processor']}, {host['num_cpus']} CPUs; "
        + ", ".join(f"{name} {version}" for name, version in versions.items()),
        "",
        "| step | what | wanted | measured | met |",
        "|---|---|---|---|---|",
    ]
    for step in STEPS:
        ending = ending_of(out / step)
        lines.append(_row(step, "ends", "ok", *_how(ending)))
        lines += [_figure_row(one, out, ending) for one in FIGURES if one.step == step]
    return "\n".join(lines) + "\n"


def ending_of(folder: Path) -> Ending | None:
    """Return how a step ended; None: it wasn't run, or was cut off with this program."""
    try:
        return Ending(**orjson.loads((folder / ENDING).read_bytes()))
    except FileNotFoundError:
        return None


def _how(ending: Ending | None) -> tuple[str, str]:
    if ending is None:
        return "-", "not run"
    size = "" if ending.size == "full" else f", {ending.size}"
    if ending.how == "ok":
        return f"ok, {ending.seconds:.0f} s{size}", "yes"
    return f"{ending.how} after {ending.seconds:.0f} s{size}: {ending.last_line[:200]}", "NO"


def _figure_row(figure: Figure, out: Path, ending: Ending | None) -> str:
    try:
        value = figure.read(out / figure.step)
    except (OSError, KeyError):
        value = None
    if value is None:
        why = "not run" if ending is None else "not measured"
        return _row(figure.step, figure.what, figure.wanted(), "-", why)
    # What a little of everything reaches means nothing.
    met = "small" if ending and ending.size == "small" else figure.met(value)
    return _row(figure.step, figure.what, figure.wanted(), _short(value), met)


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _row(*cells: str) -> str:
    return "| " + " | ".join(cell.replace("|", "/") for cell in cells) + " |"
