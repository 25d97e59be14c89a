"""What to do when memory runs out in training."""

from accelerate.utils.memory import clear_device_cache, should_reduce_batch_size

REMEDY = (
    "train on another --train-device than the server's or leave it more of this one "
    "(--gpu-memory-utilization), or begin another --run with a lower train.rank"
)


def is_out_of_memory(error: Exception) -> bool:
    """Tell whether less at a time would have helped, on a CPU too."""
    return isinstance(error, MemoryError) or bool(should_reduce_batch_size(error))


def free_memory() -> None:
    """Give back what nobody holds any more."""
    clear_device_cache(garbage_collection=True)
