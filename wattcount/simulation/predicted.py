"""A load on a model and a GPU that need not be here: which step model stands for them, and how sure what it gives is.

Where the data have runs of the same model, GPU and engine settings that tell their steps, the step model is fitted to those at any rate (`measured`). Else it is the
physics of `prediction.steps`. Either way the result is `predicted`, with its basis beside it.
"""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from wattcount.config.schema import RunConfig, ServerConfig, SloConfig
from wattcount.engines import registry
from wattcount.errors import NotStartedError
from wattcount.prediction.setting import Abstained, PredictionSetting
from wattcount.prediction.steps import StepModel, step_model
from wattcount.records.schema import Evidence
from wattcount.result import Result
from wattcount.result.host_part import WATTS
from wattcount.simulation.figures import figures, latencies
from wattcount.simulation.measured import (
    MeasuredSteps,
    SeenRun,
    UnusableError,
    fit,
    limit_w,
    planned_load,
    play_load,
)
from wattcount.simulation.scheduler import Limits, Played, play

EVIDENCE = Evidence.PREDICTED
"""Of everything that is played."""
MOST_OVER_LIMIT = 1.05
"""Mean power / the GPUs' power limit, beyond which no interval reaches: boards exceed it by a few per cent at most."""
OVERLOADED_SHARE = 0.95
"""Tokens that are made in a window / tokens of the requests that come in it, below which the load is more than the GPU can serve."""
OVERLOADED_WAITING = 2.0
"""Requests waiting at the end of a window, in seconds of arrivals, from which it is: chance alone leaves fewer."""

FITTED_WITHIN = "steps of real runs, at a rate between theirs"
FITTED_BEYOND = "steps of real runs, at a rate beyond theirs"
PHYSICS = "physics of the steps, no run of this setting"
ERRORS: Mapping[str, Mapping[str, float]] = {
    FITTED_WITHIN: {"energy": 0.066, "tpot": 0.33, "ttft": 1.5},
    FITTED_BEYOND: {"energy": 0.16, "tpot": 0.40, "ttft": 2.6},
    PHYSICS: {"energy": 0.25, "tpot": 0.43, "ttft": 0.97},
}
"""By basis and kind of figure, the |ln(simulated / measured)| that 90 % of the real runs left out keep: `benchmarks/bench_simulation.py`."""
KINDS = {"power": "energy", "energy": "energy", "throughput": "energy"}
"""Kind of a figure by the begin of its key; latencies have their own."""


@dataclass(frozen=True)
class Basis:
    """What a played load rests on.

    kind     a key of ERRORS
    runs     rates of the real runs that the step model is fitted to [requests/s]; empty: none
    words    the same for people
    """

    model: StepModel
    limits: Limits
    rates: tuple[float, ...]
    words: str

    def kind(self, rate_rps: float) -> str:
        if not self.rates:
            return PHYSICS
        return FITTED_WITHIN if self.rates[0] <= rate_rps <= self.rates[-1] else FITTED_BEYOND


@dataclass(frozen=True)
class Predicted:
    """A load as it was played; `overloaded` says in words by how much it is too much, None: it can be served."""

    rate_rps: float
    kind: str
    basis: str
    values: Mapping[str, float | None]
    attained: float | None
    slo: SloConfig
    overloaded: str | None
    played: Played
    window_s: tuple[float, float]
    limit_w: float = math.inf

    def interval(self, key: str) -> tuple[float, float] | None:
        """90 %; None: the figure is not known, or is a count."""
        value, error = self.values.get(key), error_of(self.kind, key)
        if value is None or error is None:
            return None
        most = MOST_OVER_LIMIT * self.limit_w if key == WATTS else math.inf
        return value * math.exp(-error), max(value, min(value * math.exp(error), most))

    def to_result(self, config: RunConfig) -> Result:
        """The row of it. `config`: what was played."""
        scenario = config.scenario
        assert isinstance(scenario, ServerConfig)
        cfg = replace(config, scenario=replace(scenario, slo=self.slo))
        good = (
            {}
            if self.attained is None
            else {"requests/good": self.attained * (self.values["requests/sent"] or 0.0)}
        )
        spans_s = self.window_s[1] - self.window_s[0]
        return Result.predicted(
            cfg,
            {**self.values, **good, "window/duration_s": spans_s, "load/offered_rps": self.rate_rps},
            {key: self.interval(key) for key in self.values},
            self.basis,
            notes=[f"the rate is {self.kind}"]
            + [f"the load cannot be served: {self.overloaded}"] * (self.overloaded is not None),
        )

    def to_json(self) -> dict[str, Any]:
        return {
            "evidence": EVIDENCE.value,
            "basis": self.basis,
            "basis_kind": self.kind,
            "rate_rps": self.rate_rps,
            "figures": {
                key: {
                    "value": value,
                    **dict(zip(("p05", "p95"), self.interval(key) or (None, None), strict=True)),
                }
                for key, value in self.values.items()
            },
            "slo": {"ttft_ms": self.slo.ttft_ms, "tpot_ms": self.slo.tpot_ms, "e2e_ms": self.slo.e2e_ms},
            "slo_attainment": self.attained,
            "overloaded": self.overloaded,
        }


def error_of(kind: str, key: str) -> float | None:
    """Of the logarithm of a figure, 90 %; None for counts."""
    group, _, name = key.partition("/")
    if group == "latency":
        return ERRORS[kind]["ttft" if name.startswith("ttft") else "tpot"]
    return ERRORS[kind][KINDS[group]] if group in KINDS else None


