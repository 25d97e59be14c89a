"""The figures of a report show what the facts say, in any unit."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import orjson
import pytest
from made_run import check, data_of, make_run, write_table

from selfstudy_engine.cli.console import conclusion
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.engine.report import figures_of, write_report
from selfstudy_engine.engine.report_charts import Figure
from selfstudy_engine.engine.report_facts import RunFacts, gather_facts
from selfstudy_engine.engine.report_learning import learning_by_round
from selfstudy_engine.engine.report_original import original_parity
from selfstudy_engine.engine.report_parity import MAX_POINTS, parity
from selfstudy_engine.engine.report_progress import acceptance

pytestmark = pytest.mark.usefixtures("report_cache")


@pytest.fixture(scope="module")
def soluble(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same of log S, -3.8 to -0.6 log mol/L."""
    root = tmp_path_factory.mktemp("soluble")
    table = write_table(root / "table.csv", -0.04)
    return make_run(root / "runs", table, rounds=1, prop="aqueous_solubility")


def test_every_figure_names_model_and_labels_and_says_what_it_shows(facts: RunFacts) -> None:
    found = figures_of(facts, check)
    keys = [figure.key for figure in found]
    assert len(keys) == len(set(keys)) == 11
    for figure in found:
        assert figure.alt
        assert figure.rows
        assert facts.base_model in figure.spec["title"]["subtitle"][0]
        assert "28 labels" in figure.spec["title"]["subtitle"][1]
        assert figure.columns.keys() <= set().union(*figure.rows), figure.key


def test_figures_show_what_the_facts_say(facts: RunFacts) -> None:
    figures = {figure.key: figure for figure in figures_of(facts, check)}
    learning = [row for row in figures["learning"].rows if row["series"] == "test"]
    assert [row["value"] for row in learning] == [f.test_mae.value for f in facts.rounds]
    assert all(row["low"] <= row["value"] <= row["high"] for row in learning)
    assert len([row for row in figures["parity"].rows if row["round"] == 3]) == len(
        facts.last.answers
    )
    by_value = [row for row in figures["value"].rows if row["series"] == "round 3"]
    assert sum(row["molecules"] for row in by_value) == 20
    accepted = figures["acceptance"].rows
    assert [row["value"] for row in accepted] == [f.record.acceptance for f in facts.rounds[:3]]
    false = [row["value"] for row in figures["reasons"].rows if "false" in row["series"]]
    assert set(false) == {1.0}


def test_the_error_on_trained_molecules_stands_beside_a_constants(facts: RunFacts) -> None:
    values = [answer.measured for answer in facts.last.answers if answer.split == "train"]
    best = min(np.mean([abs(value - guess) for value in values]) for guess in values)
    caption = learning_by_round(facts).caption
    assert f"the best constant gets {best:.1f} °C on those of round 3;" in caption
    answers = [answer for answer in facts.last.answers if answer.split == "test"]
    untrained = replace(facts, rounds=[replace(facts.last, answers=answers, train_mae=None)])
    assert "constant" not in learning_by_round(untrained).caption


def test_acceptance_and_chance_are_at_each_rounds_tolerance(facts: RunFacts) -> None:
    fixed = acceptance(facts)
    assert fixed
    assert "at the tolerance of 30 °C" in fixed.caption
    rounds = [
        replace(one, record=replace(one.record, tolerance=tolerance, chance=chance))
        for one, tolerance, chance in zip(
            facts.rounds, (30.0, 12.5, 0.0, None), (0.4, 0.2, 0.1, 0.4), strict=True
        )
    ]
    figure = acceptance(replace(facts, rounds=rounds))
    assert figure
    assert "at each round's tolerance" in figure.caption
    assert [row["tolerance"] for row in figure.rows] == [30.0, 12.5, 0.0]
    *_, chance = conclusion([one.record for one in rounds], facts.config)
    assert chance.endswith("(lift 1) on round 2's molecules at its tolerance of 0 °C: 10.0%.")
    [*_, chance] = conclusion([one.record for one in facts.rounds], facts.config)
    assert chance.endswith(f"on round 2's molecules: {facts.rounds[2].record.chance:.1%}.")


def test_axes_are_those_of_the_values_in_any_unit(facts: RunFacts, soluble: RunFolder) -> None:
    """The original's figure keeps its own, where it is of melting points."""

    def axes(figure: Figure) -> set[tuple[float, float]]:
        found = re.findall(rb'"domain":\[(-?[0-9.]+),(-?[0-9.]+)\]', orjson.dumps(figure.spec))
        return {(round(float(low), 6), round(float(high), 6)) for low, high in found}

    def measured(run: RunFacts) -> list[float]:
        return [answer.measured for found in run.rounds for answer in found.answers]

    of_logs = gather_facts(soluble)
    for run, tolerance in ((facts, 30), (of_logs, 0.7)):
        low, high = min(measured(run)) - tolerance, max(measured(run)) + tolerance
        assert axes(parity(run)) == {(round(low, 6), round(high, 6))}
    assert axes(original_parity(facts)) == {(-200.0, 400.0)}
    assert axes(original_parity(of_logs)) == axes(parity(of_logs))


def test_rounds_are_left_out_beyond_so_many_points(facts: RunFacts) -> None:
    first, *_, last = facts.rounds
    assert len(first.answers) < len(last.answers), "those that were trained on are asked, too"
    figure = parity(replace(facts, rounds=[first, *[last] * 1499]))
    assert len(figure.rows) <= MAX_POINTS
    num_shown = 1 + (len(figure.rows) - len(first.answers)) // len(last.answers)
    assert f"{1500 - num_shown} rounds are left out" in figure.caption


def test_values_have_their_propertys_decimals(soluble: RunFolder, tmp_path: Path) -> None:
    write_report(soluble, tmp_path / "report.html", check)
    page = (tmp_path / "report.html").read_text("utf-8").replace("\N{MINUS SIGN}", "-")
    text = re.sub(r"<script.*?</script>|<style.*?</style>|<[^>]*>", "", page, flags=re.S)
    value, error = r"[-+]?[0-9]+\.[0-9](?![0-9])", r"[-+]?[0-9]+\.[0-9]{2}(?![0-9])"
    shown = rf"Answer {value} log mol/L · measured {value} · error {value}"
    assert len(re.findall(shown, text)) == text.count("Answer ") > 9
    assert "within 0.23 log mol/L" in text
    assert re.search(rf"scored as the training median \({value} log mol/L\)", text)
    assert re.search(rf"MAE {error} → {error} log mol/L from .*: {error} \[95% {error} to", text)
    assert re.search(rf"known to about ±{error} log mol/L", text)
    assert re.search(rf'aria-label="[^"]*round 1, [^"]*: {error} log mol/L"', page)
    figures = {figure["key"]: figure["spec"] for figure in data_of(page)}
    bands = {row["group"] for row in figures["value"]["data"]["values"]}
    assert [band for band in bands if not re.fullmatch(rf"{value} to {value}", band)] == []
    for key in ("learning", "labels", "parity", "value", "original-error"):
        forms = set(re.findall(r'"format":"(\.[^"]*)"', orjson.dumps(figures[key]).decode()))
        assert forms == {".2f"}, key
