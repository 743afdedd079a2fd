"""wattcount measures the energy of LLM inference on NVIDIA GPUs.

Public are the names in `__all__`, and the command line. All else is private and may change.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wattcount.api import Measurement, measure, results
    from wattcount.records import Record

    __version__: str

__all__ = ["Measurement", "Record", "__version__", "measure", "results"]

_HOMES = {
    "Measurement": "wattcount.api",
    "measure": "wattcount.api",
    "results": "wattcount.api",
    "Record": "wattcount.records",
}
"""Where each public name is defined: imported when it is first used, so that the program itself starts quickly."""


def __getattr__(name: str) -> Any:
    if name == "__version__":
        value = _version()
    elif name in _HOMES:
        import importlib

        value = getattr(importlib.import_module(_HOMES[name]), name)
    else:
        raise AttributeError(f"module 'wattcount' has no attribute {name!r}")
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def _version() -> str:
    from importlib import metadata

    try:
        return metadata.version("wattcount")
    except metadata.PackageNotFoundError:  # a checkout that is not installed
        return "0+unknown"
