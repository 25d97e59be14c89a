"""Files and folders that appear whole or not at all."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfstudy_engine.data import files
from selfstudy_engine.data.files import (
    is_temporary,
    make_folder,
    publish_folder,
    sha256_of,
    write_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_atomic(path, b"one")
    write_atomic(path, b"two")
    assert path.read_bytes() == b"two"
    assert names(tmp_path) == ["a.json"]


def test_a_full_disk_keeps_the_old_content(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes(b"old")
    script = (
        "import resource, sys; from pathlib import Path\n"
        "from selfstudy_engine.data.files import write_atomic\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "write_atomic(Path(sys.argv[1]), bytes(1000))\n"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "a.json")]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "File too large" in result.stderr
    assert (tmp_path / "a.json").read_bytes() == b"old"
    assert names(tmp_path) == ["a.json"]


def test_what_a_killed_process_left_is_swept_and_a_living_ones_stays(tmp_path: Path) -> None:
    """make chaos found what a kill just before the rename leaves."""
    script = (
        "import os, sys; from pathlib import Path\n"
        "from selfstudy_engine.data import files\n"
        "files.os.fsync = lambda file: os.kill(os.getpid(), 9)\n"
        "files.write_atomic(Path(sys.argv[1]), b'half')\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "a.json")], check=False)
    [left] = tmp_path.iterdir()
    assert is_temporary(left)
    parent = os.getppid()
    start = Path(f"/proc/{parent}/stat").read_text().rpartition(")")[2].split()[19]
    living = tmp_path / f".a.json.{parent}-{start}.tmp"
    before = tmp_path / f".a.json.{parent}-{int(start) - 1}.tmp"  # it had the same number
    before.write_bytes(b"half")
    other = tmp_path / ".b.json.4194305.tmp"  # no process has such a number
    mine = tmp_path / ".a.json.old.tmp"
    for path in (living, other, mine):
        path.write_bytes(b"half")
    write_atomic(tmp_path / "a.json", b"whole")
    assert set(tmp_path.iterdir()) == {tmp_path / "a.json", living, other, mine}


def test_a_target_that_is_a_folder_leaves_nothing_behind(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    with pytest.raises(IsADirectoryError) as refused:
        write_atomic(tmp_path / "a", b"content")
    assert refused.value.filename == str(tmp_path / "a")
    assert names(tmp_path) == ["a"]


def test_what_cant_be_written_is_named_as_it_was_asked_for(tmp_path: Path) -> None:
    path = tmp_path / ("x" * 250)  # a temporary name is longer
    with pytest.raises(OSError, match="File name too long") as refused:
        write_atomic(path, b"content")
    assert refused.value.filename == str(path)
    with pytest.raises(OSError, match="File name too long") as refused, publish_folder(path):
        pass
    assert refused.value.filename == str(path)
    assert names(tmp_path) == []


def test_a_folder_appears_at_the_end_with_all_that_it_holds(tmp_path: Path) -> None:
    target = tmp_path / "models" / "m"
    with publish_folder(target) as temporary:
        (temporary / "sub").mkdir()
        (temporary / "sub" / "a").write_text("x")
        assert not target.exists()
        assert temporary.parent == target.parent
    assert (target / "sub" / "a").read_text() == "x"
    assert names(target.parent) == ["m"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("kind", ["full", "empty", "file"])
def test_a_target_that_appears_meanwhile_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    target = tmp_path / "m"

    def publish() -> None:
        with publish_folder(target) as temporary:
            (temporary / "mine").write_text("x")
            if kind == "file":
                target.write_text("theirs")
            else:
                target.mkdir()
            if kind == "full":
                (target / "theirs").write_text("y")

    with pytest.raises(OSError, match=r"not empty|exists|Not a directory"):
        publish()
    assert names(tmp_path) == ["m"]
    assert not (target / "mine").exists()


def test_two_that_publish_the_same_folder_leave_each_other_alone(tmp_path: Path) -> None:
    """Two first runs on one host both convert the embedded model: the later one finds it there."""
    target = tmp_path / "m"

    def publish_twice() -> None:
        with publish_folder(target) as slower:
            (slower / "a").write_text("slower")
            with publish_folder(target) as faster:
                (faster / "a").write_text("faster")
            assert (slower / "a").read_text() == "slower"

    with pytest.raises(FileExistsError):
        publish_twice()
    assert (target / "a").read_text() == "faster"
    assert names(tmp_path) == ["m"]


def test_a_folder_that_a_killed_process_left_is_swept(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path\n"
        "from selfstudy_engine.data.files import publish_folder\n"
        "with publish_folder(Path(sys.argv[1])) as folder:\n"
        "    os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(tmp_path / "m")], check=False)
    [left] = tmp_path.iterdir()
    assert is_temporary(left)
    (tmp_path / ".other.4194305.x.tmp").mkdir()  # no process has such a number
    with publish_folder(tmp_path / "m"):
        pass
    assert names(tmp_path) == [".other.4194305.x.tmp", "m"]


def test_a_new_folder_is_in_the_list_of_the_one_above(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before a file in it is called durable: a power cut keeps no folder that nobody lists."""
    flushed: list[Path] = []
    monkeypatch.setattr(files, "fsync_path", flushed.append)
    make_folder(tmp_path / "a" / "b")
    make_folder(tmp_path / "a" / "b")
    assert set(flushed) == {tmp_path, tmp_path / "a"}
    assert len(flushed) == 2
    assert (tmp_path / "a" / "b").is_dir()


def test_sha256(tmp_path: Path) -> None:
    content = os.urandom(300_000)
    (tmp_path / "a").write_bytes(content)
    assert sha256_of(tmp_path / "a") == hashlib.sha256(content).hexdigest()
