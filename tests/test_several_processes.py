"""Training by several processes together: the same adapter, and one clear end if one fails."""

import os
import signal
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import psutil
import pytest
import torch
from safetensors.torch import load_file
from tiny_training import train_here

from selfstudy_engine.data.adapters import WEIGHTS, read_adapter
from selfstudy_engine.data.config import RunConfig, override
from selfstudy_engine.data.errors import TrainingError
from selfstudy_engine.engine.launching import Launch, launch_of
from selfstudy_engine.engine.training import TimeLimits, TrainingProcess, run_training

MakeConfig = Callable[..., RunConfig]
LIMITS = TimeLimits(300, 300)
WORKER = """
import json, os, signal, sys, time
from selfstudy_engine.data.parent_death import end_with_parent

end_with_parent(signal.SIGKILL)
rank = int(os.environ["RANK"])
for step in range(6000):
    if rank == 0:
        print(json.dumps({"event": "step", "step": step, "max_steps": 6000}), flush=True)
    elif step == 3 and sys.argv[1] == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif step == 3 and sys.argv[1] == "failing":
        raise RuntimeError("something odd")
    time.sleep(0.1)
"""
"""What each process runs where only its end matters."""


@pytest.fixture
def config(small_config: MakeConfig) -> RunConfig:
    """Steps of one to six sequences, which two processes share, 200 tokens at a time."""
    return small_config(
        train__tokens_per_step=512,
        train__min_steps=8,
        devices__train="cpu",
        devices__train_launcher="accelerate",
        devices__num_processes=2,
        devices__tokens_per_device=200,
    )


def arguments_of(config: RunConfig, model: Path, folder: Path) -> dict[str, object]:
    (folder / "run.toml").write_text(config.to_toml(), "utf-8")
    return {"config": folder / "run.toml", "model": model, "output": folder / "several"}


def assert_same_adapter(folder: Path, expected: Path) -> None:
    """Weights, and what the canary says."""
    found, wanted = (load_file(adapter / WEIGHTS) for adapter in (folder, expected))
    assert found.keys() == wanted.keys()
    for name, weight in wanted.items():
        torch.testing.assert_close(found[name], weight, rtol=1e-3, atol=1e-5, msg=name)
    for probe, other in zip(
        read_adapter(folder).canary, read_adapter(expected).canary, strict=True
    ):
        assert probe.token_ids == other.token_ids
        assert probe.adapter_logprobs == pytest.approx(other.adapter_logprobs, abs=1e-3)


def test_two_processes_make_the_adapter_of_one(
    config: RunConfig, tiny_model: Path, tmp_path: Path
) -> None:
    steps: list[int] = []
    listening: set[str] = set()

    def on_step(step: int, max_steps: int) -> None:
        steps.append(step)
        listening.update(addresses_of_children())

    figures = run_training(
        arguments_of(config, tiny_model, tmp_path),
        tmp_path / "train.log",
        LIMITS,
        on_step,
        launch_of(config),
    )
    alone = train_here(config, tiny_model, tmp_path / "alone")
    assert_same_adapter(tmp_path / "several", tmp_path / "alone")
    assert figures["loss"] == pytest.approx(alone["loss"], rel=1e-5)
    assert (figures["steps"], figures["num_tokens"]) == (alone["steps"], alone["num_tokens"])
    assert steps == [*range(1, figures["steps"] + 1), figures["steps"]]  # the last once more
    assert listening == {"127.0.0.1"}


def addresses_of_children() -> set[str]:
    """On which addresses this process's children listen, and theirs."""
    found = set()
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # it ended meanwhile
            for connection in child.net_connections():
                if connection.status == psutil.CONN_LISTEN:
                    found.add(connection.laddr.ip)
    return found


def train_with(script: str, config: RunConfig, model: Path, folder: Path) -> str:
    """Train with a script in the module's place, by the same launcher; returns the log."""
    launch = launch_of(config)
    assert launch.command[-2:] == ("-m", "selfstudy_engine.train")
    command = (*launch.command[:-2], str(Path(__file__).with_name(script)))
    log = folder / "train.log"
    arguments = arguments_of(config, model, folder)
    run_training(arguments, log, LIMITS, launch=replace(launch, command=command))
    return log.read_text("utf-8")


@pytest.mark.long
def test_a_process_that_memory_fails_computes_its_share_in_parts(
    config: RunConfig, tiny_model: Path, tmp_path: Path
) -> None:
    """While the other doesn't, and both go on together."""
    config = override(config, {"devices.tokens_per_device": 10_000})
    log = train_with("little_memory.py", config, tiny_model, tmp_path)
    assert '"parts":2' in log
    train_here(config, tiny_model, tmp_path / "alone")
    assert_same_adapter(tmp_path / "several", tmp_path / "alone")


