"""`selfstudy-engine bench`: ways to complete prompts, side by side in one call.

All contenders are up at once and take turns (A B C A B C) on the same prompts, so that what else
the machine does falls on all of them. Ratios are taken within a turn; figures are medians.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.devices import device_environment, placement_of
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import describe_host, resolve_dtype
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.data.task import Task, load_task
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.bench_client import measure_client
from selfstudy_engine.engine.bench_contenders import Contender
from selfstudy_engine.engine.bench_dummy import make_dummy_checkpoint
from selfstudy_engine.engine.bench_lineup import ADAPTED, LABELS, Lineup
from selfstudy_engine.engine.bench_overlap import measure_overlap
from selfstudy_engine.engine.bench_rescore import measure_rescore
from selfstudy_engine.engine.bench_results import Results
from selfstudy_engine.engine.bench_swap import measure_swaps
from selfstudy_engine.engine.bench_training import measure_training
from selfstudy_engine.engine.bench_workloads import Workload, make_workloads, measure
from selfstudy_engine.engine.bench_yield import measure_yield
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.launching import launch_of
from selfstudy_engine.engine.training import TimeLimits, run_training

EXTRAS = ("swap", "overlap", "yield", "client", "rescore", "training")
"""What is measured apart from the turns, by its name on the command line."""
_ON_MERGED_SERVER = {"swap", "overlap", "yield"}
_ONE_SERVER_HERE = {
    "server.adapter_mode": "merged",
    "server.replicas": 1,
    "server.ray": "off",
    "server.url": [],
}
"""What is measured, whatever a run's settings say of its servers."""
_WARM_UP_PROMPTS, _WARM_UP_TOKENS = 8, 8
_FEW_EPOCHS = 0.01


@dataclass(frozen=True, slots=True)
class BenchSize:
    """How much is asked."""

    repeats: int
    """Turns of each contender."""
    num_prompts: int
    """Completions of a turn, at a fixed length."""
    num_real: int
    """Completions of a turn of the loop's own workload."""
    max_tokens: int
    """Output tokens of each fixed-length completion."""
    num_long: int
    """Prompts of a turn that are long, and asked one by one."""
    original_prompts: int
    """Prompts for the original's method, which takes seconds for each."""
    transformers_prompts: int
    """Prompts for transformers: enough for its best batch."""
    adapter_steps: int | None
    """Optimiser steps of the adapter that is served; None: as the loop trains its first."""
    num_swaps: int
    overlap_rounds: int
    overlap_batch: int
    """Completions per round: more than what the played training takes."""
    yield_completions: int
    """For each way of asking."""
    training_steps: int
    training_repeats: int
    client_prompts: int
    rescore_samples: int
    start_at_once: bool
    """Let all engines load side by side."""

    def with_prompts(self, num_prompts: int) -> "BenchSize":
        """Return the same with all that is asked in batches grown alike: a GPU needs more."""

        def grown(number: int) -> int:
            return max(1, round(number * num_prompts / self.num_prompts))

        return replace(
            self,
            num_prompts=num_prompts,
            num_real=grown(self.num_real),
            transformers_prompts=grown(self.transformers_prompts),
            overlap_batch=grown(self.overlap_batch),
            training_steps=grown(self.training_steps),
        )


FULL = BenchSize(
    repeats=3,
    num_prompts=64,
    num_real=256,
    max_tokens=64,
    num_long=4,
    original_prompts=2,
    transformers_prompts=32,
    adapter_steps=None,
    num_swaps=9,
    overlap_rounds=4,
    overlap_batch=512,
    yield_completions=256,
    training_steps=8,
    training_repeats=5,
    client_prompts=100_000,
    rescore_samples=1_000_000,
    start_at_once=False,
)
QUICK = BenchSize(
    repeats=1,
    num_prompts=12,
    num_real=12,
    max_tokens=16,
    num_long=1,
    original_prompts=1,
    transformers_prompts=12,
    adapter_steps=8,
    num_swaps=3,
    overlap_rounds=2,
    overlap_batch=32,
    yield_completions=32,
    training_steps=1,
    training_repeats=1,
    client_prompts=5_000,
    rescore_samples=20_000,
    start_at_once=True,
)


