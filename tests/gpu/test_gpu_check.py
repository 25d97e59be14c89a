"""The GPU check in small, without a GPU: its commands run, and their figures are read.

vLLM's server is a fake here; tests/test_real_bench.py starts the benchmark's engines, through the
same program.
"""

import os
import shlex
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click
import orjson
import psutil
import pytest
from gpu_aims import ENDING, HOST, Ending, make_table, share_of_peak
from gpu_check import main, steps_left
from gpu_steps import FULL, SHORT, SMALL, STEPS, command_of

from selfstudy_engine.cli.main import cli

HERE = Path(__file__).parent
ROOT = HERE.parent.parent
FAKE_SERVER = """
import os, sys, threading
from fake_vllm import FakeVllm
from selfstudy_engine.engine.guard import KEY_VARIABLE
argument = lambda name: sys.argv[sys.argv.index(name) + 1]
with FakeVllm(argument("--model"), os.environ[KEY_VARIABLE], int(argument("--port"))):
    threading.Event().wait()
"""
ENGINE = """
import sys
from selfstudy_engine.cli.main import cli
cli([*sys.argv[1:], *(["--only", "training"] if "bench" in sys.argv else [])])
"""
"""The benchmark without engines, which aren't servers only."""


def rows(table: str) -> dict[tuple[str, str], list[str]]:
    """Return wanted, measured and met by step and figure."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {(step, what): rest for step, what, *rest in lines[2:]}


@pytest.fixture
def fake_environment(tmp_path: Path) -> dict[str, str]:
    """One in which vLLM's server is the fake."""
    package = tmp_path / "site" / "vllm" / "entrypoints" / "openai"
    package.mkdir(parents=True)
    for folder in (package, package.parent, package.parent.parent):
        (folder / "__init__.py").touch()
    (package / "api_server.py").write_text(FAKE_SERVER, "utf-8")
    paths = [tmp_path / "site", ROOT / "src", ROOT / "tests"]
    return os.environ | {"PYTHONPATH": os.pathsep.join(map(str, paths))}


@pytest.mark.timeout(1800)
def test_the_small_form_runs_and_ends_in_one_table(
    tmp_path: Path, fake_environment: dict[str, str]
) -> None:
    steps = [
        step
        for step in STEPS
        if step not in {"bench", "four-api-servers", "wide-graphs", "overlap"}
    ]
    engine = tmp_path / "engine.py"
    engine.write_text(ENGINE)
    command: list[str | Path] = [
        sys.executable,
        HERE / "gpu_check.py",
        tmp_path / "out",
        *steps,
        "--small",
    ]
    result = subprocess.run(
        [*command, "--engine", shlex.join([sys.executable, str(engine)])],
        cwd=tmp_path,
        env=fake_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr
    table = (tmp_path / "out" / "table.md").read_text("utf-8")
    assert result.stdout.endswith(table)
    found = rows(table)
    for step in STEPS:
        _, measured, met = found[step, "ends"]
        assert (met == "yes" and measured.startswith("ok, ")) == (step in steps), step
    assert found["bench", "ends"] == ["ok", "-", "not run"]
    assert float(found["loop", "canary, worst, nats"][1]) < 0.1
    assert float(found["loop", "decoded by CUDA graphs, worst, nats"][1]) < 0.2
    assert found["loop", "completions"] == ["", "8", "small"]
    an_hour = found["loop", "completions an hour, 1,000 times the original's"][1]
    assert float(an_hour.replace(",", "")) > 10
    assert 0 < float(found["bench-7b", "training, of what its products reach"][1]) < 1
    served = (tmp_path / "out" / "serve-runtime" / "output.txt").read_text("utf-8")
    assert "with adapter" in served
    assert "round-0001" in served


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """What a whole check on an H200 left, made up: a loop that was cut off, a slow swap."""
    folder = tmp_path / "out"
    host = {"processor": "EPYC", "num_cpus": 16, "gpus": ["NVIDIA H200"]}
    write(folder / HOST, {"host": host, "versions": {"python": "3.12.3", "vllm": "0.26.0"}})
    timing = {"train": 20, "swap": 1.5, "evaluate": 2, "generate": 12, "wait": 0.5}
    record = orjson.dumps({"num_completions": 4096, "timing": timing})
    metrics = folder / "loop" / "default" / "metrics.jsonl"
    metrics.parent.mkdir(parents=True)
    metrics.write_bytes(record + b"\n" + record + b"\n")
    end(folder, "loop", Ending("out of time", 3600, "round 2: train"))
    ratios = {"merged_over_offline": 0.99, "merged_over_stock_lora": 1.29}
    ratios["swap_seconds_median"] = 2.4
    training = {"tokens_per_second": 15_000, "flops_per_token": 27e9, "share_of_roofline": 0.5}
    write(folder / "bench-7b" / "bench.json", {"ratios": ratios, "extras": {"training": training}})
    end(folder, "bench-7b", Ending("ok", 900))
    log = folder / "overlap" / "default" / "logs" / "server.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "$ python -m vllm --dtype bfloat16 --gpu-memory-utilization 0.83 --block-size 32"
    )
    end(folder, "overlap", Ending("failed", 12.3, "Error: a | b"))
    return folder


