"""The examples in docstrings are true."""

import doctest
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MODULES = [
    f"selfstudy_engine.{path.parent.name}.{path.stem}"
    for part in ("cli", "data", "engine", "train")
    for path in sorted((ROOT / part).glob("*.py"))
    if ">>>" in path.read_text("utf-8")
]


def test_there_are_examples() -> None:
    assert "selfstudy_engine.data.prompts" in MODULES
    assert "selfstudy_engine.engine.sampler" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_examples(name: str) -> None:
    results = doctest.testmod(importlib.import_module(name))
    assert results.attempted > 0
    assert results.failed == 0
