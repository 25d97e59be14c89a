"""The round - train, swap, evaluate, generate - and how a run goes on where it stopped.

The only place that sees the whole circle. What is done is read from the run folder: an adapter, an
evaluation or a round's samples that exist are never made again.
"""

import asyncio
import random
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Protocol

import orjson

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.config import RunConfig
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.evaluations import save_evaluation
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.files import write_atomic
from selfstudy_engine.data.prompts import STOP, render_prompt
from selfstudy_engine.data.run_folder import RunFolder, open_run
from selfstudy_engine.data.schema import Exemplar, Molecule, Sample
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import Task, configured_exemplars, load_task, resolve_model
from selfstudy_engine.engine.client import Generated, SamplingParams
from selfstudy_engine.engine.connection import Connection, open_connection
from selfstudy_engine.engine.evaluate import evaluate
from selfstudy_engine.engine.rounds import (
    RoundRecord,
    Timing,
    derive_record,
    load_records,
    save_record,
)
from selfstudy_engine.engine.sampler import molecules_of_round
from selfstudy_engine.engine.teacher import teach
from selfstudy_engine.engine.training import run_training
from selfstudy_engine.engine.verify import verify


class Reporter(Protocol):
    """Where a loop says what it does."""

    def phase(self, name: str, total: int | None = None) -> None:
        """A phase begins, with so many things to do."""

    def advance(self, done: int, detail: str = "") -> None:
        """So many of them are done."""

    def finish_round(self, record: RoundRecord) -> None:
        """A round is done."""


def run_loop(
    config: RunConfig, runs: Path, reporter: Reporter, server_key: str = ""
) -> list[RoundRecord]:
    """Run a loop to its end, or continue it.

    Args:
        config: resolved.
        runs: folder of all runs.
        reporter: told of every phase and round.
        server_key: API key of the server at config.server.url.

    Returns:
        The records of all rounds: 0 to config.rounds.

    Raises:
        SelfStudyError: what went wrong; the same command continues the run once it is repaired.
    """
    placement_of(config)  # a device that isn't there is refused before anything is done
    model = resolve_model(config)
    before = runs / config.name / "exemplars.jsonl"
    task = load_task(config, load_exemplars(before) if before.exists() else _exemplars(config))
    folder = open_run(runs, config, task.fingerprint)
    with folder.locked():
        folder.update_config(config)
        _fix_exemplars(folder, task.exemplars)
        if _is_finished(folder, config, task):
            return load_records(folder)
        # An own server gets ready while the first adapter is trained, unless they share a GPU.
        with open_connection(config, model, folder.logs / "server.log", server_key) as connection:
            session = _Session(
                config, folder, task, model=model, connection=connection, reporter=reporter
            )
            for round_index in range(config.rounds + 1):
                session.run_round(round_index)
    return load_records(folder)


def _exemplars(config: RunConfig) -> list[Exemplar]:
    return asyncio.run(teach(config)) if config.teacher.url else configured_exemplars(config)


def _fix_exemplars(folder: RunFolder, exemplars: list[Exemplar]) -> None:
    """Keep a run's exemplars as they were when it began."""
    if folder.exemplars().exists():
        return
    lines = [
        orjson.dumps(
            {
                "name": exemplar.molecule.name,
                "smiles": exemplar.molecule.smiles,
                "value": exemplar.molecule.value,
                "reason": exemplar.reason,
            }
        )
        for exemplar in exemplars
    ]
    write_atomic(folder.exemplars(), b"\n".join(lines) + b"\n")


def _plan(config: RunConfig, task: Task, round_index: int) -> list[Molecule]:
    if round_index >= config.rounds:  # the last adapter is only measured
        return []
    num_molecules = config.generation.batch // config.generation.samples_per_molecule
    return molecules_of_round(task.split.pool, round_index, num_molecules, config.seed)


def _is_finished(folder: RunFolder, config: RunConfig, task: Task) -> bool:
    """Tell whether nothing is left to do, without starting a server."""
    recorded = {record.round for record in load_records(folder)}
    last_before = config.rounds - 1
    planned = len(_plan(config, task, last_before)) * config.generation.samples_per_molecule
    return recorded >= set(range(config.rounds + 1)) and (
        SampleStore(folder.samples).count(last_before) >= planned
    )


