"""What a report says of a run: derived from its artefacts, whatever the table has become."""

import re
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from made_run import check, make_run, write_table

from selfstudy_engine.data.evaluations import paired_change
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import load_task, split_of_run
from selfstudy_engine.engine.baselines import BASELINES
from selfstudy_engine.engine.corrections import finish_settling, settle_task
from selfstudy_engine.engine.report import figures_of, write_report
from selfstudy_engine.engine.report_examples import choose_examples
from selfstudy_engine.engine.report_facts import (
    RoundFacts,
    RunFacts,
    gather_facts,
    rounds_with_baselines,
)
from selfstudy_engine.engine.report_headline import headline
from selfstudy_engine.engine.rounds import Trained, derive_record, load_records
from selfstudy_engine.engine.sampler import chance_acceptance

pytestmark = pytest.mark.usefixtures("report_cache")


def test_labels_are_all_that_were_asked_about(facts: RunFacts) -> None:
    assert [found.num_labelled for found in facts.rounds] == [10, 16, 22, 28]
    tested = {answer.molecule_id for answer in facts.last.tested}
    assert not tested & {molecule.molecule_id for molecule in facts.trained}


def test_rounds_between_keep_their_errors_and_no_texts(facts: RunFacts) -> None:
    """A thousand rounds of a thousand test molecules took gigabytes, and each a second or two."""
    for one in facts.rounds:
        assert one.test_mae == facts.metrics(one).mae
        assert one.record.test_bias == facts.metrics(one).bias.value
        assert one.answered == facts.metrics(one).answered.value
        assert facts.baseline_maes(one) == {
            k: m.mae for k, m in facts.baseline_metrics(one).items()
        }
        has_texts = one in facts.first_and_last
        assert all(bool(a.reason and a.completion) is has_texts for a in one.answers)
        assert not any(sample.prompt or sample.completion for sample in one.reasons)
    assert facts.change == paired_change(
        facts.rounds[0].answers, facts.last.answers, facts.split.median, facts.prop.tolerance
    )


def test_baselines_come_at_some_rounds_and_always_at_the_last(facts: RunFacts) -> None:
    assert [bool(found.baselines) for found in facts.rounds] == [True, True, True, True]
    assert list(facts.last.baselines) == list(BASELINES)
    assert rounds_with_baselines(range(12)) == {0, 1, 2, 4, 8, 11}


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
            if (row["round"], row["series"]) == (index, "accepted: false claim")
        ]
        assert judged == sum(sample.round == index for sample in own)


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
    asked = SampleStore(folder.samples).molecules(0)
    [label, *_] = [molecule for molecule in before.pool if molecule.molecule_id in asked]
    num_labelled = gather_facts(folder).last.num_labelled
    for gone in (withdrawn, label):
        text = re.sub(f"\n{re.escape(gone.smiles)},.*", "", text)
    table.write_text(text, "utf-8")
    follow_table(folder)
    table.unlink()  # it isn't needed
    now = gather_facts(folder)
    assert now.split.pool == [molecule for molecule in before.pool if molecule != label]
    assert now.split.test == [molecule for molecule in before.test if molecule != withdrawn]
    assert now.last.num_labelled == num_labelled - 1
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
