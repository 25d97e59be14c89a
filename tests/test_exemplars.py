"""The shipped exemplars, and files of them."""

import re
from pathlib import Path

import orjson
import pytest
from samples import SHIPPED

from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.embedded import embedded_table
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.exemplars import (
    load_exemplars,
    middle_first,
    shipped_exemplars,
    to_lines,
)
from selfstudy_engine.data.facts import describe_facts
from selfstudy_engine.data.prompts import parse_completion, render_answer
from selfstudy_engine.data.properties import Property, built_in_properties, find_property
from selfstudy_engine.data.task import configured_exemplars
from selfstudy_engine.engine.claims import check_claims

GOOD = {"name": "ethanol", "smiles": "OCC", "value": -114.1, "reason": "Small\n and  polar."}


def write(tmp_path: Path, *lines: object) -> Path:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(
        b"\n".join(line if isinstance(line, bytes) else orjson.dumps(line) for line in lines)
    )
    return path


PROPERTIES = [find_property(key) for key in built_in_properties()]


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.name)
def test_ten_are_shipped_for_each_property(prop: Property) -> None:
    exemplars = shipped_exemplars(prop)
    assert len({exemplar.molecule.skeleton for exemplar in exemplars}) == len(exemplars) == 10
    values = [exemplar.molecule.value for exemplar in exemplars]
    assert max(values) - min(values) > 10 * prop.tolerance
    assert {exemplar.source for exemplar in exemplars} == {"shipped"}


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.name)
def test_each_shipped_answer_reads_back_within_rounding(prop: Property) -> None:
    for exemplar in shipped_exemplars(prop):
        value = exemplar.molecule.value
        answer = parse_completion(render_answer(exemplar.reason, value, prop), prop)
        assert answer.reason == exemplar.reason
        assert answer.value == pytest.approx(value, abs=0.51 * 10**-prop.decimals)


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.name)
def test_shipped_reasons_state_true_facts_and_no_value(prop: Property) -> None:
    for exemplar in shipped_exemplars(prop):
        name, reason = exemplar.molecule.name, exemplar.reason
        claims = check_claims(reason, exemplar.molecule)
        assert any(claim.truth == "true" for claim in claims), name
        assert not [claim.text for claim in claims if claim.truth == "false"], name
        value = prop.format(abs(exemplar.molecule.value))
        assert not re.search(rf"\b{re.escape(value)}\b", reason), name
        facts = describe_facts(exemplar.molecule.smiles)
        stated = [part for part in reason.rpartition(";")[0].split("; ") if part[0].isdigit()]
        assert [part for part in stated if part not in facts] == [], name


def test_shipped_boiling_points_stand_in_the_embedded_table() -> None:
    prop = find_property("boiling_point")
    known = {m.molecule_id: m.value for m in embedded_table(prop).molecules}
    for exemplar in shipped_exemplars(prop):
        molecule = exemplar.molecule
        assert molecule.value == pytest.approx(known[molecule.molecule_id], abs=0.06), molecule.name


@pytest.mark.parametrize("prop", PROPERTIES, ids=lambda prop: prop.name)
def test_the_first_few_are_spread_over_the_values(prop: Property) -> None:
    """A prompt that shows some of them mustn't show the lowest."""
    exemplars = shipped_exemplars(prop)
    ordered = sorted(exemplar.molecule.value for exemplar in exemplars)
    ranks = [ordered.index(exemplar.molecule.value) for exemplar in exemplars]
    assert ranks == [5, 2, 7, 1, 6, 3, 8, 0, 4, 9]


def test_every_exemplar_keeps_a_place_whatever_their_number() -> None:
    for count in range(len(SHIPPED) + 1):
        found = middle_first(SHIPPED[:count])
        assert {e.molecule.name for e in found} == {e.molecule.name for e in SHIPPED[:count]}
        assert len(found) == count


def test_none_are_shipped_for_another_unit_or_property() -> None:
    assert shipped_exemplars(Property(name="boiling point", unit="K", tolerance=30)) == []
    assert shipped_exemplars(Property(name="density", unit="g/mL", tolerance=1)) == []


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
    path.write_bytes(to_lines(SHIPPED))
    assert load_exemplars(path) == SHIPPED
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


def test_a_value_that_no_answer_may_have_is_refused(tmp_path: Path) -> None:
    """It would be trained on, and then rejected wherever it is answered."""
    path = write(tmp_path, GOOD, GOOD | {"name": "icy ethanol", "value": -500})
    config = load_config(None, {"teacher.exemplars": str(path)})
    with pytest.raises(UsageError, match=r"icy ethanol .* of -500 °C, not -273\.15"):
        configured_exemplars(config)
