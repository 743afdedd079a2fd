"""wattcount measures the energy of LLM inference on NVIDIA GPUs."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("wattcount")
except metadata.PackageNotFoundError:  # a checkout that is not installed
    __version__ = "0+unknown"
