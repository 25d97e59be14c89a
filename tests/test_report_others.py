"""Pages beside a report: two runs compared, and rounds that another program measured."""

import shutil
from pathlib import Path

import pytest
from made_run import data_of, make_run

from selfstudy_engine.data.errors import TableError, UsageError
from selfstudy_engine.data.evaluations import compute_metrics
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.metric_texts import cells_of
from selfstudy_engine.engine.report_compare import write_comparison
from selfstudy_engine.engine.report_facts import gather_facts
from selfstudy_engine.engine.report_import import load_rounds, write_imported

REFERENCE = Path("/work/shared/reference/llmchem_runs.csv")


pytestmark = pytest.mark.usefixtures("report_cache")


def test_runs_of_one_test_set_are_compared_in_pairs(made: RunFolder, tmp_path: Path) -> None:
    table = made.path.parent.parent / "table.csv"
    worse = make_run(tmp_path, table, "worse", rounds=3, gain=1.0, seed=2)
    write_comparison([made, worse], tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text("utf-8")
    assert "worse is worse than made on the same 20 test molecules" in page
    assert len(data_of(page)[0]["spec"]["data"]["values"]) == 8
    other = make_run(tmp_path, table, "other", rounds=1, test_size=8)
    lenient = other.config.read_text("utf-8").replace("tolerance = 30.0", "tolerance = 200.0", 1)
    other.config.write_text(lenient, "utf-8")
    write_comparison([made, other], tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text("utf-8")
    facts = gather_facts(other)
    at_30 = compute_metrics(facts.last.answers, "test", facts.split.median, 30.0)
    assert at_30
    assert at_30.within_tolerance.value < facts.metrics(facts.last).within_tolerance.value
    table_of_results = page[page.index('<table id="results">') :]
    within = cells_of(at_30, facts.prop)[-2].replace("[", "<span>[")
    assert f"<td>{within}</span></td>" in table_of_results.split("<tr>")[3]
    assert "can&#39;t be paired" in page
    assert "table.test_size: 20 -&gt; 8" in page


def test_runs_of_other_properties_or_units_are_not_compared(
    made: RunFolder, tmp_path: Path
) -> None:
    other = RunFolder(tmp_path / "other")
    shutil.copytree(made.path, other.path)
    text = made.config.read_text("utf-8")
    for old, new in (("melting point", "boiling point"), ('unit = "°C"', 'unit = "K"')):
        assert old in text
        other.config.write_text(text.replace(old, new), "utf-8")
        with pytest.raises(UsageError, match="can't stand side by side"):
            write_comparison([made, other], tmp_path / "compare.html")


def test_imported_rounds_are_drawn(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    path.write_text("run,round,split,mae\n<b>a,0,test,50\n<b>a,1,test,40\n<b>a,1,train,20\n")
    [figure] = write_imported(path, tmp_path / "page.html")
    assert [row["value"] for row in figure.rows] == [50, 40, 20]
    [run] = load_rounds(path)
    assert (run.num_rounds, run.first_mae, run.mean_later_mae) == (2, 50, 40)
    assert "<b>a" not in (tmp_path / "page.html").read_text("utf-8")


def test_rounds_that_excel_wrote_are_read(tmp_path: Path) -> None:
    path = tmp_path / "rounds.csv"
    path.write_text("run,round,split,mae\na,0,test,50\n", "utf-8-sig")
    assert [run.first_mae for run in load_rounds(path)] == [50]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run,round,split\n", "no column mae"),
        ("run,round,split,mae\n", "no line below"),
        ("run,round,split,mae\na,0,test,nan\n", "line 2: MAE 'nan'"),
        ("run,round,split,mae\na,x,test,1\n", "line 2"),
        ("run,round,split,mae\na,0,dev,1\n", "split 'dev' is none of"),
        ("run,round,split,mae\na,0,test,1\na, 0,test,1\n", "line 3: round 0 of run 'a' has a test"),
        ("run,round,split,mae\na,0\n", "line 2"),
        ("\xff", "no column"),
    ],
)
def test_a_file_that_is_no_list_of_rounds_is_refused(
    tmp_path: Path, content: str, message: str
) -> None:
    path = tmp_path / "rounds.csv"
    path.write_text(content, "utf-8")
    with pytest.raises(TableError, match=message):
        load_rounds(path)


@pytest.mark.skipif(not REFERENCE.exists(), reason="the original's log isn't here")
def test_the_originals_rounds_come_out_as_published(tmp_path: Path) -> None:
    found = {
        run.name: (run.num_rounds, round(run.first_mae or 0, 1), round(run.mean_later_mae or 0, 1))
        for run in load_rounds(REFERENCE)
    }
    assert found["240122llama2_7b_self_reasoning_10"] == (30, 77.0, 94.8)
    assert found["240119mixtral_self_reasoning_10"] == (19, 46.5, 45.5)
    assert found["240124mixtral_self_reasoning_err10_10"] == (49, 46.5, 42.8)
    assert found["240124mixtral_self_reasoning_err5_10"] == (41, 46.5, 44.9)
    assert len(write_imported(REFERENCE, tmp_path / "page.html")) == len(found)
