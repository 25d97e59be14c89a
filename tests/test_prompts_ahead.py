"""Prompts come in their order, whoever renders them, and whether that is in time or not."""

from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest
from samples import SHIPPED

from selfstudy_engine.data.errors import WorkerError
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.engine.prompts_ahead import CHUNK_MOLECULES, CHUNKS_AHEAD, render_ahead

MOLECULES = [exemplar.molecule for exemplar in SHIPPED] * 300


class Pool:
    """Does what it is told with each task's future."""

    size = 1

    def __init__(self, settle: Callable[["Future[Any]", Callable[[None], Any]], None]) -> None:
        self._settle = settle
        self.futures: list[Future[Any]] = []

    def submit(self, task: Callable[[None], Any]) -> "Future[Any]":
        future: Future[Any] = Future()
        self.futures.append(future)
        self._settle(future, task)
        return future


def render(molecule: Molecule) -> str:
    return f"{molecule.smiles}?"


@pytest.mark.parametrize(
    ("settle", "is_in_time"),
    [
        (lambda future, task: future.set_result(task(None)), True),
        (lambda future, task: None, False),
        (lambda future, task: future.set_exception(WorkerError("died")), False),
    ],
    ids=["in time", "too late", "never"],
)
def test_prompts_are_the_same_and_in_order(settle: Any, is_in_time: bool) -> None:
    pool: Any = Pool(settle)
    here: list[Molecule] = []

    def render_and_count(molecule: Molecule) -> str:
        here.append(molecule)
        return render(molecule)

    found = []
    for molecule, prompt in render_ahead(MOLECULES, render_and_count, lambda: pool):
        found.append((molecule, prompt))
        if len(found) == 1:
            assert len(pool.futures) == CHUNKS_AHEAD, "memory is bounded"
            here_before = len(here)
    assert found == [(molecule, render(molecule)) for molecule in MOLECULES]
    assert all(future.done() for future in pool.futures), "what came too late is given up"
    assert len(pool.futures) == -(-len(MOLECULES) // CHUNK_MOLECULES)
    assert here_before == (CHUNKS_AHEAD * CHUNK_MOLECULES if is_in_time else 1)


def test_without_processes_nothing_is_drawn_ahead() -> None:
    waiting = iter(MOLECULES)
    first, prompt = next(render_ahead(waiting, render, lambda: None))
    assert (first, prompt) == (MOLECULES[0], render(MOLECULES[0]))
    assert len(list(waiting)) == len(MOLECULES) - CHUNK_MOLECULES
