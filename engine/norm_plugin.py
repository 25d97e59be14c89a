"""A plugin of vLLM: RMS norms on a CPU take vLLM's own C++ kernel.

vLLM 0.32 builds that kernel for CPUs and declares it unsupported there: without compilation each
norm then is nine operations of PyTorch, 1.8 ms against 0.04 for 128 tokens of 576 numbers
(docs/decisions.md, "RMS norms"). Does nothing unless our server asks for it.
"""

import logging
import os

from selfstudy_engine.engine.lora_plugin import installed_vllm, refuse_version

FAST_NORMS_VARIABLE = "SELFSTUDY_FAST_NORMS"
"""Our server sets it to "1" in its child's environment to ask for the plugin."""
_KERNELS = "vllm_c"
_OPERATIONS = ("rms_norm", "fused_add_rms_norm")
logger = logging.getLogger("vllm.selfstudy_engine")  # below vLLM's own: its log shows the lines


def register() -> None:
    """Have vLLM use its kernels, or log why not (entry point of `vllm.general_plugins`)."""
    if os.environ.get(FAST_NORMS_VARIABLE) != "1":
        return
    if reason := refuse_version(installed_vllm()) or _prefer_kernels():
        logger.warning("RMS norms are computed by PyTorch: %s.", reason)


def _prefer_kernels() -> str:
    from vllm.config.kernel import IrOpPriorityConfig
    from vllm.ir.op import IrOp
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return f"the C++ kernels are for a CPU, and this is {current_platform.device_type}"
    current_platform.import_ir_kernels()
    for name in _OPERATIONS:
        IrOp.registry[name].impls[_KERNELS].supported = True
    order = {name: [_KERNELS, "native"] for name in _OPERATIONS}
    type(current_platform).get_default_ir_op_priority = classmethod(
        lambda *_: IrOpPriorityConfig.with_default(["native"], **order)
    )
    return ""
