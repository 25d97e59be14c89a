"""Every error that the project raises on purpose.

    SelfStudyError            a failure: exit code 1
    +- UsageError             a wrong call, configuration or input: exit code 2 (also a ValueError)
    |  +- TableError          a property table that can't be used
    |  +- RunFolderError      a run folder of another configuration or version
    |     +- InUseError       a run that another process holds: exit code 1, as that passes
    +- StoreError             a sample that can't be written or a shard that can't be read (OSError)
    |  +- DamagedShardError   a shard whose bytes aren't what was written
    |  +- RemoteError         S3 failed or is out of reach: exit code 1, as that may pass
    |     +- ConflictError    an object that somebody else wrote first
    +- AdapterError           an adapter folder that is damaged or doesn't fit (ValueError)
    +- ServerError            a server that fails to start, dies, or stays mute (ConnectionError)
    |  +- ServerDiedError     ours ended, or its engine did: a new one can take over
    +- BudgetError            the next call could cost more than is allowed (RuntimeError)
    +- SwapError              the served adapter isn't proven to be the wanted one (RuntimeError)
    +- TrainingError          a training process that failed (RuntimeError)
    +- WorkerError            processes that judge or speak HTTP keep dying (RuntimeError)
    +- BenchmarkError         a contender of a benchmark that failed (RuntimeError)

Each message names the value, the limit and the remedy.
"""

from collections.abc import Sequence
from pathlib import Path


class SelfStudyError(Exception):
    """Base of all errors that a user can cause or repair; `exit_code` is the CLI's."""

    exit_code = 1


class UsageError(SelfStudyError, ValueError):
    """The call, the configuration or the input is wrong; nothing was changed."""

    exit_code = 2


class TableError(UsageError):
    """The property table can't be used as it is."""


class RunFolderError(UsageError):
    """The run folder belongs to another configuration or version."""


class InUseError(RunFolderError):
    """Another process holds the run; once that has ended, the same call is right."""

    exit_code = 1


class StoreError(SelfStudyError, OSError):
    """A sample couldn't be made durable, or a shard couldn't be read."""

    exit_code = 2


class DamagedShardError(StoreError):
    """A shard is truncated, changed, or not one of ours."""


class RemoteError(StoreError):
    """S3 refused something, failed, or couldn't be reached."""

    exit_code = 1


class ConflictError(RemoteError):
    """Somebody else wrote an object first; theirs stands."""


class AdapterError(SelfStudyError, ValueError):
    """An adapter folder is damaged, unsafe, or made for another base model."""

    exit_code = 2


class ServerError(SelfStudyError, ConnectionError):
    """A vLLM server didn't start, died, or gave an answer that can't be used."""


class ServerDiedError(ServerError):
    """A server that this process started has ended, or answers its health check no more."""


class BudgetError(SelfStudyError, RuntimeError):
    """What may be spent is spent, as far as the next call could go beyond it."""


class SwapError(SelfStudyError, RuntimeError):
    """The server couldn't be shown to answer from the wanted adapter."""


class TrainingError(SelfStudyError, RuntimeError):
    """The training process failed or made an adapter that can't be used."""


class WorkerError(SelfStudyError, RuntimeError):
    """The processes that work for this one keep dying."""


class BenchmarkError(SelfStudyError, RuntimeError):
    """A contender of a benchmark failed or answered something else than what it was asked."""


def damaged(path: Path, error: Exception, remedy: str) -> StoreError:
    """Return what is said of a run's file whose content isn't what was written."""
    return StoreError(f"{path} is damaged ({shown_text(str(error))}); {remedy}")


_MOST_SHOWN = 120
MAX_LISTED = 5
"""Things of many that a message lists."""
_LOG_LINES = 12


def shown(value: object) -> str:
    """Return a value as a message shows it: on one printable line, and not all of a long one.

    >>> shown("two" + chr(10) + "lines"), len(shown("C" * 1_000_000)) < 200
    ("'two\\\\nlines'", True)
    """
    try:
        return _shortened(repr(value))
    except ValueError:  # Python writes no integer of more than 4,300 digits
        return "a number of thousands of digits"


def shown_text(text: str) -> str:
    """Return another program's text as a message shows it: as `shown`, without quotes.

    >>> shown_text("Empty" + chr(10) + "file" + chr(27))
    'Empty file\\\\x1b'
    """
    return _shortened(printable(" ".join(text.split())))


def printable(text: str) -> str:
    """Return a text whose control characters a terminal shows instead of obeying.

    >>> printable("a" + chr(27) + "[2J")
    'a\\\\x1b[2J'
    """
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _shortened(text: str) -> str:
    if len(text) <= _MOST_SHOWN:
        return text
    half = _MOST_SHOWN // 2
    return f"{text[:half]} ... {text[-half:]} ({len(text)} characters)"


def listed(
    items: Sequence[str],
    separator: str = "; ",
    *,
    num_items: int | None = None,
    most: int = MAX_LISTED,
) -> str:
    """Join the first few of many.

    Args:
        items: the first of them at least.
        separator: between two.
        num_items: how many there are; None are those given.
        most: items that are shown.
    """
    left = (len(items) if num_items is None else num_items) - most
    more = f", and {left} more" if left > 0 else ""
    return separator.join(items[:most]) + more


def counted(number: int, what: str) -> str:
    """Return how many of something there are.

    >>> counted(1, "molecule"), counted(20, "molecule")
    ('1 molecule', '20 molecules')
    """
    return f"{number} {what}" + ("" if number == 1 else "s")


def last_lines(log: Sequence[str]) -> str:
    """Return the end of another program's log as a message shows it, indented."""
    return "\n".join(f"  {line[:300]}" for line in log[-_LOG_LINES:])
