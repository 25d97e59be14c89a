"""The steps that a round is made of: train an adapter, ask it (evaluate and sample), record.

Each step looks into the run folder first and does only what is missing; none knows their order.
"""

import logging
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from functools import partial
from itertools import chain

from selfstudy_engine.data.adapters import MANIFEST, read_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import ServerDiedError
from selfstudy_engine.data.evaluations import load_evaluation, save_evaluation
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import Task
from selfstudy_engine.engine.accepted_texts import AcceptedTexts, Fingerprint
from selfstudy_engine.engine.connection import Connection
from selfstudy_engine.engine.evaluate import (
    EvaluationQuestion,
    evaluation_requests,
    plain_manner,
)
from selfstudy_engine.engine.false_claims import claims_check, finds_false
from selfstudy_engine.engine.gate import Gate
from selfstudy_engine.engine.generation import GenerationRequest
from selfstudy_engine.engine.judges import Judges
from selfstudy_engine.engine.launching import launch_of
from selfstudy_engine.engine.question_queue import QuestionQueue, Sampling
from selfstudy_engine.engine.reporter import Reporter
from selfstudy_engine.engine.round_plan import RoundPlanner
from selfstudy_engine.engine.rounds import (
    RoundRecord,
    Timing,
    Trained,
    derive_record,
    load_records,
    save_record,
)
from selfstudy_engine.engine.sampling import SampleQuestion, sample_requests
from selfstudy_engine.engine.tolerance import tolerance_of_round
from selfstudy_engine.engine.training import StartTraining, TimeLimits
from selfstudy_engine.engine.verify import HasFalseClaim, Rules

_LOOK_SECONDS = 0.5
logger = logging.getLogger(__name__)


