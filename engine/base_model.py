"""Can this base model be trained and served here, and how? Settled before anything is started.

Families that the tests take through training and both ways to swap need no further question. About
any other model two processes are asked at once: what will train it, and vLLM.
"""

import logging
import subprocess
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from typing import Any

import orjson

from selfstudy_engine.data.base_model import BaseModel, check_number_format, read_base_model
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import cpu_flags, resolve_dtype
from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.data.scratch import scratch_folder
from selfstudy_engine.data.task import resolve_model

_LOG_LINES = 3
logger = logging.getLogger(__name__)


def choose_base_model(config: RunConfig) -> tuple[str, RunConfig]:
    """Return the base model's folder or hub id, and the configuration that fits it.

    A quantised one is served with runtime LoRA, since nothing can be merged into it; of a mixture
    of experts the attention alone is trained.

    Raises:
        UsageError: it can't be trained or served.
    """
    model = resolve_model(config)
    base = read_base_model(model)
    server_kind = placement_of(config).server_kind
    dtype = resolve_dtype(config.model.dtype, server_kind)
    check_number_format(base, dtype)
    if config.train.quantization != "none":
        _check_quantization(base)
    if base.quantization and server_kind == "cpu":
        _check_quantized_on_cpu(base, dtype)
    layers = base.lora_layers if base.is_proven else _ask(base, config)
    _check_targets(base, config, layers)
    if base.quantization and config.server.adapter_mode == "merged":
        logger.warning(
            "%s is quantised (%s), so no adapter can be merged into it: using --adapter-mode "
            "runtime, which generates more slowly",
            model,
            base.quantization,
        )
        config = override(config, {"server.adapter_mode": "runtime"})
    if base.is_mixture and config.train.target_modules == "all-linear":
        config = override(config, {"train.target_modules": list(layers)})
    return model, config


def _check_quantized_on_cpu(base: BaseModel, dtype: str) -> None:
    """Name the processor first: without AVX-512 no number format helps."""
    if "avx512f" not in cpu_flags():
        raise UsageError(
            f"{base.name} is quantised ({base.quantization}), and on a CPU without AVX-512, such "
            "as this, vLLM has no products with weights of four bits or fp8; serve it on a GPU, "
            "or name the model it was made from"
        )
    if dtype == "float32":
        raise UsageError(
            f"{base.name} is quantised ({base.quantization}), and vLLM computes such weights on a "
            "CPU in half precision, not in float32; choose --dtype bfloat16"
        )


def _check_quantization(base: BaseModel) -> None:
    if base.quantization:
        raise UsageError(
            f"{base.name} is quantised already ({base.quantization}); leave out "
            "--train-quantization"
        )
    if find_spec("bitsandbytes") is None:
        raise UsageError(
            "--train-quantization needs bitsandbytes; `pip install selfstudy-engine[qlora]`, or "
            "leave it out"
        )


def _check_targets(base: BaseModel, config: RunConfig, layers: Sequence[str]) -> None:
    wanted = config.train.target_modules
    names = [wanted] if isinstance(wanted, str) else wanted
    missing = sorted(set(names) - {*layers, "all-linear"})
    if missing:
        raise UsageError(
            f"train.target_modules: {base.name} ({base.architecture}) has no layers named "
            f"{', '.join(missing)} that can get an adapter; it has {', '.join(sorted(layers))}"
        )


def _ask(base: BaseModel, config: RunConfig) -> list[str]:
    """Return the layers that can get an adapter, from processes that know the model's classes."""
    logger.info("asking transformers and vLLM about %s (%s)", base.name, base.architecture)
    with scratch_folder() as scratch:
        path = scratch / "run.toml"
        path.write_text(config.to_toml(), "utf-8")
        modules = ["selfstudy_engine.train.check"]
        if not config.server.url:  # a running server knows its model already
            modules.append("selfstudy_engine.engine.vllm_check")
        processes = [
            subprocess.Popen(
                [sys.executable, "-m", module, "--config", str(path), "--model", base.name],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                env=child_environment(),
            )
            for module in modules
        ]
        answers = [process.communicate() for process in processes]
    found: dict[str, Any] = {}
    for module, (output, errors) in zip(modules, answers, strict=True):
        found |= _answer(base, module, output, errors)
    layers: list[str] = found["lora_layers"]
    return layers


def _answer(base: BaseModel, module: str, output: bytes, errors: bytes) -> dict[str, Any]:
    """Return the last line of a process, which is its answer.

    Raises:
        UsageError: it refused the model, or failed.
    """
    try:
        answer: dict[str, Any] = orjson.loads(output.splitlines()[-1])
    except (IndexError, orjson.JSONDecodeError) as error:
        last = " ".join(errors.decode(errors="replace").splitlines()[-_LOG_LINES:])
        raise UsageError(
            f"can't find out whether {base.name} can be used ({module} failed: {last}); try "
            "`selfstudy-engine doctor`"
        ) from error
    if "refused" in answer:
        raise UsageError(
            f"{base.name} ({base.architecture}) can't be used: {answer['refused']}; choose another "
            "base model with --model"
        )
    return answer
