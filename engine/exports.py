"""What a run made, as folders to hand on: nothing of the run is changed."""

import shutil
from dataclasses import replace
from pathlib import Path

import orjson
import pyarrow.compute as pc

from selfstudy_engine.data.adapters import MANIFEST, publish_adapter, read_adapter
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.evaluations import load_evaluation, paired_difference
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.files import publish_folder
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.store import SampleStore, write_parquet
from selfstudy_engine.data.task import split_of_run
from selfstudy_engine.engine.cards import adapter_card, samples_card
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.subjects import finished_round

_CARD = "README.md"


def export_adapter(folder: RunFolder, round_index: int | None, out: Path) -> None:
    """Copy a round's adapter, with a model card.

    Args:
        folder: of the run.
        round_index: a finished round; None is the last one that passed (see `finished_round`).
        out: the folder to make.

    Raises:
        UsageError: `out` exists.
        AdapterError: no such round is finished, or its adapter is damaged.
    """
    _check_new(out)
    config = read_config(folder)
    index = finished_round(folder, round_index)
    adapter = read_adapter(folder.adapter(index))
    answers = [a for a in load_evaluation(folder.evaluation(index)) if a.split == "test"]
    guesses = [replace(answer, predicted=None) for answer in answers]
    records = load_records(folder)
    card = adapter_card(
        config,
        adapter,
        next(record for record in records if record.round == index),
        num_exemplars=len(load_exemplars(folder.exemplars())),
        num_test=len(answers),
        tolerances=[r.tolerance for r in records if r.round < index and r.tolerance is not None],
        against_median=paired_difference(guesses, answers, split_of_run(folder, config).median),
    )
    manifest = orjson.loads((adapter.folder / MANIFEST).read_bytes())
    del manifest["format"], manifest["files"]  # PEFT's own card is one of them
    with publish_adapter(out, manifest) as temporary:
        for path in sorted(adapter.folder.iterdir()):
            if path.name not in {MANIFEST, _CARD}:
                shutil.copyfile(path, temporary / path.name)
        (temporary / _CARD).write_text(card, "utf-8")


def export_samples(folder: RunFolder, out: Path, *, accepted_only: bool) -> int:
    """Write a run's samples as data/round-NNNN.parquet, with a dataset card.

    Args:
        folder: of the run.
        out: the folder to make.
        accepted_only: leave the rejected ones out.

    Returns:
        The number of samples.

    Raises:
        UsageError: `out` exists, or there are no such samples.
    """
    _check_new(out)
    store, config = SampleStore(folder.samples), read_config(folder)
    where = pc.field("accepted") if accepted_only else None
    with publish_folder(out) as temporary:
        (temporary / "data").mkdir()
        count = sum(
            write_parquet(
                temporary / "data" / f"round-{index:04d}.parquet", store.batches(index, where=where)
            )
            for index in store.rounds()
        )
        if count == 0:
            raise UsageError(
                f"run {folder.path} has no such samples yet; continue it, or try --all"
            )
        card = samples_card(config, count, accepted_only=accepted_only)
        (temporary / _CARD).write_text(card, "utf-8")
    return count


def _check_new(out: Path) -> None:
    if out.exists():
        raise UsageError(f"{out} exists already; name another folder with --out")
