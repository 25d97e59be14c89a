"""`selfstudy-engine claims`: a file of reasons in, verdicts and figures out."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner, Result

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.engine.claim_report import ClaimReport, read_reasons, swap_molecules

ROWS: list[dict[str, object]] = [
    {"smiles": "Oc1ccccc1", "reason": "One benzene ring with a hydroxyl group.", "value": 41},
    {"smiles": "CCCCCC", "reason": "Six carbons and no ring.", "name": "hexane"},
    {"smiles": "CC(C)=O", "reason": "A ketone with a nitro group.", "name": None},
    {"smiles": "xyz", "reason": "A ring.", "kept": [1]},
]


def write(tmp_path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    path = tmp_path / "reasons.jsonl"
    path.write_bytes(b"\n".join(orjson.dumps(row) for row in rows) + b"\n")
    return path


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["claims", *map(str, arguments)])


def test_verdicts_are_written_and_summed_up(tmp_path: Path) -> None:
    result = call(write(tmp_path, ROWS), "--json", "--swap", "--no-values")
    assert result.exit_code == 0, result.output
    summary = orjson.loads(result.stdout)
    assert (summary["num_reasons"], summary["num_unparsable"]) == (3, 1)
    assert (summary["num_claims"], summary["num_true"], summary["num_false"]) == (6, 5, 1)
    assert summary["false_claim_fraction"] == pytest.approx(1 / 6)
    assert summary["reasons_with_false_fraction"] == pytest.approx(1 / 3)
    assert summary["swapped"]["num_reasons"] == 3
    assert summary["swapped"]["reasons_with_false_fraction"] == 1.0
    lines = [orjson.loads(line) for line in Path(summary["file"]).read_bytes().splitlines()]
    assert [{k: v for k, v in line.items() if k != "claims"} for line in lines] == ROWS
    assert [len(line["claims"]) for line in lines[:3]] == [2, 2, 2]
    assert lines[3]["claims"] is None
    false = lines[2]["claims"][1]
    assert false["truth"] == "false"
    assert ROWS[2]["reason"][false["start"] : false["end"]] == false["text"]  # type: ignore[index]


def test_melting_points_of_named_compounds(tmp_path: Path) -> None:
    rows = [{"smiles": "Oc1ccccc1", "reason": "Naphthalene has a melting point of 180 °C."}]
    path = write(tmp_path, rows)
    assert orjson.loads(call(path, "--json").stdout)["num_false"] == 1
    unchecked = call(path, "--json", "--no-values", "--out", tmp_path / "unchecked.jsonl")
    assert orjson.loads(unchecked.stdout)["num_claims"] == 0


def test_figures_in_words(tmp_path: Path) -> None:
    out = tmp_path / "out.jsonl"
    result = call(write(tmp_path, ROWS), "--no-values", "--swap", "--out", out)
    assert "own molecule: 3 reasons, 6 claims: 5 true, 1 false, 0 unverifiable" in result.stdout
    assert "reasons with a false claim: 33.3%; 1 without a molecule" in result.stdout
    assert "another's: 3 reasons" in result.stdout
    assert out.exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "has no line"),
        ("{}\n", "line 1: has no text 'smiles'"),
        ('{"smiles": "C", "reason": 1}', "line 1: has no text 'reason'"),
        ('\n{"smiles": "C", "reason": "a"}\n[]', "line 3: isn't a JSON object"),
        ("{", "line 1: isn't JSON"),
    ],
)
def test_what_is_no_file_of_reasons_is_refused(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "reasons.jsonl"
    path.write_text(content, "utf-8")
    result = call(path)
    assert result.exit_code == 2
    assert message in " ".join(result.output.split())
    assert list(tmp_path.iterdir()) == [path]


def test_a_file_that_is_not_there_is_named_and_one_that_is_stays(tmp_path: Path) -> None:
    assert "can't read reasons" in call(tmp_path / "no.jsonl").output
    path = write(tmp_path, ROWS)
    before = path.read_bytes()
    assert call(path, "--no-values").exit_code == 0
    for more in (["--out", path], ["--no-values"]):
        again = call(path, *more)
        assert again.exit_code == 2
        assert "exists already; name another file with --out" in again.output
    assert path.read_bytes() == before


def test_a_byte_order_mark_is_no_part_of_the_first_line(tmp_path: Path) -> None:
    path = write(tmp_path, ROWS)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert [row.columns for row in read_reasons(path)] == ROWS


def test_a_swap_gives_every_reason_another_molecule(tmp_path: Path) -> None:
    rows = read_reasons(write(tmp_path, ROWS))
    swapped = swap_molecules(rows, seed=1)
    assert [row.reason for row in swapped] == [row.reason for row in rows[:3]]
    for before, after in zip(rows, swapped, strict=False):
        assert before.molecule is not None
        assert after.molecule is not None
        assert before.molecule.molecule_id != after.molecule.molecule_id
    assert swap_molecules(rows, seed=1) == swapped
    assert swap_molecules([rows[0], rows[0], rows[3]]) == []


@pytest.mark.timeout(20)
def test_a_swap_finds_the_one_other_molecule_of_many_rows(tmp_path: Path) -> None:
    rows = read_reasons(write(tmp_path, ROWS))
    swapped = swap_molecules([rows[0]] * 50_000 + [rows[1]])
    assert {row.molecule for row in swapped[:-1]} == {rows[1].molecule}


def test_fractions_of_nothing_are_none() -> None:
    report = ClaimReport()
    report.add(None)
    assert report.as_dict()["reasons_with_false_fraction"] is None
    report.add([])
    assert report.as_dict()["false_claim_fraction"] is None
    assert report.as_dict()["reasons_with_false_fraction"] == 0.0


def test_a_folder_is_no_file_of_reasons(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="can't read reasons"):
        read_reasons(tmp_path)
