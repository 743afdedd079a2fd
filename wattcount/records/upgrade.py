"""What records of earlier versions left unsaid, written out as they are read. Files are never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wattcount.engines import registry
from wattcount.errors import NotStartedError


def upgraded(info: Mapping[str, Any]) -> dict[str, Any]:
    """`run.json` as this version would have written it; `info` itself is left as it is.

    Keys that were added since with what runs did before as their default need no line here. What an engine's settings
    meant then, its plug-in knows (`EnginePlugin.upgraded`). Each run of version 1 had an engine of its own.
    """
    config = info.get("config")
    if not isinstance(config, Mapping):
        return dict(info)
    told = info.get("engine")
    details = told.get("details") if isinstance(told, Mapping) else None
    groups = {
        "scenario": _scenario(config.get("scenario")),
        "engine": _engine(config.get("engine"), details if isinstance(details, Mapping) else {}),
    }
    alone = {"session": {"id": info["run_id"], "number": 1}} if "run_id" in info else {}
    return {
        **alone,
        **info,
        "config": {**config, **{name: groups[name] for name in groups if name in config}},
    }


def _scenario(scenario: Any) -> Any:
    """Without the kind of rehearsal that could be chosen for a short while; a warm-up that had no limit was of fixed length."""
    if not isinstance(scenario, Mapping):
        return scenario
    found = {key: value for key, value in scenario.items() if key != "rehearsal"}
    if "warmup_s" in found:
        found.setdefault("warmup_limit_s", found["warmup_s"])
    return found


def _engine(engine: Any, details: Mapping[str, Any]) -> Any:
    """With what was left to the engine. Before there was `unset`, no prefix caching was what nobody had asked for."""
    if not isinstance(engine, Mapping):
        return engine
    try:
        found = registry.plugin(str(engine.get("name"))).upgraded(engine, details)
    except NotStartedError:  # of an engine that is not installed here
        found = engine
    return {
        "unset": ["enable_prefix_caching"] if found.get("enable_prefix_caching") is False else [],
        **found,
    }
