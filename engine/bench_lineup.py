"""Who takes part in a benchmark: starts the references and servers that are wanted, ends them all.

Servers are shared: the base model and the merged adapter are one server's, both ways of runtime
LoRA another's.
"""

import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any, Self

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.devices import device_environment, placement_of
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.gpu_memory import GIB, local_folder, server_bytes
from selfstudy_engine.data.hardware import resolve_dtype
from selfstudy_engine.data.model_size import measure_model
from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.engine.bench_contenders import (
    Contender,
    ReferenceContender,
    ServerContender,
    peak_memory_gib,
)
from selfstudy_engine.engine.bench_reference import MOST_AT_ONCE, ReferenceSettings
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.norm_plugin import FAST_NORMS_VARIABLE
from selfstudy_engine.engine.server import VllmServer
from selfstudy_engine.engine.server_command import (
    NO_JIT_SAMPLER,
    engine_arguments,
    server_environment,
)

LABELS = {
    "1": "original: one prompt, no KV cache",
    "2": "transformers generate, padded batches",
    "3": "vLLM offline, base model",
    "3d": "vLLM offline, vLLM's defaults",
    "4": "our server, base model",
    "5": "our server, merged adapter",
    "6": "our server, stock runtime LoRA",
    "7": "our server, fast runtime LoRA",
}
"""The contenders, by their key on the command line."""
ADAPTED = frozenset("12567")
"""Those that answer with an adapter."""
_ENGINES = ({"3"}, {"3d"}, {"4", "5"}, {"6", "7"})
_GPU_SHARE = 0.85
_AT_ONCE = {"1": 1, "2": MOST_AT_ONCE}
"""Sequences that a reference on transformers computes at once at most, by its key."""


class Lineup:
    """The contenders of one benchmark; use it as a context manager.

    Args:
        config: of a loop.
        model: folder or hub id of the base model.
        adapter: what the adapted contenders serve; None where none is wanted.
        wanted: keys of LABELS.
        max_prompts: prompts that a contender is asked at most, by its key; the others get all.
        logs: folder for what they print.
        at_once: let all engines load side by side, which tells less of each one's start.
        on_phase: told what is being started.
    """

    def __init__(
        self,
        config: RunConfig,
        model: str,
        adapter: Adapter | None,
        *,
        wanted: Iterable[str],
        max_prompts: Mapping[str, int],
        logs: Path,
        at_once: bool,
        on_phase: Callable[[str], None],
    ) -> None:
        self._wanted = set(wanted)
        self._config, self._gpu_memory = share_gpu(config, model, self._wanted)
        self._placement = placement_of(self._config)
        self._model = model
        self._adapter = adapter
        self._max_prompts = max_prompts
        self._logs = logs
        # On a GPU each start takes a minute or more, nearly all of it on the CPU.
        self._at_once = at_once or bool(self._gpu_memory)
        self._begun: list[Callable[[], None]] = []
        self._on_phase = on_phase
        self._stack = ExitStack()
        self._processes: dict[str, int] = {}
        self.contenders: list[Contender] = []
        self.facts: dict[str, dict[str, Any]] = {}
        """Contender -> label and startup_seconds."""
        self.merged: Connection | None = None
        """The server whose weights are swapped."""

    def __enter__(self) -> Self:
        """Start everything; a failure ends what was started."""
        with self._stack:
            self._start_references()
            if self._wanted & {"4", "5"}:
                self._start_server("merged", self._add_merged, "4", "5")
            if self._wanted & {"6", "7"}:
                self._start_server("runtime", self._add_runtime, "6", "7")
            for finish in self._begun:
                finish()
            self._stack = self._stack.pop_all()
        return self

    def _begin(self, finish: Callable[[], None]) -> None:
        """Wait for what has just been started: now, or when everything has been."""
        if self._at_once:
            self._begun.append(finish)
        else:
            finish()

    def __exit__(self, *error: object) -> None:
        """End everything."""
        self._stack.close()

    def peak_memory_gib(self) -> dict[str, float]:
        """Return what each contender's processes have held at most so far."""
        return {key: peak_memory_gib(process) for key, process in self._processes.items()}

    def _start_references(self) -> None:
        base_environment = NO_JIT_SAMPLER | child_environment()
        base_environment |= device_environment(self._placement.server)
        # vLLM as it is: our settings, none of our plugins.
        ours = server_environment(self._config, self._model, api_key="")
        ours |= {FAST_NORMS_VARIABLE: "0"}
        folder = str(self._adapter.folder) if self._adapter else None
        same = engine_arguments(self._config, self._model)
        memory: dict[str, Any] = dict(self._gpu_memory)
        if not memory:
            base_environment["VLLM_CPU_KVCACHE_SPACE"] = str(self._config.server.kv_cache_gib)
        self._start_reference("1", "original", base_environment, adapter=folder)
        self._start_reference("2", "transformers", base_environment, adapter=folder)
        self._start_reference("3", "offline", ours, engine_arguments=same)
        self._start_reference("3d", "offline", base_environment, llm_arguments=memory)

    def _start_reference(
        self, key: str, kind: str, environment: dict[str, str], **settings: Any
    ) -> None:
        if key not in self._wanted:
            return
        self._on_phase(f"start {LABELS[key]}")
        contender = ReferenceContender(
            key,
            LABELS[key],
            kind=kind,
            settings=ReferenceSettings(
                self._model,
                resolve_dtype(self._config.model.dtype, self._placement.server_kind),
                trust_remote_code=self._config.model.trust_remote_code,
                **settings,
            ),
            environment=environment,
            log=self._logs / f"contender-{key}.log",
            max_prompts=self._max_prompts.get(key),
            one_by_one=kind == "offline",
        )
        started = time.monotonic()
        self._stack.enter_context(contender)

        def finish() -> None:
            contender.wait_ready()
            self._add(contender, contender.process, time.monotonic() - started)

        self._begin(finish)

    def _add_merged(self, connection: Connection, process: int, seconds: float) -> None:
        self.merged = connection
        if "4" in self._wanted:
            base = ServerContender("4", LABELS["4"], connection, connection.swap_to_base)
            self._add(base, process, seconds)
        if "5" in self._wanted:
            adapter = self._required_adapter()
            merged = ServerContender(
                "5", LABELS["5"], connection, lambda: connection.swap_to(adapter)
            )
            self._add(merged, process, seconds)

    def _add_runtime(self, connection: Connection, process: int, seconds: float) -> None:
        adapter = self._required_adapter()

        proven = set()

        def serve(fast: bool) -> None:
            if not self._placement.server:  # on a GPU there is vLLM's way alone
                connection.use_fast_lora(fast)
            # The canary takes vLLM's way 15 s on a CPU, and the adapter stays loaded.
            if fast not in proven:
                connection.swap_to(adapter)
                proven.add(fast)

        for key, fast in (("6", False), ("7", True)):
            if key in self._wanted:
                contender = ServerContender(key, LABELS[key], connection, partial(serve, fast))
                self._add(contender, process, seconds)

    def _start_server(
        self, mode: str, add: Callable[[Connection, int, float], None], *keys: str
    ) -> None:
        self._on_phase("start " + ", ".join(LABELS[key] for key in keys if key in self._wanted))
        config = override(self._config, {"server.adapter_mode": mode})
        server = VllmServer(config, self._model, self._logs / f"server-{mode}.log")
        started = time.monotonic()
        connection = self._stack.enter_context(Connection(config, self._model, [server]))
        connection.start()

        def finish() -> None:
            connection.connect()
            add(connection, server.process_group, time.monotonic() - started)

        self._begin(finish)

    def _required_adapter(self) -> Adapter:
        assert self._adapter, "contenders of ADAPTED come with an adapter"
        return self._adapter

    def _add(self, contender: Contender, process: int, startup_seconds: float) -> None:
        self.contenders.append(contender)
        self._processes[contender.key] = process
        self.facts[contender.key] = {"label": contender.label, "startup_seconds": startup_seconds}


