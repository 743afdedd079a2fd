"""What an operator turned: the settings of a run that differ from what it would be without them, in words."""

from __future__ import annotations

from wattcount.config.identity import plain_value
from wattcount.config.schema import RunConfig


def levers(cfg: RunConfig) -> list[str]:
    """`["fp8", "eager", "TP 2"]` of a configuration, in a fixed order; empty where nothing was turned.

    What was left to the engine (`engine.unset`) was not turned, whatever it chose.
    """
    model, engine, gpu, sampling = cfg.model, cfg.engine, cfg.gpu, cfg.scenario.sampling
    found: list[str] = []

    def add(value: object, words: str, usual: object = None) -> None:
        if (plain := plain_value(value)) not in (None, usual):
            found.append(words.format(plain))

    def asked(name: str) -> object:
        return None if name in engine.unset else getattr(engine, name)

    add(model.quantization, "{}")
    add(model.dtype, "{}", "bfloat16")
    add(model.initializer, "{} weights", "dummy")
    add(engine.enforce_eager or None, "eager")
    add(engine.kv_cache_dtype, "{} KV cache", "auto")
    for size, short in (
        (engine.tensor_parallel_size, "TP"),
        (engine.pipeline_parallel_size, "PP"),
        (engine.data_parallel_size, "DP"),
    ):
        add(size, f"{short} {{}}", 1)
    add(asked("max_num_seqs"), "{} at once")
    add(asked("max_num_batched_tokens"), "{} tokens a step")
    for name, words in (
        ("enable_prefix_caching", "prefix caching"),
        ("enable_chunked_prefill", "chunked prefill"),
    ):
        if (turned := asked(name)) is not None:
            found.append(words if turned else f"no {words}")
    add(engine.speculative.method, "{} speculation")
    add(engine.pinned_cpus, "{} CPUs")
    add(engine.nice, "nice {}")
    for value, words, usual in (
        (sampling.temperature, "temperature {:g}", 1),
        (sampling.top_p, "top-p {:g}", 1),
        (sampling.top_k, "top-k {}", 0),
        (sampling.min_p, "min-p {:g}", 0),
        (sampling.seed, "sampling seed {}", None),
    ):
        add(value, words, usual)
    found += [f"{key}={value}" for key, value in sorted(engine.args.items())]
    add(gpu.sm_clock_mhz, "{} MHz")
    add(gpu.power_limit_w, "{:g} W")
    return found
