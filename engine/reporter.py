"""Where what takes long says what it does; the command line shows it."""

from typing import Protocol

from selfstudy_engine.engine.rounds import RoundRecord


class Progress(Protocol):
    """Where a task says how far it is."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A phase begins, with so many things to do."""

    def advance(self, done: int, detail: str = "") -> None:
        """So many of them are done."""


class Reporter(Progress, Protocol):
    """Where a loop says what it does."""

    def finish_round(self, record: RoundRecord) -> None:
        """A round is done."""
