"""A report begins with what the run shows, and claims no more than its intervals."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_run import make_run, write_table

from selfstudy_engine.cli.console import conclusion
from selfstudy_engine.data.evaluations import commonest_value
from selfstudy_engine.data.metrics import Interval, bootstrap, measure_change
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.baselines import BASELINES, MEDIAN
from selfstudy_engine.engine.metric_texts import outcome_of, ranged, signed
from selfstudy_engine.engine.report_compare import write_comparison
from selfstudy_engine.engine.report_facts import RunFacts, gather_facts
from selfstudy_engine.engine.report_headline import headline
from selfstudy_engine.engine.rounds import load_records

pytestmark = pytest.mark.usefixtures("report_cache")


def test_the_headline_says_what_the_interval_says(facts: RunFacts) -> None:
    shown = headline(facts)
    assert shown.outcome == "better"
    assert shown.verdict == "It learned."
    text = " ".join(shown.sentences)
    assert "20 molecules" in text
    assert "training median" in text
    assert "95.0% of the questions got a well-formed value" in text
    assert [row.name for row in shown.rows][2:] == list(BASELINES)
    assert all(len(row.cells) + 1 == len(shown.columns) for row in shown.rows)


def test_who_is_no_better_than_a_constant_has_not_learned(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv", slope=0.01)
    run = gather_facts(make_run(tmp_path, table, rounds=1, gain=0.1))
    shown = headline(run)
    assert shown.outcome == "better"
    assert shown.verdict == "It got better, but isn't better than a constant."


@pytest.mark.parametrize(
    ("low", "high", "outcome"),
    [(-3, -1, "better"), (-3, 1, "same"), (1, 3, "worse"), (0, 0, "same")],
)
def test_an_interval_with_nought_is_no_change(low: float, high: float, outcome: str) -> None:
    assert outcome_of(Interval((low + high) / 2, low, high)) == outcome
    assert outcome_of(Interval((low + high) / 2, low, high, 20)) == outcome
    assert outcome_of(Interval((low + high) / 2, low, high, 19)) == "few"


def test_few_molecules_get_no_verdict_and_one_no_interval(tmp_path: Path) -> None:
    table = write_table(tmp_path / "table.csv")
    few, other = (
        make_run(tmp_path, table, name, test_size=6, gain=gain, rounds=1)
        for name, gain in (("few", 0.01), ("other", 1.0))
    )
    run = gather_facts(few)
    shown = headline(run)
    assert (shown.outcome, shown.verdict) == ("few", "Too few test molecules for a verdict.")
    assert run.change.mae.high < 0, "it looks better"
    text = " ".join(shown.sentences)
    assert "Too few molecules to tell from always answering the training median: MAE" in text
    assert not re.search("Better than|Worse than", text)
    assert "6 test molecules can't tell a change from noise" in text
    change, *_ = conclusion(load_records(few), run.config)
    assert change.endswith("°C: too few molecules for a verdict.")
    write_comparison([few, other], tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text("utf-8")
    assert "other can&#39;t be told from few on the same 6 test molecules, too few" in page
    assert ranged(bootstrap(np.array([5.0])), 1) == "5.0"
    of_one = measure_change(np.array([7.0]), np.array([5.0]), 30.0).mae
    assert signed(of_one, 1) == "−2.0"


def test_numbers_have_a_real_minus_and_their_interval() -> None:
    assert signed(Interval(-1.25, -2, 0.5), 1) == "−1.2 [95% −2.0 to +0.5]"
    assert ranged(Interval(0.5, -0.25, 0.75), 2) == "0.50 [−0.25, 0.75]"


def test_a_run_that_learns_nothing_is_told_so(made: RunFolder, tmp_path: Path) -> None:
    table = made.path.parent.parent / "table.csv"
    folder = make_run(tmp_path, table, "flat", rounds=1, gain=1.0)
    assert headline(gather_facts(folder)).verdict.startswith("No change")


def test_a_model_that_never_answers_is_the_training_median(facts: RunFacts) -> None:
    last = facts.last
    silent = replace(last, answers=[replace(answer, predicted=None) for answer in last.answers])
    run = replace(facts, rounds=[*facts.rounds[:-1], silent])
    [median] = [row for row in headline(run).rows if row.name == MEDIAN]
    assert median.versus == "+0.0 [+0.0, +0.0]"
    assert set(last.baselines[MEDIAN]) == {facts.split.median}
    [sentence] = [s for s in headline(run).sentences if "always answering" in s]
    assert sentence.startswith("Not distinguishable from always answering the training median")


def test_a_model_that_says_one_number_is_told_so(facts: RunFacts) -> None:
    last = facts.last
    expected = commonest_value(last.answers)
    assert expected == (last.record.commonest_value, last.record.commonest_share)
    assert not any("test answers are" in sentence for sentence in headline(facts).sentences)
    ten = [replace(answer, predicted=-10.0) for answer in last.answers[2:]]
    same = replace(last, answers=[*last.answers[:2], *ten])
    value, share = commonest_value(same.answers) or (None, None)
    record = replace(last.record, commonest_value=value, commonest_share=share)
    for test_answers, ending in (
        (1, "as `predict` answers."),
        (8, "hardly tells molecules apart."),
    ):
        config = facts.config.model_copy(update={"test_answers": test_answers})
        run = replace(facts, rounds=[*facts.rounds[:-1], same], config=config)
        [sentence] = [s for s in headline(run).sentences if "test answers are −10 °C" in s]
        assert sentence.startswith(f"{share:.0%} of the last round's")
        assert sentence.endswith(ending)
        assert sentence in conclusion([record], config)
    assert not any("test answers" in line for line in conclusion([last.record], facts.config))


def test_adapters_that_the_gate_kept_out_are_named(facts: RunFacts) -> None:
    assert not any("--gate" in sentence for sentence in headline(facts).sentences)
    kept_out = [
        replace(one, record=replace(one.record, passed=one.index not in {1, 3}))
        for one in facts.rounds
    ]
    [sentence] = [s for s in headline(replace(facts, rounds=kept_out)).sentences if "--gate" in s]
    assert "adapters of rounds 1, 3." in sentence
