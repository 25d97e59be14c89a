"""A local LLM teaches itself to predict a molecular property with a reason, round after round."""

from importlib.metadata import PackageNotFoundError, version

try:
    __version__ = version("selfstudy-engine")
except PackageNotFoundError:  # imported from a checkout that was never installed
    __version__ = "0+unknown"
