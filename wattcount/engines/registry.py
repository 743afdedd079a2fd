"""Where engines are registered, and found by the name that `engine.name` has.

An engine of another distribution registers itself by an entry point of the group `wattcount.engines`, whose name is the
engine's and whose value a subclass of `EnginePlugin`; see docs/engines.md.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from wattcount.engines.plugin import EnginePlugin
from wattcount.errors import ERROR_CHARACTERS, NotStartedError, WattcountError, one_line

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

    from wattcount.config.schema import RunConfig
    from wattcount.engines.base import Engine

GROUP = "wattcount.engines"
"""Group of entry points in which other distributions register engines."""

PACKAGED = {
    "vllm": "wattcount.engines.vllm.plugin:VllmPlugin",
    "vllm_serve": "wattcount.engines.vllm_serve.plugin:VllmServePlugin",
    "openai": "wattcount.engines.openai.plugin:OpenAiPlugin",
    "tiny": "wattcount.engines.tiny.plugin:TinyPlugin",
}
"""Engines of this distribution. A table and no entry points: looking for those takes a tenth of a second."""

DEFAULT = "vllm"
"""`engine.name` where none is given. A part of every point's hash: another one would change them all."""


def names() -> list[str]:
    """Every registered engine, sorted."""
    return sorted({*PACKAGED, *_entry_points()})


@functools.cache
def plugin(name: str) -> EnginePlugin:
    """The plug-in of the engine `name`. Raises `NotStartedError` where there is none, or where it is broken."""
    if name in PACKAGED:
        module, _, attribute = PACKAGED[name].partition(":")
        packaged: EnginePlugin = getattr(importlib.import_module(module), attribute)()
        return packaged
    points = _entry_points().get(name, [])
    if not points:
        raise NotStartedError(
            f"engine.name: {name!r} is not one of {', '.join(names())}; an engine of another distribution has to be "
            "installed beside wattcount"
        )
    if len(points) > 1:
        raise NotStartedError(
            f"engine.name: {name!r} is registered by {' and by '.join(map(_distribution, points))}; uninstall all but one"
        )
    return _loaded(points[0])


def create(cfg: RunConfig, gpu_uuids: Sequence[str], log_dir: Path) -> Engine:
    """The engine that a run asks for; see `EnginePlugin.create`."""
    return plugin(cfg.engine.name).create(cfg, gpu_uuids, log_dir)


@contextlib.contextmanager
def refusing_failures(name: str) -> Iterator[None]:
    """Raises `NotStartedError`, which names the engine, for what its plug-in raises inside and should not."""
    try:
        yield
    except WattcountError:
        raise
    except Exception as error:
        raise NotStartedError(
            f"engine.name: the plug-in {name!r} failed: {_told(error)}; mend or uninstall its distribution"
        ) from error


def _entry_points() -> dict[str, list[EntryPoint]]:
    from importlib.metadata import entry_points  # slow to import, and seldom needed

    found: dict[str, list[EntryPoint]] = {}
    for point in entry_points(group=GROUP):
        if point.name not in PACKAGED:
            found.setdefault(point.name, []).append(point)
    return found


def _loaded(point: EntryPoint) -> EnginePlugin:
    try:
        cls = point.load()
        if not (isinstance(cls, type) and issubclass(cls, EnginePlugin)):
            raise TypeError(f"{point.value} is no subclass of wattcount.engines.plugin.EnginePlugin")
        for name in ("title", "capabilities"):
            if not hasattr(cls, name):
                raise TypeError(f"{point.value} has no `{name}`")
        return cls()
    except (Exception, SystemExit) as error:  # a module may be a script
        raise NotStartedError(
            f"engine.name: the plug-in {point.name!r} of {_distribution(point)} cannot be loaded: "
            f"{_told(error)}; mend or uninstall that distribution"
        ) from error


def _told(error: BaseException) -> str:
    return one_line(f"{type(error).__name__}: {error}", ERROR_CHARACTERS)


def _distribution(point: EntryPoint) -> str:
    return f"{point.dist.name} {point.dist.version}" if point.dist is not None else "an unknown distribution"
