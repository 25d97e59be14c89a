"""Settings of the server, and of the devices that it and training compute on."""

import re
from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from selfstudy_engine.data.config_section import Section, matching
from selfstudy_engine.data.errors import shown
from selfstudy_engine.data.vllm_arguments import refuse_arguments

_Devices = Annotated[
    str,
    matching(
        r"auto|cpu|cuda(:[0-9]+(,[0-9]+)*)?",
        "devices are cpu, cuda:0 or, for several, cuda:0,1; or auto",
    ),
]
_Cluster = Annotated[
    str,
    matching(
        r"off|auto|[^\s:/]+:[0-9]+",
        "a cluster is HOST:PORT of its head, such as 10.0.0.1:6379; or auto, or off",
    ),
]

_URL = re.compile(r"https?://(\[[0-9A-Fa-f:.]+\]|[^\s/?#:\[\]]+)(:[0-9]{1,5})?(/[^\s?#]*)?")


def _as_servers(value: object) -> object:
    """Let one URL come without brackets, and any with a path that OpenAI's clients would have."""
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, list) or not all(isinstance(url, str) for url in value):
        return value
    return [url.rstrip("/").removesuffix("/v1") for url in value]


class ServerConfig(Section):
    """How the vLLM server runs; may change between two calls of the same run."""

    url: Annotated[list[str], BeforeValidator(_as_servers)] = Field(default=[])
    """Use a running server instead of starting one, e.g. http://127.0.0.1:8000; several share the
    prompts."""
    replicas: int = Field(default=1, ge=1, le=1024)
    """Servers that are started and share the prompts, each on GPUs or a node of its own."""
    ray: _Cluster = "off"
    """Have Ray place servers and training on the nodes of a cluster: HOST:PORT of its head, or auto
    for the one that this machine belongs to."""
    adapter_mode: Literal["merged", "runtime"] = "merged"
    """merged: adapter added into the weights, base-model speed; runtime: vLLM's own LoRA path."""
    fast_lora: bool = True
    """Use the grouped-GEMM path for runtime adapters on a CPU host."""
    max_model_len: int = Field(default=2048, ge=128)
    """Longest prompt plus completion, in tokens."""
    block_size: int = Field(default=32, ge=1)
    """Tokens per KV-cache block; smaller blocks share more of a prompt's prefix."""
    max_num_seqs: int | None = Field(default=None, ge=1)
    """Completions in one batch [default: a fixed --concurrency; 256 on a CPU, vLLM's on a GPU]."""
    api_server_count: int = Field(default=1, ge=1, le=64)
    """Processes that take requests in; with runtime adapters always one."""
    kv_cache_gib: int = Field(default=2, ge=1)
    """KV cache on a CPU host, in whole GiB, as vLLM takes it there."""
    compilation: Literal["auto", "on", "off"] = "auto"
    """Compile the model at each start; auto does so on a GPU only."""
    gpu_memory_utilization: float | None = Field(default=None, gt=0, le=1)
    """Share of a GPU's memory that the server may take [default: all but what training needs]."""
    startup_timeout_seconds: float = Field(default=900, gt=0)
    """Longest wait for the server to be ready, in seconds."""
    max_restarts: int = Field(default=3, ge=0)
    """Times that a loop starts a server anew in one round, after it died; serve, in an hour."""
    extra_args: list[str] = Field(default=[])
    """Further arguments for vLLM, as after `--` on the command line."""

    @model_validator(mode="after")
    def _nothing_opens_it_or_shows_a_secret(self) -> Self:
        # Not a check of the fields alone: its message would show the value.
        if any("@" in url for url in self.url):
            raise ValueError(
                "url is written into files: leave the key out, set SELFSTUDY_SERVER_KEY"
            )
        for url in self.url:
            if not _URL.fullmatch(url):
                raise ValueError(
                    f"url {shown(url)} isn't a server's address; give it as http://127.0.0.1:8000"
                )
        if len(set(self.url)) < len(self.url):
            raise ValueError("url names a server twice; name each once")
        if reason := refuse_arguments(self.extra_args):
            raise ValueError(f"extra_args: {reason}")
        return self


class DevicesConfig(Section):
    """Where server and training compute; may change between two calls of the same run."""

    server: _Devices = "auto"
    """Devices of the servers: cpu, cuda:0 or cuda:0,1; auto is the first GPU for each, or the
    CPU."""
    train: _Devices = "auto"
    """Devices of training: cpu, cuda:1 or cuda:1,2; auto is the last GPU (accelerate: all but the
    servers'), or the CPU."""
    train_launcher: Literal["python", "accelerate"] = "python"
    """What starts the training: python, one process; accelerate, one for each device."""
    num_processes: int | None = Field(default=None, ge=1, le=1024)
    """Processes that accelerate starts [default: one for each GPU; its file's on a CPU]."""
    accelerate_config: str | None = None
    """YAML file of `accelerate config`: FSDP spreads a model that no device holds alone."""
    tokens_per_device: int | None = Field(default=None, ge=1)
    """Tokens that a device computes at once in training; the rest of a step follows (gradient
    accumulation) [default: all of its share]."""

    @model_validator(mode="after")
    def _accelerates_settings_are_used(self) -> Self:
        for key in ("num_processes", "accelerate_config"):
            value = getattr(self, key)
            if value is not None and self.train_launcher != "accelerate":
                raise ValueError(
                    f"{key} ({value}) is for accelerate: add --train-launcher accelerate, or leave "
                    "it out"
                )
        return self
