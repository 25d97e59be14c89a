"""Training speed beside the plain way: `python -m selfstudy_engine.train.benchmark`.

Both train the same adapter on the same sequences in turn (plain, ours, plain, ours). The last line
of stdout is one JSON object, either the figures or {"event": "error", ...}.
"""

import argparse
import contextlib
import random
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import orjson
import torch
from transformers import AutoTokenizer

from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import SelfStudyError
from selfstudy_engine.data.gpu_memory import (
    TRAIN_BASE_BYTES,
    local_folder,
    nf4_saving,
    training_bytes_of,
)
from selfstudy_engine.data.hardware import resolve_dtype
from selfstudy_engine.data.model_size import measure_model
from selfstudy_engine.data.prompts import render_prompt, render_value
from selfstudy_engine.data.task import load_task
from selfstudy_engine.train.examples import Example, TokenSequence, exemplar_examples, tokenize
from selfstudy_engine.train.fitting import fit
from selfstudy_engine.train.plain import BATCH_SIZE, fit_plainly
from selfstudy_engine.train.roofline import flops_per_token, matmul_gflops
from selfstudy_engine.train.trainer import load_model

_WARM_UP = 2 * BATCH_SIZE


def main(arguments: list[str]) -> int:
    """Measure as the arguments say; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m selfstudy_engine.train.benchmark")
    parser.add_argument("--config", type=Path, required=True, help="run.toml")
    parser.add_argument("--model", required=True, help="folder or hub id of the base model")
    parser.add_argument("--steps", type=int, default=6, help="plain steps of 8 sequences a repeat")
    parser.add_argument("--repeats", type=int, default=5, help="turns of each")
    values = parser.parse_args(arguments)
    try:
        config = load_config(values.config)
        with contextlib.redirect_stdout(sys.stderr):  # both log there
            figures = measure(config, values.model, values.steps, values.repeats)
    except SelfStudyError as error:
        figures = {"event": "error", "message": str(error), "exit_code": error.exit_code}
    sys.stdout.write(orjson.dumps(figures).decode() + "\n")
    return int(figures.get("exit_code", 0))


def measure(config: RunConfig, model: str, steps: int, repeats: int) -> dict[str, Any]:
    """Train both ways in turn.

    Args:
        config: what is trained, and how; its table provides the prompts.
        model: folder or hub id of the base model.
        steps: plain steps of each turn; the project's own steps are as many as the same sequences
            fill.
        repeats: turns of each way.

    Returns:
        Medians over the turns; tokens are those of the sequences, without padding. The speedup is
        the median of the turns' ratios. memory_of_formula is what ours allots on a GPU beside the
        weights, of what is reserved there for it.
    """
    tokenizer = AutoTokenizer.from_pretrained(
        model, trust_remote_code=config.model.trust_remote_code
    )
    sequences = make_sequences(config, tokenizer, steps * BATCH_SIZE)
    num_tokens = sum(map(len, sequences))
    once = config.train.model_copy(update={"epochs": 1, "min_steps": 1})
    plain_model, own_model = (load_model(config, model) for _ in range(2))
    rates: list[tuple[float, float]] = []
    taken = 0
    num_own_tokens = num_own_steps = 0
    for turn in range(-1, repeats):  # the first warms up
        chosen = sequences if turn >= 0 else sequences[:_WARM_UP]
        seconds = fit_plainly(plain_model, tokenizer, chosen, config.train.learning_rate)
        with gpu_peak() as peak:
            own = fit(own_model, chosen, once, config.seed + turn + 1)
        taken = max(taken, peak())
        if turn >= 0:
            rates.append((num_tokens / seconds, own.num_tokens / own.seconds))
            num_own_tokens, num_own_steps = own.num_tokens, own.steps
    plain, ours = (statistics.median(rate) for rate in zip(*rates, strict=True))
    ratios = [own / plain for plain, own in rates]
    gflops = matmul_gflops(own_model, config.train.tokens_per_step)
    flops = flops_per_token(own_model, sequences)
    return {
        "plain_tokens_per_second": plain,
        "tokens_per_second": ours,
        "speedup": statistics.median(ratios),
        "speedup_range": [min(ratios), max(ratios)],
        "matmul_gflops": gflops,
        "flops_per_token": flops,
        "share_of_roofline": ours * flops / gflops / 1e9,
        "plain_share_of_roofline": plain * flops / gflops / 1e9,
        "memory_of_formula": taken / bytes_expected(config, model) if taken else None,
        "dtype": resolve_dtype(config.model.dtype),
        "num_threads": torch.get_num_threads(),
        "repeats": repeats,
        "num_sequences": len(sequences),
        "plain_num_tokens": num_tokens,
        "num_tokens": num_own_tokens,
        "plain_steps": steps,
        "steps": num_own_steps,
    }


@contextlib.contextmanager
def gpu_peak() -> Iterator[Callable[[], int]]:
    """Yield what returns the most bytes that were allotted meanwhile on the GPU; 0 on a CPU."""
    if not torch.cuda.is_available():
        yield lambda: 0
        return
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    yield lambda: torch.cuda.max_memory_allocated() - before


def bytes_expected(config: RunConfig, model: str) -> int:
    """Return what `gpu_memory` expects a training to allot beside the weights, the adapter's too.

    Without its base, which is for what torch doesn't count.
    """
    size = measure_model(local_folder(model), resolve_dtype(config.model.dtype))
    weights = size.weight_bytes + 4 * config.train.rank * size.lora_features
    if config.train.quantization == "nf4":
        weights -= nf4_saving(size)
    return training_bytes_of(size, config, config.server.max_model_len) - weights - TRAIN_BASE_BYTES


def make_sequences(config: RunConfig, tokenizer: Any, number: int) -> list[TokenSequence]:
    """Return the exemplars, and molecules of the pool answered with an exemplar's reason.

    As long as those of a real round, and as different from one another.
    """
    task = load_task(config)
    shown = task.exemplars[: config.generation.prompt_exemplars]
    template = config.generation.template
    examples = list(exemplar_examples(task.exemplars, config.property, len(shown), template))
    pool = task.split.pool
    size = max(number - len(examples), 0)
    molecules = (
        random.Random(config.seed).choices(pool, k=size)
        if size > len(pool)
        else (random.Random(config.seed).sample(pool, size))
    )
    for index, molecule in enumerate(molecules):
        reason = task.exemplars[index % len(task.exemplars)].reason
        prompt = render_prompt(molecule, config.property, shown, template)
        value_line = render_value(molecule.value, config.property, template)
        examples.append(Example(molecule.molecule_id, prompt, reason, value_line))
    return [tokenize(example, tokenizer) for example in examples[:number]]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
