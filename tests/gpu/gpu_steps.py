"""The steps of the GPU check: which commands of the engine they are, in full and in small."""

import shutil
from dataclasses import dataclass
from pathlib import Path

import orjson

from selfstudy_engine.data.embedded import embedded_model
from selfstudy_engine.engine.server import free_port

STEPS = (
    "loop",
    "bench",
    "bench-7b",
    "overlap",
    "serve-runtime",
    "four-api-servers",
    "wide-graphs",
    "serve-merged",
    "doctor",
)
"""In the order in which they are run, by what each tells; later ones serve the loop's last
adapter."""
_DIFFERENT = {
    "four-api-servers": ["--api-server-count", "4"],
    # vLLM records them for batches of up to 512, and lets an H100 compute 1,024 at once.
    "wide-graphs": ["--", "--max-cudagraph-capture-size", "1024"],
}
"""What the merged server of `bench` is measured again with."""
_READY = "Try:"
"""How the line begins that `serve` prints once the canary has passed."""


@dataclass(frozen=True)
class Size:
    """How much the steps ask."""

    loop: str
    overlap: str
    bench: str
    bench_7b: str
    shape: dict[str, int]
    """Of the model with random weights."""


_LOOP = "--batch 4096 --test-size 500 --tokens-per-step 2048"
FULL = Size(
    loop=f"{_LOOP} --rounds 10 --report end",
    overlap=f"{_LOOP} --rounds 3 --report off",
    bench="--prompts 1024 --tokens 128 --repeats 2 --only 3,4,5,6,7,swap,overlap",
    bench_7b="--prompts 512 --tokens 128 --repeats 2 --only 3,5,6,swap,training",
    shape={  # Llama 2 7B
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
)
SHORT = Size(
    loop=f"{_LOOP} --rounds 1 --report off",
    overlap=f"{_LOOP} --rounds 2 --report off",
    bench="--prompts 512 --tokens 128 --repeats 1 --only 3,5,6,swap",
    bench_7b="--prompts 256 --tokens 64 --repeats 1 --only 5,6,swap,training",
    shape=FULL.shape,
)
"""Two to seven minutes a step on an H100, most of it engines that start
(docs/benchmarks/gpu-h100.md)."""
_TINY_LOOP = (
    "--rounds 1 --batch 8 --test-size 4 --train-evaluation-size 0 --report off "
    "--lora-rank 4 --min-steps 2 --epochs 0.1 --tokens-per-step 128 --learning-rate 1e-2"
)
_TINY_BENCH = "--prompts 4 --tokens 8 --max-tokens 16 --quick --kv-cache-gib 1"
SMALL = Size(
    loop=_TINY_LOOP,
    overlap=_TINY_LOOP,
    bench=f"{_TINY_BENCH} --only 3,4,5,6,7,swap,overlap",
    bench_7b=f"{_TINY_BENCH} --only 3,5,6,swap,training",
    shape={
        "hidden_size": 128,
        "intermediate_size": 256,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
    },
)
"""Shows that every step runs, also where there is no GPU; the figures mean nothing."""


@dataclass(frozen=True)
class Command:
    """What a step runs."""

    arguments: list[str]
    """Of `selfstudy-engine`."""
    until: str | None = None
    """Beginning of the line after which it is ended; None: it ends by itself."""


def command_of(step: str, out: Path, size: Size) -> Command:
    """Make what a step needs, and return its command; results go to OUT/STEP."""
    folder = out / step
    adapters = out / "loop" / "default" / "adapters"
    adapter = max(adapters.glob("round-[0-9]*"), default=None)
    of_loop = ["--adapter", str(adapter)] if adapter else []
    bench = ["bench", "--out", str(folder)]
    match step:
        case "doctor":
            return Command(["doctor", "--runs", str(folder), "--port", str(free_port())])
        case "loop":
            return Command(["loop", "--runs", str(folder), *size.loop.split()])
        case "overlap":
            return Command(["loop", "--overlap", "--runs", str(folder), *size.overlap.split()])
        case "serve-merged" | "serve-runtime":
            serve = ["serve", "--adapter-mode", step.removeprefix("serve-")]
            serve += ["--port", str(free_port()), "--log", str(folder / "server.log")]
            # Without an adapter nothing would be proven: then it fails.
            return Command([*serve, "--adapter", str(adapter or adapters / "round-0000")], _READY)
        case "bench":
            return Command([*bench, *of_loop, *size.bench.split()])
        case "four-api-servers" | "wide-graphs":
            merged = [*bench, *of_loop, *size.bench.split(), "--only", "5"]
            return Command([*merged, *_DIFFERENT[step]])
        case "bench-7b":
            settings = folder / "bench.toml"
            settings.write_text("[train]\nrank = 32\ntokens_per_step = 2048\n", "utf-8")
            model = ["--load-format", "dummy", "--model", str(_make_shape(folder / "shape", size))]
            return Command([*bench, *model, "--config", str(settings), *size.bench_7b.split()])
    raise ValueError(f"no step {step}")


def _make_shape(folder: Path, size: Size) -> Path:
    """Write a Llama's configuration with the embedded model's tokenizer: prompts stay as long."""
    folder.mkdir(exist_ok=True)
    for path in embedded_model().glob("tokenizer*"):
        shutil.copy(path, folder)
    config = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": 49152,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-5,
        "dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }
    (folder / "config.json").write_bytes(orjson.dumps(config | size.shape))
    return folder