class _Session:
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
    ) -> None:
        self._config = config
        self._folder = folder
        self._task = task
        self._model = model
        self._connection = connection
        self._reporter = reporter
        self._store = SampleStore(folder.samples)
        self._shown = task.exemplars[: config.generation.prompt_exemplars]

    def run_round(self, round_index: int) -> None:
        """Do what is left of a round, and record it."""
        planned = _plan(self._config, self._task, round_index)
        num_planned = len(planned) * self._config.generation.samples_per_molecule
        evaluated = self._folder.evaluation(round_index).exists()
        complete = evaluated and self._store.count(round_index) >= num_planned
        recorded = next((r for r in load_records(self._folder) if r.round == round_index), None)
        if complete and recorded and recorded.num_completions >= num_planned:
            return
        started = time.monotonic()
        adapter = self._train(round_index)
        timing = Timing(train=time.monotonic() - started)
        if not complete:
            timing = self._serve(adapter, timing)
            if not evaluated:
                timing = self._evaluate(round_index, timing)
            timing = self._generate(round_index, planned, timing)
        if recorded and complete:
            timing = recorded.timing
        record = derive_record(
            self._folder,
            self._config,
            self._task,
            adapter=adapter,
            round_index=round_index,
            timing=timing,
        )
        save_record(self._folder, record)
        self._reporter.finish_round(record)

    def _train(self, round_index: int) -> Adapter:
        folder = self._folder.adapter(round_index)
        if not folder.exists():
            self._reporter.phase(f"round {round_index}: train")
            previous = None
            if self._config.train.start_from == "previous" and round_index > 0:
                previous = self._folder.adapter(round_index - 1)
            run_training(
                {
                    "config": self._folder.config,
                    "model": self._model,
                    "exemplars": self._folder.exemplars(),
                    "samples": self._folder.samples,
                    "before_round": round_index,
                    "previous": previous,
                    "output": folder,
                },
                self._folder.logs / f"train-{round_index:04d}.log",
                self._config.train.timeout_seconds,
                lambda step, total: self._reporter.advance(step, f"of {total} steps"),
                placement_of(self._config).train,
            )
        return read_adapter(folder)

    def _serve(self, adapter: Adapter, timing: Timing) -> Timing:
        started = time.monotonic()
        self._reporter.phase("wait for the server")
        self._connection.connect()
        wait = time.monotonic() - started
        self._reporter.phase(f"swap to {adapter.name}")
        return replace(timing, wait=wait, swap=self._connection.swap_to(adapter))

    def _evaluate(self, round_index: int, timing: Timing) -> Timing:
        started = time.monotonic()
        molecules = [("test", molecule) for molecule in self._task.split.test]
        molecules += [("train", molecule) for molecule in self._trained_molecules(round_index)]
        self._reporter.phase(f"round {round_index}: evaluate", len(molecules))
        done = iter(range(1, len(molecules) + 1))
        answers = self._connection.run(
            evaluate(
                self._connection.client,
                self._connection.served,
                molecules,
                self._config,
                shown=self._shown,
                on_answer=lambda _: self._reporter.advance(next(done)),
            )
        )
        save_evaluation(self._folder.evaluation(round_index), answers)
        return replace(timing, evaluate=time.monotonic() - started)

    def _trained_molecules(self, round_index: int) -> list[Molecule]:
        """Return molecules that this round's adapter was trained on, a random part of them."""
        accepted = {
            sample.molecule_id: Molecule(
                sample.molecule_id, sample.name, sample.smiles, sample.measured
            )
            for sample in self._store.accepted(round_index)
        }
        chosen = sorted(accepted)
        size = min(self._config.train_evaluation_size, len(chosen))
        generator = random.Random(f"{self._config.seed}:{round_index}")
        return [accepted[key] for key in sorted(generator.sample(chosen, size))]

    def _generate(self, round_index: int, planned: list[Molecule], timing: Timing) -> Timing:
        if not planned:
            return timing
        started = time.monotonic()
        num_tokens, num_generated = self._connection.run(
            self._generate_samples(round_index, planned)
        )
        return replace(
            timing,
            generate=time.monotonic() - started,
            num_generated=num_generated,
            num_generated_tokens=num_tokens,
        )

    async def _generate_samples(self, round_index: int, planned: list[Molecule]) -> tuple[int, int]:
        """Ask about all molecules that have no samples yet; return tokens and completions."""
        generation = self._config.generation
        n = generation.samples_per_molecule
        params = SamplingParams(
            n=n,
            temperature=generation.temperature,
            top_p=generation.top_p,
            max_tokens=generation.max_tokens,
            stop=(STOP,),
        )
        num_tokens = num_generated = 0
        with self._store.writer(round_index) as writer:
            pending = [m for m in planned if (m.molecule_id, n - 1) not in writer]
            self._reporter.phase(f"round {round_index}: generate", len(pending) * n)
            prompts = ((molecule, self._prompt(molecule)) for molecule in pending)
            client, model = self._connection.client, self._connection.served.model
            async for generated in client.generate(model, prompts, params):
                samples = list(self._to_samples(round_index, generated))
                writer.add(samples)
                num_tokens += sum(sample.num_output_tokens for sample in samples)
                num_generated += len(samples)
                self._reporter.advance(
                    num_generated, f"{writer.num_durable_accepted} accepted and stored"
                )
        return num_tokens, num_generated

    def _prompt(self, molecule: Molecule) -> str:
        return render_prompt(molecule, self._config.property, self._shown)

    def _to_samples(self, round_index: int, generated: Generated[Molecule]) -> Iterator[Sample]:
        molecule, served = generated.item, self._connection.served
        prompt = self._prompt(molecule)
        for index, completion in enumerate(generated.completions):
            verdict = verify(completion, molecule, self._config.property)
            yield Sample(
                run=self._config.name,
                round=round_index,
                molecule_id=molecule.molecule_id,
                sample_index=index,
                adapter=served.adapter,
                adapter_sha256=served.adapter_sha256,
                name=molecule.name,
                smiles=molecule.smiles,
                measured=molecule.value,
                prompt=prompt,
                completion=completion.text,
                finish_reason=completion.finish_reason,
                num_prompt_tokens=completion.num_prompt_tokens,
                num_output_tokens=completion.num_output_tokens,
                reason=verdict.reason,
                predicted=verdict.predicted,
                error=verdict.error,
                accepted=verdict.accepted,
                rejections=verdict.rejections,
                created_at=time.time(),
            )
