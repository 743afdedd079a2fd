"""How long a run will take and what it will use: from its like where there are some, else from data sheets.

A prediction is for planning alone and never leaves the plan. It knows the phases, and takes for the rest a GPU that
is as fast as its memory and its tensor cores, at the shares of the peak below.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import fmean

from wattcount.config import fit, model_shape
from wattcount.config.schema import BatchConfig, RunConfig, ServerConfig
from wattcount.engines import registry
from wattcount.sweep.index import RecordIndex

MEASURED, PREDICTED = "measured", "predicted"

BANDWIDTH_SHARE = 0.6
TENSOR_SHARE = 0.4
"""Shares of a data sheet's peak that serving reaches."""
SLOW_STEP_S = 0.01
"""Of a whole step, where nothing is known of what computes it [s]."""
BUSY_POWER_SHARE = 0.9
"""Of the power limit, with the tensor cores busy."""
DECODE_POWER_SHARE = 0.4
"""Of the power limit, with one request decoding; with BUSY_REQUESTS at once it is as busy as it gets."""
BUSY_REQUESTS = 16.0
LOADED_IDLE_FACTOR = 1.5
"""Of bare idle power, with an engine up."""
UNKNOWN_TDP_W, UNKNOWN_IDLE_W = 300.0, 50.0


@dataclass(frozen=True)
class Estimate:
    """Of one run: seconds from start to end, joule of its GPUs, and what both rest on."""

    wall_s: float
    energy_j: float | None
    basis: str


class Estimator:
    """Estimates by what is in `index`; points that differ only in seed and repeat have one estimate."""

    def __init__(self, index: RecordIndex) -> None:
        self._index = index
        self._known: dict[tuple[str, bool], Estimate] = {}

    def estimate(
        self, point: str, cfg: RunConfig, facts: Mapping[str, str | None], *, follows: bool = False
    ) -> Estimate:
        """`point`: its key without seed and repeat. `facts`: as for `RecordIndex.valid`. `follows`: as for `predict`."""
        known = self._known.get((point, follows))
        if known is None:
            known = self._measured(point, facts, follows) or predict(cfg, follows=follows)
            self._known[point, follows] = known
        return known

    def _measured(self, point: str, facts: Mapping[str, str | None], follows: bool) -> Estimate | None:
        like = [
            result
            for result in self._index.valid(point, facts)
            if result.wall_s is not None and (result.session not in (None, result.run_id)) == follows
        ]
        energies = [result.run_energy_j for result in like if result.run_energy_j is not None]
        if not like:
            return None
        wall_s = fmean(result.wall_s or 0.0 for result in like)
        return Estimate(wall_s, fmean(energies) if energies else None, MEASURED)


def predict(cfg: RunConfig, *, follows: bool = False) -> Estimate:
    """From the scenario's phases and the data sheet of `cfg.gpu`; of an unknown GPU some 300 W and no speed.

    follows   it goes on with the engine of the run before, so that nothing has to start
    """
    scenario, gpu = cfg.scenario, cfg.gpu
    engine = registry.plugin(cfg.engine.name).expected(cfg)
    tdp_w, idle_w = gpu.tdp_w or UNKNOWN_TDP_W, gpu.idle_w or UNKNOWN_IDLE_W
    idle_s = 2 * scenario.loaded_idle_s + (0.0 if follows else engine.start_s)
    bare_s = 0.0 if follows else scenario.bare_idle_s + scenario.bare_idle_after_s
    prefill_s, decode_s = _request_s(cfg, 1.0)
    if isinstance(scenario, BatchConfig):
        at_once = fit.concurrency(cfg)
        prefill_s, decode_s = _request_s(cfg, float(at_once))
        rounds = -(-scenario.num_requests // at_once)
        busy_s = scenario.num_requests * prefill_s + rounds * decode_s
        busy_w = BUSY_POWER_SHARE * tdp_w
    else:
        assert isinstance(scenario, ServerConfig)
        warmup_s = min((scenario.warmup_s + scenario.warmup_limit_s) / 2, scenario.warmup_limit_s)
        busy_s = (warmup_s if scenario.warmup_s else 0.0) + scenario.window_s + prefill_s + decode_s
        running = (scenario.rate_rps or 1.0) * (prefill_s + decode_s)
        more = (BUSY_POWER_SHARE - DECODE_POWER_SHARE) * min(1.0, running / BUSY_REQUESTS)
        loaded_w = LOADED_IDLE_FACTOR * idle_w
        full_w = (DECODE_POWER_SHARE + more) * tdp_w
        busy_w = loaded_w + min(1.0, running) * max(0.0, full_w - loaded_w)
    wall_s = bare_s + idle_s + busy_s + engine.overhead_s
    energy_j = bare_s * idle_w + idle_s * LOADED_IDLE_FACTOR * idle_w + busy_s * busy_w
    return Estimate(wall_s, gpu.count * energy_j, PREDICTED)


def _request_s(cfg: RunConfig, at_once: float) -> tuple[float, float]:
    """Seconds of a request's prefill, and of its decoding with `at_once` requests in every step."""
    lengths, gpu = cfg.scenario.lengths, cfg.gpu
    plugin = registry.plugin(cfg.engine.name)
    if not plugin.capabilities.computes_model or gpu.memory_bandwidth_gb_s is None:
        return 0.0, lengths.output_tokens * SLOW_STEP_S
    counted = model_shape.count_parameters(cfg.model.hf_config)
    active = counted.active if counted is not None else (cfg.model.parameters_b or 7.0) * 1e9
    flops = 2.0 * active
    peak = (gpu.fp16_dense_tflops or 100.0) * 1e12 * TENSOR_SHARE * gpu.count
    bandwidth = gpu.memory_bandwidth_gb_s * 1e9 * BANDWIDTH_SHARE * gpu.count
    context = lengths.input_tokens + lengths.output_tokens / 2
    kv_bytes = at_once * context * model_shape.kv_bytes_per_token(cfg.model.hf_config, 2.0)
    step_s = max((fit.weight_bytes(cfg.model) + kv_bytes) / bandwidth, at_once * flops / peak)
    step_s += plugin.expected(cfg).step_s
    return lengths.input_tokens * flops / peak, lengths.output_tokens * step_s
