"""Opening a run, going on with it, and keeping others away from it."""

import errno
import fcntl
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import orjson
import pytest

from selfstudy_engine.data import run_folder as run_folder_module
from selfstudy_engine.data.config import RunConfig, load_config
from selfstudy_engine.data.errors import InUseError, RunFolderError
from selfstudy_engine.data.hardware import describe_host
from selfstudy_engine.data.os_errors import explain
from selfstudy_engine.data.run_folder import RunFolder, find_run, open_run, read_config


def config_of(**values: Any) -> RunConfig:
    return load_config(None, {"name": "mine"} | values)


def test_a_new_run_holds_its_configuration_and_where_it_was_made(tmp_path: Path) -> None:
    folder = open_run(tmp_path / "runs", config_of(seed=5))
    assert folder.path == tmp_path / "runs" / "mine"
    assert read_config(folder) == config_of(seed=5)
    identity = orjson.loads(folder.identity.read_bytes())
    assert (identity["format"], identity["name"], identity["seed"]) == (1, "mine", 5)
    assert identity["versions"]["python"].startswith("3.")
    assert identity["host"]["num_cpus"] >= 1
    for path in (folder.samples, folder.adapters, folder.logs, folder.evaluation(3).parent):
        assert path.is_dir()


def test_of_two_first_starts_at_once_one_makes_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All of it: what its files say is of one call."""

    def meanwhile() -> dict[str, Any]:
        with pytest.raises(InUseError, match="is in use by process"):
            open_run(tmp_path, config_of(seed=1))
        return describe_host()

    monkeypatch.setattr(run_folder_module, "describe_host", meanwhile)
    folder = open_run(tmp_path, config_of(seed=2))
    assert read_config(folder).seed == orjson.loads(folder.identity.read_bytes())["seed"] == 2


def test_the_same_configuration_opens_it_again(tmp_path: Path) -> None:
    first = open_run(tmp_path, config_of())
    before = first.identity.read_bytes(), first.config.read_bytes()
    assert open_run(tmp_path, config_of()) == first
    assert (first.identity.read_bytes(), first.config.read_bytes()) == before


def test_another_configuration_is_refused_by_key(tmp_path: Path) -> None:
    folder = open_run(tmp_path, config_of())
    before = folder.config.read_bytes()
    with pytest.raises(RunFolderError, match=r"seed: 0 -> 1; train\.rank: 16 -> 8.*--run"):
        open_run(tmp_path, config_of(**{"train.rank": 8, "seed": 1}))
    assert folder.config.read_bytes() == before


def test_rounds_may_grow_and_the_server_may_change(tmp_path: Path) -> None:
    folder = open_run(tmp_path, config_of(rounds=3))
    changed = {"rounds": 5, "server.block_size": 16, "server.extra_args": ["--x"]}
    open_run(tmp_path, config_of(**changed)).update_config(config_of(**changed))
    assert read_config(folder) == config_of(**changed)
    with pytest.raises(RunFolderError, match=r"5 rounds, more than the 4.*--rounds 5"):
        open_run(tmp_path, config_of(rounds=4))


def test_a_run_of_another_format_is_refused(tmp_path: Path) -> None:
    folder = open_run(tmp_path, config_of())
    identity = orjson.loads(folder.identity.read_bytes())
    identity |= {"format": 99, "versions": {"selfstudy-engine": "9.9"}}
    folder.identity.write_bytes(orjson.dumps(identity))
    with pytest.raises(RunFolderError, match=r"format 99.*reads 1.*selfstudy-engine 9\.9"):
        open_run(tmp_path, config_of())


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b"3"])
def test_a_damaged_identity_is_named(tmp_path: Path, content: bytes) -> None:
    folder = open_run(tmp_path, config_of())
    folder.identity.write_bytes(content)
    with pytest.raises(RunFolderError, match=r"run\.json is damaged"):
        read_config(folder)


def test_an_alien_folder_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    with pytest.raises(RunFolderError, match="isn't empty and isn't a run"):
        open_run(tmp_path, config_of())
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["thesis.tex"]


def test_a_teachers_answers_may_be_there_before_the_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "mine")
    folder.teacher_answers.parent.mkdir(parents=True)
    folder.teacher_answers.write_text("{}\n", "utf-8")
    with pytest.raises(RunFolderError, match="was stopped while its teacher was asked"):
        open_run(tmp_path, config_of())
    taught = config_of(**{"teacher.url": "http://127.0.0.1:9/v1"})
    assert open_run(tmp_path, taught) == folder
    assert folder.teacher_answers.exists()


def test_a_run_of_an_earlier_version_goes_on_as_it_was(tmp_path: Path) -> None:
    """It wrote values without zeros ahead, and its samples had no weights."""
    folder = open_run(tmp_path, config_of(**{"train.sample_weights": "balanced"}))
    new = read_config(folder)
    assert (new.property.digits, new.train.sample_weights) == (3, "balanced")
    lines = folder.config.read_text("utf-8").splitlines()
    old = [line for line in lines if not line.startswith(("digits", "sample_weights"))]
    assert len(old) == len(lines) - 2
    folder.config.write_text("\n".join(old), "utf-8")
    found = read_config(folder)
    assert (found.property.digits, found.train.sample_weights) == (1, "equal")
    folder.update_config(found)
    assert load_config(folder.config) == found, "trainings read the file"


def test_what_a_kill_left_of_a_start_may_become_a_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "mine")
    folder.path.mkdir()
    for name in ("run.toml", ".run.json.4194305.tmp"):
        (folder.path / name).write_text("half")
    assert open_run(tmp_path, config_of()) == folder
    assert not list(folder.path.glob(".*.tmp"))


def test_an_empty_folder_may_become_a_run(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    assert open_run(tmp_path, config_of()).identity.exists()


@pytest.mark.parametrize("made", [["samples"], ["samples", "adapters", "logs"], ["run.toml"]])
def test_a_run_that_was_killed_while_it_was_made_is_made_again(
    tmp_path: Path, made: list[str]
) -> None:
    complete = open_run(tmp_path / "other", config_of())
    (tmp_path / "mine").mkdir()
    for name in made:
        if (complete.path / name).is_dir():
            (tmp_path / "mine" / name).mkdir()
        else:
            (tmp_path / "mine" / name).write_bytes((complete.path / name).read_bytes())
    assert read_config(open_run(tmp_path, config_of())) == config_of()


def test_a_run_that_is_not_there_lists_those_that_are(tmp_path: Path) -> None:
    with pytest.raises(RunFolderError, match=r"no run 'x' in .*\(there: none\).*--runs"):
        find_run(tmp_path, "x")
    open_run(tmp_path, config_of())
    assert find_run(tmp_path, "mine").path == tmp_path / "mine"
    with pytest.raises(RunFolderError, match=r"\(there: mine\)"):
        find_run(tmp_path, "x")


HOLD = """
import sys, time
from pathlib import Path
from selfstudy_engine.data.run_folder import RunFolder