def share_gpu(
    config: RunConfig, model: str, wanted: set[str]
) -> tuple[RunConfig, dict[str, float]]:
    """Give each engine its part of one GPU, as settings of a server and as arguments of LLM.

    The KV cache is given in bytes: an engine that found them out itself would count what another
    one, starting beside it, takes.
    """
    placement = placement_of(config)
    gpus, num_shards = placement.server, placement.parallel.num_shards
    if not gpus:
        return config, {}
    size = measure_model(local_folder(model), resolve_dtype(config.model.dtype, "cuda"))
    if any(gpu.memory_bytes is None for gpu in gpus):
        raise UsageError(
            f"the memory of {gpus[0].name} ({gpus[0].key}) isn't known, so that several engines "
            "can't share it; use a whole GPU"
        )
    memory = min(gpu.memory_bytes or 0 for gpu in gpus)
    longest = config.server.max_model_len
    num_engines = sum(bool(wanted & engine) for engine in _ENGINES)
    kept = server_bytes(size, longest, num_shards)
    beside = sum(
        server_bytes(size, num * longest) for key, num in _AT_ONCE.items() if key in wanted
    )
    free = _GPU_SHARE * memory - beside
    if free < num_engines * kept:
        raise UsageError(
            f"{num_engines} engines of {kept / GIB:.1f} GiB each"
            + (f", beside transformers' {beside / GIB:.1f} GiB," if beside else "")
            + f" don't fit on a GPU of {memory / GIB:.1f} GiB; name fewer with --only"
        )
    share = round(free / memory / max(num_engines, 1), 3)
    cache = int(share * memory) - server_bytes(size, 0, num_shards)
    arguments = ["--kv-cache-memory-bytes", str(cache)]
    config = override(
        config,
        {
            "server.gpu_memory_utilization": share,
            "server.extra_args": [*arguments, *config.server.extra_args],
        },
    )
    return config, {
        "gpu_memory_utilization": share,
        "kv_cache_memory_bytes": cache,
        "tensor_parallel_size": placement.parallel.tensor,
        "pipeline_parallel_size": placement.parallel.pipeline,
    }
