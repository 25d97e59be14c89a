"""A finished run in, what its reasons and labels were worth out: adapters trained otherwise.

Each ablation changes one thing about how the run's last adapter was trained, on the same accepted
samples; all answer the same test set. What exists in the run folder is not made again.
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import RunFolderError
from selfstudy_engine.data.evaluations import (
    Evaluated,
    compute_metrics,
    errors_of,
    paired_change,
)
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.metrics import Change, Floats, Interval, Metrics
from selfstudy_engine.data.repeats import (
    change_of_means,
    mean_of_trainings,
    spread_of_trainings,
)
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.task import split_of_run
from selfstudy_engine.engine.ablation_plan import AS_THE_LOOP, Ablation, ablations_of, choose
from selfstudy_engine.engine.ablation_workshop import Train, Workshop
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.connection import check_running
from selfstudy_engine.engine.examiner import Examiner
from selfstudy_engine.engine.false_claims import stored_claims_check
from selfstudy_engine.engine.reporter import Progress
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.training import run_training

MEDIAN = "training-median"
NO_MODEL = "no model: the training median"


@dataclass(frozen=True, slots=True)
class Ablated:
    """What came of one training."""

    key: str
    title: str
    adapter: str
    """Its folder; empty for a guess without one."""
    training: dict[str, Any]
    """What the adapter's manifest says about it."""
    metrics: Metrics
    change: Change | None
    """Against the adapter that was trained as the loop did, paired; None for that one."""
    false_claims: float | None
    """Share of the answers with a value whose reason states something false; None without any."""


@dataclass(frozen=True, slots=True)
class Repeated:
    """What came of all trainings of one ablation, each from another seed."""

    key: str
    title: str
    num_trainings: int
    mae: Interval
    """Mean of their test MAEs; its interval is of other trainings and other molecules."""
    spread: float | None
    """Standard deviation of their test MAEs; None for a guess without a model."""
    change: Interval | None
    """Against the mean of the trainings as the loop did; None for those."""


@dataclass(frozen=True, slots=True)
class AblationStudy:
    """All of them, on one test set."""

    run: str
    base_model: str
    round: int
    """The run's last; its adapter was trained on all samples."""
    num_samples: int
    num_test: int
    test_answers: int
    """Behind each value; 1 is greedy."""
    unit: str
    tolerance: float
    fallback: float
    """The training median: what unanswered questions are scored as."""
    rows: list[Ablated]
    repeated: list[Repeated]
    """Those that were trained more than once; empty without any."""


def run_ablations(
    folder: RunFolder,
    config: RunConfig,
    progress: Progress,
    server_key: str = "",
    *,
    repeats: int = 1,
    only: Sequence[str] = (),
    train: Train = run_training,
) -> AblationStudy:
    """Train and evaluate the ablations of a finished run, or what is missing of them.

    The study holds what calls before this one made, too.

    Args:
        folder: of the run.
        config: the run's, with the server and device settings of this call.
        progress: told of every phase.
        server_key: API key of the server at config.server.url.
        repeats: trainings of each, from the run's seed and those after it.
        only: keys of the ablations that are wanted, beside the loop's way; all where empty.
        train: trains one adapter.

    Raises:
        UsageError: `only` names what isn't there.
        RunFolderError: the run isn't finished, or has changed since some of them were made.
        SelfStudyError: a training or the server failed, which is asked for before each training;
            the same call continues.
    """
    model, config = choose_base_model(config)
    with folder.locked():
        records = load_records(folder)
        if not records or records[-1].round < config.rounds:
            raise RunFolderError(
                f"run {folder.path} has {max(len(records) - 1, 0)} of its {config.rounds} rounds; "
                "finish it with `selfstudy-engine loop` first"
            )
        known = ablations_of(config)
        asked = [
            one
            for way in choose(known, only)
            for one in itertools.islice(way.trainings(config.seed), repeats)
        ]

        def train_if_answered(*arguments: Any) -> dict[str, Any]:
            check_running(config, server_key)
            return train(*arguments)

        workshop = Workshop(folder, config, model, progress, train_if_answered)
        split = split_of_run(folder, config)
        adapters = {ablation.key: workshop.adapter(ablation) for ablation in asked}
        shown = load_exemplars(folder.exemplars())[: config.generation.prompt_exemplars]
        log = workshop.place / "logs" / "server.log"
        with Examiner(
            config, model, shown, log=log, server_key=server_key, progress=progress
        ) as examiner:
            made = {
                key: (adapter, workshop.answers(examiner, adapter, split.test))
                for key, adapter in adapters.items()
            }

        def is_made(ablation: Ablation) -> bool:
            found = made.get(ablation.key) or workshop.made(ablation, split.test)
            if found:
                made[ablation.key] = found
            return found is not None

        ways = [list(itertools.takewhile(is_made, way.trainings(config.seed))) for way in known]
    has_false_claim = stored_claims_check(folder, config.property)

    def false_claims_share(answers: list[Evaluated]) -> float | None:
        told = [answer for answer in answers if answer.predicted is not None and answer.reason]
        marks = [has_false_claim(answer.reason, molecules[answer.molecule_id]) for answer in told]
        return sum(marks) / len(marks) if marks else None

    molecules = {molecule.molecule_id: molecule for molecule in split.test}
    _, of_loop = made[AS_THE_LOOP.way]
    guesses = [replace(answer, predicted=None) for answer in of_loop]
    tolerance = config.property.tolerance

    def row(key: str, title: str, adapter: Adapter | None, found: list[Evaluated]) -> Ablated:
        metrics = compute_metrics(found, "test", split.median, tolerance)
        assert metrics is not None  # a test set has at least one molecule
        change = paired_change(of_loop, found, split.median, tolerance)
        return Ablated(
            key=key,
            title=title,
            adapter=str(adapter.folder) if adapter else "",
            training=adapter.training if adapter else {},
            metrics=metrics,
            change=None if key == AS_THE_LOOP.way else change,
            false_claims=false_claims_share(found),
        )

    def repeated(key: str, title: str, found: list[list[Evaluated]]) -> Repeated:
        errors, loop = absolute_errors(found), absolute_errors(answers_of(ways[0]))
        return Repeated(
            key=key,
            title=title,
            num_trainings=0 if key == MEDIAN else len(found),
            mae=mean_of_trainings(errors),
            spread=None if key == MEDIAN else spread_of_trainings(errors),
            change=None if key == AS_THE_LOOP.way else change_of_means(loop, errors),
        )

    def answers_of(way: list[Ablation]) -> list[list[Evaluated]]:
        return [made[one.key][1] for one in way]

    def absolute_errors(found: list[list[Evaluated]]) -> Floats:
        return np.abs([errors_of(one, "test", split.median) for one in found])

    several = [way for way in ways if len(way) > 1]
    return AblationStudy(
        run=config.name,
        base_model=model,
        round=workshop.round,
        num_samples=workshop.num_samples,
        num_test=len(split.test),
        test_answers=config.test_answers,
        unit=config.property.unit,
        tolerance=tolerance,
        fallback=split.median,
        rows=[
            *(row(one.key, one.title, *made[one.key]) for way in ways for one in way),
            row(MEDIAN, NO_MODEL, None, guesses),
        ],
        repeated=[
            *(repeated(way[0].way, way[0].title, answers_of(way)) for way in several),
            repeated(MEDIAN, NO_MODEL, [guesses]),
        ]
        if several
        else [],
    )
