"""A random checkpoint of a configuration's shape, to measure the speed of a model whose weights
aren't there: `python -m selfstudy_engine.engine.bench_dummy CONFIG_FOLDER OUTPUT DTYPE [trust]`.

Everything that follows - training, merging, the canary - is then what it is for a real model; only
what it answers means nothing.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

from selfstudy_engine.data.errors import BenchmarkError, UsageError
from selfstudy_engine.data.privacy import child_environment


def make_dummy_checkpoint(
    config_folder: Path,
    output: Path,
    dtype: str,
    *,
    devices: dict[str, str],
    trust_remote_code: bool = False,
) -> None:
    """Write random weights beside copies of a folder's configuration and tokenizer.

    Args:
        config_folder: with config.json and a tokenizer's files.
        output: the checkpoint's folder.
        dtype: number format of the weights.
        devices: environment with which a process sees those that it may compute on.
        trust_remote_code: run code that comes in the folder.

    Raises:
        UsageError: the folder has no configuration.
        BenchmarkError: transformers can't make a model or tokenizer of it; with its last lines.
    """
    if not (config_folder / "config.json").is_file():
        raise UsageError(
            f"--load-format dummy takes the shape of a model from --model FOLDER; {config_folder} "
            "has no config.json"
        )
    command = [sys.executable, "-m", "selfstudy_engine.engine.bench_dummy"]
    command += [str(config_folder), str(output), dtype, *(["trust"] if trust_remote_code else [])]
    # In a process of its own, which gives a GPU's memory back.
    result = subprocess.run(
        command,
        stdin=subprocess.DEVNULL,  # transformers would ask whether it may trust the code
        capture_output=True,
        text=True,
        env=child_environment() | devices,
        check=False,
    )
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:]
        raise BenchmarkError(
            f"no model could be made of {config_folder}: {''.join(last)}; it needs a config.json "
            "that transformers knows and a tokenizer's files"
        )


def main(config_folder: str, output: str, dtype: str, trusted: str = "") -> None:
    """Write the checkpoint."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    trust = bool(trusted)
    tokenizer: Any = AutoTokenizer.from_pretrained(config_folder, trust_remote_code=trust)
    config = AutoConfig.from_pretrained(config_folder, trust_remote_code=trust)
    torch.manual_seed(0)
    with torch.device("cuda" if torch.cuda.is_available() else "cpu"):
        model: Any = AutoModelForCausalLM.from_config(
            config, dtype=getattr(torch, dtype), trust_remote_code=trust
        )
    model.save_pretrained(output)
    tokenizer.save_pretrained(output)


if __name__ == "__main__":
    main(*sys.argv[1:])
