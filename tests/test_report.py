"""Reports of made-up runs: what they say, what they never let through, and what they cost."""

import html
import logging
import random
import re
import shutil
from collections import Counter
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import pytest
from click.testing import CliRunner, Result
from conftest import small_molecules
from made_run import NASTY_NAME, make_run

from selfstudy_engine.cli.console import conclusion
from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.errors import TableError, UsageError
from selfstudy_engine.data.evaluations import Evaluated, compute_metrics
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.metrics import Interval, bootstrap, measure_change
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import load_task, split_of_run
from selfstudy_engine.engine.baselines import BASELINES, MEDIAN
from selfstudy_engine.engine.corrections import finish_settling, settle_task
from selfstudy_engine.engine.metric_texts import cells_of, outcome_of, ranged, signed
from selfstudy_engine.engine.reason_quality import (
    REASONS_COMPARED,
    distinct_ngrams,
    false_share,
    mark_claims,
    variety,
)
from selfstudy_engine.engine.report import figures_of, write_report
from selfstudy_engine.engine.report_charts import Figure
from selfstudy_engine.engine.report_compare import write_comparison
from selfstudy_engine.engine.report_examples import choose_examples, draw, likely_label_errors
from selfstudy_engine.engine.report_facts import (
    RoundFacts,
    RunFacts,
    gather_facts,
    rounds_with_baselines,
)
from selfstudy_engine.engine.report_figures import learning_by_round, original_parity, parity
from selfstudy_engine.engine.report_headline import headline
from selfstudy_engine.engine.report_import import load_rounds, write_imported
from selfstudy_engine.engine.report_page import MAX_BYTES, check_replaceable
from selfstudy_engine.engine.report_progress import acceptance
from selfstudy_engine.engine.report_refresh import ReportRefresher
from selfstudy_engine.engine.rounds import Trained, derive_record, load_records
from selfstudy_engine.engine.sampler import chance_acceptance

REFERENCE = Path("/work/shared/reference/llmchem_runs.csv")


def write_table(path: Path, slope: float = 1.0) -> Path:
    """Write forty molecules, values times a slope; each third one has a hostile name."""
    lines = ["smiles,name,value"]
    for index, (smiles, value) in enumerate(small_molecules()):
        name = NASTY_NAME if index % 3 == 0 else f"molecule {index}"
        quoted = name.replace('"', '""')
        lines.append(f'{smiles},"{quoted}",{value * slope}')
    path.write_text("\n".join(lines) + "\n", "utf-8")
    return path


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    root = tmp_path_factory.mktemp("report")
    return make_run(root / "runs", write_table(root / "table.csv"))


