"""Molecules in, their prompts out, in order: rendered ahead in other processes where there are any.

The facts in a prompt take RDKit longer than all else that asking takes. A prompt that isn't ready
when its turn comes is rendered here: nothing waits for a process.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from itertools import islice
from typing import Any, NamedTuple

from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.worker_pool import WorkerPool

CHUNK_MOLECULES = 64
CHUNKS_AHEAD = 32
"""Enough for what a few dozen servers ask at once, and not more than a megabyte or two."""
Render = Callable[[Molecule], str]
FindPool = Callable[[], WorkerPool[Any] | None]
"""Returns the processes, if there are any now."""


class _Chunk(NamedTuple):
    """Molecules whose prompts are rendered at once."""

    render: Render
    molecules: Sequence[Molecule]

    def prompts(self, context: object) -> list[str]:
        del context
        return [self.render(molecule) for molecule in self.molecules]


def render_ahead(
    molecules: Iterable[Molecule], render: Render, find_pool: FindPool
) -> Iterator[tuple[Molecule, str]]:
    """Yield each molecule with its prompt.

    Args:
        molecules: drawn a few thousand ahead where there are processes.
        render: importable by its name, as pickles have it.
        find_pool: asked again and again, as processes may come later.
    """
    waiting = iter(molecules)
    coming: deque[tuple[_Chunk, Future[list[str]] | None]] = deque()
    while True:
        pool = find_pool()
        while len(coming) < (CHUNKS_AHEAD if pool else 1) and (
            drawn := list(islice(waiting, CHUNK_MOLECULES))
        ):
            chunk = _Chunk(render, drawn)
            coming.append((chunk, pool.submit(chunk.prompts) if pool else None))
        if not coming:
            return
        chunk, future = coming.popleft()
        for index, molecule in enumerate(chunk.molecules):
            is_ready = future and future.done() and not future.exception()
            yield molecule, future.result()[index] if future and is_ready else render(molecule)
        if future:
            future.cancel()  # it came too late
