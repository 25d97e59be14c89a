"""`predict` and `store` on a finished run, through the fake server."""

from pathlib import Path
from typing import Any

import orjson
import pytest
from click.testing import CliRunner, Result
from fake_vllm import FakeVllm

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.predict import best_adapter
from selfstudy_engine.engine.rounds import load_records


def run(finished: RunFolder, fake: FakeVllm, *arguments: Any) -> Result:
    where = ["--run", "test", "--runs", str(finished.path.parent), "--server", fake.url]
    environment = {"SELFSTUDY_SERVER_KEY": fake.api_key}
    call = ["predict", *where, *map(str, arguments)]
    return CliRunner().invoke(cli, call, env=environment, catch_exceptions=False)


def test_the_best_adapter_answers(finished: RunFolder, fake: FakeVllm) -> None:
    result = run(finished, fake, "--smiles", "CCO", "--smiles", "c1ccccc1O", "--num-answers", 3)
    assert result.exit_code == 0, result.output
    assert result.output.count("°C") == 2
    best = min(load_records(finished), key=lambda record: record.test_mae.value)
    swap = next(r for r in fake.requests if r.path == "/collective_rpc")
    assert swap.body["kwargs"]["adapter_folder"].endswith(f"round-{best.round:04d}")
    assert best_adapter(finished).name == best.adapter
    assert [r.body["n"] for r in fake.generations] == [3, 3]


def test_a_table_keeps_its_order_and_its_bad_rows(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    table = tmp_path / "asked.csv"
    table.write_text("id,structure\nfirst,CCO\nsecond,not a molecule\nthird,CCCO\n")
    out = tmp_path / "predicted.jsonl"
    columns = ["--smiles-column", "structure", "--name-column", "id"]
    result = run(finished, fake, "--table", table, *columns, "--out", out)
    assert result.exit_code == 0, result.output
    rows = [orjson.loads(line) for line in out.read_bytes().splitlines()]
    assert [row["name"] for row in rows] == ["first", "second", "third"]
    assert [row["error"] for row in rows] == ["", "unparsable SMILES", ""]
    assert rows[0]["value"] is not None
    assert rows[0]["reason"]
    assert rows[1]["value"] is None


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "nothing to predict"),
        (["--smiles", "not a molecule"], "none of 1 SMILES can be parsed"),
        (["--name", "unobtainium"], "no molecule named"),
        (["--smiles", "C", "--out", "predicted.txt"], "must be a new file that ends in"),
    ],
)
def test_a_wrong_call_says_why(
    finished: RunFolder, fake: FakeVllm, arguments: list[str], message: str
) -> None:
    result = run(finished, fake, *arguments)
    assert result.exit_code == 2
    assert message in result.output
    assert not fake.requests


def test_a_run_that_isnt_there(finished: RunFolder, fake: FakeVllm) -> None:
    call = ["predict", "--run", "nowhere", "--runs", str(finished.path.parent), "--smiles", "C"]
    result = CliRunner().invoke(cli, call)
    assert result.exit_code == 2
    assert "no run 'nowhere'" in result.output
    assert "test" in result.output


def test_an_adapter_is_trained_from_a_runs_samples(finished: RunFolder, tmp_path: Path) -> None:
    """`train` by itself: the run's configuration, exemplars and samples; one adapter folder."""
    out = tmp_path / "again"
    runs = str(finished.path.parent)
    call = ["train", "--run", "test", "--runs", runs, "--out", str(out), "--before-round", "1"]
    result = CliRunner().invoke(cli, call, catch_exceptions=False)
    assert result.exit_code == 0, result.output
    adapter = read_adapter(out)
    accepted = load_records(finished)[0].num_accepted
    assert adapter.training["num_samples"] == accepted
    assert f"{accepted} samples" in result.output
    again = CliRunner().invoke(cli, call)
    assert again.exit_code == 2
    assert "exists already" in again.output
    assert read_adapter(out) == adapter
