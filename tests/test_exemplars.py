"""The shipped exemplars, and files of them."""

import re
from pathlib import Path

import orjson
import pytest

from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.exemplars import load_exemplars, to_lines
from selfstudy_engine.data.prompts import parse_completion, render_answer
from selfstudy_engine.data.properties import find_property

GOOD = {"name": "ethanol", "smiles": "OCC", "value": -114.1, "reason": "Small\n and  polar."}


def write(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    )
    return path


def test_ten_are_shipped_over_the_whole_range() -> None:
    exemplars = load_exemplars()
    assert len(exemplars) == 10
    assert len({exemplar.molecule.skeleton for exemplar in exemplars}) == 10
    values = [exemplar.molecule.value for exemplar in exemplars]
    assert values == sorted(values)
    assert min(values) <= -152
    assert max(values) >= 300
    assert {exemplar.source for exemplar in exemplars} == {"shipped"}


def test_each_shipped_answer_reads_back_within_rounding() -> None:
    prop = find_property("melting_point")
    for exemplar in load_exemplars():
        value = exemplar.molecule.value
        answer = parse_completion(render_answer(exemplar.reason, value, prop), prop)
        assert answer.reason == exemplar.reason
        assert answer.value == pytest.approx(value, abs=0.5)


def test_no_shipped_reason_gives_the_value_away() -> None:
    for exemplar in load_exemplars():
        value = str(abs(round(exemplar.molecule.value)))
        assert not re.search(rf"\b{value}\b", exemplar.reason), exemplar.molecule.name


def test_a_file_is_read_and_made_canonical(tmp_path: Path) -> None:
    [exemplar] = load_exemplars(write(tmp_path, b"", GOOD, b"  ", b""))
    assert exemplar.molecule.smiles == "CCO"
    assert exemplar.reason == "Small and polar."
    assert exemplar.source == "mine.jsonl"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"{", "isn't JSON"),
        (b"[1]", "has no name, smiles, value, reason"),
        ({"name": "x", "smiles": "C", "value": 1}, "has no reason"),
        (GOOD | {"value": "80"}, "value '80' isn't a number"),
        (GOOD | {"value": True}, "value True isn't a number"),
        (GOOD | {"value": None}, "value None isn't a number"),
        (GOOD | {"reason": " \n"}, "reason is empty"),
        (GOOD | {"reason": 3}, "reason is empty"),
        (GOOD | {"smiles": "xyz"}, "SMILES 'xyz' can't be parsed"),
        (b'{"name":"x","smiles":"C","reason":"y","value":NaN}', "isn't JSON"),
        ("caf\xe9".encode("latin-1"), "isn't JSON"),
    ],
)
def test_a_wrong_line_is_named_by_number(tmp_path: Path, line: object, message: str) -> None:
    with pytest.raises(UsageError, match=f"line 3: {re.escape(message)}"):
        load_exemplars(write(tmp_path, GOOD, b"", line, GOOD))


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "made.jsonl"
    path.write_bytes(to_lines(load_exemplars()))
    assert load_exemplars(path) == load_exemplars()
    assert to_lines([]) == b""


def test_a_source_in_the_line_counts_more_than_the_files_name(tmp_path: Path) -> None:
    sources = ["a-teacher", None, ""]
    found = load_exemplars(write(tmp_path, *(GOOD | {"source": source} for source in sources)))
    assert [exemplar.source for exemplar in found] == ["a-teacher", "mine.jsonl", "mine.jsonl"]


def test_a_missing_name_is_not_the_word_none(tmp_path: Path) -> None:
    try:
        [exemplar] = load_exemplars(write(tmp_path, GOOD | {"name": None}))
    except UsageError:
        return
    assert exemplar.molecule.name == ""


def test_no_file_and_an_empty_file(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"can't read exemplars .*none\.jsonl: No such file"):
        load_exemplars(tmp_path / "none.jsonl")
    with pytest.raises(UsageError, match=r"mine\.jsonl has no line"):
        load_exemplars(write(tmp_path, b"", b" "))
