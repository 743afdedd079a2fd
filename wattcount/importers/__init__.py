"""Runs and power logs that others measured: read strictly, as results, and how sure they are.

A source is one module in this package with `SOURCE`, `recognises` and `results`. It is found by itself.
"""

from __future__ import annotations

import importlib
import pkgutil
from pathlib import Path
from typing import Protocol, cast

from wattcount.errors import NotStartedError
from wattcount.importers.mlperf import LoadgenLog, MlperfRun, read_loadgen, read_run, read_spl
from wattcount.importers.nvidia_smi import read_nvidia_smi
from wattcount.importers.power_log import LogEnergy, PowerLog
from wattcount.importers.source import Source
from wattcount.result import Result

__all__ = [
    "IMPORTERS",
    "Importer",
    "LoadgenLog",
    "LogEnergy",
    "MlperfRun",
    "PowerLog",
    "Source",
    "named",
    "read",
    "read_loadgen",
    "read_nvidia_smi",
    "read_run",
    "read_spl",
    "recognised",
    "recognises",
]


class Importer(Protocol):
    """What a module of a source has."""

    SOURCE: Source

    def recognises(self, path: Path) -> bool:
        """Whether `path` looks like what the source writes. Raises nothing, and reads its first bytes at most."""

    def results(self, path: Path) -> list[Result]:
        """The runs in `path`. Raises NotStartedError that names file, line and remedy."""


def _found() -> tuple[Importer, ...]:
    modules = [
        importlib.import_module(f"{__name__}.{found.name}") for found in pkgutil.iter_modules(__path__)
    ]
    return tuple(cast(Importer, module) for module in modules if hasattr(module, "SOURCE"))


IMPORTERS: tuple[Importer, ...] = _found()
"""The sources that are known, by the names of their modules; the first that recognises a path reads it."""


def recognises(path: Path) -> bool:
    return recognised(path) is not None


def recognised(path: Path) -> Importer | None:
    """The source whose files look like this one."""
    return next((importer for importer in IMPORTERS if importer.recognises(path)), None)


def named(name: str) -> Importer:
    """The importer of a source. Raises NotStartedError for a name that is not known."""
    found = {importer.SOURCE.name: importer for importer in IMPORTERS}
    if name not in found:
        raise NotStartedError(
            f"no source is named {name!r}; there are {', '.join(found)}, and `auto` to tell by the files"
        )
    return found[name]


def read(path: Path) -> list[Result]:
    """The runs in `path` by the first importer that recognises it. Raises NotStartedError where none does."""
    importer = recognised(path)
    if importer is None:
        what = "does not exist" if not path.exists() else "is of no source that is known"
        raise NotStartedError(
            f"{path} {what}; `wattcount import --list` lists the sources and what they write"
        )
    return importer.results(path)
