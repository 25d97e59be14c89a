"""`selfstudy-engine store`: a run's samples listed, shown, judged anew, written elsewhere."""

from pathlib import Path

import orjson
import pyarrow.parquet as pq
import pytest
from calls import call, refuse
from click.testing import Result
from samples import make_rejected, make_sample

from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.run_folder import RunFolder, open_run
from selfstudy_engine.data.schema import SAMPLE_SCHEMA, Sample
from selfstudy_engine.data.store import SampleStore

pytestmark = pytest.mark.usefixtures("own_sigterm")


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """A folder with a run of two rounds."""
    root = tmp_path / "runs"
    folder = open_run(root, load_config(None, {"name": "mine"}))
    store = SampleStore(folder.samples)
    for round_index, samples in enumerate([[make_sample("A"), make_rejected("B")], []]):
        extra = [make_sample("C", round=1, predicted=-109.6)] if round_index else []
        with store.writer(round_index) as writer:
            writer.add(samples + extra)
    return root


def test_store_ls(runs: Path) -> None:
    result = call("store", "ls", "--run", "mine", "--runs", runs)
    assert result.exit_code == 0, result.exception
    cells = [line.replace("│", " ").split() for line in result.output.splitlines()]
    assert ["0", "2", "1", "50.0%", "-", "1"] in cells
    assert ["1", "1", "1", "100.0%", "-", "1"] in cells


def test_store_ls_and_show_keep_hinted_samples_apart(runs: Path) -> None:
    store = SampleStore(runs / "mine" / "samples")
    with store.writer(1) as writer:
        writer.add([make_sample("H", round=1, hinted=True)])
        writer.add([make_rejected("H", round=1, hinted=True, sample_index=1)])
    listed = call("store", "ls", "--run", "mine", "--runs", runs).output.splitlines()
    cells = [line.replace("│", " ").split() for line in listed]
    assert cells[-2][:5] == ["1", "1", "1", "100.0%", "1/2"]
    shown = call("store", "show", "--run", "mine", "--runs", runs, "--round", 1).output
    assert shown.count("(round-0000, hinted)") == 2
    assert shown.count("(round-0000)") == 1


def test_what_a_model_said_cant_command_the_terminal(runs: Path) -> None:
    with SampleStore(runs / "mine" / "samples").writer(2) as writer:
        writer.add([make_sample("E", round=2, name="\x1b]0;x\x07", reason="Red \x1b[31mtext.")])
    shown = call("store", "show", "--run", "mine", "--runs", runs, "--round", 2).output
    assert "\x1b" not in shown
    assert "\x07" not in shown
    assert r"Red \x1b[31mtext." in shown


def test_store_show(runs: Path) -> None:
    shown = call("store", "show", "--run", "mine", "--runs", runs).output
    assert shown.count("reason:    Small and polar.") == 3
    assert "rejected: no value" in shown
    only = call("store", "show", "--run", "mine", "--runs", runs, "--rejected").output
    assert only.count("reason:") == 1
    later = call("store", "show", "--run", "mine", "--runs", runs, "--round", 1).output
    assert (later.count("reason:"), later.count("round 1")) == (1, 1)
    assert (
        call("store", "show", "--run", "mine", "--runs", runs, "--limit", 1).output.count("reason:")
        == 1
    )
    refuse("store", "show", "--run", "mine", "--runs", runs, "--limit", -1)
    none = call("store", "show", "--run", "mine", "--runs", runs, "--round", 99)
    assert (none.stdout, none.exit_code) == ("", 0)
    assert "no such samples" in none.stderr


def test_store_rescore_shows_what_would_change_and_writes_nothing(runs: Path) -> None:
    """B was stored as without a value, which its text has; C is 4.5 °C off."""
    before = {path: path.read_bytes() for path in runs.rglob("*.parquet")}
    result = call("store", "rescore", "--run", "mine", "--runs", runs)
    assert result.exit_code == 0, result.exception
    cells = [line.replace("│", " ").split() for line in result.output.splitlines()]
    assert ["accepted", "2", "3", "1", "0"] in cells
    assert ["no", "value", "1", "0", "0", "1"] in cells
    assert "1 of 3 verdicts would change at each sample's own tolerance" in result.output
    strict = call("store", "rescore", "--run", "mine", "--runs", runs, "--tolerance", 4).output
    assert "3 of 3 verdicts would change at a tolerance of 4 °C" in strict
    cells = [line.replace("│", " ").split() for line in strict.splitlines()]
    assert ["accepted", "2", "0", "0", "2"] in cells
    assert ["out", "of", "tolerance", "0", "3", "3", "0"] in cells
    assert {path: path.read_bytes() for path in runs.rglob("*.parquet")} == before
    refuse("store", "rescore", "--run", "mine", "--runs", runs, "--tolerance", 0)
    refuse("store", "rescore", "--run", "other", "--runs", runs)


