"""Runs and power logs that others measured: read strictly, as results, and how sure they are.

A source is a module with `recognises` and `results`, named in IMPORTERS.
"""

from __future__ import annotations

from pathlib import Path
from typing import Protocol

from wattcount.importers import mlperf, nvidia_smi
from wattcount.importers.mlperf import LoadgenLog, MlperfRun, read_loadgen, read_run, read_spl
from wattcount.importers.nvidia_smi import read_nvidia_smi
from wattcount.importers.power_log import LogEnergy, PowerLog
from wattcount.result import Result

__all__ = [
    "IMPORTERS",
    "LoadgenLog",
    "LogEnergy",
    "MlperfRun",
    "PowerLog",
    "read",
    "read_loadgen",
    "read_nvidia_smi",
    "read_run",
    "read_spl",
    "recognises",
]


class Importer(Protocol):
    """What a module of a source has."""

    def recognises(self, path: Path) -> bool:
        """Whether `path` looks like what the source writes. Raises nothing, and reads a few lines at most."""

    def results(self, path: Path) -> list[Result]:
        """The runs in `path`. Raises NotStartedError that names file, line and remedy."""


IMPORTERS: tuple[Importer, ...] = (mlperf, nvidia_smi)
"""The sources that are known; the first that recognises a path reads it."""


def recognises(path: Path) -> bool:
    return any(importer.recognises(path) for importer in IMPORTERS)


def read(path: Path) -> list[Result]:
    """The runs in `path` by the first importer that recognises it."""
    importer = next(importer for importer in IMPORTERS if importer.recognises(path))
    return importer.results(path)
