"""What a loop says while it runs, and at its end."""

import io
from dataclasses import replace

import pytest
from conftest import MakeConfig
from rich.console import Console

from selfstudy_engine.cli import console as module
from selfstudy_engine.cli.console import PlainReporter, round_line, rounds_table
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.rounds import load_records


@pytest.mark.parametrize("width", [80, 100, 130, 1000])
def test_the_columns_that_fit_are_shown_whole(
    finished: RunFolder, small_config: MakeConfig, width: int
) -> None:
    records, config = load_records(finished), small_config()
    console = Console(file=io.StringIO(), width=width)
    table, left_out = rounds_table(records, config, console)
    console.print(table)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    assert "…" not in "".join(lines)
    assert [line.split()[0] for line in lines[4:-1]] == ["0", "1", "2"], "a line for each round"
    headings = lines[2]
    for name in ("round", "acceptance", "test MAE, °C"):
        assert name in headings
    assert all(name not in headings for name in left_out)
    assert bool(left_out) == (width < 1000)
    if width >= 100:
        assert "accepted" in headings
    assert len(table.columns) + len(left_out) == 15


def test_a_log_has_all_columns_on_one_line(
    finished: RunFolder, small_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    PlainReporter(small_config()).print_summary(load_records(finished))
    lines = capsys.readouterr().out.splitlines()
    headings = next(line for line in lines if "round" in line and "test MAE" in line)
    assert headings.split()[-1] == "seconds*"
    assert sum(line.split()[:1] == ["2"] for line in lines) == 1
    assert "* train + swap" in "\n".join(lines)


def test_the_acceptance_beside_a_lift_is_the_one_it_is_of(
    finished: RunFolder, small_config: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    config, [first, *_] = small_config(), load_records(finished)
    record = replace(first, num_completions=10, num_accepted=2, num_spare=3, chance=0.25)
    line = round_line(record, config.property)
    assert "2 of 10 accepted, 3 more but for earlier texts (50%, lift 2.00)" in line
    reporter = PlainReporter(config)
    reporter.print_summary([record])
    said = capsys.readouterr().out
    assert "2+3/10" in said
    assert "50%, lift 2.00" in said
    assert "only texts accepted before kept out" in said
    reporter.print_summary([replace(record, num_spare=0)])
    assert "kept out" not in capsys.readouterr().out


def test_progress_has_a_comma_between_two_numbers(
    small_config: MakeConfig,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_SECONDS_BETWEEN_LINES", 0)
    reporter = PlainReporter(small_config())
    reporter.phase("round 1: generate", 124)
    reporter.advance(15, "0 accepted and stored")
    reporter.advance(16)
    reporter.phase("round 1: train")
    reporter.advance(3, "of 30 steps")
    said = [line.partition("] ")[2] for line in capsys.readouterr().out.splitlines()]
    assert said == [
        "round 1: generate (124)",
        "round 1: generate: 15 of 124, 0 accepted and stored",
        "round 1: generate: 16 of 124",
        "round 1: train",
        "round 1: train: 3 of 30 steps",
    ]