with RunFolder(Path(sys.argv[1])).locked():
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A process that holds the run."""
    folder = open_run(tmp_path, config_of())
    command = [sys.executable, "-c", HOLD, str(folder.path)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            assert process.stdout.readline() == b"held\n"
            yield process
        finally:
            process.kill()


def test_a_lock_is_refused_while_held_and_goes_with_its_process(
    tmp_path: Path, holder: subprocess.Popen[bytes]
) -> None:
    folder = RunFolder(tmp_path / "mine")
    message = re.escape(f"in use by process {holder.pid} on ")
    with pytest.raises(RunFolderError, match=message), folder.locked():
        pass
    holder.kill()
    holder.wait()
    with folder.locked():
        pass
    with folder.locked():
        pass


def test_a_file_system_without_locks_is_named_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lustre as it is mounted by default, NFS without its lock service."""
    folder = open_run(tmp_path, config_of())

    def refuse(*arguments: object) -> None:
        raise OSError(errno.ENOSYS, "Function not implemented")

    monkeypatch.setattr(fcntl, "flock", refuse)
    with pytest.raises(OSError, match="not implemented") as caught, folder.locked():
        pass
    assert explain(caught.value) == (
        f"{folder.path}/.lock: Function not implemented; choose a folder on a file system with "
        "locks (Lustre: mounted with -o flock)"
    )


def test_the_lock_goes_with_an_error(tmp_path: Path) -> None:
    folder = open_run(tmp_path, config_of())
    with pytest.raises(ZeroDivisionError), folder.locked():
        raise ZeroDivisionError
    with folder.locked():
        pass
