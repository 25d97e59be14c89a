"""How one GPU's memory is divided between the server and training, computed before either starts.

Both keep their weights there; the server fills its share with KV cache at once and gives nothing
back, so that its share must leave what training needs at most.
"""

from pathlib import Path

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import Placement
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import resolve_dtype
from selfstudy_engine.data.model_size import ModelSize, measure_model

GIB = 1024**3
ALONE_SHARE = 0.9
"""What a server takes of a GPU of its own; vLLM's own default is 0.92."""

_KEPT = 1.5
"""Numbers that autograd keeps for each input and output of a linear layer. Counted with
torch.autograd.graph.saved_tensors_hooks: 0.9 to 1.37 for Llama, Gemma, Qwen3 and Mixtral, where
shared inputs and the steps between make up for each other."""
_KEPT_BY_PEFT = 1.7
"""The same where PEFT's own layers compute, as on 4-bit weights: 1.05 to 1.51 for Llama, Gemma and
Qwen3, counted on a CPU."""
_TRAINED_BYTES = 4 + 4 + 8
"""Of each weight of the adapter in float32: itself, its gradient and AdamW's two moments
(Rajbhandari et al. 2020, ZeRO, arXiv 1910.02054, section 3.1)."""
_NF4_BYTES = (4 + 8 / 64 + 32 / 64 / 256) / 8
"""Of a 4-bit weight: a block of 64 has a scale in 8 bits, 256 of those one in 32 (Dettmers et al.
2023, QLoRA, arXiv 2305.14314, section 3)."""
_LOGIT_BYTES = 4 + 4 + 4
"""Of each logit in float32: itself, its log-softmax and its gradient; and twice as computed."""
TRAIN_BASE_BYTES = int(1.5 * GIB)
"""CUDA context, cuBLAS workspaces and the allocator's slack; assumed, not measured here."""
_SERVER_BASE_BYTES = 2 * GIB
"""CUDA context, CUDA graphs and activations of vLLM: 0.9 GiB for a model of 135M on an H100
(docs/benchmarks/gpu-h100.md), more for larger ones."""
USABLE = 0.98
"""Share of what nvidia-smi calls the total that programs can have."""


def activation_bytes(size: ModelSize, num_tokens: int, *, four_bits: bool = False) -> int:
    """Return what autograd keeps of a step at most, in bytes, logits apart.

    tokens x 1.5 x active features x bytes of a number; nothing is computed twice to save memory,
    and attention keeps no scores (FlashAttention, arXiv 2205.14135). PEFT adds an adapter to
    experts by making their weights again, which are kept, too.
    """
    kept = num_tokens * (_KEPT_BY_PEFT if four_bits else _KEPT) * size.active_features
    return int(kept * size.element_bytes) + size.expert_bytes


def training_bytes(
    size: ModelSize, rank: int, num_tokens: int, num_answer_tokens: int, *, four_bits: bool = False
) -> int:
    """Return what training takes at most, in bytes.

    weights + activations + logits + adapter with gradients and optimiser + a base.

    Args:
        size: of the base model.
        rank: of the adapter, on all linear layers.
        num_tokens: computed at once, at most.
        num_answer_tokens: of these, those with logits.
        four_bits: the linear layers' weights are stored in NF4.
    """
    activations = activation_bytes(size, num_tokens, four_bits=four_bits)
    logits = num_answer_tokens * size.vocabulary * (_LOGIT_BYTES + 2 * size.element_bytes)
    adapter = rank * size.lora_features * (_TRAINED_BYTES + 2 * size.element_bytes)
    weights = size.weight_bytes - (nf4_saving(size) if four_bits else 0)
    return weights + activations + logits + adapter + TRAIN_BASE_BYTES


def nf4_saving(size: ModelSize) -> int:
    """Return how many bytes fewer the weights take in 4 bits."""
    return int(size.linear_weights * (size.element_bytes - _NF4_BYTES))


def training_bytes_of(size: ModelSize, config: RunConfig, longest: int, num_gpus: int = 1) -> int:
    """Return what a run's training takes of each GPU at most.

    Args:
        size: of the base model.
        config: of the run.
        longest: tokens of a sequence; one that is longer than what is computed at once is alone.
        num_gpus: that train together.
    """
    at_once = tokens_at_once(config, longest, num_gpus)
    return training_bytes(
        size,
        config.train.rank,
        max(at_once, longest),
        max(at_once, config.generation.max_tokens),
        four_bits=config.train.quantization == "nf4",
    )


