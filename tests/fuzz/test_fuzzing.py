"""The fuzzer itself: it counts, it stops what hangs, and its long form is divided up whole."""

import importlib
from pathlib import Path

import pytest
from fuzzing import SHARES, bounded, may_refuse

from selfstudy_engine.data.errors import StoreError, TableError


def test_all_properties_together_have_all_cases() -> None:
    for path in Path(__file__).parent.glob("test_fuzz_*.py"):
        importlib.import_module(path.stem)
    assert sum(SHARES.values()) == 1000


def test_what_takes_too_long_is_stopped() -> None:
    def hang() -> None:
        with bounded(0.05):
            while True:
                pass

    with pytest.raises(AssertionError, match=r"took over 0\.05 s"):
        hang()


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        (TableError("table a.csv has no row; add one"), True),
        (TableError("two\nlines, and a remedy"), False),
        (TableError("x" * 5000), False),
        (TableError("bad"), False),
        (StoreError("of another kind, with a remedy"), False),
        (ValueError("not one of ours, with a remedy"), False),
    ],
)
def test_only_an_own_error_of_one_line_is_a_refusal(error: Exception, passes: bool) -> None:
    def refuse() -> None:
        with may_refuse(TableError):
            raise error

    if passes:
        refuse()
    else:
        with pytest.raises((AssertionError, ValueError, OSError)):
            refuse()