class RoundSteps:
    """One process's work on a run."""

    def __init__(
        self,
        config: RunConfig,
        folder: RunFolder,
        task: Task,
        *,
        model: str,
        connection: Connection,
        reporter: Reporter,
        start_training: StartTraining,
        judges: Judges,
        on_record: Callable[[RoundRecord], None] = lambda record: None,
    ) -> None:
        self._config = config
        self._folder = folder
        self._task = task
        self._model = model
        self._connection = connection
        self._reporter = reporter
        self._start_training = start_training
        self._wait_for_training: Callable[[], None] | None = None
        """While one runs that answers are asked beside."""
        self._judges = judges
        self._on_record = on_record
        self._store = SampleStore(folder.samples, folder.files)
        self._planner = RoundPlanner(config, task.split, self._store)
        self._gate = Gate(folder, config.gate, task.split.median, config.property)
        self._shown = task.exemplars[: config.generation.prompt_exemplars]
        self._accepted: AcceptedTexts | None = None
        self._has_false_claim: HasFalseClaim | None = None
        self._records = {record.round: record for record in load_records(folder)}
        self._sampled: set[int] = set()
        """Rounds that have their samples; to find that out, all their shards are read."""
        self._timings: defaultdict[int, Timing] = defaultdict(Timing)

    def is_finished(self) -> bool:
        """Tell whether nothing is left to do."""
        return all(map(self.is_recorded, range(self._config.rounds + 1)))

    def is_recorded(self, round_index: int) -> bool:
        """Tell whether a round is recorded, and has the samples and the evaluation that it had.

        A lost evaluation can be made again as long as its adapter is there.
        """
        is_measured = self._folder.evaluation(round_index).exists()
        is_measured = is_measured or not self._folder.adapter(round_index).exists()
        return is_measured and self._has_its_samples(round_index)

    def _has_its_samples(self, round_index: int) -> bool:
        """Tell whether a round is recorded, and has the samples that it had then.

        One that was the last had none, and gets some once rounds follow it. What a plan would be
        now says nothing else: a table may have grown, and adapters were trained on what there was.
        """
        if round_index in self._sampled:
            return True
        record = self._records.get(round_index)
        if record is None or self._lacks_samples(record):
            return False
        had_samples = record.num_completions or record.num_hinted
        if not had_samples and self._planner.num_completions(round_index):
            return False
        self._sampled.add(round_index)
        return True

    def _lacks_samples(self, record: RoundRecord) -> bool:
        """Tell whether samples that a round had are no longer there: a damaged shard's."""
        return self._store.count(record.round) < record.num_completions + record.num_hinted

    @contextmanager
    def training(self, round_index: int) -> Iterator[Callable[[], None]]:
        """Start a round's training, unless its adapter exists; yields what waits for its end.

        One that answers no more may have been removed; with --overlap it answers in the next round.
        Only the waiting counts as the round's training time: what generating hid cost nothing.
        """
        output = self._folder.adapter(round_index)
        is_there = output.exists()
        if is_there:
            self._folder.files.add_folder(output, MANIFEST)  # a killed loop may not have come to it
        if is_there or (self.is_recorded(round_index) and self.is_recorded(round_index + 1)):
            yield lambda: None
            return
        if self._config.overlap and self._shares_gpu:
            self._spend(round_index, wait=self._wait_for_server())
        self._reporter.phase(f"round {round_index}: train")
        started_from = None
        if self._config.train.start_from == "previous" and round_index > 0:
            started_from = self._folder.adapter(self._gate.answering(round_index - 1))

        def on_step(step: int, num_steps: int) -> None:
            if waiting:
                self._reporter.advance(step, f"of {num_steps} steps")

        waiting = False
        with ExitStack() as stack:
            stack.callback(self._connection.note_training, runs=False)
            self._connection.note_training(runs=True)
            training = stack.enter_context(
                self._start_training(
                    {
                        "config": self._folder.config,
                        "model": self._model,
                        "exemplars": self._folder.exemplars(),
                        "samples": self._folder.samples,
                        "before_round": round_index,
                        "previous": started_from,
                        "output": output,
                    },
                    self._folder.logs / f"train-{round_index:04d}.log",
                    TimeLimits.of(self._config.train),
                    on_step,
                    launch_of(self._config),
                )
            )

            def wait() -> None:
                nonlocal waiting
                waiting = True
                started = time.monotonic()
                # A server that can't start needs other settings: no training is waited for in vain.
                while not training.has_ended(_LOOK_SECONDS):
                    self._connection.check_first_start()
                training.result()
                self._connection.note_training(runs=False)
                self._folder.files.add_folder(output, MANIFEST)
                self._spend(round_index, train=time.monotonic() - started)

            self._wait_for_training = wait
            try:
                yield wait
            finally:
                self._wait_for_training = None

    @property
    def _shares_gpu(self) -> bool:
        """Whether a server and training do: then no server of ours starts beside a training.

        vLLM gives up where less than its share is free at its start, and takes what others allot or
        free before its KV cache is there for its own doing (docs/decisions.md, "One queue").
        """
        return placement_of(self._config).shared

    def answering(self, round_index: int) -> int:
        """Return the round whose adapter answers after this one's was trained.

        Where the gate decides, this round's is evaluated first.
        """
        if self._gate.enabled:
            self.ask(adapter=round_index, samples_of=self._config.rounds)
        return self._gate.answering(round_index)

    def ask(self, *, adapter: int, samples_of: int) -> None:
        """Have an adapter answer what is missing of its evaluation and of a round's samples.

        All go through one queue, the evaluation first, so that the server is never left waiting. A
        server that dies is started again: samples that were answered stay, an evaluation that
        wasn't complete begins anew.

        Args:
            adapter: round of the adapter that answers.
            samples_of: round that the samples belong to; the last one has none.

        Raises:
            ServerDiedError: it died more often than server.max_restarts allows.
        """
        allowed = self._config.server.max_restarts
        for number in range(allowed + 1):
            try:
                self._ask(adapter, samples_of)
                return
            except ServerDiedError as error:
                if number == allowed or not self._connection.has_answered:
                    raise
                logger.warning("%s\nstarting it again, %d of %d times", error, number + 1, allowed)
                if self._wait_for_training and self._shares_gpu:
                    self._reporter.phase("train, before a server starts on the same GPU")
                    self._wait_for_training()
                self._connection.restart()

    def _ask(self, adapter: int, samples_of: int) -> None:
        molecules = [] if self._is_evaluated(adapter) else self._planner.evaluated(adapter)
        n = self._config.generation.samples_per_molecule
        pending, hinted = self._missing(samples_of)
        if not molecules and not pending and not hinted:
            return
        self._serve(adapter)
        parts = (("evaluate", molecules), ("generate", pending))
        work = " and ".join(part for part, wanted in parts if wanted)
        num_asked = len(molecules) + len(pending) * n
        of_round = samples_of if pending else adapter
        self._reporter.phase(f"round {of_round}: {work}", num_asked)
        requests: Iterator[GenerationRequest[EvaluationQuestion | SampleQuestion]]
        requests = evaluation_requests(
            molecules, self._config, self._shown, plain_manner(self._config)
        )
        started = time.monotonic()
        with self._store.writer(samples_of) if pending or hinted else nullcontext() as writer:
            sampling = None
            if writer:
                rules = self._rules(samples_of)
                find_pool = partial(self._judges.pool, rules)
                asked = sample_requests(pending, self._config, self._shown, find_pool)
                requests = chain(requests, asked)
                accepted = self._accepted_texts()
                sampling = Sampling(samples_of, writer, rules, self._judges, accepted)
            queue = QuestionQueue(self._config, self._connection, self._reporter, sampling)
            try:
                self._connection.run(
                    queue.run(
                        requests,
                        len(molecules),
                        lambda answers: save_evaluation(
                            self._folder.evaluation(adapter), answers, self._folder.files
                        ),
                    )
                )
                if hinted:
                    self._reporter.phase(f"round {samples_of}: rationalize", len(hinted) * n)
                    self._connection.run(queue.run_hinted(hinted, self._task.exemplars))
            finally:
                self._account(adapter, samples_of, queue, time.monotonic() - started)

    def _is_evaluated(self, round_index: int) -> bool:
        """Tell whether an adapter is; one that was trained again, as it was damaged, is another."""
        if self.is_recorded(round_index):
            return True
        path = self._folder.evaluation(round_index)
        if not path.exists():
            return False
        known = {answer.adapter_sha256 for answer in load_evaluation(path, withdrawn=True)}
        return known <= {"", read_adapter(self._folder.adapter(round_index)).sha256}

    def _missing(self, round_index: int) -> tuple[list[Molecule], list[Molecule]]:
        """Return whom a round has yet to ask about, in the ordinary way and in sight of the value.

        Nobody once it is recorded: adapters were trained on what there was, and its plan may name
        others since, in the place of rows that were withdrawn.
        """
        if self._has_its_samples(round_index):
            return [], []
        plan = self._planner.plan(round_index)
        stored = self._store.molecule_indices(round_index) if plan.num_molecules else set()
        last = self._config.generation.samples_per_molecule - 1
        pending, hinted = (
            [molecule for molecule in wanted if (molecule.molecule_id, last) not in stored]
            for wanted in (plan.ordinary, plan.hinted)
        )
        return pending, hinted

    def record(self, round_index: int) -> None:
        """Derive and save a round's record, unless it is there and nothing was asked since."""
        spent = self._timings.pop(round_index, Timing())
        if self.is_recorded(round_index) and not (spent.num_generated or spent.evaluate):
            return
        before = self._records.get(round_index)
        timing = before.timing.renewed(spent) if before else spent
        adapter = read_adapter(self._folder.adapter(round_index))
        record = self._derive(round_index, timing, Trained.of(adapter))
        self._save(record)
        self._reporter.finish_round(record)
        self._on_record(record)

    def derive_records_again(self) -> None:
        """Bring the records of finished rounds in line with verdicts that have changed.

        What lacks samples or evaluation is recorded anew once it has them; until then its record
        says how many.
        """
        for index, record in self._records.items():
            measured = all(self._folder.evaluation(i).exists() for i in (0, index))
            if measured and not self._lacks_samples(record):
                self._save(self._derive(index, record.timing, Trained.recorded(record)))

    def _save(self, record: RoundRecord) -> None:
        save_record(self._folder, record)
        self._records[record.round] = record

    def _derive(self, round_index: int, timing: Timing, trained: Trained) -> RoundRecord:
        return derive_record(
            self._folder,
            self._config,
            self._task,
            trained=trained,
            round_index=round_index,
            timing=timing,
            answering=self._gate.answering(round_index),
        )

    def _rules(self, round_index: int) -> Rules:
        """Return what a round's samples are judged by; the check of claims is made once."""
        if self._has_false_claim is None:
            task, prop = self._task, self._config.property
            self._has_false_claim = finds_false(claims_check(task.split, task.exemplars, prop))
        tolerance = tolerance_of_round(self._store, round_index, self._config)
        return Rules.of(self._config, tolerance, self._has_false_claim)

    def _accepted_texts(self) -> AcceptedTexts:
        """Return what the run has accepted so far; read from the store once."""
        if self._accepted is None:
            self._accepted = AcceptedTexts(self._config.verdict.similarity)
            for molecule_id, reason in self._store.accepted_reasons():
                self._accepted.add(molecule_id, Fingerprint.of(reason))
        return self._accepted

    def _serve(self, adapter_round: int) -> None:
        """Swap to an adapter, if it isn't the one that answers."""
        adapter = read_adapter(self._folder.adapter(adapter_round))
        wait = self._wait_for_server()
        served = self._connection.served
        if (served.adapter, served.adapter_sha256) == (adapter.name, adapter.sha256):
            return
        self._reporter.phase(f"swap to {adapter.name}")
        self._spend(adapter_round, wait=wait, swap=self._connection.swap_to(adapter))

    def _wait_for_server(self) -> float:
        """Start it, if it wasn't, and return the seconds until it is ready."""
        started = time.monotonic()
        self._reporter.phase("wait for the server")
        self._connection.connect()
        return time.monotonic() - started

    def _account(self, adapter: int, samples_of: int, queue: QuestionQueue, seconds: float) -> None:
        """Share a queue's time between evaluating and generating, by output tokens."""
        num_tokens = queue.num_evaluation_tokens + queue.num_sample_tokens
        share = queue.num_sample_tokens / num_tokens if num_tokens else 0.0
        self._spend(adapter, evaluate=seconds * (1 - share))
        self._spend(
            samples_of,
            generate=seconds * share,
            num_generated=queue.num_samples,
            num_generated_tokens=queue.num_sample_tokens,
        )

    def _spend(self, round_index: int, **more: float) -> None:
        self._timings[round_index] += Timing(**more)  # type: ignore[arg-type]