@pytest.fixture(scope="module")
def soluble(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The same of log S, -3.8 to -0.6 log mol/L."""
    root = tmp_path_factory.mktemp("soluble")
    table = write_table(root / "table.csv", -0.04)
    return make_run(root / "runs", table, rounds=1, prop="aqueous_solubility")


@pytest.fixture(scope="module")
def facts(made: RunFolder) -> RunFacts:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(made.path.parent.parent / "cache"))
        return gather_facts(made)


@pytest.fixture(autouse=True)
def own_cache(made: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(made.path.parent.parent / "cache"))


@dataclass(frozen=True)
class Found:
    start: int
    end: int
    truth: Any
    found: str


def check(reason: str, molecule: Molecule) -> list[Found]:
    """Judge the word "nitro" by the molecule, and doubt "high"."""
    claims = []
    for match in re.finditer("nitro|high", reason):
        truth = "unverifiable" if match[0] == "high" else "false"
        claims.append(Found(match.start(), match.end(), truth, f"none in {molecule.smiles}"))
    return claims


def data_of(page: str) -> list[dict[str, Any]]:
    [text] = re.findall(r'<script type="application/json" id="figures">(.*?)</script>', page, re.S)
    content: list[dict[str, Any]] = orjson.loads(text)
    return content


def test_labels_are_all_that_were_asked_about(facts: RunFacts) -> None:
    assert [len(found.labelled) for found in facts.rounds] == [10, 16, 22, 28]
    for found in facts.rounds:
        assert {m.molecule_id for m in found.trained} <= {m.molecule_id for m in found.labelled}
    tested = {answer.molecule_id for answer in facts.last.tested}
    assert not tested & {molecule.molecule_id for molecule in facts.last.labelled}


def test_baselines_come_at_some_rounds_and_always_at_the_last(facts: RunFacts) -> None:
    assert [bool(found.baselines) for found in facts.rounds] == [True, True, True, True]
    assert list(facts.last.baselines) == list(BASELINES)
    assert rounds_with_baselines(range(12)) == {0, 1, 2, 4, 8, 11}


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
    assert run.last.change.mae.high < 0, "it looks better"
    text = " ".join(shown.sentences)
    assert "Too few molecules to tell from always answering the training median: MAE" in text
    assert not re.search("Better than|Worse than", text)
    assert "6 test molecules can't tell a change from noise" in text
    change, *_ = conclusion(load_records(few), run.prop)
    assert change.endswith("°C: too few molecules for a verdict.")
    write_comparison([few, other], tmp_path / "compare.html")
    page = (tmp_path / "compare.html").read_text("utf-8")
    assert "other can&#39;t be told from few on the same 6 test molecules, too few" in page
    assert ranged(bootstrap(np.array([5.0])), 1) == "5.0"
    change = measure_change(np.array([7.0]), np.array([5.0]), 30.0).mae
    assert signed(change, 1) == "−2.0"


def test_numbers_have_a_real_minus_and_their_interval() -> None:
    assert signed(Interval(-1.25, -2, 0.5), 1) == "−1.2 [95% −2.0 to +0.5]"
    assert ranged(Interval(0.5, -0.25, 0.75), 2) == "0.50 [−0.25, 0.75]"


def test_a_run_that_learns_nothing_is_told_so(made: RunFolder, tmp_path: Path) -> None:
    table = made.path.parent.parent / "table.csv"
    folder = make_run(tmp_path, table, "flat", rounds=1, gain=1.0)
    assert headline(gather_facts(folder)).verdict.startswith("No change")


def test_the_error_on_trained_molecules_stands_beside_a_constants(facts: RunFacts) -> None:
    values = [answer.measured for answer in facts.last.answers if answer.split == "train"]
    best = min(np.mean([abs(value - guess) for value in values]) for guess in values)
    caption = learning_by_round(facts).caption
    assert f"the best constant gets {best:.1f} °C on those of round 3;" in caption
    answers = [answer for answer in facts.last.answers if answer.split == "test"]
    untrained = replace(facts, rounds=[replace(facts.last, answers=answers, train=None)])
    assert "constant" not in learning_by_round(untrained).caption


def test_a_model_that_never_answers_is_the_training_median(facts: RunFacts) -> None:
    last = facts.last
    silent = replace(last, answers=[replace(answer, predicted=None) for answer in last.answers])
    run = replace(facts, rounds=[*facts.rounds[:-1], silent])
    [median] = [row for row in headline(run).rows if row.name == MEDIAN]
    assert median.versus == "+0.0 [95% +0.0 to +0.0]"
    assert set(last.baselines[MEDIAN]) == {facts.split.median}
    [sentence] = [s for s in headline(run).sentences if "always answering" in s]
    assert sentence.startswith("Not distinguishable from always answering the training median")


def test_adapters_that_the_gate_kept_out_are_named(facts: RunFacts) -> None:
    assert not any("--gate" in sentence for sentence in headline(facts).sentences)
    kept_out = [
        replace(one, record=replace(one.record, passed=one.index not in {1, 3}))
        for one in facts.rounds
    ]
    [sentence] = [s for s in headline(replace(facts, rounds=kept_out)).sentences if "--gate" in s]
    assert "adapters of rounds 1, 3." in sentence


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
    assert [row["value"] for row in learning] == [f.test.mae.value for f in facts.rounds]
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
    *_, chance = conclusion([one.record for one in rounds], facts.prop)
    assert chance.endswith("(lift 1) on round 2's molecules at its tolerance of 0 °C: 10.0%.")
    [*_, chance] = conclusion([one.record for one in facts.rounds], facts.prop)
    assert chance.endswith(f"on round 2's molecules: {facts.rounds[2].record.chance:.1%}.")


def test_a_tolerance_of_nought_is_one(made: RunFolder, tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "made")
    shutil.copytree(made.path, folder.path)
    store, config = SampleStore(folder.samples), read_config(folder)
    for path in store.shards():
        store.supersede(path, [s._replace(tolerance=0.0) for s in store.read_shard(path)])
    task = load_task(config, load_exemplars(folder.exemplars()))
    [old, *_] = load_records(folder)
    record = derive_record(
        *(folder, config, task),
        trained=Trained.recorded(old),
        round_index=0,
        timing=old.timing,
        answering=0,
    )
    values = [sample.measured for sample in store.samples(0)]
    assert (record.tolerance, record.chance) == (0.0, chance_acceptance(values, 0.0))
    assert record.chance < old.chance


def test_hinted_samples_are_in_no_count_of_what_the_model_found(
    made: RunFolder, tmp_path: Path
) -> None:
    folder = RunFolder(tmp_path / "made")
    shutil.copytree(made.path, folder.path)
    store = SampleStore(folder.samples)
    for path in store.shards():
        store.supersede(
            path, [s._replace(hinted=i % 2 == 0) for i, s in enumerate(store.read_shard(path))]
        )
    facts = gather_facts(folder)
    own = [s for s in store.samples() if s.accepted and not s.hinted]
    assert any(sample.hinted for one in facts.rounds for sample in one.reasons)
    figures = {figure.key: figure for figure in figures_of(facts, check)}
    for index in range(3):
        so_far = {s.molecule_id for s in own if s.round <= index}
        [known] = [
            row["value"]
            for row in figures["molecules"].rows
            if (row["round"], row["series"]) == (index, "distinct so far")
        ]
        assert known == len(so_far)
        [judged] = [
            row["reasons"]
            for row in figures["reasons"].rows
            if (row["round"], row["series"]) == (index, "accepted with a false claim")
        ]
        assert judged == sum(sample.round == index for sample in own)


def test_reasons_that_repeat_have_few_distinct_ngrams() -> None:
    assert distinct_ngrams(["one two three"]) is None
    assert distinct_ngrams(["a b c d"] * 10) == 0.1
    molecule = Molecule("K", "", "C", 0.0)
    reasons = [("two nitro", molecule), ("high", molecule)]
    assert false_share(reasons, check) == (0.5, 0.5)


def test_variety_is_that_of_as_many_reasons_however_many_there_are() -> None:
    generator = random.Random(0)
    words = [f"word{number}" for number in range(12)]
    many = [" ".join(generator.choices(words, k=12)) for _ in range(2000)]
    repeated = [many[index % 5] for index in range(200)]
    few, all_of_them, copies = variety(many[:40]), variety(many), variety(repeated)
    assert few is not None
    assert all_of_them == pytest.approx(few, abs=0.01)
    assert (distinct_ngrams(many) or 0) < 0.75 * few
    assert copies is not None
    assert copies < 0.3 < 0.9 < few
    assert variety(many[REASONS_COMPARED - 1 :: -1]) == variety(many[:REASONS_COMPARED])
    assert variety(many[1:REASONS_COMPARED]) is None
    assert variety(["three words only"] * 50) is None


def test_claims_are_cut_out_of_a_reason_without_losing_a_letter() -> None:
    claims = [Found(4, 9, "true", ""), Found(6, 12, "false", ""), Found(12, 15, "false", "")]
    reason = "Two nitro groups."
    pieces = mark_claims(reason, claims)
    assert "".join(piece.text for piece in pieces) == reason
    assert [piece.truth for piece in pieces] == [None, "true", None, "false", None]
    assert mark_claims("", []) == []


def call(*arguments: object) -> Result:
    return CliRunner().invoke(cli, ["report", *map(str, arguments)])


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


def follow_table(folder: RunFolder) -> None:
    """Do what a loop does about its table before anything else."""
    config = read_config(folder)
    task, _ = settle_task(folder, load_task(config, load_exemplars(folder.exemplars())), config)
    finish_settling(folder, task)


def test_a_report_is_of_the_runs_own_split_and_tells_that_the_table_changed(
    facts: RunFacts, tmp_path: Path
) -> None:
    assert not facts.table_changed
    table = write_table(tmp_path / "table.csv")
    folder = make_run(tmp_path / "runs", table, "changed", rounds=1)
    before, text = split_of_run(folder, read_config(folder)), table.read_text("utf-8")
    [withdrawn, *_] = [molecule for molecule in before.test if f"\n{molecule.smiles}," in text]
    table.write_text(re.sub(f"\n{re.escape(withdrawn.smiles)},.*", "", text), "utf-8")
    follow_table(folder)
    table.unlink()  # it isn't needed
    after = gather_facts(folder).split
    assert after.pool == before.pool
    assert after.test == [molecule for molecule in before.test if molecule != withdrawn]
    write_report(folder, folder.report)
    assert "The table has changed" in folder.report.read_text("utf-8")


def test_a_test_row_that_was_away_for_a_while_is_paired_by_its_molecule(
    facts: RunFacts,
) -> None:
    away = facts.last.tested[3].molecule_id

    def without(one: RoundFacts) -> RoundFacts:
        kept = [answer for answer in one.answers if answer.molecule_id != away]
        return replace(one, answers=kept, baselines={})

    first, second, *later = facts.rounds
    now = replace(facts, rounds=[without(first), without(second), *later])
    text = " ".join(headline(now).sentences)
    assert "(paired bootstrap, 19 molecules)" in text
    assert "With 20 test molecules" in text
    [by_value] = [figure for figure in figures_of(now, check) if figure.key == "value"]
    counts: Counter[str] = Counter()
    for row in by_value.rows:
        counts[row["series"]] += row["molecules"]
    assert counts == {"round 0": 19, "round 3": 20}
    before = {a.molecule_id: a.predicted for a in now.rounds[0].tested}
    examples = [one for one in choose_examples(now, check) if one.kind != "accepted"]
    ids = {answer.smiles: answer.molecule_id for answer in now.last.tested}
    assert [e.first_predicted for e in examples] == [before.get(ids[e.smiles]) for e in examples]
    assert examples


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
    assert at_30.within_tolerance.value < facts.last.test.within_tolerance.value
    table_of_results = page[page.index('<table id="results">') :]
    assert cells_of(at_30, facts.prop)[-2] in table_of_results.split("<tr>")[3]
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


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("run,round,split\n", "no column mae"),
        ("run,round,split,mae\n", "no line below"),
        ("run,round,split,mae\na,0,test,nan\n", "line 2: MAE 'nan'"),
        ("run,round,split,mae\na,x,test,1\n", "line 2"),
        ("run,round,split,mae\na,0,dev,1\n", "split 'dev' is none of"),
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
