"""A table that changed under a run: the verdicts and evaluations of its molecules follow.

Adapters stay as they are: they learned what was known then. Everything here can be done again.
"""

import logging
import math
from collections.abc import Mapping
from dataclasses import replace

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import TableError, listed
from selfstudy_engine.data.evaluations import load_evaluation, save_evaluation
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule, Sample
from selfstudy_engine.data.split_record import (
    Changes,
    in_doubt,
    load_places,
    save_places,
    settle,
    to_places,
    to_split,
)
from selfstudy_engine.data.splits import find_leaks
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import Task
from selfstudy_engine.engine.accepted_texts import AcceptedTexts, Fingerprint
from selfstudy_engine.engine.verify import Rules, compare, judge

logger = logging.getLogger(__name__)


def settle_task(folder: RunFolder, task: Task, config: RunConfig) -> tuple[Task, Changes]:
    """Return a run's task with the split that it began with, and follow the table's changes.

    Args:
        folder: of the run; held by this process.
        task: as the table is now.
        config: of the run.

    Returns:
        The task, and what has changed; `finish_settling` is to be called when that is dealt with.

    Raises:
        TableError: it is another table than the run's.
    """
    if not folder.split.exists():
        save_places(folder.split, to_places(task.split), folder.files)
        return task, Changes({}, 0)
    exemplars = [exemplar.molecule for exemplar in task.exemplars]
    before = load_places(folder.split)
    places, changes = settle(before, task.table.molecules, exemplars)
    settled = Task(task.table, to_split(places), task.exemplars)
    parts = settled.split
    if not parts.pool or not parts.test:
        raise TableError(
            f"table {config.table.path or 'embedded'} isn't that of run {folder.path}: of its test "
            f"set it has {len(parts.test)} molecules, and {len(parts.pool)} to learn from; restore "
            "the run's own table, or choose another --run"
        )
    leaks = find_leaks(parts.pool, parts.test, exemplars)
    if leaks:  # new rows never are: an earlier version split
        logger.warning(
            "run %s was split by an earlier version, which didn't know these to be the same: %d "
            "molecules that it learns from (%s); its test error may be a little too low",
            *(folder.path, len(leaks), listed(leaks)),
        )
    if changes:
        save_places(folder.split, in_doubt(before, changes), folder.files)
        store = SampleStore(folder.samples, folder.files)
        num_changed, num_judged = judge_again(store, changes.values, config)
        num_answers = measure_again(folder, changes.values)
        logger.warning(
            "the table has changed since the last call: %s; %d of %d verdicts about them changed, "
            "and %d measured answers; adapters keep what they learned",
            *(changes, num_changed, num_judged, num_answers),
        )
    return settled, changes


def finish_settling(folder: RunFolder, task: Task) -> None:
    """Take the changes as known: the next call won't follow them again."""
    exemplars = [exemplar.molecule for exemplar in task.exemplars]
    places, _ = settle(load_places(folder.split), task.table.molecules, exemplars)
    save_places(folder.split, places, folder.files)


def judge_again(
    store: SampleStore, values: Mapping[str, float | None], config: RunConfig
) -> tuple[int, int]:
    """Judge the samples of some molecules by their values now; the old shards are kept beside.

    What reasons claim stays judged as it was.

    Args:
        store: of the run.
        values: by molecule id, in the property's unit; None for a withdrawn row.
        config: of the run.

    Returns:
        How many verdicts changed their outcome, and how many were made.
    """
    accepted = AcceptedTexts(config.verdict.similarity)
    for molecule_id, reason in store.accepted_reasons():
        if molecule_id not in values:
            accepted.add(molecule_id, Fingerprint.of(reason))
    num_changed = num_judged = 0
    for path in store.shards():
        samples = store.read_shard(path)
        if not any(sample.molecule_id in values for sample in samples):
            continue
        new = []
        for sample in samples:
            if sample.molecule_id in values:
                judged = _judge(sample, values[sample.molecule_id], config, accepted)
                num_judged += 1
                num_changed += judged.accepted != sample.accepted
                new.append(judged)
            else:
                new.append(sample)
        if new != samples:
            store.supersede(path, new)
    return num_changed, num_judged


def _judge(
    sample: Sample, value: float | None, config: RunConfig, accepted: AcceptedTexts
) -> Sample:
    if value is None:
        rejections, findings = (
            (*(name for name in names if name != "withdrawn"), "withdrawn")
            for names in (sample.rejections, sample.findings)
        )
        return sample._replace(accepted=False, rejections=rejections, findings=findings)
    molecule = Molecule(sample.molecule_id, sample.name, sample.smiles, value)
    tolerance = config.property.tolerance if sample.tolerance is None else sample.tolerance
    rules = Rules.of(config).for_stored(tolerance, sample.findings, sample.reason)
    judged = judge(sample.completion, sample.finish_reason, molecule, rules, hinted=sample.hinted)
    verdict = compare(judged, molecule, rules, accepted)
    if verdict.accepted and judged.fingerprint:
        accepted.add(sample.molecule_id, judged.fingerprint)
    return sample._replace(
        measured=value,
        error=verdict.error,
        accepted=verdict.accepted,
        rejections=verdict.rejections,
        findings=verdict.findings,
    )


def measure_again(folder: RunFolder, values: Mapping[str, float | None]) -> int:
    """Put the values now into the evaluations made so far; returns how many answers changed.

    An answer about a withdrawn row stays, for when the row comes back.
    """
    num_changed = 0
    for path in sorted(folder.evaluation(0).parent.glob("round-*.parquet")):
        answers = load_evaluation(path, withdrawn=True)
        affected = sum(answer.molecule_id in values for answer in answers)
        if affected:
            measured = [values.get(a.molecule_id, a.measured) for a in answers]
            answers = [
                replace(answer, measured=math.nan if value is None else value)
                for answer, value in zip(answers, measured, strict=True)
            ]
            save_evaluation(path, answers, folder.files)
            num_changed += affected
    return num_changed
