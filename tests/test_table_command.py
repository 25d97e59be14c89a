"""`selfstudy-engine table`: what is kept, and every dropped row under its reason."""

import csv
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from rdkit import Chem

from selfstudy_engine.cli.main import cli

ROWS = """smiles,value,name
OCC,-114.1,ethanol
CCO,-114.3,64-17-5
xyz,1,nothing
O=C=O,-56,dry ice
CC(=O)[O-].[Na+],324,sodium acetate
c1ccccc1,5.5,71-43-2
CCCC,0,butane
CCCC,99,butane again
"""


@pytest.fixture
def raw(tmp_path: Path) -> Path:
    path = tmp_path / "raw.csv"
    lines = [f"{'C' * length}Br,{length}.0,bromide {length}" for length in range(1, 7)]
    path.write_text(ROWS + "\n".join(lines) + "\n", "utf-8")
    return path


def run(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["table", *map(str, arguments)])


def arguments_for(raw: Path) -> list[object]:
    options = ["--table", raw, "--name-column", "name", "--organics", "--conflicts", "drop"]
    return [*options, "--test-size", 2]


@pytest.mark.parametrize("suffix", ["parquet", "csv", "tsv"])
def test_prepare_accounts_for_every_row(raw: Path, tmp_path: Path, suffix: str) -> None:
    out = tmp_path / f"clean.{suffix}"
    result = run("prepare", *arguments_for(raw), "--out", out)
    assert result.exit_code == 0, result.output
    with (tmp_path / f"clean.{suffix}.dropped.csv").open(encoding="utf-8") as file:
        dropped = [(row["reason"], row["row"].split(":")[0]) for row in csv.DictReader(file)]
    assert dropped == [
        ("unparsable SMILES", "line 4"),
        ("not a small organic molecule", "line 5"),
        ("not a small organic molecule", "line 6"),
        ("conflicting values", "line 8"),
        ("conflicting values", "line 9"),
    ]
    for line in ("8 molecules", "1 further row of", "2 names", "spread 99"):
        assert line in result.output
    again = run("describe", "--table", out, "--name-column", "name", "--test-size", 2)
    assert again.exit_code == 0, again.output
    assert "8 molecules\n" in again.output
    assert "dropped" not in again.output


def test_nothing_is_written_over(raw: Path, tmp_path: Path) -> None:
    (tmp_path / "clean.csv").write_text("mine", "utf-8")
    result = run("prepare", *arguments_for(raw), "--out", tmp_path / "clean.csv")
    assert (result.exit_code, "exists already" in result.output) == (2, True)
    assert (tmp_path / "clean.csv").read_text("utf-8") == "mine"
    both = tmp_path / "both.csv"
    result = run("prepare", *arguments_for(raw), "--out", both, "--dropped", both)
    assert (result.exit_code, "is --out, too" in result.output) == (2, True)
    assert not both.exists()


def test_a_list_that_cant_be_written_leaves_no_table(raw: Path, tmp_path: Path) -> None:
    out = tmp_path / "clean.csv"
    result = run("prepare", *arguments_for(raw), "--out", out, "--dropped", "/proc/dropped.csv")
    assert (result.exit_code, "/proc" in result.output) == (2, True)
    assert not out.exists()


@pytest.mark.parametrize("name", ["clean.xlsx", "clean.sdf", "clean"])
def test_what_prepare_cannot_write_is_refused(raw: Path, tmp_path: Path, name: str) -> None:
    result = run("prepare", *arguments_for(raw), "--out", tmp_path / name)
    assert result.exit_code == 2
    assert "must end in .csv, .tsv, .parquet" in result.output
    assert list(tmp_path.iterdir()) == [raw]