FSDP = """
distributed_type: FSDP
num_processes: 2
fsdp_config:
  fsdp_version: 2
  fsdp_auto_wrap_policy: TRANSFORMER_BASED_WRAP
  fsdp_transformer_layer_cls_to_wrap: LlamaDecoderLayer
"""


@pytest.mark.long
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_model_that_is_spread_over_processes_gets_the_same_adapter(
    dtype: str, config: RunConfig, tiny_model: Path, tmp_path: Path
) -> None:
    """Whole, in PEFT's format."""
    (tmp_path / "fsdp.yaml").write_text(FSDP)
    changes = {"devices.accelerate_config": str(tmp_path / "fsdp.yaml"), "model.dtype": dtype}
    config = override(config, changes)
    log = train_with("fsdp_on_cpus.py", config, tiny_model, tmp_path)
    assert '"main":true,"any":true' in log
    assert '"main":false,"any":false' in log, "both read the model: its memory is taken twice"
    train_here(config, tiny_model, tmp_path / "alone")
    if dtype == "float32":
        assert_same_adapter(tmp_path / "several", tmp_path / "alone")
    else:
        found, wanted = (
            torch.cat(
                [weight.flatten() for weight in load_file(tmp_path / name / WEIGHTS).values()]
            )
            for name in ("several", "alone")
        )
        assert torch.nn.functional.cosine_similarity(found, wanted, dim=0) > 0.99


@pytest.fixture
def launch(config: RunConfig, tmp_path: Path) -> Callable[[str], Launch]:
    """How `WORKER` is started in the training's place, by the same launcher."""
    script = tmp_path / "worker.py"
    script.write_text(WORKER)
    whole = launch_of(config)
    assert whole.command[-2:] == ("-m", "selfstudy_engine.train")
    return lambda how: replace(whole, command=(*whole.command[:-2], str(script), how))


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ("killed", r"^process 1 of the training ended with exit code -9; .* memory.*train\.log"),
        pytest.param(
            "failing",
            r"(?s)^process 1 .* exit code 1; the last lines of .*train\.log.*: something odd",
            marks=pytest.mark.long,
        ),
    ],
)
def test_one_process_that_fails_ends_all(
    how: str, message: str, launch: Callable[[str], Launch], tmp_path: Path
) -> None:
    with pytest.raises(TrainingError, match=message):
        run_training({}, tmp_path / "train.log", LIMITS, launch=launch(how))
    assert workers_of(tmp_path) == []


@pytest.mark.long
@pytest.mark.parametrize("how", ["left", "killed"])
def test_processes_dont_outlive_their_launcher(
    how: str, launch: Callable[[str], Launch], tmp_path: Path
) -> None:
    both = threading.Event()
    with TrainingProcess(
        {}, tmp_path / "train.log", LIMITS, lambda step, _: both.set(), launch("running")
    ) as training:
        assert both.wait(120)
        assert len(workers_of(tmp_path)) == 2
        if how == "killed":
            os.kill(training._process.pid, signal.SIGKILL)
            with pytest.raises(TrainingError, match="exit code -9"):
                training.result()
            assert workers_of(tmp_path) == []
    assert workers_of(tmp_path) == []


def test_the_error_that_a_process_names_isnt_lost_among_the_others_lines(
    config: RunConfig, tmp_path: Path
) -> None:
    lines = [
        {"event": "error", "message": "no, process 1", "exit_code": 2},
        {"event": "step", "step": 1, "max_steps": 2},
    ]
    script = f"import json, sys; [print(json.dumps(line)) for line in {lines}]; sys.exit(1)"
    launch = replace(launch_of(config), command=(sys.executable, "-c", script))
    with pytest.raises(
        TrainingError, match=r"^training failed: no, process 1 \(log: .*\)$"
    ) as raised:
        run_training({}, tmp_path / "train.log", LIMITS, launch=launch)
    assert raised.value.exit_code == 2


def workers_of(folder: Path) -> list[int]:
    """Processes that run a folder's worker; those that ended a moment ago are given that moment."""
    script = str(folder / "worker.py")
    found = [
        process
        for process in psutil.process_iter(["cmdline"])
        if script in (process.info["cmdline"] or ()) and "launcher" not in str(process.info)
    ]
    _, alive = psutil.wait_procs(found, timeout=1)
    return [process.pid for process in alive]