def parse_wanted(only: str | None, quick: bool) -> frozenset[str]:
    """Return the contenders and parts that a comma-separated list names.

    Raises:
        UsageError: one of them doesn't exist.

    >>> sorted(parse_wanted("3, 5,swap", quick=False))
    ['3', '5', 'swap']
    """
    known = {*LABELS, *EXTRAS}
    if only is None:
        # Rounds that last longer than training aren't quick, and shorter ones say nothing.
        left_out = {"2", "3d", "overlap", "yield"} if quick else {"yield"}
        return frozenset(known - left_out)
    wanted = {name for part in only.split(",") if (name := part.strip())}
    if not wanted or wanted - known:
        raise UsageError(
            f"--only {only}: no contender or part {', '.join(sorted(wanted - known)) or only!r}; "
            f"choose from {', '.join([*LABELS, *EXTRAS])}"
        )
    return frozenset(wanted)


def run_benchmark(
    config: RunConfig,
    size: BenchSize,
    wanted: frozenset[str],
    *,
    adapter_folder: Path | None,
    dummy: bool,
    logs: Path,
    on_phase: Callable[[str], None],
    on_measured: Callable[[Results], None] = lambda results: None,
) -> Results:
    """Measure what is wanted.

    Args:
        config: of a loop: model, server and generation settings.
        size: how much is asked.
        wanted: keys of LABELS and names of EXTRAS.
        adapter_folder: of the adapter to serve; None trains one on the exemplars first.
        dummy: config.model.path is a folder without weights; random ones are made.
        logs: folder for what servers and references print.
        on_phase: told what happens now.
        on_measured: given what is known after each turn and each part, so that it can be kept.

    Raises:
        SelfStudyError: a contender failed, or answered something else than what it was asked.
    """
    logs.mkdir(parents=True, exist_ok=True)
    config = override(config, _ONE_SERVER_HERE)
    results = Results(describe_host(), config)
    with scratch_folder() as scratch:
        if dummy:
            on_phase("make random weights")
            config = _with_dummy_model(config, scratch / "model")
        model, config = choose_base_model(config)
        impossible = _impossible(config)
        if wanted & impossible:
            on_phase(f"left out, impossible here: {', '.join(sorted(wanted & impossible))}")
            wanted -= impossible
        contenders = wanted & set(LABELS) | ({"5"} if wanted & _ON_MERGED_SERVER else set())
        adapter = None
        if contenders & ADAPTED:
            on_phase("adapter")
            adapter = read_adapter(adapter_folder or _train(config, model, size, scratch))
        if contenders:
            task = load_task(config)
            workloads = make_workloads(
                config,
                task,
                num_prompts=size.num_prompts,
                num_real=size.num_real,
                max_tokens=size.max_tokens,
                num_long=size.num_long,
            )
            with Lineup(
                config,
                model,
                adapter,
                wanted=contenders,
                max_prompts={"1": size.original_prompts, "2": size.transformers_prompts},
                logs=logs,
                at_once=size.start_at_once,
                on_phase=on_phase,
            ) as lineup:
                taking_turns = [one for one in lineup.contenders if one.key in wanted]
                results.contenders |= {one.key: lineup.facts[one.key] for one in taking_turns}
                for _ in _take_turns(taking_turns, workloads, size.repeats, results, on_phase):
                    on_measured(results)
                if wanted & _ON_MERGED_SERVER:
                    assert lineup.merged
                    assert adapter
                    server = _ServerParts(lineup.merged, adapter, config, task, size)
                    for name, part in server.parts(workloads[0], scratch).items():
                        if name in wanted:
                            on_phase(name)
                            results.extras[name] = part()
                            on_measured(results)
                memory = lineup.peak_memory_gib()
                for one in taking_turns:
                    results.contenders[one.key]["peak_memory_gib"] = memory[one.key]
        # The servers are gone: what follows has the cores for itself.
        for name, part in _parts_alone(config, model, size, scratch).items():
            if name in wanted:
                on_phase(name)
                results.extras[name] = part()
                on_measured(results)
    return results


