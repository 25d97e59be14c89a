"""Adapters and molecules in, answers out: one server for all of them, swapped in between."""

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.evaluations import Evaluated, load_evaluation
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.engine.connection import Connection, open_connection
from selfstudy_engine.engine.evaluate import Manner, evaluation_requests, plain_manner, to_median
from selfstudy_engine.engine.reporter import Progress


class Examiner:
    """Asks adapters about molecules; use it as a context manager.

    The server starts when the first question comes: what is known already needs none.

    Args:
        config: of the adapters, with the server settings of this call.
        model: folder or hub id of the base model.
        shown: exemplars in each prompt.
        log: receives the output of an own server.
        server_key: API key of the server at config.server.url.
        progress: told of every phase.
    """

    def __init__(
        self,
        config: RunConfig,
        model: str,
        shown: Sequence[Exemplar],
        *,
        log: Path,
        server_key: str,
        progress: Progress,
    ) -> None:
        self._config = config
        self._shown = shown
        self._progress = progress
        self._connect = partial(open_connection, config, model, log, server_key)
        self._connection: Connection | None = None
        self._cleanup = ExitStack()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._cleanup.close()

    def ask(
        self,
        adapter: Adapter | None,
        molecules: Sequence[Molecule],
        manner: Manner | None = None,
    ) -> list[Evaluated]:
        """Have an adapter answer a test set.

        Args:
            adapter: None is the base model.
            molecules: the test set.
            manner: how to ask; None is how the run's loop does.

        Returns:
            An answer for each molecule, in their order.

        Raises:
            SelfStudyError: the adapter can't be served, or the server can't be shown to answer
                from it.
        """
        connection = self._serve(adapter)
        name = adapter.name if adapter else "the base model"
        self._progress.phase(f"ask {name}", len(molecules))
        manner = manner or plain_manner(self._config)
        return connection.run(self._answers(connection, molecules, manner))

    def _serve(self, adapter: Adapter | None) -> Connection:
        if self._connection is None:
            self._connection = self._cleanup.enter_context(self._connect())
            self._progress.phase("wait for the server")
            self._connection.connect()
        if adapter is None:
            self._connection.swap_to_base()
        elif self._connection.served.adapter_sha256 != adapter.sha256:
            self._connection.swap_to(adapter)
        return self._connection

    async def _answers(
        self, connection: Connection, molecules: Sequence[Molecule], manner: Manner
    ) -> list[Evaluated]:
        served = connection.served
        asked = [("test", molecule) for molecule in molecules]
        requests = evaluation_requests(asked, self._config, self._shown, manner)
        found: dict[int, Evaluated] = {}
        async for generated in connection.client.generate(served.model, requests):
            answer = to_median(generated.item, generated.completions, self._config)
            found[generated.item.index] = replace(answer, adapter_sha256=served.adapter_sha256)
            self._progress.advance(len(found))
        return [found[index] for index in range(len(molecules))]


def kept_answers(
    path: Path, molecules: Sequence[Molecule], adapter: Adapter, num_answers: int
) -> list[Evaluated] | None:
    """Return the answers of a file, if they are this adapter's to this very test set.

    Args:
        path: of an evaluation; it need not exist.
        molecules: the test set, with its values now.
        adapter: that must have answered, where the file says which one did.
        num_answers: that must be behind each.
    """
    if not path.is_file():
        return None
    answers = [answer for answer in load_evaluation(path) if answer.split == "test"]
    asked = {(molecule.molecule_id, molecule.value) for molecule in molecules}
    same_test = {(answer.molecule_id, answer.measured) for answer in answers} == asked
    same_adapter = {answer.adapter_sha256 for answer in answers} <= {"", adapter.sha256}
    same_manner = {answer.num_answers for answer in answers} == {num_answers}
    return answers if same_test and same_adapter and same_manner else None
