"""What a killed process left is swept, and nothing else."""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from selfstudy_engine.data.scratch import scratch_folder

HOLD = """
from selfstudy_engine.data.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "sample").touch()
    print(folder, flush=True)
    input()
"""


@pytest.fixture(autouse=True)
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary folders are made, here and in processes."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return tmp_path


def age(folder: Path) -> None:
    long_ago = time.time() - 3600
    os.utime(folder / ".lock", (long_ago, long_ago))


def test_it_is_gone_after_the_block(place: Path) -> None:
    with scratch_folder() as folder:
        (folder / "sample").touch()
        assert folder.parent == place
    assert not list(place.iterdir())


def test_a_killed_ones_goes_with_the_next_and_a_running_ones_stays() -> None:
    command = [sys.executable, "-c", HOLD]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout
        left = Path(holder.stdout.readline().strip())
        age(left)
        with scratch_folder():
            assert (left / "sample").exists()
        holder.kill()
    with scratch_folder():
        assert not left.exists()


def test_new_ones_links_and_folders_of_others_stay(place: Path) -> None:
    new, other, user = place / "selfstudy-new", place / "selfstudy-other", place / "user"
    for folder in (new, other, user):
        folder.mkdir()
        (folder / ".lock").touch()
    age(user)
    (other / ".lock").unlink()
    (place / "selfstudy-link").symlink_to(user)
    with scratch_folder():
        assert all(folder.exists() for folder in (new, other, user))
    assert (user / ".lock").exists()
