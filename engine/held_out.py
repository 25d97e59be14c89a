"""What an evaluation is about: the test set of a run, or of a table that no run belongs to."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Self

from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.exemplars import load_exemplars
from selfstudy_engine.data.run_folder import RunFolder, read_config
from selfstudy_engine.data.schema import Exemplar
from selfstudy_engine.data.splits import Split
from selfstudy_engine.data.task import load_table, split_of_run, split_table
from selfstudy_engine.engine.subjects import Subject, find_subject

_ASKED_BY = {"template", "prompt_exemplars", "max_tokens"}
"""Settings of generating that greedy answers depend on."""


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
        as_before, as_now = (
            one.generation.model_dump(include=_ASKED_BY) for one in (read_config(folder), config)
        )
        if as_now != as_before:  # what is kept answered other questions
            subjects = [replace(subject, kept=None) for subject in subjects]
        exemplars = load_exemplars(folder.exemplars())
        return cls(config, split_of_run(folder, config), exemplars, subjects)

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
        return cls(config, split, exemplars, subjects)