def write(path: Path, content: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(orjson.dumps(content))


def end(folder: Path, step: str, ending: Ending) -> None:
    write(folder / step / ENDING, asdict(ending))


def test_each_aim_is_held_against_what_was_measured(out: Path) -> None:
    table = make_table(out)
    assert table.startswith("NVIDIA H200; EPYC, 16 CPUs; python 3.12.3, vllm 0.26.0\n")
    found = rows(table)
    assert found["bench-7b", "ends"] == ["ok", "ok, 900 s", "yes"]
    assert found["bench-7b", "merged, of vLLM offline's tokens/s"] == [
        *("at least 0.98", "0.99", "yes")
    ]
    stock = found["bench-7b", "merged, times stock runtime LoRA's tokens/s"]
    assert stock == ["at least 1.3", "1.29", "NO"]
    assert found["bench-7b", "swap, median, s"] == ["at most 2", "2.4", "NO"]
    # 15,000 x 27e9 of 989e12
    assert found["bench-7b", "training, of the bfloat16 peak"][1:] == ["0.4095", "yes"]
    assert found["loop", "completions an hour, 1,000 times the original's"] == [
        *("at least 120,000", "409,600", "yes")
    ]


def test_what_was_cut_off_is_counted_and_what_is_missing_says_so(out: Path) -> None:
    found = rows(make_table(out))
    assert found["loop", "ends"] == ["ok", "out of time after 3600 s: round 2: train", "NO"]
    assert found["loop", "completions"][1] == "8,192"
    assert found["overlap", "ends"][1:] == ["failed after 12 s: Error: a / b", "NO"]
    assert found["overlap", "server's share of the GPU, computed"][1] == "0.83"
    assert found["overlap", "completions an hour"][1:] == ["-", "not measured"]
    assert found["doctor", "ends"] == ["ok", "-", "not run"]
    assert found["bench", "merged, tokens/s"][1:] == ["-", "not run"]


def test_the_peak_is_that_of_the_gpu(out: Path) -> None:
    host = orjson.loads((out / HOST).read_bytes())

    def share(gpu: str) -> float | None:
        host["host"]["gpus"] = [gpu]
        write(out / HOST, host)
        return share_of_peak(out / "bench-7b")

    assert share("NVIDIA H100 80GB HBM3") == pytest.approx(15_000 * 27e9 / 989e12)
    assert share("NVIDIA H100 PCIe") == pytest.approx(15_000 * 27e9 / 756e12)
    assert share("NVIDIA GeForce GTX 1080") is None


def test_every_step_has_a_command_in_both_sizes(tmp_path: Path) -> None:
    (tmp_path / "loop" / "default" / "adapters" / "round-0000").mkdir(parents=True)
    for step in STEPS:
        (tmp_path / step).mkdir(exist_ok=True)
        for size in (FULL, SHORT, SMALL):
            name, *arguments = command_of(step, tmp_path, size).arguments
            command = cli.get_command(click.Context(cli), name)
            assert command
            command.make_context(name, arguments)  # refuses an option that doesn't exist
    assert orjson.loads((tmp_path / "bench-7b" / "shape" / "config.json").read_bytes())
    with pytest.raises(SystemExit):
        main([str(tmp_path), "no-such-step"])


def test_another_call_goes_on_with_what_is_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """First what no call came to, then what didn't end well, or in another size only."""
    out = tmp_path / "out"
    assert steps_left(out, "short") == list(STEPS)
    end(out, "loop", Ending("out of time", 300, size="short"))
    end(out, "bench", Ending("ok", 300, size="short"))
    end(out, "doctor", Ending("ok", 9, size="small"))
    others = [step for step in STEPS if step not in {"loop", "bench", "doctor"}]
    assert steps_left(out, "short") == [*others, "loop", "doctor"]
    # With two minutes each step would have no time but to end.
    assert main([str(out), "--short", "--minutes", "1.9", "--engine", "no-such-program"]) == 1
    printed = capsys.readouterr().out
    assert printed.startswith(f"no time is left for {', '.join([*others, 'loop', 'doctor'])}\n")
    assert rows(printed)["bench", "ends"] == ["ok", "ok, 300 s, short", "yes"]


def test_a_step_ends_with_the_check_and_gives_the_gpu_back(tmp_path: Path) -> None:
    """A call that is killed is followed by another, which starts servers there."""
    script = tmp_path / "engine.py"
    script.write_text("import os, time\nprint('process', os.getpid(), flush=True)\ntime.sleep(60)")
    engine = f"{sys.executable} {script}"
    command = [
        sys.executable,
        str(HERE / "gpu_check.py"),
        str(tmp_path),
        "--engine",
        engine,
        "loop",
    ]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as check:
        assert check.stdout
        said = next(line for line in check.stdout if line.startswith("process "))
        step = psutil.Process(int(said.split()[1]))
        check.kill()
        step.wait(10)
    assert not (tmp_path / "loop" / ENDING).exists()


def test_a_step_that_takes_too_long_is_ended_and_the_next_one_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    script = tmp_path / "engine.py"
    script.write_text(
        "import sys, time\nprint('hello', flush=True)\ntime.sleep(60 * ('doctor' in sys.argv))\n"
        "sys.exit('no loop today')"
    )
    engine = f"{sys.executable} {script}"
    wanted = ["doctor", "loop", "--step-seconds", "2", "--engine", engine]
    assert main([str(tmp_path / "out"), *wanted]) == 1
    found = rows(capsys.readouterr().out)
    assert found["doctor", "ends"][1].startswith("out of time after ")
    assert found["doctor", "ends"][1].endswith(" s: hello")
    assert found["loop", "ends"][1].endswith(" s: no loop today")
    assert "hello" in (tmp_path / "out" / "doctor" / "output.txt").read_text("utf-8")
