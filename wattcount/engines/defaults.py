"""Settings that are left to the engine (null): what it is expected to choose, and what it has chosen.

::

    asked (null) --- resolved --- in the configuration, its identity, the plan and the fit arithmetic
                                  the engine is still asked with null, and what it chose is compared (`differences`)

What an engine chooses is in its own folder (`EnginePlugin.defaults`).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from wattcount.config.schema import EngineConfig


@dataclass(frozen=True)
class Defaults:
    """A value for each setting that may be left to the engine; fields are named as in `EngineConfig`.

    None: the engine has no such setting, or does not tell.
    """

    max_num_seqs: int | None = None
    max_num_batched_tokens: int | None = None
    gpu_memory_utilization: float | None = None
    enable_prefix_caching: bool | None = None
    enable_chunked_prefill: bool | None = None

    def under(self, engine: EngineConfig) -> Defaults:
        """These values, but for those that `engine` sets."""
        set_here = {name: getattr(engine, name) for name in SETTINGS if getattr(engine, name) is not None}
        return dataclasses.replace(self, **set_here)


SETTINGS = tuple(item.name for item in dataclasses.fields(Defaults))
"""Names of the settings that may be left to the engine."""


def filled(engine: EngineConfig, chosen: Defaults) -> EngineConfig:
    """`engine` with its null settings taken from `chosen`, and their names in `unset`."""
    found = {
        name: getattr(chosen, name)
        for name in SETTINGS
        if getattr(engine, name) is None and getattr(chosen, name) is not None
    }
    if not found:
        return engine
    return dataclasses.replace(engine, **found, unset=sorted({*engine.unset, *found}))


def asked(engine: EngineConfig) -> EngineConfig:
    """The inverse of `filled`: null again for what was left to the engine."""
    nulls: dict[str, Any] = dict.fromkeys(engine.unset)
    return dataclasses.replace(engine, unset=[], **nulls)


def differences(engine: EngineConfig, chosen: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Settings that were left to the engine and that it has `chosen` in another way than was `expected`, by name.

    engine  as `filled` made it
    chosen  as the engine tells; a setting that is not in it, or None, is not compared
    """
    return {
        name: {"expected": getattr(engine, name), "chosen": chosen[name]}
        for name in engine.unset
        if chosen.get(name) is not None and chosen[name] != getattr(engine, name)
    }


def notes(different: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """What a reader of a record should know of `differences`, a line each."""
    return [
        f"engine.{name} was left to the engine, which chose {values['chosen']}; expected, and in the record's identity, was "
        f"{values['expected']}: set engine.{name} to measure a point that says so"
        for name, values in different.items()
    ]