def _impossible(config: RunConfig) -> set[str]:
    """Return what can't be.

    Merging into a quantised base, the CPU's fast LoRA on a GPU, several engines in one LLM.
    """
    placement = placement_of(config)
    merging = {"5", *_ON_MERGED_SERVER} if config.server.adapter_mode == "runtime" else set()
    on_gpu = {"7"} if placement.server else set()
    return merging | on_gpu | ({"3"} if placement.parallel.data > 1 else set())


Part = Callable[[], dict[str, Any]]


@dataclass(frozen=True, slots=True)
class _ServerParts:
    """What is measured on the merged server, apart from the turns."""

    connection: Connection
    adapter: Adapter
    config: RunConfig
    task: Task
    size: BenchSize

    def parts(self, workload: Workload, scratch: Path) -> dict[str, Part]:
        connection, adapter, size = self.connection, self.adapter, self.size
        return {
            "swap": lambda: measure_swaps(connection, adapter, workload, size.num_swaps),
            "overlap": lambda: measure_overlap(
                connection,
                adapter,
                self.config,
                num_rounds=size.overlap_rounds,
                batch=size.overlap_batch,
                scratch=scratch,
            ),
            "yield": lambda: measure_yield(
                connection, adapter, self.config, self.task, size.yield_completions
            ),
        }


def _parts_alone(config: RunConfig, model: str, size: BenchSize, scratch: Path) -> dict[str, Part]:
    return {
        "client": lambda: measure_client(size.client_prompts),
        "rescore": lambda: measure_rescore(size.rescore_samples),
        "training": lambda: measure_training(
            config, model, size.training_steps, size.training_repeats, scratch
        ),
    }


def _take_turns(
    contenders: Sequence[Contender],
    workloads: Sequence[Workload],
    repeats: int,
    results: Results,
    on_phase: Callable[[str], None],
) -> Iterator[None]:
    warm_up = workloads[0]
    if not placement_of(results.config).server:
        warm_up = warm_up.shortened(_WARM_UP_TOKENS).first(_WARM_UP_PROMPTS)
    # On a GPU a whole pass: ours finds in it how many completions it may have in flight.
    for contender in contenders:
        on_phase(f"warm up: {contender.label}")
        contender.prepare()
        contender.run(warm_up.first(contender.max_prompts))
    for workload in workloads:
        for turn in range(repeats):
            for contender in contenders:
                if workload.one_by_one and not contender.one_by_one:
                    continue
                on_phase(f"{workload.name}, turn {turn + 1}: {contender.label}")
                asked = workload.first(contender.max_prompts)
                contender.prepare()
                measurement = measure(asked, contender.run(asked), results.config)
                results.measurements[workload.name][contender.key].append(measurement)
                yield


def _with_dummy_model(config: RunConfig, folder: Path) -> RunConfig:
    if config.model.path is None:
        raise UsageError("--load-format dummy takes a model's shape from --model FOLDER; give one")
    placement = placement_of(config)
    make_dummy_checkpoint(
        Path(config.model.path),
        folder,
        resolve_dtype(config.model.dtype, placement.server_kind),
        devices=device_environment(placement.server),
        trust_remote_code=config.model.trust_remote_code,
    )
    return override(config, {"model.path": str(folder)})


def _train(config: RunConfig, model: str, size: BenchSize, scratch: Path) -> Path:
    if size.adapter_steps is not None:
        config = override(
            config, {"train.min_steps": size.adapter_steps, "train.epochs": _FEW_EPOCHS}
        )
    (scratch / "run.toml").write_text(config.to_toml(), "utf-8")
    run_training(
        {"config": scratch / "run.toml", "model": model, "output": scratch / "adapter"},
        scratch / "train.log",
        TimeLimits.of(config.train),
        launch=launch_of(config),
    )
    return scratch / "adapter"
