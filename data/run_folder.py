"""Where everything of a run lies. Progress is what exists there, never a counter kept beside it."""

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import orjson

from selfstudy_engine.data.config import RunConfig, settle_config
from selfstudy_engine.data.config_keys import flatten, read_toml
from selfstudy_engine.data.errors import InUseError, RunFolderError
from selfstudy_engine.data.files import ON_DISK, Files, is_temporary, lock, make_folder
from selfstudy_engine.data.hardware import describe_host

FORMAT = 1
"""Layout of a run folder; another number means another, incompatible layout."""


_BEFORE_THERE_WAS_A_CHOICE = {"train.sample_weights": "equal", "property.digits": 1}
"""What runs did whose run.toml has no such key; they go on so."""


@dataclass(frozen=True, slots=True)
class RunFolder:
    """The paths of one run."""

    path: Path
    files: Files = ON_DISK
    """How what lies there is written."""

    @property
    def config(self) -> Path:
        """The resolved configuration."""
        return self.path / "run.toml"

    @property
    def identity(self) -> Path:
        """Format, versions and host: run.json."""
        return self.path / "run.json"

    @property
    def metrics(self) -> Path:
        """One JSON line for each finished round."""
        return self.path / "metrics.jsonl"

    @property
    def report(self) -> Path:
        """What the run learned, to look at."""
        return self.path / "report.html"

    @property
    def samples(self) -> Path:
        """The store."""
        return self.path / "samples"

    @property
    def adapters(self) -> Path:
        """One folder for each adapter."""
        return self.path / "adapters"

    @property
    def split(self) -> Path:
        """The split that the run began with."""
        return self.path / "split.parquet"

    @property
    def logs(self) -> Path:
        """What the server and the training processes wrote."""
        return self.path / "logs"

    def adapter(self, round_index: int) -> Path:
        """The adapter that answers in this round; round 0's knows the exemplars only."""
        return self.adapters / f"round-{round_index:04d}"

    def evaluation(self, round_index: int) -> Path:
        """What this round's adapter answered on the test set and on trained molecules."""
        return self.path / "evaluations" / f"round-{round_index:04d}.parquet"

    def ablations(self, round_index: int) -> Path:
        """Adapters trained otherwise on what this round's adapter was trained on; see `ablate`."""
        return self.path / "ablations" / f"round-{round_index:04d}"

    def exemplars(self) -> Path:
        """The exemplars of this run, fixed when it began."""
        return self.path / "exemplars.jsonl"

    @property
    def teacher_answers(self) -> Path:
        """What a teacher answered before the run began; see `engine.teacher_cache`."""
        return self.path / "teacher" / "answers.jsonl"

    def update_config(self, config: RunConfig) -> None:
        """Write the configuration of a continued run, if it changed, while holding the run."""
        # The file itself: trainings read it, and know nothing of what earlier versions left out.
        content = config.to_toml().encode()
        if self.config.read_bytes() != content:
            self.files.replace(self.config, content)

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the run for this process; the lock goes with the process, however it ends.

        Raises:
            InUseError: another process holds it.
            OSError: the folder can't be written, or its file system has no locks.
        """
        with (self.path / ".lock").open("a+") as file:
            try:
                lock(file)
            except BlockingIOError as error:
                file.seek(0)
                raise InUseError(
                    f"run {self.path} is in use by {file.read().strip() or 'another process'}; "
                    "wait for it, end it, or choose another --run"
                ) from error
            with suppress(OSError):  # of a full disk: it is held all the same
                os.truncate(file.fileno(), 0)
                os.write(file.fileno(), f"process {os.getpid()} on {socket.gethostname()}".encode())
            yield


def open_run(
    root: Path,
    config: RunConfig,
    task_fingerprint: str = "",
    command: str = "",
    files: Files = ON_DISK,
) -> RunFolder:
    """Make a run's folder, or open it again with a configuration that continues it.

    Args:
        root: folder of all runs.
        config: resolved.
        task_fingerprint: of the table and its split.
        command: command line that begins the run, kept in run.json.
        files: how the folder's files are written.

    Raises:
        RunFolderError: the folder is another format's, or of a configuration that differs in more
            than a higher number of rounds and how the server runs; each difference is named.
        InUseError: another process makes it.
        OSError: the folder can't be written.
    """
    folder = RunFolder(root / config.name, files)
    if not folder.identity.exists():
        check_unused(folder, config)
        make_folder(folder.path)
        with folder.locked():
            if not folder.identity.exists():  # another first start may have been quicker
                _make(folder, config, task_fingerprint, command)
    check_configuration(folder, read_config(folder), config)
    made_with = orjson.loads(folder.identity.read_bytes()).get("task")
    if made_with != task_fingerprint and not folder.split.exists():
        raise RunFolderError(
            f"the table behind run {folder.path} has changed since the run began (molecules or "
            "values), and an earlier version made the run, which kept no split; restore the "
            "table, or choose another --run"
        )
    return folder


def _make(folder: RunFolder, config: RunConfig, task_fingerprint: str, command: str) -> None:
    for path in (folder.samples, folder.adapters, folder.logs, folder.evaluation(0).parent):
        make_folder(path)
    folder.files.replace(folder.config, config.to_toml().encode())
    # Last: its presence says that the folder is complete.
    identity = {
        "format": FORMAT,
        "name": config.name,
        "seed": config.seed,
        "task": task_fingerprint,
        "command": command,
        **describe_host(),
    }
    folder.files.replace(folder.identity, orjson.dumps(identity, option=orjson.OPT_INDENT_2))


def check_configuration(folder: RunFolder, before: RunConfig, config: RunConfig) -> None:
    """Refuse to go on with a run otherwise than it was begun.

    Args:
        folder: of the run.
        before: what it has had.
        config: what it is to have.

    Raises:
        RunFolderError: more differs than a higher number of rounds and how the server runs; each
            difference is named.
    """
    differences = before.differences(config)
    if differences:
        raise RunFolderError(
            f"run folder {folder.path} was made with another configuration "
            f"({'; '.join(differences)}); use the same, or another --run"
        )
    if config.rounds < before.rounds:
        raise RunFolderError(
            f"run folder {folder.path} was made with {before.rounds} rounds, more than the "
            f"{config.rounds} asked for; give --rounds {before.rounds} or more"
        )


def check_unused(folder: RunFolder, config: RunConfig) -> None:
    """Refuse a folder that holds more than a start left behind which was killed.

    Raises:
        RunFolderError: it isn't empty, and isn't a run; or its teacher was being asked, and this
            configuration has none.
    """
    if folder.teacher_answers.exists() and config.teacher.url is None:
        raise RunFolderError(
            f"run {folder.path} was stopped while its teacher was asked; use the same options "
            "again, --teacher-url among them, or another --run"
        )
    left = (folder.config, folder.path / ".lock", folder.teacher_answers)
    files = (path for path in folder.path.rglob("*") if path.is_file())
    if any(path not in left and not is_temporary(path) for path in files):
        raise RunFolderError(
            f"folder {folder.path} isn't empty and isn't a run; choose another --run"
        )


def find_run(root: Path, name: str) -> RunFolder:
    """Return an existing run.

    Raises:
        RunFolderError: there is none of that name; those that there are, are listed.
    """
    folder = RunFolder(root / name)
    if not folder.identity.exists():
        known = sorted(path.parent.name for path in root.glob("*/run.json"))
        raise RunFolderError(
            f"no run {name!r} in {root} (there: {', '.join(known) or 'none'}); "
            "make one with `selfstudy-engine loop`, name its folder's parent with --runs, or get "
            "it from S3 with `selfstudy-engine store pull`"
        )
    return folder


def read_config(folder: RunFolder) -> RunConfig:
    """Return the configuration that a run was made with.

    Raises:
        RunFolderError: the folder's format is another one than this version's.
    """
    try:
        identity = orjson.loads(folder.identity.read_bytes())
        made_with = identity["format"]
    except (OSError, orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise RunFolderError(f"{folder.identity} is damaged ({error}); restore it") from error
    if made_with != FORMAT:
        raise RunFolderError(
            f"run folder {folder.path} has format {made_with}, this version reads {FORMAT}; "
            f"use selfstudy-engine {identity.get('versions', {}).get('selfstudy-engine')}"
        )
    known = _BEFORE_THERE_WAS_A_CHOICE | flatten(read_toml(folder.config))
    return settle_config(known, {}, path=folder.config)
