"""A finished run in, what its reasons and labels were worth out: adapters trained otherwise.

Each ablation changes one thing about how the run's last adapter was trained, on the same accepted
samples; all answer the same test set. What exists in the run folder is not made again.
"""

from dataclasses import dataclass, replace
from typing import Any

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.errors import RunFolderError
from selfstudy_engine.data.evaluations import (
    Evaluated,
    compute_metrics,
    paired_change,
)
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.metrics import Change, Metrics
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.task import split_of_run
from selfstudy_engine.engine.ablation_plan import AS_THE_LOOP, ablations_of
from selfstudy_engine.engine.ablation_workshop import Train, Workshop
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.examiner import Examiner, Progress
from selfstudy_engine.engine.false_claims import stored_claims_check
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.training import run_training

MEDIAN = "training-median"


@dataclass(frozen=True, slots=True)
class Ablated:
    """What came of one of them."""

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
class AblationStudy:
    """All of them, on one test set."""

    run: str
    base_model: str
    round: int
    """The run's last; its adapter was trained on all samples."""
    num_samples: int
    num_test: int
    unit: str
    tolerance: float
    fallback: float
    """The training median: what unanswered questions are scored as."""
    rows: list[Ablated]


def run_ablations(
    folder: RunFolder,
    config: RunConfig,
    progress: Progress,
    server_key: str = "",
    *,
    train: Train = run_training,
) -> AblationStudy:
    """Train and evaluate the ablations of a finished run, or what is missing of them.

    Args:
        folder: of the run.
        config: the run's, with the server and device settings of this call.
        progress: told of every phase.
        server_key: API key of the server at config.server.url.
        train: trains one adapter.

    Raises:
        RunFolderError: the run isn't finished, or has changed since some of them were made.
        SelfStudyError: a training or the server failed; the same call continues.
    """
    model, config = choose_base_model(config)
    with folder.locked():
        records = load_records(folder)
        if not records or records[-1].round < config.rounds:
            raise RunFolderError(
                f"run {folder.path} has {max(len(records) - 1, 0)} of its {config.rounds} rounds; "
                "finish it with `selfstudy-engine loop` first"
            )
        workshop = Workshop(folder, config, model, progress, train)
        split = split_of_run(folder, config)
        chosen = ablations_of(config)
        adapters = {ablation.key: workshop.adapter(ablation) for ablation in chosen}
        shown = load_exemplars(folder.exemplars())[: config.generation.prompt_exemplars]
        log = workshop.place / "logs" / "server.log"
        with Examiner(
            config, model, shown, log=log, server_key=server_key, progress=progress
        ) as examiner:
            answers = {
                key: workshop.answers(examiner, adapter, split.test)
                for key, adapter in adapters.items()
            }
    has_false_claim = stored_claims_check(folder, config.property)

    def false_claims_share(answers: list[Evaluated]) -> float | None:
        told = [answer for answer in answers if answer.predicted is not None and answer.reason]
        marks = [has_false_claim(answer.reason, molecules[answer.molecule_id]) for answer in told]
        return sum(marks) / len(marks) if marks else None

    molecules = {molecule.molecule_id: molecule for molecule in split.test}
    guesses = [replace(answer, predicted=None) for answer in answers[AS_THE_LOOP.key]]
    tolerance = config.property.tolerance

    def row(key: str, title: str, adapter: Adapter | None, found: list[Evaluated]) -> Ablated:
        metrics = compute_metrics(found, "test", split.median, tolerance)
        assert metrics is not None  # a test set has at least one molecule
        change = paired_change(answers[AS_THE_LOOP.key], found, split.median, tolerance)
        return Ablated(
            key=key,
            title=title,
            adapter=str(adapter.folder) if adapter else "",
            training=adapter.training if adapter else {},
            metrics=metrics,
            change=None if key == AS_THE_LOOP.key else change,
            false_claims=false_claims_share(found),
        )

    return AblationStudy(
        run=config.name,
        base_model=model,
        round=workshop.round,
        num_samples=workshop.num_samples,
        num_test=len(split.test),
        unit=config.property.unit,
        tolerance=tolerance,
        fallback=split.median,
        rows=[
            *(row(a.key, a.title, adapters[a.key], answers[a.key]) for a in chosen),
            row(MEDIAN, "no model: the training median", None, guesses),
        ],
    )
