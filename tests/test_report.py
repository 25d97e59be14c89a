"""The page of a made-up run: what it never lets through, what it shows, and who writes it."""

import html
import logging
import re
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from made_run import NASTY_NAME, check, data_of, make_run

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.evaluations import Evaluated
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.report import write_report
from selfstudy_engine.engine.report_examples import choose_examples, draw, likely_label_errors
from selfstudy_engine.engine.report_facts import RunFacts
from selfstudy_engine.engine.report_page import check_replaceable
from selfstudy_engine.engine.report_refresh import ReportRefresher

MAX_BYTES = 5_000_000
"""Its charts' points are what would grow."""
pytestmark = pytest.mark.usefixtures("report_cache")


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


def test_nothing_untrusted_becomes_markup(made: RunFolder, tmp_path: Path) -> None:
    out = tmp_path / "report.html"
    write_report(made, out, check)
    page = out.read_text("utf-8")
    assert len(page) < MAX_BYTES
    assert NASTY_NAME not in page
    assert "</script><script>window" not in page
    assert "<b>nitro" not in page
    assert html.escape("{{7*7}}", quote=True) in page  # as text: no template of ours saw it
    assert "loop --run &lt;made&gt;" in page
    assert "<h1>Self-study run made: melting point</h1>" in page
    names = {
        row.get("name") for figure in data_of(page) for row in figure["spec"]["data"]["values"]
    }
    assert NASTY_NAME in names
    marked = re.findall(r'<mark class="(\w+)" title="([^"]*)">(\w+)<sup>', page)
    assert {(kind, word) for kind, _, word in marked} == {
        ("false", "nitro"),
        ("unverifiable", "high"),
    }


def test_nothing_is_loaded_from_elsewhere(made: RunFolder, tmp_path: Path) -> None:
    write_report(made, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text("utf-8")
    outside = re.sub(r"<script>.*?</script>", "", page, flags=re.S)
    assert re.findall(r'(?:src|href)="(?!data:|#)[^"]*"', outside) == []
    assert "default-src &#39;none&#39;" in page
    assert "unsafe-eval" not in page


def test_examples_are_the_extremes(facts: RunFacts) -> None:
    examples = choose_examples(facts, check)
    errors = {
        kind: [abs(e.error or 0) for e in examples if e.kind == kind] for kind in ("best", "worst")
    }
    everything = [abs((a.predicted or 0) - a.measured) for a in facts.last.tested if a.predicted]
    assert min(errors["best"]) == min(everything)
    assert max(errors["worst"]) == max(everything)
    assert all(example.drawing.startswith("data:image/svg+xml;base64,") for example in examples)
    assert {example.kind for example in examples} == {"best", "median", "worst", "accepted"}
    assert draw("not a molecule") == ""


def test_only_what_all_methods_contradict_is_a_likely_label_error(facts: RunFacts) -> None:
    assert likely_label_errors(facts) == []
    wrong = facts.last.tested[3]

    def contradicted(answer: Evaluated) -> Evaluated:
        if answer.molecule_id != wrong.molecule_id:
            return answer
        return replace(answer, measured=400.0, predicted=60.0)

    rounds = [replace(f, answers=[contradicted(a) for a in f.answers]) for f in facts.rounds]
    away = facts.last.tested[1].molecule_id  # from round 1
    rounds[1] = replace(rounds[1], answers=[a for a in rounds[1].answers if a.molecule_id != away])
    [suspect] = likely_label_errors(replace(facts, rounds=rounds))
    assert (suspect.smiles, suspect.measured) == (wrong.smiles, 400.0)
    assert suspect.highest < 340


def test_the_command_writes_page_and_figures(made: RunFolder, tmp_path: Path) -> None:
    out, figures = tmp_path / "page.html", tmp_path / "figures"
    result = call("made", "--runs", made.path.parent, "--out", out, "--figures", figures)
    assert result.exit_code == 0, result.output
    assert out.exists()
    names = {path.name for path in figures.iterdir()}
    assert {"learning.svg", "learning.png", "parity-round-0003.svg"} <= names
    svg = (figures / "learning.svg").read_text("utf-8")
    assert "currentColor" not in svg
    assert "SmolLM2-135M-Instruct" in svg
    assert (figures / "learning.png").read_bytes().startswith(b"\x89PNG")
    check_replaceable(out)  # a report may be written over


def test_a_wrong_call_says_what_to_do(made: RunFolder, tmp_path: Path) -> None:
    unknown = call("nobody", "--runs", made.path.parent)
    assert unknown.exit_code == 2
    assert "there: made" in unknown.output
    mine = tmp_path / "mine.html"
    mine.write_text("<p>my notes</p>", "utf-8")
    for way in (["made"], ["--compare", "made", "made"], ["--import-metrics", made.metrics]):
        refused = call(*way, "--runs", made.path.parent, "--out", mine)
        assert refused.exit_code == 2
        assert "is no report; name another file with --out" in refused.output
    assert mine.read_text("utf-8") == "<p>my notes</p>"
    third = call("made", "--compare", "made", "made", "--runs", made.path.parent)
    assert third.exit_code == 2
    assert "--compare makes no report of run made; leave out made" in third.output
    both = call("--compare", "made", "made", "--import-metrics", made.metrics)
    assert both.exit_code == 2
    empty = RunFolder(tmp_path / "runs" / "empty")
    table = made.path.parent.parent / "table.csv"
    folder = make_run(tmp_path / "runs", table, "empty", rounds=1)
    folder.metrics.unlink()
    unfinished = call("empty", "--runs", empty.path.parent)
    assert unfinished.exit_code == 2
    assert "no finished round" in unfinished.output


def test_a_running_loop_gets_its_report_and_a_failing_one_only_a_warning(
    made: RunFolder, caplog: pytest.LogCaptureFixture
) -> None:
    made.report.unlink(missing_ok=True)
    with ReportRefresher(made, "round") as reports:
        reports.refresh()
        reports.refresh()  # while the first is being written: once more at the end
    assert made.report.exists(), (made.logs / "report.log").read_text("utf-8")
    assert caplog.records == []
    metrics = made.metrics.read_bytes()
    made.metrics.write_bytes(b"{}\n")
    try:
        with caplog.at_level(logging.WARNING), ReportRefresher(made, "end") as reports:
            reports.refresh()
    finally:
        made.metrics.write_bytes(metrics)
    assert "the report wasn't written" in caplog.text
    with ReportRefresher(made, "off") as reports:
        made.report.unlink()
        reports.refresh()
    assert not made.report.exists()
