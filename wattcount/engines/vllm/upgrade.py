"""What records of earlier versions left unsaid of vLLM's settings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BARE_ENGINE = {"max_num_seqs": 128, "max_num_batched_tokens": 2048, "enable_chunked_prefill": True}
"""What vLLM ran with where a setting was null, before null meant what `vllm serve` or `LLM` chooses: its `AsyncLLM` without a
usage context (`SchedulerConfig` in vLLM 0.26 to 0.32). The records in `data/` say so in `engine.details`."""
FORMER_DEFAULTS = {"gpu_memory_utilization": 0.9, "enable_prefix_caching": False}
"""What wattcount told vLLM by default then."""


def upgraded(engine: Mapping[str, Any], details: Mapping[str, Any]) -> Mapping[str, Any]:
    """The group `engine` of a record's configuration; `details` as vLLM told them.

    Settings that were left to vLLM get the values that they had, by `details` as far as it tells. These and those that
    were as wattcount had them by default are listed in `unset`.
    """
    if "unset" in engine:
        return engine
    left = {name: value for name, value in BARE_ENGINE.items() if engine.get(name) is None}
    known = {name: details[name] for name in left if details.get(name) is not None}
    by_default = {name: value for name, value in FORMER_DEFAULTS.items() if engine.get(name) in (None, value)}
    return {**engine, **left, **known, **by_default, "unset": sorted({*left, *by_default})}