def basis_of(config: RunConfig, runs: Sequence[SeenRun]) -> Basis:
    """The step model for a configuration as people compose it. Raises `Abstained` where nothing can stand for it."""
    if config.engine.data_parallel_size != 1 or config.engine.speculative.method is not None:
        raise Abstained(
            "replicas and speculative decoding are not played: one engine that decodes a token a step is"
        )
    groups: dict[str, list[SeenRun]] = defaultdict(list)
    for run in runs:
        if serves(config, run):
            groups[run.key].append(run)
    lengths = (config.scenario.lengths.input_tokens, config.scenario.lengths.output_tokens)

    def worth(group: list[SeenRun]) -> tuple[bool, bool, int, int]:
        theirs = group[0].config.scenario.lengths
        return (
            config.engine.name == group[0].config.engine.name,
            lengths == (theirs.input_tokens, theirs.output_tokens),
            len({run.rate_rps for run in group}),
            len(group),
        )

    for group in sorted(groups.values(), key=worth, reverse=True):
        try:
            model = fit(group)
        except UnusableError:
            continue
        rates = tuple(sorted({run.rate_rps for run in group}))
        theirs = group[0].config
        words = (
            f"steps of {len(group)} real runs of {theirs.model.name} on {group[0].gpu} at {', '.join(f'{rate:g}' for rate in rates)} requests/s, "
            f"{theirs.scenario.lengths.input_tokens} tokens in and {theirs.scenario.lengths.output_tokens} out, {theirs.model.weights.value} weights"
        )
        return Basis(model, _asked(config, group[0].limits), rates, words)
    return _by_physics(config)


def _by_physics(config: RunConfig) -> Basis:
    steps = step_model(PredictionSetting.of_run(config))
    chosen = registry.plugin(config.engine.name).defaults(config)
    usual = Limits()
    seqs = chosen.max_num_seqs or usual.max_num_seqs
    size = usual.block_size
    limits = Limits(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(seqs, chosen.max_num_batched_tokens or usual.max_num_batched_tokens),
        kv_blocks=max(1, int(steps.kv_capacity_tokens // size)),
    )
    return Basis(
        steps,
        limits,
        (),
        f"physics from config.json and data sheet: no run of {config.model.name} on {config.gpu.name} that tells its steps",
    )


def serves(config: RunConfig, run: SeenRun) -> bool:
    """Whether a run has the model, GPU and engine settings of a configuration; what that leaves open is as the run has it."""
    asked, theirs = config.engine, run.config.engine
    same_gpu = config.gpu.name == run.config.gpu.name or any(
        re.fullmatch(pattern, run.gpu) for pattern in config.gpu.nvml_names
    )
    return (
        same_gpu
        and config.model.name == run.config.model.name
        and config.model.quantization == run.config.model.quantization
        and config.model.dtype == run.config.model.dtype
        and all(
            getattr(config.gpu, name) == getattr(run.config.gpu, name)
            for name in ("sm_clock_mhz", "power_limit_w")
        )
        and all(
            getattr(asked, name) in (None, getattr(theirs, name))
            for name in (
                "tensor_parallel_size",
                "pipeline_parallel_size",
                "kv_cache_dtype",
                "enforce_eager",
                "args",
            )
        )
    )


def _asked(config: RunConfig, limits: Limits) -> Limits:
    """The limits of the runs, with what the configuration sets itself."""
    engine = config.engine
    seqs = engine.max_num_seqs or limits.max_num_seqs
    tokens = engine.max_num_batched_tokens or limits.max_num_batched_tokens
    return replace(limits, max_num_seqs=seqs, max_num_batched_tokens=max(seqs, tokens))


def simulate(config: RunConfig, basis: Basis, slo: SloConfig) -> Predicted:
    """Plays the load of a server scenario. Raises NotStartedError for another one."""
    if not isinstance(config.scenario, ServerConfig):
        raise NotStartedError("a batch has no rate to play: give scenario=server")
    load, window_s = planned_load(config, config.seed, config.repeat)
    rate = config.scenario.rate_rps
    if rate is None:
        rate = len(load) / window_s[1]
    front_s = 0.0
    if isinstance(basis.model, MeasuredSteps):
        front_s = basis.model.front_s
        played = play_load(load, window_s, basis.limits, basis.model, config.seed)
    else:
        played = play(load, basis.limits, basis.model, jump=True)
    seen = latencies(played, window_s, front_s)
    return Predicted(
        rate,
        basis.kind(rate),
        basis.words,
        figures(played, window_s, front_s),
        seen.attained(slo),
        slo,
        overload(played, window_s),
        played,
        window_s,
        limit_w(config),
    )


def overload(played: Played, window_s: tuple[float, float]) -> str | None:
    """Why the load is more than the engine can serve, in words; None: it is not."""
    if played.refused:
        return f"{len(played.refused)} requests have more tokens than the KV cache holds"
    arrival = played.load.arrival_s
    inside = (arrival >= window_s[0]) & (arrival < window_s[1])
    asked = float(played.load.output_tokens[inside].sum())
    made = played.steps.emitted_between(*window_s)
    rows = played.steps.end_s <= window_s[1]
    waiting = int(played.steps.waiting[rows][-1]) if rows.any() else 0
    rate = inside.sum() / (window_s[1] - window_s[0])
    if made < OVERLOADED_SHARE * asked and waiting > OVERLOADED_WAITING * rate:
        return f"{waiting} requests wait at the end of the window: {100 * made / asked:.0f} % of what is asked for is served"
    return None


def at_rate(config: RunConfig, rate_rps: float) -> RunConfig:
    scenario = config.scenario
    if not isinstance(scenario, ServerConfig):
        raise NotStartedError("a batch has no rate to play: give scenario=server")
    return replace(config, scenario=replace(scenario, rate_rps=rate_rps))
