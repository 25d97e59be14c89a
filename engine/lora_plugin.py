"""A plugin of vLLM: runtime adapters on a CPU take the products of `grouped_lora`."""

from typing import TYPE_CHECKING, Any

from selfstudy_engine.engine.vllm_plugin import change_if_asked

FAST_LORA_VARIABLE = "SELFSTUDY_FAST_LORA"
"""Our server sets it to "1" in its child's environment to ask for the plugin."""
_STOCK = "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"
_GROUPED = "selfstudy_engine.engine.grouped_punica.GroupedPunicaWrapper"


def register() -> None:
    """Have vLLM use our wrapper, or log why not (entry point of `vllm.general_plugins`)."""
    change_if_asked(FAST_LORA_VARIABLE, _put_wrapper, "Runtime adapters take vLLM's own products")


def _put_wrapper() -> str:
    from vllm.platforms import current_platform

    if not current_platform.is_cpu():
        return f"the grouped ones are for a CPU, and this is {current_platform.device_type}"
    platform = type(current_platform)
    used = platform.get_punica_wrapper()
    if used not in (_STOCK, _GROUPED):
        return f"{platform.__name__} names a wrapper that isn't vLLM's ({used})"
    platform.get_punica_wrapper = classmethod(lambda _: _GROUPED)
    return ""


class FastLoraWorker:
    """Methods that vLLM's worker gains through `lora_worker`; `self` is that worker."""

    if TYPE_CHECKING:
        model_runner: Any

    def use_fast_lora(self, enabled: bool) -> bool:
        """Turn the grouped products on or off, between two steps.

        Returns:
            Whether they are on now; never if the plugin was refused when the server started.
        """
        manager = self.model_runner.lora_manager._adapter_manager
        # An identity for each part of a multimodal model.
        wrappers = set(manager.punica_wrapper_mapping.values())
        grouped = [hasattr(one, "use_grouped") and one.use_grouped(enabled) for one in wrappers]
        return all(grouped)
