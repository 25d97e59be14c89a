"""What an evaluation is about: the test set of a run, or of a table that no run belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from selfstudy_engine.data.adapters import Adapter
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.schema import Exemplar, Molecule
from selfstudy_engine.data.splits import Split, unrelated
from selfstudy_engine.data.store import SampleStore
from selfstudy_engine.data.task import load_table, split_of_run, split_table
from selfstudy_engine.engine.rounds import load_records
from selfstudy_engine.engine.subjects import Subject, find_subject

_ASKED_BY = {"template", "prompt_exemplars", "max_tokens"}
"""Settings of generating that greedy answers depend on."""
_SAMPLED_BY = {"temperature", "top_p"}
"""Those that several answers depend on, too."""


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A test set, and whom it is put to."""

    config: RunConfig
    split: Split
    exemplars: list[Exemplar]
    subjects: list[Subject]
    """The one that is measured, then those that it is compared with."""

    @property
    def shown(self) -> list[Exemplar]:
        """Exemplars in each prompt."""
        return self.exemplars[: self.config.generation.prompt_exemplars]

    @classmethod
    def of_run(cls, folder: RunFolder, config: RunConfig, names: Sequence[str]) -> Self:
        """Return a run's test set.

        Args:
            folder: of the run.
            config: the run's, with the settings of this call.
            names: of the subjects; see `find_subject`.

        Raises:
            UsageError: a name means nothing.
        """
        subjects = [find_subject(name, folder) for name in names]
        settings = _ASKED_BY | (_SAMPLED_BY if config.test_answers > 1 else set())
        as_before, as_now = (
            one.generation.model_dump(include=settings) for one in (read_config(folder), config)
        )
        if as_now != as_before:  # what is kept answered other questions
            subjects = [replace(subject, kept=None) for subject in subjects]
        exemplars = load_exemplars(folder.exemplars())
        return cls._of(config, split_of_run(folder, config), exemplars, subjects)

    @classmethod
    def of_table(cls, config: RunConfig, names: Sequence[str]) -> Self:
        """Return the test set that a loop would hold out of a table.

        Adapters bring their base model along, where the configuration names none.

        Raises:
            UsageError: a name means nothing without a run, or the table can't be used.
        """
        subjects = [find_subject(name, None) for name in names]
        adapters = [subject.adapter for subject in subjects if subject.adapter]
        if adapters:
            needed: dict[str, str | int] = {"train.rank": max(one.rank for one in adapters)}
            if config.model.path is None:
                needed["model.path"] = adapters[0].base_model
            config = override(config, needed)
        split, exemplars = split_table(load_table(config), config)
        return cls._of(config, split, exemplars, subjects)

    @classmethod
    def _of(
        cls,
        config: RunConfig,
        split: Split,
        exemplars: list[Exemplar],
        subjects: Sequence[Subject],
    ) -> Self:
        noted = [_note_what_it_knows(subject, split.test) for subject in subjects]
        return cls(config, split, exemplars, noted)


def _note_what_it_knows(subject: Subject, test: Sequence[Molecule]) -> Subject:
    """Note where an adapter was, or may have been, trained on molecules of the test set."""
    if subject.adapter is None:
        return subject
    trained_on = _trained_on(subject.adapter)
    if trained_on is None:
        note = f"What {subject.label} was trained on isn't known: the test set may hold some of it."
    else:
        num_known = len(test) - len(unrelated(test, trained_on))
        if not num_known:
            return subject
        note = (
            f"{subject.label} was trained on {num_known} of the {len(test)} test molecules, or on "
            "relatives of theirs (stereoisomers, salts or tautomers): it looks better here than it "
            "is."
        )
    return replace(subject, note=f"{subject.note} {note}".lstrip())


def _trained_on(adapter: Adapter) -> list[Molecule] | None:
    """Return the molecules of exemplars and accepted samples behind a run's adapter.

    Of an adapter that lies in no run, as where it was copied, that isn't known: None.
    """
    place = adapter.folder.resolve()
    run = RunFolder(place.parent.parent)
    rounds = [record.round for record in load_records(run) if run.adapter(record.round) == place]
    if not rounds:
        return None
    store = SampleStore(run.samples)
    known = [exemplar.molecule for exemplar in load_exemplars(run.exemplars())]
    for index in range(rounds[0]):
        known += store.accepted_molecules(index).values()
    return known
