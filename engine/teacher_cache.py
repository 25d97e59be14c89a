"""A teacher's answers on the disk: nothing that was paid for is asked again.

One JSON line for each, appended and fsynced before anything is made of it. What a killed process
left of a last line is cut off; one process at a time holds the file.
"""

import hashlib
import logging
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Self

import orjson

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.files import fsync_path, lock, make_folder

logger = logging.getLogger(__name__)


_ENDED = frozenset({"", "stop", "end_turn", "stop_sequence", "eos", "eos_token"})
_GIVEN_UP = frozenset({"abort", "error", "insufficient_system_resource"})
"""The server failed in the middle of an answer: asked again, it may give a whole one."""


@dataclass(frozen=True, slots=True)
class TeacherAnswer:
    """What came of one question, and what it took."""

    key: str
    """See `answer_key`."""
    teacher: str
    """Whom it was asked: the URL, or what stands for a server of our own."""
    model: str
    question: str
    text: str
    finish_reason: str
    """As the server names it; empty where it doesn't."""
    num_prompt_tokens: int
    num_output_tokens: int
    lost: bool = False
    """No usable answer came; the tokens are the most that it may have been charged for."""

    @property
    def is_whole(self) -> bool:
        """Whether the model ended it, not a limit, a filter or the server."""
        return self.finish_reason.lower() in _ENDED

    @property
    def is_reusable(self) -> bool:
        """Whether it stands for the answer to its question, be it a bad one."""
        return not self.lost and self.finish_reason.lower() not in _GIVEN_UP


def answer_key(teacher: str, body: dict[str, Any]) -> str:
    """Return the hash of everything that an answer depends on.

    Args:
        teacher: whom it is asked.
        body: the request: model, messages and sampling parameters.
    """
    content = orjson.dumps([teacher, body], option=orjson.OPT_SORT_KEYS)
    return hashlib.sha256(content).hexdigest()


class AnswerCache:
    """The answers in one file; use it as a context manager.

    Args:
        path: JSONL file; made, with its folder, on entering.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._answers: dict[str, TeacherAnswer] = {}
        self._not_reusable: list[TeacherAnswer] = []
        self._file: BinaryIO

    def __enter__(self) -> Self:
        """Hold the file and read it.

        Raises:
            UsageError: another process holds it.
            OSError: it can't be read or written.
        """
        make_folder(self.path.parent)
        self._file = self.path.open("ab+")
        try:
            lock(self._file)
            fsync_path(self.path.parent)
            self._read()
        except BlockingIOError as error:
            self._file.close()
            raise UsageError(
                f"{self.path} is in use by another process that asks a teacher; wait for it, end "
                "it, or write elsewhere"
            ) from error
        except BaseException:
            self._file.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def get(self, key: str) -> TeacherAnswer | None:
        """Return the answer to a question that was asked before."""
        return self._answers.get(key)

    def paid(self, teacher: str, model: str) -> Iterator[TeacherAnswer]:
        """Yield all that one teacher's model was asked, lost answers included."""
        for answer in (*self._answers.values(), *self._not_reusable):
            if (answer.teacher, answer.model) == (teacher, model):
                yield answer

    def add(self, answer: TeacherAnswer) -> None:
        """Take in an answer; it is on the disk when this returns."""
        self._file.write(orjson.dumps(asdict(answer), option=orjson.OPT_APPEND_NEWLINE))
        self._file.flush()
        os.fsync(self._file.fileno())
        self._take(answer)

    def _take(self, answer: TeacherAnswer) -> None:
        if answer.is_reusable:
            self._answers[answer.key] = answer
        else:
            self._not_reusable.append(answer)

    def _read(self) -> None:
        self._file.seek(0)
        content = self._file.read()
        whole = content.rfind(b"\n") + 1
        if whole < len(content):
            self._file.truncate(whole)  # of a process that was killed while it wrote
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                self._take(TeacherAnswer(**orjson.loads(line)))
            except (orjson.JSONDecodeError, TypeError) as error:
                logger.warning(
                    "%s, line %d isn't a teacher's answer (%s); its question is asked again",
                    *(self.path, number, error),
                )
