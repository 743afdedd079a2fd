"""Every metric wattcount computes: key, unit, meaning, and which way is better.

The keys are the same in `metrics.json`, in MLflow and in tables. `docs/metrics.md` has the formulas.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

METRICS_VERSION = 10
"""Raised whenever a key changes its meaning or goes."""

PERCENTILES = (50, 95, 99)
ENERGY_SOURCES = ("energy_counter", "power_samples", "power_average", "power_instant", "power_usage")
"""The sources an energy can be had from, by their names in `power.parquet`."""
POLLED_SOURCES = (*ENERGY_SOURCES, "status")
"""What the sampler polls at a rate of its own; `status` is temperature, clocks and the like."""

Better = Literal["lower", "higher"]


@dataclass(frozen=True)
class MetricSpec:
    """What a metric is. `better` is None where neither way is."""

    unit: str
    description: str
    better: Better | None = None


def _registry() -> dict[str, MetricSpec]:
    specs: dict[str, MetricSpec] = {}

    def add(key: str, unit: str, description: str, better: Better | None = None) -> None:
        specs[key] = MetricSpec(unit, description, better)

    add("energy/gpu_j", "J", "energy of all GPUs over the window", "lower")
    add("energy/gpu_j_u95", "J", "95 % uncertainty of energy/gpu_j, method and sensor together", "lower")
    add("energy/gpu_j_u95_method", "J", "of that, what the estimator adds: shape, edges, alignment", "lower")
    add(
        "energy/gpu_j_u95_sensor", "J", "of that, gain and offset of the boards: the same in all runs on them"
    )
    add("energy/gpu_j_per_output_token", "J", "energy of the window / output tokens emitted in it", "lower")
    add("energy/gpu_j_per_request", "J", "energy of the window / requests completed in it", "lower")
    add(
        "energy/gpu_j_per_good_request",
        "J",
        "energy of the window / requests sent in it that met the SLO",
        "lower",
    )
    add("energy/batch_gpu_j", "J", "energy of the whole batch, first send to last token", "lower")
    add("energy/bare_idle_j", "J", "of the window: what the GPU draws without an engine", "lower")
    add("energy/context_idle_j", "J", "of the window: what an engine without requests adds to that", "lower")
    add("energy/dynamic_j", "J", "of the window: the rest, what serving the requests added", "lower")
    add("energy/dynamic_j_per_output_token", "J", "energy/dynamic_j / output tokens emitted", "lower")
    add("energy/dynamic_j_per_request", "J", "energy/dynamic_j / requests completed", "lower")
    for phase, work in (("prefill", "prompt tokens computed"), ("decode", "tokens decoded")):
        add(
            f"energy/{phase}_j",
            "J",
            f"energy of the window above idle that {phase} drew, by a model",
            "lower",
        )
        add(f"energy/{phase}_j_per_token", "J", f"that energy / {work} in the window", "lower")
        add(f"energy/{phase}_j_per_token_u95", "J", "95 % uncertainty of the same", "lower")
    for figure in ("mean", "p50", "p95"):
        add(
            f"energy/request_{figure}_j",
            "J",
            f"energy of a request, its share of idle included, by the same model; {figure} of those whole in the window",
            "lower",
        )
    for source in ENERGY_SOURCES:
        add(f"energy_by_source/{source}_j", "J", f"energy over the window by {source} alone, all GPUs")

    add("energy/cpu_package_j", "J", "energy of all CPU packages over the window (RAPL)", "lower")
    add("energy/dram_j", "J", "energy of all DRAM over the window (RAPL)", "lower")

    add("power/gpu_mean_w", "W", "energy of the window / its length", "lower")
    add("power/idle_bare_w", "W", "mean power with no engine", "lower")
    add("power/idle_loaded_w", "W", "mean power with the engine up and no request yet", "lower")
    add("power/idle_loaded_after_w", "W", "mean power with the engine up after the last request", "lower")
    add("power/cpu_package_mean_w", "W", "energy of all CPU packages over the window / its length", "lower")
    add("power/idle_bare_after_w", "W", "mean power after the engine has ended", "lower")
    add("power/idle_bare_drift_percent", "%", "bare idle after the load against before")
    add("power/idle_loaded_drift_percent", "%", "loaded idle after the load against before")

    add(
        "throughput/output_tokens_per_s",
        "tokens/s",
        "output tokens emitted in the window / its length",
        "higher",
    )
    add(
        "throughput/input_tokens_per_s",
        "tokens/s",
        "prompt tokens of requests whose first token fell in the window / its length",
        "higher",
    )
    add("throughput/requests_per_s", "requests/s", "requests completed in the window / its length", "higher")
    add(
        "throughput/goodput_rps",
        "requests/s",
        "requests sent in the window that met the SLO / its length",
        "higher",
    )

    latencies = {
        "ttft": "time to first token, from the actual send",
        "tpot": "time per output token after the first, (E2E - TTFT) / (output tokens - 1)",
        "itl": "gap between two arrivals of tokens of one request",
        "e2e": "end-to-end latency, from the actual send to the last token",
    }
    for name, meaning in latencies.items():
        for p in PERCENTILES:
            add(f"latency/{name}_p{p}_ms", "ms", f"{meaning}; percentile {p}", "lower")

    add("load/offered_rps", "requests/s", "requests planned to be sent in the window / its length")
    add("load/achieved_rps", "requests/s", "requests actually sent in the window / its length")
    add("load/send_lag_p50_ms", "ms", "actual minus planned send; percentile 50", "lower")
    add("load/send_lag_p99_ms", "ms", "actual minus planned send; percentile 99", "lower")
    add("load/send_lag_max_ms", "ms", "actual minus planned send; largest", "lower")

    add("requests/sent", "1", "requests sent in the window")
    add("requests/completed", "1", "of those sent in the window: completed by the end of the drain")
    add("requests/failed", "1", "of those sent in the window: failed", "lower")
    add(
        "requests/cancelled",
        "1",
        "of those sent in the window: still running at the end of the drain",
        "lower",
    )
    add("requests/good", "1", "of those sent in the window: completed and met the SLO", "higher")
    add("requests/not_sent", "1", "planned for the window and never sent", "lower")
    add("requests/completed_in_window", "1", "requests whose last token fell in the window, whenever sent")

    add("tokens/output", "1", "output tokens emitted in the window")
    add("tokens/input", "1", "prompt tokens of requests whose first token fell in the window")
    add("tokens/cached_input", "1", "of tokens/input, those served from the prefix cache")

    add("attribution/condition_number", "1", "of the model that divides the energy, scaled columns", "lower")
    add("attribution/r_squared", "1", "of the same model, over its intervals", "higher")
    add(
        "attribution/residual_share", "1", "rms residual of an interval / its mean energy above idle", "lower"
    )

    add("window/duration_s", "s", "length of the window")
    add("window/power_drift_percent", "%", "trend of power within the window, end against begin")
    add("window/throughput_drift_percent", "%", "trend of output tokens/s within the window")
    add("window/in_flight_drift_percent", "%", "trend of the requests in flight within the window")

    add("window_steady/duration_s", "s", "length of the steady window of a batch")
    add("energy_steady/gpu_j", "J", "energy of all GPUs over the steady window", "lower")
    add("energy_steady/gpu_j_per_output_token", "J", "the same / output tokens emitted in it", "lower")
    add("energy_steady/gpu_j_per_request", "J", "the same / requests completed in it", "lower")
    add("power_steady/gpu_mean_w", "W", "energy of the steady window / its length", "lower")
    add(
        "throughput_steady/output_tokens_per_s",
        "tokens/s",
        "output tokens in the steady window / its length",
        "higher",
    )
    add("throughput_steady/requests_per_s", "requests/s", "requests completed in it / its length", "higher")

    add("engine/running_mean", "1", "mean number of running requests over the engine steps of the window")
    add("engine/running_max", "1", "largest number of running requests in the window")
    add("engine/waiting_max", "1", "largest number of waiting requests in the window", "lower")
    add("engine/kv_cache_usage_max", "1", "largest share of the KV cache in use in the window, 0..1")
    add("engine/draft_tokens", "1", "proposals of speculative decoding that were checked in the window")
    add("engine/draft_acceptance", "1", "share of them that became output, 0..1", "higher")
    add("engine/preemptions", "1", "preemptions of the requests sent in the window", "lower")

    add("gpu/temperature_min_c", "C", "lowest GPU temperature in the window")
    add("gpu/temperature_max_c", "C", "highest GPU temperature in the window")
    add("gpu/temperature_idle_bare_c", "C", "mean GPU temperature in bare idle")
    add("gpu/temperature_idle_loaded_c", "C", "mean GPU temperature in loaded idle, before the first request")
    add("gpu/temperature_idle_loaded_after_c", "C", "the same after the last request")
    add("gpu/temperature_idle_bare_after_c", "C", "mean GPU temperature after the engine has ended")
    add("gpu/clock_sm_mean_mhz", "MHz", "mean SM clock over the window, weighted by time")
    add("gpu/clock_event_reasons", "bitmask", "clock event reasons seen in the window, NVML's bits or-ed")
    add("gpu/power_capped_share", "1", "share of the window with the software power cap slowing the clocks")
    add("gpu/thermal_slowdown_share", "1", "share of the window slowed by temperature", "lower")

    add(
        "sampler/cpu_share",
        "1",
        "CPU time of the sampling threads / their wall time, all GPUs together",
        "lower",
    )
    for source in POLLED_SOURCES:
        add(f"sampler/{source}_rate_hz", "Hz", f"rate at which {source} was read")
        add(f"sampler/{source}_jitter_ms", "ms", f"lateness of the reads of {source}; percentile 99", "lower")
    add(
        "sampler/missed_deadlines",
        "1",
        "reads that were skipped because the one before took too long",
        "lower",
    )
    add("sampler/dropped_events", "1", "observations lost to a full buffer", "lower")
    add("sampler/ring_overflows", "1", "times the samples ring had wrapped before it was drained", "lower")

    add("run/overhead_s", "s", "what wattcount adds to the phases and the engine's start", "lower")
    add("run/engine_start_s", "s", "time the engine took to start", "lower")
    return specs


METRICS: dict[str, MetricSpec] = _registry()


def gpu_energy_key(index: int) -> str:
    """Key of one GPU's energy over the window; `index` is its place in `run.json`'s `gpus`."""
    return f"energy_by_gpu/gpu{index}_j"


def spec(key: str) -> MetricSpec:
    """The spec of any key that `metrics.json` can hold, per-GPU keys included. KeyError for others."""
    if key.startswith("energy_by_gpu/gpu") and key.endswith("_j"):
        return MetricSpec("J", "energy of one GPU over the window", "lower")
    return METRICS[key]
