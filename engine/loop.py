"""The self-study loop: in which order rounds train, swap, evaluate and generate.

The only place that sees the whole circle. What is done is read from the run folder: an adapter, an
evaluation or a round's samples that exist are never made again, so a killed run continues.
"""

import logging
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.exemplars import load_exemplars, to_lines
from selfstudy_engine.data.molecules import Table
from selfstudy_engine.data.run_folder import RunFolder, open_run
from selfstudy_engine.data.schema import Exemplar
from selfstudy_engine.data.task import configured_exemplars, load_task
from selfstudy_engine.data.working_copy import held_run
from selfstudy_engine.engine import evaluate
from selfstudy_engine.engine.base_model import choose_base_model
from selfstudy_engine.engine.connection import Connection, check_running
from selfstudy_engine.engine.corrections import finish_settling, settle_task
from selfstudy_engine.engine.garbage import collected_rarely
from selfstudy_engine.engine.judges import Judges
from selfstudy_engine.engine.places import open_places
from selfstudy_engine.engine.rationalize import warn_if_idle
from selfstudy_engine.engine.report_refresh import ReportRefresher
from selfstudy_engine.engine.reporter import Reporter
from selfstudy_engine.engine.round_steps import RoundSteps
from selfstudy_engine.engine.rounds import RoundRecord, load_records
from selfstudy_engine.engine.sampling import sampling_params
from selfstudy_engine.engine.trackers import Trackers
from selfstudy_engine.engine.training import StartTraining, TrainingProcess

logger = logging.getLogger(__name__)


def run_loop(
    config: RunConfig,
    runs: Path,
    reporter: Reporter,
    server_key: str = "",
    *,
    teacher_key: str = "",
    start_training: StartTraining = TrainingProcess,
    num_judges: int | None = None,
    command: str = "",
) -> list[RoundRecord]:
    """Run a loop to its end, or continue it.

    Args:
        config: resolved.
        runs: folder of all runs.
        reporter: told of every phase and round.
        server_key: API key of the server at config.server.url.
        teacher_key: API key of the server at config.teacher.url.
        start_training: how an adapter is trained.
        num_judges: processes that judge answers; see `Judges`.
        command: command line that began the run.

    Returns:
        The records of all rounds: 0 to config.rounds.

    Raises:
        SelfStudyError: what went wrong; the same command continues the run once it is repaired.
    """
    placement_of(config)  # a device that isn't there is refused before anything is done
    check_answers(config)
    model, config = choose_base_model(config)
    with held_run(runs / config.name, config.remote) as folder:
        task = load_task(config, _exemplars_of(config, folder, reporter, teacher_key))
        open_run(runs, config, task.split.fingerprint, command, folder.files)
        log = folder.logs / "server.log"
        with (
            folder.locked(),
            open_places(config, model, log, trains=True, start_training=start_training) as places,
        ):
            folder.update_config(config)
            fix_exemplars(folder, task.exemplars)
            if not folder.split.exists():
                _warn_of_dropped(task.table, config)
            task, changes = settle_task(folder, task, config)
            # Own servers get ready while the first adapter is trained, unless one shares its GPU.
            connection = Connection(places.config, model, places.servers, server_key)
            reports = ReportRefresher(folder, config.report)
            trackers = Trackers(config.track, folder, config)
            judges = Judges(num_judges)

            def show(record: RoundRecord) -> None:
                trackers.log(record)
                reports.refresh()

            steps = RoundSteps(
                config,
                folder,
                task,
                model=model,
                connection=connection,
                reporter=reporter,
                start_training=places.start_training,
                judges=judges,
                on_record=show,
            )
            with reports:
                if changes:
                    steps.derive_records_again()
                    finish_settling(folder, task)
                    if load_records(folder):
                        reports.refresh()
                if not steps.is_finished():
                    check_running(config, server_key)
                    if config.rationalize.enabled:
                        warn_if_idle(len(task.split.pool), config)
                    if config.track:  # one whose server is gone may take minutes to say so
                        reporter.phase(f"begin to track with {', '.join(config.track)}")
                    with trackers, connection, judges, collected_rarely():
                        (_run_overlapped if config.overlap else _run_in_turn)(steps, config.rounds)
                if reports.is_due:
                    reporter.phase("write the report")
        return load_records(folder)


def _exemplars_of(
    config: RunConfig, folder: RunFolder, reporter: Reporter, teacher_key: str
) -> list[Exemplar]:
    """Return those that the run began with, or will."""
    before = folder.exemplars()
    if before.exists():
        return load_exemplars(before)
    if config.teacher.url:
        # Only here: the teacher's client is a third of all that a loop would import.
        from selfstudy_engine.engine.taught_exemplars import taught_exemplars

        return taught_exemplars(config, folder, reporter, teacher_key)
    return configured_exemplars(config)


def _run_in_turn(steps: RoundSteps, num_rounds: int) -> None:
    """Each round trains an adapter, then answers with it; the last adapter is only measured."""
    for index in range(num_rounds + 1):
        if steps.is_recorded(index):
            continue
        with steps.training(index) as wait_for_adapter:
            wait_for_adapter()
        steps.ask(adapter=steps.answering(index), samples_of=index)
        steps.record(index)


def _run_overlapped(steps: RoundSteps, num_rounds: int) -> None:
    """Round i's samples come from adapter i - 1, while adapter i is trained on those before.

    A round is recorded beside the asking of the next: the server waits for swaps alone, with --gate
    also for each evaluation's end.
    """
    with steps.training(0) as wait_for_adapter:
        wait_for_adapter()
    steps.ask(adapter=0, samples_of=0)
    with ThreadPoolExecutor(1, "record") as recorder:
        recording = recorder.submit(steps.record, 0)
        for index in range(1, num_rounds + 1):
            answering = steps.answering(index - 1)
            with steps.training(index) as wait_for_adapter:
                steps.ask(adapter=answering, samples_of=index)
                wait_for_adapter()
            recording.result()
            if index > 1:
                recording = recorder.submit(steps.record, index - 1)
        steps.ask(adapter=num_rounds, samples_of=num_rounds)
        recording.result()
    steps.record(num_rounds)


def _warn_of_dropped(table: Table, config: RunConfig) -> None:
    if config.table.path and table.dropped:
        logger.warning(
            "%d rows of %s are left out (%s); `selfstudy-engine table prepare` with the same "
            "options lists them",
            *(sum(map(len, table.dropped.values())), config.table.path),
            ", ".join(f"{reason}: {len(rows)}" for reason, rows in table.dropped.items()),
        )


def check_answers(config: RunConfig) -> None:
    """Refuse a loop whose answers would all be alike, all be rejected, or find no room.

    Raises:
        UsageError: several greedy ones a molecule; direct ones are taught, and rejected; or they
            may be longer than prompt and answer together.
    """
    sampling_params(config)
    evaluate.sampling_params(config.generation, config.test_answers)
    longest, room = config.generation.max_tokens, config.server.max_model_len
    if longest >= room:
        raise UsageError(
            f"--max-tokens ({longest}) leaves no room for a prompt in --max-model-len ({room}); "
            "lower the one, or raise the other"
        )
    if config.train.reasons == "drop" and "no reason" in config.verdict.reject:
        raise UsageError(
            'train.reasons is "drop", so answers come without a reason, and verdict.reject has '
            '"no reason": nothing would ever be accepted; name the other findings with --reject'
        )


def fix_exemplars(folder: RunFolder, exemplars: list[Exemplar]) -> None:
    """Keep a run's exemplars as they were when it began."""
    if not folder.exemplars().exists():
        folder.files.replace(folder.exemplars(), to_lines(exemplars))
