"""Ablations in, their adapters and answers out: each made once, in the run's folder.

What the run itself has made is used where it is the same: its last adapter is the loop's own way,
its first one knows the exemplars only.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow.compute as pc

from selfstudy_engine.data.adapters import Adapter, read_adapter
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.errors import RunFolderError, SelfStudyError
from selfstudy_engine.data.evaluations import Evaluated, save_evaluation
from selfstudy_engine.data.files import publish_folder, write_atomic
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import Molecule, Sample
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.engine.ablation_plan import AS_THE_LOOP, Ablation
from selfstudy_engine.engine.examiner import Examiner, kept_answers
from selfstudy_engine.engine.launching import Launch, launch_of
from selfstudy_engine.engine.reporter import Progress
from selfstudy_engine.engine.training import OnStep, TimeLimits

Train = Callable[[dict[str, object], Path, TimeLimits, OnStep, Launch], dict[str, Any]]
"""Trains an adapter and waits for it; `run_training` does it in a process of its own."""


class Workshop:
    """Makes what is missing.

    Args:
        folder: of the run; held by this process.
        config: of the run.
        model: folder or hub id of the base model.
        progress: told of every training.
        train: trains one adapter; see `run_training`.
    """

    def __init__(
        self, folder: RunFolder, config: RunConfig, model: str, progress: Progress, train: Train
    ) -> None:
        self._folder = folder
        self._config = config
        self._model = model
        self._progress = progress
        self._train = train
        self.round = config.rounds
        self.place = folder.ablations(self.round)
        self._store = SampleStore(folder.samples)
        self.num_samples = _num_accepted(self._store, self.round)

    def adapter(self, ablation: Ablation) -> Adapter:
        """Return the adapter of an ablation: the run's own where that is it, or a new one."""
        own = self._own_adapter(ablation)
        if own is not None:
            return own
        output = self.place / "adapters" / ablation.key
        if not output.exists():
            self._make(ablation, output)
        adapter = read_adapter(output)
        if not self._knows_what_is_accepted_now(adapter, ablation):
            raise RunFolderError(
                f"ablation {output} was trained on other samples than the run has accepted now; "
                f"move {self.place} away and run the command again"
            )
        return adapter

    def made(
        self, ablation: Ablation, test: list[Molecule]
    ) -> tuple[Adapter, list[Evaluated]] | None:
        """Return an ablation's adapter and answers, if they are whole and of the run as it is."""
        output = self.place / "adapters" / ablation.key
        try:
            adapter = self._own_adapter(ablation)
            if adapter is None and output.exists():
                adapter = read_adapter(output)
                if not self._knows_what_is_accepted_now(adapter, ablation):
                    return None
            answers = self._kept_answers(adapter, test) if adapter else None
        except SelfStudyError:  # damaged: said to who asks for it
            return None
        return (adapter, answers) if adapter and answers else None

    def _knows_what_is_accepted_now(self, adapter: Adapter, ablation: Ablation) -> bool:
        store, before = self._samples_of(ablation), self._before(ablation)
        known = adapter.training.get("samples_sha256")
        if known is None:  # of an earlier version
            return bool(adapter.training["num_samples"] == _num_accepted(store, before))
        return bool(known == store.fingerprint(before))

    def _own_adapter(self, ablation: Ablation) -> Adapter | None:
        """Return the run's own adapter, if it was trained as an ablation is to be."""
        otherwise = ablation.changes or ablation.reject or ablation.seed is not None
        if otherwise or self._config.train.start_from != "base":
            return None
        folder = self._folder.adapter(self._before(ablation))
        if not folder.exists():  # removed, to save disk space
            return None
        adapter = read_adapter(folder)
        return adapter if self._knows_what_is_accepted_now(adapter, ablation) else None

    def answers(
        self, examiner: Examiner, adapter: Adapter, test: list[Molecule]
    ) -> list[Evaluated]:
        """Return an adapter's answers to the test set: the run's own, kept ones, or new ones."""
        kept = self._kept_answers(adapter, test)
        if kept is not None:
            return kept
        found = examiner.ask(adapter, test)
        path = self._evaluation(adapter)
        path.parent.mkdir(parents=True, exist_ok=True)
        save_evaluation(path, found)
        return found

    def _kept_answers(self, adapter: Adapter, test: list[Molecule]) -> list[Evaluated] | None:
        in_run = self._folder.path / "evaluations" / f"{adapter.name}.parquet"
        for path in (in_run, self._evaluation(adapter)):
            kept = kept_answers(path, test, adapter, self._config.test_answers)
            if kept is not None:
                return kept
        return None

    def _evaluation(self, adapter: Adapter) -> Path:
        return self.place / "evaluations" / f"{adapter.name}.parquet"

    def _samples_of(self, ablation: Ablation) -> SampleStore:
        """Return the run's samples, under the verdicts that an ablation asks for."""
        if ablation.reject is None:
            return self._store
        target = self.place / "samples" / ablation.way
        if not target.exists():
            with publish_folder(target) as temporary:
                judged = SampleStore(temporary)
                for index in range(self.round):
                    samples = self._store.samples(index)
                    with judged.writer(index) as writer:
                        writer.add(_judge(sample, ablation.reject) for sample in samples)
        return SampleStore(target)

    def _before(self, ablation: Ablation) -> int:
        """Return the round before which samples are trained on."""
        return self.round if ablation.with_samples else 0

    def _make(self, ablation: Ablation, output: Path) -> None:
        self._progress.phase(f"train: {ablation.title}")
        changes: dict[str, str | int] = {**ablation.changes, "train.start_from": "base"}
        if ablation.seed is not None:
            changes["seed"] = ablation.seed
        if ablation.as_many_steps:
            changes["train.min_steps"] = self.adapter(AS_THE_LOOP).training["steps"]
        config = override(self._config, changes)
        path = self.place / f"{ablation.key}.toml"
        self.place.mkdir(parents=True, exist_ok=True)
        write_atomic(path, config.to_toml().encode())
        self._train(
            {
                "config": path,
                "model": self._model,
                "exemplars": self._folder.exemplars(),
                "samples": self._samples_of(ablation).folder,
                "before_round": self._before(ablation),
                "output": output,
            },
            self.place / "logs" / f"{ablation.key}.log",
            TimeLimits.of(config.train),
            lambda step, num_steps: self._progress.advance(step, f"of {num_steps} steps"),
            launch_of(config),
        )


def _num_accepted(store: SampleStore, before: int) -> int:
    return store.count(where=pc.field("accepted") & (pc.field("round") < before))


def _judge(sample: Sample, reject: frozenset[str]) -> Sample:
    rejections = tuple(finding for finding in sample.findings if finding in reject)
    return sample._replace(accepted=not rejections, rejections=rejections)
