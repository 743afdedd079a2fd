"""What records of earlier versions left unsaid, written out as they are read. Files are never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wattcount.engines import registry
from wattcount.errors import NotStartedError


def upgraded(info: Mapping[str, Any]) -> dict[str, Any]:
    """`run.json` as this version would have written it; `info` itself is left as it is.

    What an engine's settings meant then, its plug-in knows (`EnginePlugin.upgraded`).
    """
    config = info.get("config")
    scenario = config.get("scenario") if isinstance(config, Mapping) else None
    if isinstance(config, Mapping) and isinstance(scenario, Mapping) and "rehearsal" in scenario:
        # For a short while there were two kinds of rehearsal to choose from.
        scenario = {key: value for key, value in scenario.items() if key != "rehearsal"}
        config = {**config, "scenario": scenario}
        info = {**info, "config": config}
    engine = config.get("engine") if isinstance(config, Mapping) else None
    if not isinstance(config, Mapping) or not isinstance(engine, Mapping):
        return dict(info)
    try:
        plugin = registry.plugin(str(engine.get("name")))
    except NotStartedError:  # of an engine that is not installed here
        return dict(info)
    told = info.get("engine")
    details = told.get("details") if isinstance(told, Mapping) else None
    filled = plugin.upgraded(engine, details if isinstance(details, Mapping) else {})
    return {**info, "config": {**config, "engine": filled}}
