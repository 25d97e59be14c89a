"""What a server takes of /dev/shm is there, or is said to be missing before anything starts."""

import os
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.devices import Placement
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.hardware import Gpu
from selfstudy_engine.data.parallel import Parallel
from selfstudy_engine.engine import doctor
from selfstudy_engine.engine.server import VllmServer
from selfstudy_engine.engine.shared_memory import (
    MIB,
    SHARED_MEMORY,
    check_shared_memory,
    needed_shared_memory,
)

GPU = Gpu("0", "GPU-3f11", "NVIDIA H200", 144 * 1024**3, 9.0)
ON_A_CPU = Placement((), ())


def leave_free(monkeypatch: pytest.MonkeyPatch, mebibytes: int) -> None:
    usage = shutil.disk_usage("/")._replace(free=mebibytes * MIB)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)


@pytest.mark.parametrize(
    ("gpus", "parallel", "needed"),
    [
        ((), Parallel(), 400),
        ((), Parallel(tensor=2), 640),
        ((), Parallel(data=2), 800),
        ((GPU,), Parallel(), 0),
        ((GPU, GPU), Parallel(data=2), 0),
        ((GPU, GPU), Parallel(tensor=2), 640),
    ],
)
def test_each_rank_but_a_lone_one_on_a_gpu_takes_some(
    gpus: tuple[Gpu, ...], parallel: Parallel, needed: int
) -> None:
    assert needed_shared_memory(Placement(gpus, (), parallel)) == needed


def test_what_a_container_has_by_itself_is_refused_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    leave_free(monkeypatch, 64)
    with pytest.raises(UsageError, match=r"64 MiB free.*400 MiB.*--shm-size 1g.*emptyDir"):
        check_shared_memory(ON_A_CPU, tmp_path)
    assert check_shared_memory(Placement((GPU,), ()), tmp_path) == 64
    leave_free(monkeypatch, 400)
    assert check_shared_memory(ON_A_CPU, tmp_path) == 400


def test_where_there_is_none_vllm_may_find_another_way(tmp_path: Path) -> None:
    assert check_shared_memory(ON_A_CPU, tmp_path / "shm") is None


def test_one_that_cant_be_written_to_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where podman plays a pod with an emptyDir there."""
    monkeypatch.setattr("os.access", lambda path, mode: mode != os.W_OK)
    with pytest.raises(UsageError, match=r"can't be written to.*chmod 1777"):
        check_shared_memory(ON_A_CPU, tmp_path)
    assert check_shared_memory(Placement((GPU,), ()), tmp_path)


def test_a_server_isnt_even_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_free(monkeypatch, 64)
    with pytest.raises(UsageError, match=f"{SHARED_MEMORY} has 64 MiB free"):
        VllmServer(load_config(None, {"devices.server": "cpu"}), "tiny", tmp_path / "server.log")


def test_a_loop_ends_before_it_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    leave_free(monkeypatch, 64)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    result = CliRunner().invoke(cli, ["loop", "--runs", str(tmp_path), "--run", "small"])
    assert result.exit_code == 2
    assert "--shm-size 1g" in result.output
    assert not list(tmp_path.glob("small/logs/train*")), "nothing was trained"


def test_doctor_says_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    leave_free(monkeypatch, 64)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    checks = doctor.diagnose(Path("runs"), None, 8000)
    check = next(check for check in checks if check.name == "shared memory")
    assert check.status == "FAIL"
    assert "64 MiB" in check.found
    assert "--shm-size" in check.remedy