def test_store_rescore_checks_claims_again_if_asked(runs: Path) -> None:
    folder = RunFolder(runs / "mine")
    example = {"name": "thymol", "smiles": "CC(C)c1ccc(C)cc1O", "value": 50, "reason": "A ring."}
    folder.exemplars().write_bytes(orjson.dumps(example))
    text = " Thymol, which has a melting point of 200 °C.\nMelting point (°C): -110"
    with SampleStore(folder.samples).writer(2) as writer:
        reason = text.strip().split("\n")[0]
        writer.add([make_sample("D", round=2, completion=text, reason=reason)])
    arguments = ("store", "rescore", "--run", "mine", "--runs", runs)
    assert "false claim" not in call(*arguments).output
    again = call(*arguments, "--claims")
    cells = [line.replace("│", " ").split() for line in again.output.splitlines()]
    assert ["false", "claim", "0", "1", "1", "0"] in cells


def export(runs: Path, form: str, out: Path, *more: str) -> Result:
    common = ("store", "export", "--run", "mine", "--runs", runs, "--out", out, "--format", form)
    result = call(*common, *more)
    assert result.exit_code == 0, result.exception
    return result


def lines_of(path: Path) -> list[dict[str, object]]:
    return [orjson.loads(line) for line in path.read_bytes().splitlines()]


def test_export_as_json_lines(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    assert "2 samples: " in export(runs, "jsonl", out).output
    assert [Sample.from_row(row) for row in lines_of(out)] == [
        make_sample("A"),
        make_sample("C", round=1, predicted=-109.6),
    ]
    export(runs, "jsonl", tmp_path / "all.jsonl", "--all")
    assert [row["molecule_id"] for row in lines_of(tmp_path / "all.jsonl")] == ["A", "B", "C"]


def test_export_as_parquet(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.parquet"
    assert "3 samples: " in export(runs, "parquet", out, "--all").output
    table = pq.read_table(out)
    assert table.schema.equals(SAMPLE_SCHEMA)
    assert [Sample.from_row(row) for row in table.to_pylist()][1] == make_rejected("B")


def test_export_as_chat(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    export(runs, "chat", out)
    assert lines_of(out)[0] == {
        "messages": [
            {"role": "user", "content": "Name: ethanol\nSMILES: CCO\nReason:"},
            {"role": "assistant", "content": "Small and polar.\nMelting point (°C): -114"},
        ]
    }


def test_export_as_the_original(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    export(runs, "original", out, "--all")
    first, second, third = lines_of(out)
    assert first == {
        "name": "ethanol",
        "smiles": "CCO",
        "Reason": "Small and polar.",
        "mpC": -114.1,
        "Prediction(integer)": -110,
    }
    assert (second["Prediction(integer)"], third["Prediction(integer)"]) == (None, -110)


def test_the_originals_form_has_no_decimals(tmp_path: Path) -> None:
    config = load_config(None, {"name": "mine", "property": "aqueous_solubility"})
    open_run(tmp_path, config)
    out = tmp_path / "out.jsonl"
    arguments = ("store", "export", "--run", "mine", "--runs", tmp_path, "--out", out)
    assert "has 1 decimal; choose another" in refuse(*arguments, "--format", "original")
    assert not out.exists()


def test_export_writes_over_nothing_and_leaves_nothing_half(runs: Path, tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    out.write_text("mine")
    common = ("store", "export", "--run", "mine", "--runs", runs, "--out")
    assert "exists already" in refuse(*common, out)
    assert out.read_text() == "mine"
    refuse(*common, tmp_path / "nowhere" / "out.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "runs"]


@pytest.mark.parametrize("command", [["ls"], ["show"], ["export", "--out", "x"]])
def test_a_run_that_is_not_there_is_named(tmp_path: Path, command: list[str]) -> None:
    message = refuse("store", *command, "--runs", tmp_path, "--run", "other")
    assert "no run 'other' in" in message
