"""What records of earlier versions left unsaid, written out as they are read. Files are never changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BARE_ENGINE = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "enable_chunked_prefill": True}
"""What vLLM ran with where a setting was null, before null meant what `vllm serve` or `LLM` chooses: its `AsyncLLM` without a
usage context (`SchedulerConfig` in vLLM 0.26 to 0.32). The records in `data/` say so in `engine.details`."""
FORMER_DEFAULTS = {"gpu_memory_utilization": 0.9, "enable_prefix_caching": False}
"""What wattcount told vLLM by default then."""


def upgraded(info: Mapping[str, Any]) -> dict[str, Any]:
    """`run.json` as this version would have written it; `info` itself is left as it is.

    Settings that were left to vLLM get the values that they had, by `engine.details` as far as it tells. These and those that
    were as wattcount had them by default are listed in `config.engine.unset`.
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
    if engine.get("name") != "vllm" or "unset" in engine:
        return dict(info)
    told = info.get("engine")
    details = told.get("details") if isinstance(told, Mapping) else None
    details = details if isinstance(details, Mapping) else {}
    left = {name: value for name, value in BARE_ENGINE.items() if engine.get(name) is None}
    known = {name: details[name] for name in left if details.get(name) is not None}
    by_default = {name: value for name, value in FORMER_DEFAULTS.items() if engine.get(name) in (None, value)}
    filled = {**engine, **left, **known, **by_default, "unset": sorted({*left, *by_default})}
    return {**info, "config": {**config, "engine": filled}}
