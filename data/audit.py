"""What is wrong with a run's samples and adapters, found by reading all of both.

Nothing is changed by looking. `repair` does what loses nothing that is whole: a damaged shard is
set aside under another name, a sample that is there twice is kept once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from selfstudy_engine.data.adapters import read_adapter
from selfstudy_engine.data.errors import AdapterError, DamagedShardError
from selfstudy_engine.data.run_folder import RunFolder
from selfstudy_engine.data.schema import NO_ADAPTER, Sample
from selfstudy_engine.data.shards import set_aside
from selfstudy_engine.data.store import SampleStore

Key = tuple[str, int]
"""Molecule id and sample index: what a sample is called within its round."""

Kind = Literal[
    "damaged shard", "sample twice", "alien sample", "unproven adapter", "damaged adapter"
]
REMEDIES: dict[Kind, str] = {
    "damaged shard": "`store fsck --repair` sets it aside; the loop then asks again for it",
    "sample twice": "`store fsck --repair` keeps the first",
    "alien sample": "move the shard back to where it came from",
    "unproven adapter": "restore the adapter's folder: nothing else says which weights answered",
    "damaged adapter": "restore it, or delete its folder: the same command trains it again",
}


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that isn't as the loop wrote it."""

    kind: Kind
    path: Path
    """Relative to the run's folder."""
    detail: str


@dataclass(frozen=True, slots=True)
class Audit:
    """What was read, and what was found."""

    num_shards: int
    num_samples: int
    """In shards that can be read."""
    num_adapters: int
    set_aside: list[Path]
    """Shards that were found damaged before, relative to the run's folder."""
    problems: list[Problem]


def audit(folder: RunFolder) -> Audit:
    """Read every shard and every adapter of a run; one round's keys are in memory at a time.

    Raises:
        StoreError: a shard can't be opened.
    """
    store = SampleStore(folder.samples)
    # Listed first: a loop may be running, and publishes an adapter before what it answers.
    shards = {round_index: store.shards(round_index) for round_index in store.rounds()}
    problems: list[Problem] = []
    found = list(_check_adapters(folder, problems))
    hashes = dict(found)
    num_samples = 0
    for round_index, paths in shards.items():
        seen: set[Key] = set()
        for path in paths:
            shown = path.relative_to(folder.path)
            try:
                samples = store.load_shard(path)
            except DamagedShardError as error:
                problems.append(Problem("damaged shard", shown, str(error)))
                continue
            num_samples += len(samples)
            problems += _problems_of(samples, round_index, shown, hashes)
            _, repeated = _first_and_repeated(samples, seen)
            if repeated:
                names = f"{len(repeated)} samples, the first of {repeated[0].molecule_id}"
                problems.append(Problem("sample twice", shown, names))
    return Audit(
        sum(map(len, shards.values())),
        num_samples,
        len(found),
        [path.relative_to(folder.path) for path in store.set_aside()],
        problems,
    )


def _check_adapters(folder: RunFolder, problems: list[Problem]) -> Iterator[tuple[str, str]]:
    """Yield name and SHA-256 of each adapter that is what was published."""
    for path in sorted(folder.adapters.glob("[!.]*/")):
        try:
            adapter = read_adapter(path)
        except AdapterError as error:
            problems.append(Problem("damaged adapter", path.relative_to(folder.path), str(error)))
        else:
            yield adapter.name, adapter.sha256


def _problems_of(
    samples: list[Sample], round_index: int, path: Path, hashes: dict[str, str]
) -> Iterator[Problem]:
    rounds = {sample.round for sample in samples} - {round_index}
    if rounds:
        detail = f"samples of round {min(rounds)} in the folder of round {round_index}"
        yield Problem("alien sample", path, detail)
    hashes = hashes | {NO_ADAPTER: ""}
    for name, sha256 in sorted({(sample.adapter, sample.adapter_sha256) for sample in samples}):
        if name not in hashes:
            yield Problem("unproven adapter", path, f"samples name {name}, which isn't there whole")
        elif hashes[name] != sha256:
            detail = f"samples name {name} with SHA-256 {sha256[:12]}; it has {hashes[name][:12]}"
            yield Problem("unproven adapter", path, detail)


def _key(sample: Sample) -> Key:
    return sample.molecule_id, sample.sample_index


def _first_and_repeated(samples: list[Sample], seen: set[Key]) -> tuple[list[Sample], list[Sample]]:
    """Return the samples whose key is new, which is taken in, and those whose key was seen before.

    In place: a slow server's store has hundreds of thousands of shards.
    """
    first: list[Sample] = []
    repeated: list[Sample] = []
    for sample in samples:
        (repeated if _key(sample) in seen else first).append(sample)
        seen.add(_key(sample))
    return first, repeated


def repair(folder: RunFolder) -> tuple[Audit, Audit]:
    """Repair what can be without loss, while nobody else holds the run.

    Returns:
        What was found, and what is left.

    Raises:
        RunFolderError: a loop is running on it.
        OSError: the folder can't be written.
    """
    store = SampleStore(folder.samples, folder.files)
    with folder.locked():
        before = audit(folder)
        for problem in before.problems:
            if problem.kind == "damaged shard":
                set_aside(folder.path / problem.path, problem.detail)
        twice = {p.path.parent.name for p in before.problems if p.kind == "sample twice"}
        for index in store.rounds():
            if store.round_folder(index).name in twice:
                _keep_first(store, index)
        return before, audit(folder)


def _keep_first(store: SampleStore, round_index: int) -> None:
    seen: set[Key] = set()
    for path in store.shards(round_index):
        first, repeated = _first_and_repeated(store.load_shard(path), seen)
        if repeated:
            store.supersede(path, first)
