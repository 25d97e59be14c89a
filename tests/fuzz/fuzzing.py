"""What the properties share: how many cases each runs, how long one may take, and mutations.

`make test` runs a few cases of each, always the same ones; `make fuzz CASES=100000 SEED=1` divides
so many among them by their shares, and ends with a line that says how many each has run.
"""

import functools
import os
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from selfstudy_engine.data.errors import SelfStudyError

CASES = int(os.environ.get("FUZZ_CASES", "0"))
"""Of all properties together; 0 is the short form."""
SHARES: dict[str, int] = {}
"""Property -> its part of the cases, in thousandths."""
TALLY: Counter[str] = Counter()
"""Property -> cases that have run."""
_MOST_CHARACTERS = 4000
"""Of an error's message; the list of all configuration keys is one."""

Test = Callable[..., None]
Text = TypeVar("Text", str, bytes)


def fuzz(
    share: int, short: int = 20, cpu_seconds: float = 5, **strategies: st.SearchStrategy[Any]
) -> Callable[[Test], Test]:
    """Make a test a property: it runs on drawn arguments, each case in bounded time.

    Args:
        share: of the long form's cases, in thousandths.
        short: cases in `make test`.
        cpu_seconds: what one case may take; of this process, as a busy machine isn't our fault.
        strategies: of the arguments that aren't fixtures.
    """

    def decorate(test: Test) -> Test:
        name = test.__name__.removeprefix("test_")
        SHARES[name] = share

        @functools.wraps(test)
        def counted(*args: Any, **values: Any) -> None:
            TALLY[name] += 1
            with bounded(cpu_seconds):
                test(*args, **values)

        return settings(
            max_examples=max(1, CASES * share // 1000) if CASES else short,
            derandomize=not CASES,
            database=None,
            deadline=None,
            print_blob=True,
            suppress_health_check=list(HealthCheck),
        )(given(**strategies)(counted))

    return decorate


def exhaustive(name: str, places: int, short: int) -> range:
    """Return all of so many places in the long form, so many of them in `make test`; counted."""
    chosen = range(0, places, 1 if CASES else -(-places // short))
    TALLY[name] += len(chosen)
    return chosen


@contextmanager
def bounded(cpu_seconds: float) -> Iterator[None]:
    """Fail when the block takes more of this process's time."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise AssertionError(f"took over {cpu_seconds:g} s")

    before = signal.signal(signal.SIGPROF, stop)
    signal.setitimer(signal.ITIMER_PROF, cpu_seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


@contextmanager
def may_refuse(kind: type[SelfStudyError]) -> Iterator[None]:
    """Let one of our own errors end the case: one printable line of bounded length."""
    try:
        yield
    except kind as error:
        message = str(error)
        assert message.isprintable(), repr(message)
        assert 10 < len(message) < _MOST_CHARACTERS, len(message)


EDITS = ("replace", "insert", "delete", "repeat", "cut")


@st.composite
def mutated(
    draw: st.DrawFn, bases: Sequence[Text], tokens: st.SearchStrategy[Text], most: int = 4
) -> Text:
    """Draw one of the bases with a few edits: tokens put in, parts left out, doubled or cut off."""
    content = draw(st.sampled_from(bases))
    for _ in range(draw(st.integers(1, most))):
        start = draw(st.integers(0, len(content)))
        end = min(len(content), start + draw(st.integers(1, 12)))
        edit = draw(st.sampled_from(EDITS))
        if edit == "replace":
            content = content[:start] + draw(tokens) + content[end:]
        elif edit == "insert":
            content = content[:start] + draw(tokens) + content[start:]
        elif edit == "delete":
            content = content[:start] + content[end:]
        elif edit == "repeat":
            content = content[:end] + content[start:end] * draw(st.integers(1, 40)) + content[end:]
        else:
            content = content[:start]
    return content


NASTY_TEXTS = (
    "\x00",
    "\x1b[2J",
    "\ufeff",
    "\u202e",
    "\u2028",
    "\x85",
    "\r",
    "\t",
    "\u00a0",
    "é",
    "😀",
    "İ",
    "NaN",
    "inf",
    "-inf",
    "1e999",
    "1e-999",
    "1_000",
    "0x10",
    "١٢",
    "８０",
    "²",
    "½",
    "1,5",
    "1.234,5",
    "-",
    "\u2212",
    "+",
    "--5",
    "5-",
    ".",
    "..",
    "1.2.3",
    "9" * 400,
    "../",
    "%00",
    "{{7*7}}",
    "</script><script>alert(1)</script>",
    "<b>",
    "&lt;",
    "';--",
    "$(id)",
    "\\",
    '"',
    "'",
    "`",
)
"""What breaks readers, in one place."""

texts = st.one_of(st.text(max_size=30), st.sampled_from(NASTY_TEXTS))
"""Any text, often one that breaks readers; without lone surrogates it can be written as UTF-8."""
written_texts = texts.map(lambda text: text.encode("utf-8", "replace").decode("utf-8"))


@st.composite
def long_texts(draw: st.DrawFn, words: Sequence[str], most: int = 100_000) -> str:
    """Draw a text of up to so many characters: a short one again and again, with ends of its own.

    Repetition is what makes a regular expression take quadratic time.
    """
    part = st.one_of(st.sampled_from(words), st.sampled_from(words), texts)
    unit = draw(st.one_of(part, st.lists(part, max_size=4).map("".join)))
    length = draw(st.sampled_from([0, 10, 1000, most]))
    middle = (unit * (length // len(unit) + 1))[:length] if unit else ""
    start, end = (" ".join(draw(st.lists(st.sampled_from(words), max_size=6))) for _ in range(2))
    return (start + middle + end).encode("utf-8", "replace").decode("utf-8")


json_scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**63), 2**64 - 1),
    st.floats(allow_nan=False, allow_infinity=False),
    written_texts,
)
json_values = st.recursive(
    json_scalars,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(written_texts, inner, max_size=3),
    max_leaves=6,
)


@st.composite
def mutated_json(draw: st.DrawFn, base: Any, most: int = 2) -> Any:
    """Draw a JSON value with one or two of its parts replaced, left out or doubled."""
    value = base
    for _ in range(draw(st.integers(1, most))):
        value = _mutate(draw, value)
    return value


def _mutate(draw: st.DrawFn, value: Any) -> Any:
    if not isinstance(value, dict | list) or not value or draw(st.integers(0, 5)) == 0:
        return draw(json_values)
    keys = list(value) if isinstance(value, dict) else list(range(len(value)))
    key = draw(st.sampled_from(keys))
    copy: Any = value.copy()
    what = draw(st.sampled_from(["within", "within", "within", "delete", "add"]))
    if what == "within":
        copy[key] = _mutate(draw, value[key])
    elif what == "delete":
        del copy[key]
    elif isinstance(copy, dict):
        copy[draw(written_texts)] = draw(json_values)
    else:
        copy.append(copy[key])
    return copy


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Say how many cases each property has run; a pytest plugin's hook (`-p fuzzing`)."""
    each = ", ".join(f"{name.replace('_', ' ')}: {count}" for name, count in sorted(TALLY.items()))
    terminalreporter.write_line(f"{TALLY.total()} cases of {len(TALLY)} properties ({each})")
