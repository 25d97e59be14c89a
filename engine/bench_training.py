"""Training speed against the plain Trainer, measured in the training process's own package."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import orjson

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import BenchmarkError, last_lines
from selfstudy_engine.data.parent_death import end_with_parent
from selfstudy_engine.engine.launching import training_environment


def measure_training(
    config: RunConfig, model: str, num_steps: int, repeats: int, scratch: Path
) -> dict[str, Any]:
    """Run `python -m selfstudy_engine.train.benchmark`.

    Args:
        config: of a loop.
        model: folder or hub id of the base model.
        num_steps: of the plain Trainer, in each repeat.
        repeats: turns of each way.
        scratch: folder for the configuration.

    Returns:
        plain_tokens_per_second, tokens_per_second, speedup and what the host could do.

    Raises:
        BenchmarkError: the process failed; with its last lines.
    """
    path = scratch / "training.toml"
    path.write_text(config.to_toml(), "utf-8")
    command = [sys.executable, "-m", "selfstudy_engine.train.benchmark"]
    command += ["--config", str(path), "--model", model, "--steps", str(num_steps)]
    command += ["--repeats", str(repeats)]
    result = subprocess.run(
        command,
        capture_output=True,
        text=True,
        check=False,
        env=training_environment(placement_of(config).train),
        preexec_fn=end_with_parent,  # one system call, no locks
    )
    if result.returncode:
        lines = last_lines(result.stderr.splitlines())
        raise BenchmarkError(f"the training benchmark ended with {result.returncode}:\n{lines}")
    figures: dict[str, Any] = orjson.loads(result.stdout.splitlines()[-1])
    return figures
