"""A step model fitted to the steps and the power of real runs of one setting at any rates.

What a step takes the GPU is a sum of what is in it, with coefficients that are not negative, and so is its energy above idle::

    a step that only decodes . a step with prefill . a prompt token . a sequence that decodes . a token of context .
    the share of a mixture's experts that its tokens touch

No coefficient of time is below what the data sheet allows (weights, experts and KV cache through the memory, operations through the tensor cores): so runs that
are all full still tell what an empty server does.

A step that the engine has no CUDA graph for is launched kernel by kernel, which takes the host longer than the GPU where model and step are small. How
long is seen in the records: the tokens of a step before it are heard only when it is launched. Such a step ends at the earliest `tail_s` after its launch.
Between two rates the launches are interpolated, for they are the host's.

Where a board is at its power limit its clocks fall, and prompt tokens take longer in proportion. How far they fall is interpolated between the runs by the
power that the load would draw at full clocks.

Single steps are reported late and in pairs (docs/attribution.md), so times are fitted to stretches of STRETCH steps, and energy to intervals of half
a second, both relative to what they take, so that all rates count alike.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from scipy.optimize import least_squares, nnls

from wattcount.config.fit import DTYPE_BYTES
from wattcount.config.identity import key_of, setting
from wattcount.config.schema import RunConfig, ServerConfig
from wattcount.engines import registry
from wattcount.errors import NotStartedError, WattcountError
from wattcount.load.build import build_plan
from wattcount.metrics.attribution import read_inputs
from wattcount.metrics.gpu import CLOCK_TOLERANCE_SHARE
from wattcount.metrics.observations import MISSING, Bools, Floats, Ints, Requests, Window, phase_window
from wattcount.metrics.work import NNLS_ITERATIONS, EnergyAt, Spans, Work
from wattcount.prediction.setting import Abstained, PredictionSetting
from wattcount.prediction.steps import StepBatch, step_model
from wattcount.prediction.work import gpu_facts, model_facts
from wattcount.records import Record
from wattcount.records.schema import Evidence, Phase
from wattcount.simulation.figures import Latencies, in_window
from wattcount.simulation.scheduler import Launches, Limits, Load, Played, play

LEAST_STEP_S = 1e-4
"""Shortest step [s]: a tenth of what composing one takes. Coefficients may all be 0 for a step that no run had."""
STRETCH = 20
"""Steps whose times are added before they are fitted: their reports are misplaced by one step at most, a twentieth."""
INTERVAL_S = 0.5
"""Length of the intervals whose energy is fitted [s]: 25 samples of an H200's ring."""
MOST_GRAPH_TOKENS = 512
"""Most tokens of a step that vLLM captures a CUDA graph for, unless it is told otherwise."""
LAUNCHED_RATIO = 1.5
"""How much longer than usual tokens have to be waited for before a step without a graph, for its launch to be what they wait for."""
COARSE = (0.1, 0.3, 0.5, 0.7, 0.9)
"""Quantiles of them that the fit of the step times is content with."""
QUEUED_RATIO = 2.0
"""Median TTFT / the least of the runs, above which requests queued."""
FEWEST_STRETCHES = 5
"""Stretches of steps of a run below which it is left out of a fit."""
MOST_STRETCHES = 250
"""Stretches of a run that are fitted: 5,000 steps tell enough, and a minute of a fast model has ten times as many."""
DRAWN = 4096
"""Launch times that are drawn at once."""
PRIOR_STEPS = (
    *(StepBatch(0, 0, sequences, 576 * sequences) for sequences in (1, 4, 16, 64, 256)),
    StepBatch(512, 512 * 513 // 2, 0, 0, prompts=1),
)
"""Steps of which the physics says what they take, beside those that were seen: of a usual load, all with a CUDA graph."""
PRIOR_WEIGHT = 0.25
"""Weight of one of them / that of a stretch or an interval that was seen: these scatter by some 5 %, and the physics is off by some 20 %."""
QUANTILES = (np.arange(40) + 0.5) / 40
"""Of the launch times, that stand for all of them."""


class UnusableError(WattcountError):
    """A run that no step model can be fitted to: why."""


TERMS = 6
"""Terms of a step, in the order of `terms_of`."""
DECODE_STEP, PREFILL_STEP, PROMPT_TOKEN, SEQUENCE, CONTEXT, EXPERTS = range(TERMS)


def terms_of(prefill: Ints, decode: Ints, context: Floats, missed: float) -> Floats:
    """float64[n, TERMS] of steps with so many prompt tokens, sequences that decode, and tokens that these look back on.

    missed  share of the experts that a token does not use; 1: the model has none
    """
    with_prefill = prefill > 0
    touched = 1.0 - np.power(missed, np.asarray(prefill + decode, dtype=np.float64))
    columns = (~with_prefill, with_prefill, prefill, decode, context, touched)
    return np.stack([np.asarray(column, dtype=np.float64) for column in columns], axis=1)


@dataclass(frozen=True)
class SeenRun:
    """What a step model and its check want of a run.

    key            what runs of one setting share at any rate
    missed         share of the experts that a token does not use; 1: the model has none
    least_s        least seconds of each term, by the data sheet
    limits         of its engine
    window_s       begin and end of the window, from the start of the load [s]
    steps_s, terms float64[n], how long each step in the window took, and float64[n, TERMS], what was in it
    clock          SM clock under load / the highest of the record; 1: not slowed, or not known
    paused         bool[n], whether the engine had nothing to do before it
    above_j, done  float64[m], energy of intervals above idle, and float64[m, TERMS], what was done in them
    energy_j       of the window
    seen           latencies of the requests sent in it
    gpu            name of its GPUs as found
    kv_tokens      that the KV cache holds; None: not known
    launches_s     float64, how long steps without a CUDA graph took to launch; empty: no time that shows
    """

    path: str
    key: str
    config: RunConfig
    seed: int
    repeat: int
    graph_tokens: int
    missed: float
    least_s: tuple[float, ...]
    limits: Limits
    kv_tokens: int | None
    window_s: tuple[float, float]
    steps_s: Floats
    terms: Floats
    clock: float
    paused: Bools
    launches_s: Floats
    above_j: Floats
    done: Floats
    idle_w: float
    energy_j: float
    seen: Latencies
    gpu: str

    @property
    def rate_rps(self) -> float:
        scenario = self.config.scenario
        assert isinstance(scenario, ServerConfig)
        assert scenario.rate_rps is not None
        return scenario.rate_rps

    @property
    def load(self) -> Load:
        """Its load as planned: the warm-up that has a fixed length, and the window."""
        return planned_load(self.config, self.seed, self.repeat)[0]


def planned_load(config: RunConfig, seed: int, repeat: int) -> tuple[Load, tuple[float, float]]:
    """The requests of a server run, and begin and end of its window [s]."""
    built = build_plan(config.scenario, seed, repeat)
    plan = built.main
    assert built.end_offset_ns is not None
    load = Load(
        plan.send_offset_ns / 1e9, plan.input_tokens.astype(np.int64), plan.output_tokens.astype(np.int64)
    )
    return load, (built.window_start_offset_ns / 1e9, built.end_offset_ns / 1e9)


def curve_key(config: RunConfig) -> str:
    """What runs share that differ in their rate alone."""
    return key_of(setting(config), without=("scenario.rate_rps", "scenario.slo"))


def _is_played(engine: str) -> bool:
    """An engine of a record that is not installed here is none of those."""
    try:
        return registry.plugin(engine).capabilities.scheduler_is_played
    except NotStartedError:
        return False


def read_run(record: Record) -> SeenRun:
    """Raises `UnusableError` where the run does not tell enough, or is not a server's."""
    info, config = record.info, record.info.resolved
    engine, scenario = config.engine, config.scenario
    if not isinstance(scenario, ServerConfig) or scenario.rate_rps is None or not _is_played(engine.name):
        raise UnusableError(f"{record.path} is no server run of an engine whose scheduler is played")
    if info.evidence != Evidence.MEASURED:
        raise UnusableError(f"{record.path} was not measured")
    if engine.data_parallel_size != 1 or engine.speculative.method is not None or not len(record.steps):
        raise UnusableError(f"{record.path} has no steps of one engine that decodes a token a step")
    window = phase_window(info.phases, Phase.WINDOW)
    if window is None:
        raise UnusableError(f"{record.path} has no window")
    inputs = read_inputs(record, window)
    if isinstance(inputs, str):
        raise UnusableError(f"{record.path} has no energy by intervals: {inputs}")
    details = (info.engine or {}).get("details", {})
    limits, kv_tokens = limits_of(config, details)
    graph_tokens = graph_tokens_of(config, details, limits)
    work, bounds = inputs.work, planned_load(config, info.seed, info.repeat)[1]
    inside = (work.end_ns > window.start_ns) & (work.end_ns <= window.end_ns)
    missed, least_s = _by_data_sheet(config)
    terms = terms_of(work.prefill_tokens, work.decode_tokens, work.context_tokens, missed)
    edges_ns = np.linspace(
        window.start_ns, window.end_ns, max(2, round(window.duration_s / INTERVAL_S) + 1)
    ).astype(np.int64)
    return SeenRun(
        str(record.path),
        curve_key(config),
        config,
        info.seed,
        info.repeat,
        graph_tokens,
        missed,
        least_s,
        limits,
        kv_tokens,
        bounds,
        (work.end_ns - work.late_start_ns)[inside] / 1e9,
        terms[inside],
        1.0 - (inputs.clocks.slowdown or 0.0),
        np.append(True, work.late_start_ns[1:] > work.end_ns[:-1])[inside],
        _launches(work, inside, graph_tokens),
        np.diff(inputs.energy_at(edges_ns)) - inputs.idle_w * np.diff(edges_ns) / 1e9,
        _done(work, terms, edges_ns),
        inputs.idle_w,
        _energy(inputs.energy_at, window),
        _latencies(Requests.of(record.requests), window),
        str(info.gpus[0].get("name", "")) if info.gpus else "",
    )


def limits_of(config: RunConfig, details: dict[str, object]) -> tuple[Limits, int | None]:
    """Limits of an engine that told its settings, and the tokens that its KV cache holds."""
    usual = Limits()

    def number(name: str, default: int) -> int:
        value = details.get(name) or getattr(config.engine, name, None)
        return int(value) if isinstance(value, int | float) else default

    size = number("kv_cache_block_size", usual.block_size)
    blocks = details.get("kv_cache_blocks")
    blocks = int(blocks) if isinstance(blocks, int) and blocks > 0 else None
    seqs = number("max_num_seqs", usual.max_num_seqs)
    limits = Limits(
        max_num_seqs=seqs,
        max_num_batched_tokens=max(seqs, number("max_num_batched_tokens", usual.max_num_batched_tokens)),
        block_size=size,
        kv_blocks=blocks,
        asynchronous=bool(details.get("async_scheduling", usual.asynchronous)),
    )
    return limits, None if blocks is None else blocks * size


def _by_data_sheet(config: RunConfig) -> tuple[float, tuple[float, ...]]:
    """(share of the experts that a token does not use, least seconds of each term); 1 and zeros where model or GPU are not known so well."""
    tensor_parallel = config.engine.tensor_parallel_size
    element = DTYPE_BYTES.get(config.model.dtype, 2.0)
    if str(config.engine.kv_cache_dtype).startswith("fp8"):
        element = 1.0
    facts, gpu = model_facts(config.model, tensor_parallel, element), gpu_facts(config.gpu)
    if facts is None or gpu is None:
        return 1.0, (0.0,) * TERMS
    peak = gpu.peak_8bit if facts.eight_bit else gpu.peak
    least = [0.0] * TERMS
    least[DECODE_STEP] = (facts.dense_bytes + facts.head_bytes) / gpu.bandwidth
    least[PROMPT_TOKEN] = 2.0 * (facts.dense_weights + facts.chosen_weights) / peak
    least[CONTEXT] = facts.kv_bytes / gpu.bandwidth
    least[EXPERTS] = facts.expert_bytes / gpu.bandwidth
    return 1.0 - facts.chosen / facts.experts if facts.experts > 1 else 1.0, tuple(least)


def graph_tokens_of(config: RunConfig, details: dict[str, object], limits: Limits) -> int:
    """The most tokens of a step that the engine has a CUDA graph for; as vLLM chooses where it did not tell."""
    if config.engine.enforce_eager:
        return 0
    sizes = details.get("cuda_graph_sizes")
    if isinstance(sizes, list) and sizes:
        return max(int(size) for size in sizes)
    return min(2 * limits.max_num_seqs, MOST_GRAPH_TOKENS)


def _launches(work: Work, inside: Bools, graph_tokens: int) -> Floats:
    """How long steps beyond the graphs took to launch [s]: for so long the tokens of a decode step before were not heard."""
    took_s = (work.end_ns - work.late_start_ns)[inside] / 1e9
    prefill, decode = work.prefill_tokens[inside], work.decode_tokens[inside]
    beyond = (prefill > 0) & (prefill + decode > graph_tokens)
    alone = (prefill[:-2] == 0) & (prefill[1:-1] == 0) & (decode[1:-1] > 0) & beyond[2:]
    usual = (prefill[:-2] == 0) & (prefill[1:-1] == 0) & (decode[1:-1] > 0) & (prefill[2:] == 0)
    if not alone.any() or not usual.any():
        return np.zeros(0)
    launched: Floats = took_s[1:-1][alone]
    return launched if np.median(launched) > LAUNCHED_RATIO * np.median(took_s[1:-1][usual]) else np.zeros(0)


def _done(work: Work, terms: Floats, edges_ns: Ints) -> Floats:
    columns = [Spans(work.start_ns, work.end_ns, column).between(edges_ns) for column in terms.T]
    return np.stack(columns, axis=1)


def _energy(energy_at: EnergyAt, window: Window) -> float:
    return float(np.diff(energy_at(np.array([window.start_ns, window.end_ns])))[0])


def _latencies(requests: Requests, window: Window) -> Latencies:
    sent = requests.sent_in(window)
    first, last, begun = (
        values[sent].astype(np.float64)
        for values in (requests.first_token_ns, requests.last_token_ns, requests.actual_send_ns)
    )
    tokens, done = requests.output_tokens[sent], requests.completed[sent]
    ttft = np.where(first != MISSING, first - begun, np.inf) / 1e9
    e2e = np.where(done, last - begun, np.inf) / 1e9
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(tokens > 1, np.where(done, (last - first) / (tokens - 1), np.inf), np.nan) / 1e9
    return Latencies(ttft, tpot, e2e)


@dataclass(frozen=True)
class MeasuredSteps:
    """A `StepModel` of one setting, from real runs of it.

    time_s, above_j   seconds of the GPU and joules above idle for each term
    most              the most decoding sequences and prompt tokens of a step that the fit has seen
    missed            share of the experts that a token does not use
    limit_w           power limit of all GPUs [W]
    launches          (rate [requests/s], quantiles of how long a step without a CUDA graph takes to launch [s]) by increasing rate; empty: no time that shows
    clocks            (power at full clocks [W], share of the full SM clock) of the runs, by increasing power
    clock             the share that holds now
    tail_s            from then until it can have ended at the earliest
    front_s           from a request's send until the engine has it, and from a token's step until it is heard [s]
    """

    time_s: tuple[float, ...]
    above_j: tuple[float, ...]
    idle_w: float
    kv_capacity_tokens: int
    graph_tokens: int
    most: tuple[int, ...]
    missed: float = 1.0
    limit_w: float = math.inf
    launches: tuple[tuple[float, tuple[float, ...]], ...] = ()
    tail_s: float = 0.0
    clocks: tuple[tuple[float, float], ...] = ()
    clock: float = 1.0
    front_s: float = 0.0

    def step_time_s(self, batch: StepBatch) -> float:
        return max(self._sum(self.time_s, batch, self.clock), LEAST_STEP_S)

    def step_power_w(self, batch: StepBatch) -> float:
        return self.idle_w + self._sum(self.above_j, batch) / self.step_time_s(batch)

    def at_power(self, full_w: float) -> MeasuredSteps:
        """The model at the clocks that a load leaves which would draw `full_w` at full ones."""
        known = self.clocks or ((self.limit_w, 1.0),)
        powers, shares = zip(*known, strict=True)
        clock = float(np.interp(full_w, powers, shares))
        if full_w > powers[-1]:
            # Beyond what was seen they fall as far as keeps the power.
            clock *= (powers[-1] - self.idle_w) / (full_w - self.idle_w)
        return replace(self, clock=clock)

    def launches_at(self, rate_rps: float) -> Floats:
        """Quantiles of the launches at a rate: between those of the rates around it, on a straight line over the logarithm of the rate."""
        if not self.launches:
            return np.zeros(0)
        rates = np.log([rate for rate, _ in self.launches])
        columns = np.array([quantiles for _, quantiles in self.launches]).T
        return np.array([np.interp(math.log(rate_rps), rates, column) for column in columns])

    def launching(self, rate_rps: float, seed: int) -> Launches | None:
        """Launch times drawn from those that were seen around a rate."""
        launches_s = self.launches_at(rate_rps)
        if not len(launches_s):
            return None
        random = np.random.default_rng(seed)
        drawn: list[float] = []

        def launch(batch: StepBatch) -> tuple[float, float]:
            if batch.prefill_tokens + batch.decode_sequences <= self.graph_tokens:
                return 0.0, 0.0
            if not drawn:
                drawn.extend(random.choice(launches_s, DRAWN).tolist())
            launched_s = drawn.pop()
            return launched_s, launched_s + self.tail_s

        return launch

    def _sum(self, each: tuple[float, ...], batch: StepBatch, clock: float = 1.0) -> float:
        found = each[SEQUENCE] * batch.decode_sequences + each[CONTEXT] * batch.decode_context_tokens
        if self.missed < 1.0:
            found += each[EXPERTS] * (1.0 - self.missed ** (batch.prefill_tokens + batch.decode_sequences))
        if batch.prefill_tokens:
            return found + each[PREFILL_STEP] + each[PROMPT_TOKEN] * batch.prefill_tokens / clock
        return found + each[DECODE_STEP]


def fit(runs: Sequence[SeenRun]) -> MeasuredSteps:
    """Fitted to all of `runs`, which share one setting. Raises `UnusableError` where they tell too little."""
    told = [run for run in runs if len(run.steps_s) >= FEWEST_STRETCHES * STRETCH]
    if not told:
        raise UnusableError(f"fewer than {FEWEST_STRETCHES * STRETCH} steps to fit a step model to")
    terms, took_s, above_j = _prior(told[0].config, told[0].missed)
    time_s, tail_s = _times(told, _weighed(terms, took_s))
    rates = sorted({run.rate_rps for run in told if len(run.launches_s)})
    launches = [
        # Each run on its host counts alike.
        np.mean(
            [
                np.quantile(run.launches_s, QUANTILES)
                for run in told
                if run.rate_rps == rate and len(run.launches_s)
            ],
            axis=0,
        )
        for rate in rates
    ]
    model = MeasuredSteps(
        time_s,
        _prices(
            [
                *((run.done / run.above_j.mean(), run.above_j / run.above_j.mean()) for run in told),
                _weighed(terms, above_j),
            ]
        ),
        float(np.mean([run.idle_w for run in told])),
        max(run.kv_tokens or 0 for run in told),
        told[0].graph_tokens,
        tuple(int(max(run.terms[:, term].max() for run in told)) for term in (SEQUENCE, PROMPT_TOKEN)),
        told[0].missed,
        limit_w(told[0].config),
        tuple((rate, tuple(each.tolist())) for rate, each in zip(rates, launches, strict=True)),
        tail_s,
    )
    return _with_front(_with_clocks(model, told), told)


def _prior(config: RunConfig, missed: float) -> tuple[Floats, Floats, Floats]:
    """(terms, seconds, joules above idle) of PRIOR_STEPS by the physics; of none where they abstain."""
    try:
        model = step_model(PredictionSetting.of_run(config))
    except Abstained:
        return np.zeros((0, TERMS)), np.zeros(0), np.zeros(0)
    counts = np.array(
        [(batch.prefill_tokens, batch.decode_sequences, batch.decode_context_tokens) for batch in PRIOR_STEPS]
    )
    terms = terms_of(counts[:, 0], counts[:, 1], counts[:, 2].astype(np.float64), missed)
    took = np.array([model.step_time_s(batch) for batch in PRIOR_STEPS])
    watts = np.array([model.step_power_w(batch) for batch in PRIOR_STEPS])
    return terms, took, took * (watts - model.idle_w)


def limit_w(config: RunConfig) -> float:
    """Power limit of all GPUs of a run [W]."""
    limit_w = config.gpu.power_limit_w or config.gpu.tdp_w
    return limit_w * max(1, config.gpu.count) if limit_w else math.inf


def _weighed(terms: Floats, values: Floats) -> tuple[Floats, Floats]:
    """Rows of what the physics say, relative to it and by PRIOR_WEIGHT."""
    return PRIOR_WEIGHT * terms / values[:, None], np.full(len(values), PRIOR_WEIGHT)


def _times(runs: Sequence[SeenRun], prior: tuple[Floats, Floats]) -> tuple[tuple[float, ...], float]:
    """(seconds of each term, `tail_s`): least squares over stretches of steps, with the launches that were seen as they are."""
    kept = [slice(0, min(len(run.steps_s) // STRETCH, MOST_STRETCHES) * STRETCH) for run in runs]
    terms = [_at_clock(run.terms[part], run.clock) for run, part in zip(runs, kept, strict=True)]
    took = [_added(run.steps_s[part]) for run, part in zip(runs, kept, strict=True)]
    parts = [
        (_added(inside) / seconds[:, None], np.ones(len(seconds)))
        for inside, seconds in zip(terms, took, strict=True)
    ]
    least = np.array(runs[0].least_s)
    first = np.array(_prices([*parts, prior], least))
    if not any(len(run.launches_s) for run in runs):
        return tuple(first.tolist()), 0.0
    quantiles = [np.quantile(run.launches_s, COARSE) if len(run.launches_s) else None for run in runs]
    floors = [
        run.terms[part][:, PROMPT_TOKEN] + run.terms[part][:, SEQUENCE] > run.graph_tokens
        for run, part in zip(runs, kept, strict=True)
    ]
    beyond = [
        found & (run.terms[part][:, PREFILL_STEP] > 0)
        for found, run, part in zip(floors, runs, kept, strict=True)
    ]
    scale = np.append(np.maximum(first, 1e-3 * first.max() / np.maximum(1.0, _sizes(runs))), 1e-3)

    def residuals(unknown: Floats) -> Floats:
        each, tail_s = unknown[:-1] * scale[:-1], unknown[-1] * scale[-1]
        missed = [prior[0] @ each - prior[1]]
        for run, part, inside, launched, bound, seconds in zip(
            runs, kept, terms, quantiles, beyond, took, strict=True
        ):
            length = inside @ each
            if launched is not None and bound.any():
                # The launch begins while the step before runs, unless that was launched slowly, too.
                hidden = np.append(0.0, length[:-1]) * ~run.paused[part] - tail_s
                after = np.append(False, bound[:-1])
                hidden[after & ~run.paused[part]] = 0.0
                floor = launched[None, :] - hidden[bound][:, None]
                length[bound] = np.maximum(length[bound][:, None], floor).mean(axis=1)
            missed.append(_added(length) / seconds - 1.0)
        return np.concatenate(missed)

    begin = np.append(np.maximum(first, least + 1e-6 * scale[:-1]) / scale[:-1], 2.0)
    found = least_squares(
        residuals,
        begin,
        bounds=(np.append(least / scale[:-1], 0.0), np.inf),
        loss="soft_l1",
        f_scale=0.1,
        max_nfev=60,
    )
    return tuple((found.x[:-1] * scale[:-1]).tolist()), float(found.x[-1] * scale[-1])


def _at_clock(terms: Floats, clock: float) -> Floats:
    scaled = terms.copy()
    scaled[:, PROMPT_TOKEN] /= clock
    return scaled


def _sizes(runs: Sequence[SeenRun]) -> Floats:
    """The mean of each term in the steps that have it."""
    terms = np.concatenate([run.terms for run in runs])
    there = np.maximum((terms > 0).sum(axis=0), 1)
    sizes: Floats = terms.sum(axis=0) / there
    return sizes


def _with_clocks(model: MeasuredSteps, runs: Sequence[SeenRun]) -> MeasuredSteps:
    if all(run.clock > 1.0 - CLOCK_TOLERANCE_SHARE for run in runs):
        return model
    found = sorted(
        (full_power_w(run.load, run.window_s, run.limits, model, run.seed), run.clock) for run in runs
    )
    # Clocks fall as power rises; what falls back is scatter between boards.
    shares = np.minimum.accumulate([clock for _, clock in found])
    return replace(
        model, clocks=tuple((power, float(share)) for (power, _), share in zip(found, shares, strict=True))
    )


def full_power_w(
    load: Load, window_s: tuple[float, float], limits: Limits, model: MeasuredSteps, seed: int
) -> float:
    """Mean power in the window at full clocks, as if there were no limit [W]."""
    free = replace(model, clock=1.0)
    launches = model.launching(_rate(load), seed)
    played = play(load, limits, free, launches=launches, until_s=window_s[1], jump=True)
    return played.energy_j(*window_s) / (window_s[1] - window_s[0])


def _with_front(model: MeasuredSteps, runs: Sequence[SeenRun]) -> MeasuredSteps:
    """With the median by which first tokens are heard later than they are played."""
    late = []
    # Where requests queue, their wait says nothing of the way to the engine.
    quick = min(float(np.median(run.seen.ttft_s)) for run in runs)
    for run in runs:
        if np.median(run.seen.ttft_s) > QUEUED_RATIO * quick:
            continue
        played = play_run(run, model)
        sent = in_window(played, run.window_s)
        ttft = (played.first_s - played.load.arrival_s)[sent]
        late.append(float(np.median(run.seen.ttft_s) - np.nanmedian(ttft)))
    return replace(model, front_s=max(0.0, float(np.median(late))))


def play_load(
    load: Load,
    window_s: tuple[float, float],
    limits: Limits,
    model: MeasuredSteps,
    seed: int,
    until_s: float = math.inf,
) -> Played:
    """A load by a model, at the clocks that it leaves. `until_s`: as for `play`."""
    model = model.at_power(full_power_w(load, window_s, limits, model, seed))
    launches = model.launching(_rate(load), seed)
    return play(load, limits, model, launches=launches, until_s=until_s, jump=True)


def _rate(load: Load) -> float:
    """Requests a second from the first to the last."""
    spans_s = float(load.arrival_s[-1] - load.arrival_s[0]) if len(load) > 1 else 0.0
    return (len(load) - 1) / spans_s if spans_s > 0 else 1.0


def play_run(run: SeenRun, model: MeasuredSteps) -> Played:
    """The load of a run by a model, with the run's limits."""
    return play_load(run.load, run.window_s, run.limits, model, run.seed)


def _added(values: Floats) -> Floats:
    whole = len(values) // STRETCH * STRETCH
    summed: Floats = values[:whole].reshape(-1, STRETCH, *values.shape[1:]).sum(axis=1)
    return summed


def _prices(parts: Sequence[tuple[Floats, Floats]], least: Floats | None = None) -> tuple[float, ...]:
    """Least squares of several parts at once, no coefficient below `least`; None: below 0."""
    terms = np.concatenate([terms for terms, _ in parts])
    values = np.concatenate([values for _, values in parts])
    floor = np.zeros(TERMS) if least is None else least
    scale = np.linalg.norm(terms, axis=0)
    scale[scale == 0] = 1.0
    found, _ = nnls(terms / scale, values - terms @ floor, maxiter=NNLS_ITERATIONS)
    return tuple((floor + found / scale).tolist())