def server_bytes(size: ModelSize, max_model_len: int, num_shards: int = 1) -> int:
    """Return what the server takes on each GPU at least: weights, one longest sequence, a base."""
    kept = size.weight_bytes + max_model_len * size.kv_bytes_per_token
    return kept // num_shards + _SERVER_BASE_BYTES


def server_share(total_bytes: int, training: int, server: int) -> float | None:
    """Return the share of a GPU that the server may take beside training; None: they don't fit.

    Args:
        total_bytes: of the GPU, as nvidia-smi has it.
        training: bytes that must stay free.
        server: bytes that it needs at least.

    Returns:
        Rounded down to two decimals.

    Example:
        >>> server_share(80 * GIB, training=18 * GIB, server=20 * GIB)
        0.75
    """
    share = min(ALONE_SHARE, int(100 * (USABLE - training / total_bytes)) / 100)
    return share if share * total_bytes >= server else None


def gpu_share(config: RunConfig, model: str, placement: Placement) -> float:
    """Return the share of its GPUs' memory that a run's server may take.

    Args:
        config: of the run; its own value stands.
        model: folder or hub id of the base model.
        placement: where server and training compute.

    Raises:
        UsageError: both don't fit, or the size of GPU or model can't be found out.
    """
    given = config.server.gpu_memory_utilization
    if given is not None:
        return given
    if not placement.shared:
        return ALONE_SHARE
    size = measure_model(local_folder(model), resolve_dtype(config.model.dtype, "cuda"))
    common = set(placement.server) & set(placement.train)
    unknown = [gpu for gpu in common if gpu.memory_bytes is None]
    if unknown:
        raise UsageError(
            f"the memory of {unknown[0].name} ({unknown[0].key}) isn't known, and both server and "
            "training use it; give the server's share with --gpu-memory-utilization"
        )
    total = min(gpu.memory_bytes or 0 for gpu in common)
    return share_beside_training(
        size, total, config, placement.parallel.num_shards, len(placement.train)
    )


def share_beside_training(
    size: ModelSize,
    total_bytes: int,
    config: RunConfig,
    num_shards: int = 1,
    num_train_gpus: int = 1,
) -> float:
    """Return the server's share of a GPU of that many bytes, on which a run trains, too.

    Raises:
        UsageError: both don't fit; the message says what would.
    """

    def needs(max_model_len: int) -> tuple[int, int]:
        training = training_bytes_of(size, config, max_model_len, num_train_gpus)
        return training, server_bytes(size, max_model_len, num_shards)

    training, server = needs(config.server.max_model_len)
    share = server_share(total_bytes, training, server)
    if share is not None:
        return share
    shorter = range(config.server.max_model_len // 128 * 128, 127, -128)
    fitting = next((n for n in shorter if server_share(total_bytes, *needs(n))), None)
    raise UsageError(
        f"the model needs {(server + training) / GIB:.1f} GiB on this GPU ({server / GIB:.1f} to "
        f"serve, {training / GIB:.1f} to train), which has {USABLE * total_bytes / GIB:.1f}; use "
        + (f"--max-model-len {fitting}, " if fitting else "")
        + "another GPU for training (--train-device), or a smaller model"
    )


def tokens_at_once(config: RunConfig, longest: int, num_gpus: int) -> int:
    """Return how many tokens of a step a GPU computes at once, sequences being divided whole."""
    step = config.train.tokens_per_step
    own = min(step, step // num_gpus + longest) if num_gpus > 1 else step
    return min(own, config.devices.tokens_per_device or own)


def local_folder(model: str) -> Path:
    """Return where a model's files lie; a hub id is downloaded, as both processes need it.

    Raises:
        UsageError: it can't be.
    """
    if Path(model).is_dir():
        return Path(model)
    from huggingface_hub import snapshot_download

    try:
        return Path(
            snapshot_download(
                model,
                allow_patterns=["*.json", "*.safetensors"],
                ignore_patterns=["consolidated*", "original/*"],  # the same in another format
            )
        )
    except (OSError, ValueError) as error:
        raise UsageError(
            f"can't get model {model} from the hub ({error}); give a folder with --model"
        ) from error
