"""Molecules whose answers agree far from the table."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner
from samples import make_rejected, make_sample

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.run_folder import open_run
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.corrections import judge_again
from selfstudy_engine.engine.label_errors import Suspect, find_label_errors

ANSWERS = {
    "FAR": [200.0, 205.0, 210.0, 195.0, 80.0],
    "NEAR": [20.0, 25.0, 30.0, 25.0, 20.0],
    "WIDE": [100.0, 200.0, 300.0, 400.0, 500.0],
    "FEW": [200.0, 200.0],
    "BELOW": [-90.0, -90.0, -95.0, -85.0],
}


@pytest.fixture
def store(tmp_path: Path) -> SampleStore:
    folder = open_run(tmp_path, load_config(None, {"name": "mine"}))
    made = SampleStore(folder.samples)
    for round_index in (0, 1):
        with made.writer(round_index) as writer:
            for molecule_id, values in ANSWERS.items():
                for index, value in enumerate(values):
                    if index % 2 == round_index:
                        sample = {"predicted": value, "reason": f"because {value}"}
                        key = {"round": round_index, "sample_index": index, "measured": 10.0}
                        writer.add([make_sample(molecule_id, **sample, **key)])
            writer.add([make_rejected("FAR", round=round_index, sample_index=9, measured=10.0)])
            hinted = {"predicted": 12.0, "hinted": True, "measured": 10.0}
            writer.add([make_sample("FAR", round=round_index, sample_index=8, **hinted)])
    return made


def test_many_agreeing_answers_far_from_the_table_are_found(store: SampleStore) -> None:
    rules: dict[str, Any] = {"tolerance": 30.0, "min_agreeing": 0.8, "min_distance": 60.0}
    found = find_label_errors(store, min_answers=4, **rules)
    assert [suspect.molecule_id for suspect in found] == ["FAR", "BELOW"]
    expected = ("FAR", "ethanol", "CCO", 10.0, 200.0, 0.8, 5, 2, "because 200.0")
    assert found[0] == Suspect(*expected)
    assert [suspect.distance for suspect in found] == [190.0, -100.0]
    assert len(find_label_errors(store, min_answers=2, **rules)) == 3
    strict = rules | {"min_agreeing": 0.9}
    assert [s.molecule_id for s in find_label_errors(store, min_answers=4, **strict)] == ["BELOW"]
    far = rules | {"min_distance": 150.0}
    assert [s.molecule_id for s in find_label_errors(store, min_answers=4, **far)] == ["FAR"]


def test_a_withdrawn_row_is_no_longer_in_question(store: SampleStore) -> None:
    rules: dict[str, Any] = {
        "tolerance": 30.0,
        "min_answers": 4,
        "min_agreeing": 0.8,
        "min_distance": 60.0,
    }
    judge_again(store, {"FAR": None}, RunConfig())
    assert [suspect.molecule_id for suspect in find_label_errors(store, **rules)] == ["BELOW"]


def test_the_command_lists_them(store: SampleStore, tmp_path: Path) -> None:
    arguments = ["store", "label-errors", "--run", "mine", "--runs", str(tmp_path)]
    shown = CliRunner().invoke(cli, arguments)
    assert shown.exit_code == 0, shown.output
    assert "table: 10 °C  answers: 200 (+190), 80% of 5 agree, from 2 rounds" in shown.output
    assert "2 molecules whose answers agree far from the table" in shown.output
    lines = CliRunner().invoke(cli, [*arguments, "--json", "--min-distance", "150"]).output
    assert [orjson.loads(line)["molecule_id"] for line in lines.splitlines()] == ["FAR"]
