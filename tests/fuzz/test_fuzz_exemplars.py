"""Exemplar files: what they say, or an error with the line."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from fuzzing import NASTY_TEXTS, fuzz, may_refuse, mutated, mutated_json, written_texts
from hypothesis import strategies as st
from samples import SHIPPED

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.exemplars import load_exemplars, to_lines
from selfstudy_engine.data.molecules import to_molecule

LINES = to_lines(SHIPPED[:3])
tokens = st.one_of(
    st.sampled_from(
        [
            b"\n",
            b"\r",
            b"{",
            b"}",
            b'"',
            b",",
            b":",
            b"null",
            b"1e999",
            b"NaN",
            b"[" * 2000,
            b"\\ud800",
            b"\\u0000",
        ]
    ),
    st.sampled_from(NASTY_TEXTS).map(lambda text: text.encode()),
    st.binary(max_size=3),
)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("exemplars") / "exemplars.jsonl"


def check(path: Path, records: list[Any]) -> None:
    """Assert that each record is an exemplar as it stands there."""
    exemplars = load_exemplars(path)
    assert len(exemplars) == len(records)
    for exemplar, record in zip(exemplars, records, strict=True):
        assert exemplar.molecule.value == record["value"]
        assert not isinstance(record["value"], bool)
        assert exemplar.reason.split() == record["reason"].split() != []
        assert exemplar.molecule.name == (record["name"] or "")
        known = to_molecule(record["smiles"])
        assert known is not None
        assert exemplar.molecule.smiles == known.smiles
    path.write_bytes(to_lines(exemplars))
    assert load_exemplars(path) == exemplars


@fuzz(40, content=mutated((LINES,), tokens))
def test_mutated_exemplars_are_read_as_they_stand_or_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with may_refuse(UsageError):
        load_exemplars(path)
        lines = content.removeprefix(b"\xef\xbb\xbf").splitlines()
        check(path, [orjson.loads(line) for line in lines if line.strip()])


@fuzz(30, record=mutated_json(orjson.loads(LINES.splitlines()[0])), name=written_texts)
def test_any_record_is_an_exemplar_or_refused(path: Path, record: Any, name: str) -> None:
    first = orjson.loads(LINES.splitlines()[1]) | {"name": name}
    path.write_bytes(orjson.dumps(first) + b"\n\n" + orjson.dumps(record) + b"\n")
    with may_refuse(UsageError):
        check(path, [first, record])