def test_a_folder_that_is_not_there_is_named(raw: Path, tmp_path: Path) -> None:
    for option in ("--out", "--dropped"):
        files = {"--out": tmp_path / "a.csv"} | {option: tmp_path / "nodir" / "p.csv"}
        given = [part for pair in files.items() for part in pair]
        result = run("prepare", *arguments_for(raw), *given)
        assert result.exit_code == 2
        said = " ".join(result.output.split())
        assert f"'{option}': folder {tmp_path}/nodir doesn't exist; make it" in said
    assert list(tmp_path.iterdir()) == [raw]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--smiles-column", "'K'"),
        ("--name-column", "'K'"),
        ("--value-unit", "'K'"),
        ("--salts", "'drop'"),
        ("--conflicts", "'drop'"),
        ("--duplicates", "'skeleton'"),
        ("--max-spread", "5.0"),
        ("--organics", "True"),
    ],
)
def test_columns_and_rules_of_no_table_are_refused(option: str, value: str) -> None:
    result = run("describe", option, *[value.strip("'")] * (value != "True"))
    assert result.exit_code == 2
    assert f"({value}) is of a table of your own: name its file with --table" in result.output
    assert f"or leave out {option}" in result.output


def test_describe_tells_values_and_split(raw: Path) -> None:
    result = run("describe", *arguments_for(raw), "--split", "random")
    assert result.exit_code == 0, result.output
    assert "melting point (°C): 8 values from -114.2 to 6, mean" in result.output
    assert "split by random: 6 pool + 2 test + 0 set aside (stereo" in result.output
    assert " + 0 exemplars\n" in result.output
    refused = run("describe", *arguments_for(raw)[:-4])
    assert (refused.exit_code, "--conflicts drop" in refused.output) == (2, True)


def test_a_property_of_ones_own(raw: Path, tmp_path: Path) -> None:
    config = tmp_path / "density.toml"
    config.write_text("[property]\nname = 'density'\nunit = 'g/mL'\ntolerance = 200\n", "utf-8")
    result = run("describe", *arguments_for(raw), "--config", config)
    assert result.exit_code == 0, result.output
    assert "density (g/mL): 9 values" in result.output


SOLUBILITIES = {
    "ethylene glycol": ("OCCO", 1.2),
    "phenol": ("Oc1ccccc1", 0.0),
    "benzene": ("c1ccccc1", -1.6),
    "hexane": ("CCCCCC", -3.8),
    "naphthalene": ("c1ccc2ccccc2c1", -3.6),
    "anthracene": ("c1ccc2cc3ccccc3cc2c1", -6.4),
}
"""In log mol/L, at 25 °C."""


def test_solubilities_of_an_sdf_file(tmp_path: Path) -> None:
    path, out = tmp_path / "esol.sdf", tmp_path / "clean.csv"
    with Chem.SDWriter(str(path)) as writer:
        for name, (smiles, value) in SOLUBILITIES.items():
            mol = Chem.MolFromSmiles(smiles)
            mol.SetProp("_Name", name)
            mol.SetDoubleProp("SOL", value)
            writer.write(mol)
    options = ["--property", "aqueous_solubility", "--table", path, "--value-column", "SOL"]
    options += ["--name-column", "name", "--test-size", 2]
    described = run("describe", *options)
    assert described.exit_code == 0, described.output
    assert "aqueous solubility (log mol/L): 6 values from -6.4 to 1.2" in described.output
    assert run("prepare", *options, "--out", out).exit_code == 0
    with out.open(encoding="utf-8") as file:
        found = {row["name"]: (row["smiles"], float(row["value"])) for row in csv.DictReader(file)}
    assert found == SOLUBILITIES


def test_the_embedded_boiling_points() -> None:
    result = run("describe", "--property", "boiling_point", "--split", "scaffold")
    assert result.exit_code == 0, result.output
    assert "boiling point (°C): " in result.output
    assert "rows dropped, not a small organic molecule: " in result.output
    unknown = run("describe", "--property", "aqueous_solubility")
    assert (unknown.exit_code, "pass --table" in unknown.output) == (2, True)
