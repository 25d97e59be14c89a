"""How many devices vLLM's own arguments ask for, and in how many copies of the weights."""

from collections.abc import Sequence
from dataclasses import dataclass, fields
from itertools import zip_longest
from typing import Self

from selfstudy_engine.data.errors import UsageError, shown

_FLAGS = {
    "--tensor-parallel-size": "tensor",
    "-tp": "tensor",
    "--pipeline-parallel-size": "pipeline",
    "-pp": "pipeline",
    "--data-parallel-size": "data",
    "-dp": "data",
}


@dataclass(frozen=True, slots=True)
class Parallel:
    """The ranks of one server."""

    tensor: int = 1
    pipeline: int = 1
    data: int = 1
    """Engines, each with a whole copy of the weights; requests are shared out among them."""

    @property
    def num_shards(self) -> int:
        """Parts of one copy of the weights, each on a device of its own."""
        return self.tensor * self.pipeline

    @property
    def num_ranks(self) -> int:
        """Devices in all."""
        return self.num_shards * self.data

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Self:
        """Read vLLM's arguments, which take underscores for hyphens; the last of a kind counts.

        Raises:
            UsageError: not a number.

        >>> Parallel.of(["--tensor-parallel-size", "2", "-dp=3"])
        Parallel(tensor=2, pipeline=1, data=3)
        """
        sizes = {field.name: 1 for field in fields(cls)}
        for argument, following in zip_longest(arguments, arguments[1:], fillvalue=""):
            flag, _, value = argument.partition("=")
            kind = _FLAGS.get(flag.replace("_", "-"))
            if kind is None:
                continue
            size = value or following
            if not (size.isascii() and size.isdecimal() and int(size)):
                raise UsageError(f"{flag} {shown(size)}: give the number of devices, 1 or more")
            sizes[kind] = int(size)
        return cls(**sizes)
