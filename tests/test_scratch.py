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


def test_a_removal_that_is_cut_off_leaves_nothing_that_is_never_found(place: Path) -> None:
    """The lock, by which the next one finds a folder, goes last."""
    script = (
        "import os\n"
        "from selfstudy_engine.data.scratch import scratch_folder\n"
        "unlink = os.unlink\n"
        "def kill_after_the_lock(path, **options):\n"
        "    unlink(path, **options)\n"
        "    if os.path.basename(path) == '.lock':\n"
        "        os.kill(os.getpid(), 9)\n"
        "with scratch_folder() as folder:\n"
        "    for number in range(50):\n"
        "        (folder / str(number)).touch()\n"
        "    (folder / 'checkpoint').mkdir()\n"
        "    (folder / 'checkpoint' / 'weights').touch()\n"
        "    (folder / 'link').symlink_to('checkpoint')\n"
        "    os.unlink = kill_after_the_lock\n"
    )
    killed = subprocess.run([sys.executable, "-c", script], check=False)
    assert killed.returncode == -9
    [left] = place.iterdir()
    assert list(left.iterdir()) == []


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
