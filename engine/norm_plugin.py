"""A plugin of vLLM: RMS norms on a CPU take vLLM's own C++ kernel.

vLLM 0.32 builds that kernel for CPUs and declares it unsupported there: without compilation each
norm then is nine operations of PyTorch (docs/decisions.md, "RMS norms"). Does nothing unless our
server asks for it.
"""

from collections.abc import Callable
from typing import Any

from selfstudy_engine.engine.vllm_plugin import change_if_asked

FAST_NORMS_VARIABLE = "SELFSTUDY_FAST_NORMS"
"""Our server sets it to "1" in its child's environment to ask for the plugin."""
_KERNELS = "vllm_c"
_OPERATIONS = ("rms_norm", "fused_add_rms_norm")


def register() -> None:
    """Have vLLM use its kernels, or log why not (entry point of `vllm.general_plugins`)."""
    change_if_asked(FAST_NORMS_VARIABLE, _prefer_kernels, "RMS norms are computed by PyTorch")


def _rows_only(supports: Callable[..., bool]) -> Callable[..., bool]:
    """Leave to PyTorch what doesn't lie in memory as rows: the kernel takes no strides.

    Norms of single heads (Qwen 3, Gemma 3) are views into the products of all of them.
    """

    def supports_args(x: Any, *others: Any, **named: Any) -> bool:
        rows = [one for one in (x, *others) if hasattr(one, "is_contiguous")]
        is_rows = x.dim() == 2 and all(one.is_contiguous() for one in rows)
        return is_rows and supports(x, *others, **named)

    return supports_args


def _prefer_kernels() -> str:
    from vllm.config.kernel import IrOpPriorityConfig
    from vllm.ir.op import IrOp
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return f"the C++ kernels are for a CPU, and this is {current_platform.device_type}"
    current_platform.import_ir_kernels()
    for name in _OPERATIONS:
        kernel = IrOp.registry[name].impls[_KERNELS]
        kernel.supported = True
        kernel._supports_args = _rows_only(kernel._supports_args)
    order = {name: [_KERNELS, "native"] for name in _OPERATIONS}
    type(current_platform).get_default_ir_op_priority = classmethod(
        lambda *_: IrOpPriorityConfig.with_default(["native"], **order)
    )
    return ""
