"""Limits of containers and batch jobs, in made-up trees of both versions of cgroups."""

from pathlib import Path

import pytest

from selfstudy_engine.data import cgroups
from selfstudy_engine.data.cgroups import core_quota, memory_limit

GIB = 1024**3


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "Machine":
    monkeypatch.setattr(cgroups, "_MOUNTS", tmp_path / "cgroup")
    monkeypatch.setattr(cgroups, "_OWN_GROUPS", tmp_path / "own")
    return Machine(tmp_path)


class Machine:
    def __init__(self, root: Path) -> None:
        self._root = root

    def is_in(self, *groups: str) -> None:
        (self._root / "own").write_text("".join(f"{line}\n" for line in groups))

    def has(self, file: str, content: object) -> None:
        path = self._root / "cgroup" / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{content}\n")


def test_a_machine_without_cgroups_has_no_limits(machine: Machine) -> None:
    assert (memory_limit(), core_quota()) == (None, None)
    machine.is_in("0::/", "4:memory:/a", "1:cpu:/a")
    assert (memory_limit(), core_quota()) == (None, None)


def test_a_container_is_its_own_top(machine: Machine) -> None:
    machine.is_in("0::/")
    machine.has("memory.max", 8 * GIB)
    machine.has("cpu.max", "150000 100000")
    assert (memory_limit(), core_quota()) == (8 * GIB, 1.5)
    machine.has("memory.max", "max")
    machine.has("cpu.max", "max 100000")
    assert (memory_limit(), core_quota()) == (None, None)


def test_of_a_jobs_group_and_those_around_it_the_least_holds(machine: Machine) -> None:
    machine.is_in("0::/system.slice/slurmstepd.scope/job_7/step_0")
    job = "system.slice/slurmstepd.scope/job_7"
    machine.has(f"{job}/step_0/memory.max", "max")
    machine.has(f"{job}/memory.max", 16 * GIB)
    machine.has("system.slice/memory.max", 64 * GIB)
    machine.has(f"{job}/step_0/cpu.max", "400000 100000")
    machine.has(f"{job}/cpu.max", "max 100000")
    assert (memory_limit(), core_quota()) == (16 * GIB, 4)


def test_the_first_version_has_a_tree_for_each_resource(machine: Machine) -> None:
    machine.is_in("4:memory:/slurm/job_7", "2:cpu,cpuacct:/slurm/job_7", "0::/")
    machine.has("memory/memory.limit_in_bytes", 2**63 - 4096)
    machine.has("memory/slurm/job_7/memory.limit_in_bytes", 16 * GIB)
    machine.has("cpu/slurm/job_7/cpu.cfs_quota_us", 200000)
    machine.has("cpu/slurm/job_7/cpu.cfs_period_us", 100000)
    assert (memory_limit(), core_quota()) == (16 * GIB, 2)
    machine.has("cpu/slurm/job_7/cpu.cfs_quota_us", -1)
    assert core_quota() is None


def test_a_container_that_is_told_the_hosts_path_has_its_limits_at_the_top(
    machine: Machine,
) -> None:
    machine.is_in("4:memory:/docker/7f3a", "2:cpuacct,cpu:/docker/7f3a")
    machine.has("memory/memory.limit_in_bytes", 4 * GIB)
    machine.has("cpu/cpu.cfs_quota_us", 50000)
    machine.has("cpu/cpu.cfs_period_us", 100000)
    assert (memory_limit(), core_quota()) == (4 * GIB, 0.5)


def test_this_machine_can_be_asked() -> None:
    limit, quota = memory_limit(), core_quota()
    assert limit is None or limit > GIB
    assert quota is None or quota > 0
