"""`selfstudy-engine bench`."""

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from selfstudy_engine.cli.options import (
    BASE_OPTIONS,
    SERVER_OPTIONS,
    config_file_option,
    config_options,
    resolve,
    vllm_arguments,
)

if TYPE_CHECKING:
    from selfstudy_engine.engine.bench_results import Results


@click.command()
@click.option(
    "--quick", is_flag=True, help="Less of everything: under 5 minutes on 2 cores, and noisier."
)
@click.option(
    "--only",
    metavar="LIST",
    help="Contenders and parts to measure, e.g. 3,5,swap. [default: all; --quick leaves out 2, 3d, "
    "overlap]",
)
@click.option("--repeats", type=click.IntRange(min=1), help="Turns of each contender. [default: 3]")
@click.option(
    "--prompts",
    "num_prompts",
    type=click.IntRange(min=1),
    help="Completions of a turn at a fixed length; all other batches grow alike, and a GPU needs "
    "1000 or more. [default: 64]",
)
@click.option(
    "--tokens",
    "max_tokens",
    type=click.IntRange(min=1),
    help="Output tokens of each fixed-length completion. [default: 64]",
)
@click.option(
    "--adapter",
    "adapter_folder",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    help="Adapter to serve. [default: one is trained on the exemplars first]",
)
@click.option(
    "--load-format",
    type=click.Choice(["auto", "dummy"]),
    default="auto",
    show_default=True,
    help="dummy makes random weights: --model is a folder with config.json and tokenizer only.",
)
@click.option(
    "--out",
    type=click.Path(path_type=Path, file_okay=False),
    default=Path("bench"),
    show_default=True,
    help="Folder for bench.json, bench.svg, bench.png and the logs.",
)
@BASE_OPTIONS
@SERVER_OPTIONS
@config_options(
    "generation.samples_per_molecule", "generation.max_tokens", "generation.concurrency"
)
@config_file_option("TOML file with any of the loop's options.")
@vllm_arguments
def bench(
    quick: bool,
    only: str | None,
    out: Path,
    adapter_folder: Path | None,
    load_format: str,
    config_path: Path | None,
    **values: Any,
) -> None:
    """Measure throughput side by side: original, transformers, vLLM, this engine.

    Contenders: 1 the original's method (one prompt at a time, no KV cache), 2 transformers, 3 vLLM
    offline (3d with its own defaults), 4 our server with the base model, 5 with a merged adapter,
    6 with vLLM's stock runtime LoRA, 7 with the fast one. Parts: swap, overlap, client, rescore,
    training, and, when named, yield (which way of asking gives the most accepted samples).
    """
    from dataclasses import replace

    from selfstudy_engine.engine.bench import FULL, QUICK, parse_wanted, run_benchmark
    from selfstudy_engine.engine.bench_chart import save_chart
    from selfstudy_engine.engine.bench_results import save_results

    size = QUICK if quick else FULL
    num_prompts = values.pop("num_prompts")
    size = size.with_prompts(num_prompts) if num_prompts else size
    asked = {key: values.pop(key) for key in ("repeats", "max_tokens")}
    size = replace(size, **{key: value for key, value in asked.items() if value is not None})
    config = resolve(config_path, values)
    wanted = parse_wanted(only, quick)
    started = time.monotonic()

    def show(phase: str) -> None:
        click.echo(f"[{time.monotonic() - started:4.0f} s] {phase}", err=True)

    results = run_benchmark(
        config,
        size,
        wanted,
        adapter_folder=adapter_folder,
        dummy=load_format == "dummy",
        logs=out / "logs",
        on_phase=show,
        on_measured=lambda results: save_results(results, out / "bench.json"),
    )
    save_results(results, out / "bench.json")
    _print_tables(results)
    if results.contenders:
        save_chart(results, out / "bench")
    click.echo(f"Results: {out.resolve()} ({time.monotonic() - started:.0f} s)")


def _print_tables(results: "Results") -> None:
    from selfstudy_engine.cli.console import figures_table, plain_console

    console = plain_console()
    content = results.to_json()
    if content["contenders"]:
        table = figures_table(
            *("", "tokens/s", "of 3", "of the first", "compl./s", "accepted/s"),
            *("first token, s", "start, s", "memory, GiB", "prefix hits", "idle"),
            title="Medians (lowest-highest) over the turns",
        )
        for key, facts in content["contenders"].items():
            table.add_row(*_cells(key, facts, content["contenders"]))
        console.print(table)
        console.print("tokens/s: fixed length. compl./s and accepted/s: the loop's own workload.")
        console.print("first token: of a prompt of about 900 tokens, alone.")
    for part, figures in content["extras"].items():
        shown = ", ".join(f"{key} {_short(value)}" for key, value in figures.items())
        console.print(f"{part}: {shown}")
    for name, value in content["ratios"].items():
        console.print(f"{name}: {_short(value)}")


def _cells(key: str, facts: dict[str, Any], contenders: dict[str, Any]) -> list[str]:
    def median(workload: str, rate: str) -> float | None:
        found = facts["workloads"].get(workload, {}).get(rate)
        return found["median"] if found else None

    fixed = _tokens(facts)
    over_offline = _within_turns(fixed, _tokens(contenders.get("3")))
    over_first = _within_turns(fixed, _tokens(next(iter(contenders.values()))))
    return [
        f"{key} {facts['label']}",
        f"{fixed['median']:.0f} ({fixed['low']:.0f}-{fixed['high']:.0f})" if fixed else "-",
        f"{over_offline:.2f}" if over_offline else "-",
        f"{over_first:.1f}" if over_first else "-",
        _short(median("real", "completions_per_second")),
        _short(median("real", "accepted_distinct_per_second")),
        _short(median("long", "seconds_per_prompt")),
        _short(facts.get("startup_seconds")),
        _short(facts.get("peak_memory_gib")),
        _short(median("real", "prefix_hit_share")),
        _short(median("real", "idle_share")),
    ]


def _tokens(facts: dict[str, Any] | None) -> dict[str, Any] | None:
    workloads: dict[str, dict[str, Any]] = (facts or {}).get("workloads", {})
    return workloads.get("fixed", {}).get("output_tokens_per_second")


def _within_turns(above: dict[str, Any] | None, below: dict[str, Any] | None) -> float | None:
    from selfstudy_engine.engine.bench_results import within_turns

    return within_turns(above["turns"], below["turns"]) if above and below else None


def _short(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, list):
        return "[" + ", ".join(_short(item) for item in value) + "]"
    return f"{value:.3g}" if isinstance(value, float) else str(value)
