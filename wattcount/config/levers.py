"""What an operator turned: the settings of a run that differ from what it would be without them, in words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


def levers(config: Mapping[str, Any]) -> list[str]:
    """`["fp8", "eager", "TP 2"]` of a resolved configuration, in a fixed order; empty where nothing was turned.

    config  as `run.json` keeps it; keys that a record of an earlier version lacks count as not turned
    """
    model, engine, gpu = (config.get(group) or {} for group in ("model", "engine", "gpu"))
    left_to_engine = engine.get("unset") or ()
    engine = {key: value for key, value in engine.items() if key not in left_to_engine}
    speculative = engine.get("speculative") or {}
    sampling = (config.get("scenario") or {}).get("sampling") or {}
    found: list[str] = []

    def add(value: object, words: str, usual: object = None) -> None:
        if value not in (None, usual):
            found.append(words.format(value))

    add(model.get("quantization"), "{}")
    add(model.get("dtype"), "{}", "bfloat16")
    add(model.get("initializer"), "{} weights", "dummy")
    if engine.get("enforce_eager"):
        found.append("eager")
    add(engine.get("kv_cache_dtype"), "{} KV cache", "auto")
    for key, short in (("tensor", "TP"), ("pipeline", "PP"), ("data", "DP")):
        add(engine.get(f"{key}_parallel_size"), f"{short} {{}}", 1)
    add(engine.get("max_num_seqs"), "{} at once")
    add(engine.get("max_num_batched_tokens"), "{} tokens a step")
    cached = engine.get("enable_prefix_caching")
    # A record of an earlier version says False where nothing was asked.
    if cached or (cached is False and "unset" in engine):
        found.append("prefix caching" if cached else "no prefix caching")
    chunked = engine.get("enable_chunked_prefill")
    if chunked is not None:
        found.append("chunked prefill" if chunked else "no chunked prefill")
    add(speculative.get("method"), "{} speculation")
    for key, words, usual in (
        ("temperature", "temperature {:g}", 1),
        ("top_p", "top-p {:g}", 1),
        ("top_k", "top-k {}", 0),
        ("min_p", "min-p {:g}", 0),
        ("seed", "sampling seed {}", None),
    ):
        add(sampling.get(key), words, usual)
    found += [f"{key}={value}" for key, value in sorted((engine.get("args") or {}).items())]
    add(gpu.get("sm_clock_mhz"), "{} MHz")
    limit_w = gpu.get("power_limit_w")
    add(f"{limit_w:g}" if limit_w is not None else None, "{} W")
    return found


def with_levers(label: str, config: Mapping[str, Any]) -> str:
    """`batch of 512, fp8, eager`."""
    return ", ".join([label, *levers(config)])
