"""Energy of prefill, of decode and of each request (docs/attribution.md).

The window's energy is divided between idle, prefill and decode (`phases`), and each interval's part further among the
requests that were there.
It is a model, not a measurement of its own: docs/attribution.md says what it assumes and where it ends.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wattcount.energy.events import Source
from wattcount.energy.trace import PowerTrace
from wattcount.metrics.gpu import CLOCK_TOLERANCE_SHARE, LoadClocks, load_clocks
from wattcount.metrics.observations import (
    MISSING,
    Bools,
    Floats,
    Requests,
    Window,
    gpu_uuids,
    int_column,
    percentile,
    phase_window,
    requests_of,
)
from wattcount.metrics.phases import (
    MIN_INTERVALS,
    NOT_RESOLVED,
    TOO_FEW_INTERVALS,
    Attribution,
    attribute,
)
from wattcount.metrics.sensors import window_energy_sum
from wattcount.metrics.server import arrived_work
from wattcount.metrics.sheet import NO_COMPLETED, Checks, Finding, Sheet, finding_specs, metric_specs
from wattcount.metrics.window import Observed
from wattcount.metrics.work import (
    COLLINEAR,
    HARDLY_PRESENT,
    MAX_CONDITION_NUMBER,
    MIN_EFFECTIVE_INTERVALS,
    NO_STEPS,
    Context,
    EnergyAt,
    Spans,
    Work,
    begun_ns,
    locate_steps,
    share,
    share_equally,
)
from wattcount.records import Record
from wattcount.records.schema import Phase

NO_IDLE = "no_loaded_idle"
"""Reason for null: the run has no loaded idle, whose power is taken off before phases share the rest."""
NO_CURVE = "no_power_curve"
"""Reason for null: no power samples cover the window, so no interval has its own energy."""
NO_PREFILL = "no_prefill_tokens"
"""Reason for null: prefill computed no token, so nothing can be divided by its tokens."""
NO_DECODE = "no_decode_tokens"
"""Reason for null: decode computed no token, so nothing can be divided by its tokens."""

METRICS = metric_specs(
    """
    energy/prefill_j               | J | lower  | energy of the window above idle that prefill drew, by the model of
        docs/attribution.md
    energy/prefill_j_per_token     | J | lower  | that / prompt tokens computed in the window
    energy/prefill_j_per_token_u95 | J | lower  | 95 % uncertainty of the same
    energy/decode_j                | J | lower  | energy of the window above idle that decode drew, by the same model
    energy/decode_j_per_token      | J | lower  | that / tokens decoded in the window (output tokens, less the first of each
        request)
    energy/decode_j_per_token_u95  | J | lower  | 95 % uncertainty of the same
    energy/request_mean_j          | J | lower  | energy that a request drew, its share of idle included, by the same model; mean of
        the requests whose whole life, from scheduling to last token, lies in the window. Idle while no request was there is nobody's:
        that is in `energy/gpu_j_per_request` alone, the figure to quote
    energy/request_p50_j           | J | lower  | the same, percentile 50
    energy/request_p95_j           | J | lower  | the same, percentile 95
    attribution/condition_number   | 1 | lower  | of the design matrix, columns scaled to length one
    attribution/r_squared          | 1 | higher | 1 - residual / variation about the mean; low, even below 0, where power hardly
        varies
    attribution/residual_share     | 1 | lower  | rms residual of an interval / mean energy of an interval above idle
    """
)
"""The metrics of this module, by key: name, unit, which way is better, definition."""
REASONS = {
    NO_STEPS: "the engine does not tell what its steps computed, or there was none",
    NO_IDLE: "no loaded idle was measured",
    NO_CURVE: "the sensors give no power curve finer than a second",
    TOO_FEW_INTERVALS: f"the window holds fewer than {MIN_INTERVALS} intervals that can be told apart",
    COLLINEAR: f"prefill and decode kept one proportion: condition number above {MAX_CONDITION_NUMBER:g}",
    HARDLY_PRESENT: f"prefill or decode was there in fewer than {MIN_EFFECTIVE_INTERVALS} intervals",
    NOT_RESOLVED: "the energy of prefill or of decode is less than its uncertainty",
}
"""Codes of why there is no attribution."""
NULL_REASONS = REASONS | {
    NO_PREFILL: "no prompt token was computed in the window",
    NO_DECODE: "no token was decoded in the window",
}
"""What each reason for null means, in words: those of the work (`metrics.work`) and those of this module."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


def put(sheet: Sheet, seen: Observed) -> None:
    """Energy of prefill, decode and requests, and how good the model behind them is (`attribution/...`)."""
    if seen.window is None:
        return
    found = seen.once(attributed)
    if isinstance(found, str):
        sheet.update(dict.fromkeys(METRICS, (None, found)))
        return

    def keep(key: str, value: float | None, reason: str | None = None) -> None:
        # Least squares: platforms differ sooner than at 12 digits.
        sheet.put(key, None if value is None else float(f"{value:.9g}"), reason)

    for phase, energy_j, u95_j, tokens, empty in (
        ("prefill", found.prefill_j, found.prefill_j_u95, found.prefill_tokens, NO_PREFILL),
        ("decode", found.decode_j, found.decode_j_u95, found.decode_tokens, NO_DECODE),
    ):
        keep(f"energy/{phase}_j", energy_j)
        keep(f"energy/{phase}_j_per_token", energy_j / tokens if tokens else None, empty)
        keep(f"energy/{phase}_j_per_token_u95", u95_j / tokens if tokens else None, empty)
    keep("attribution/condition_number", found.condition_number)
    keep("attribution/r_squared", found.r_squared)
    keep("attribution/residual_share", found.residual_share)
    divided = divide_among_requests(found, seen.requests)
    each_j = divided.total_j[divided.whole]
    keep("energy/request_mean_j", math.fsum(each_j) / len(each_j) if len(each_j) else None, NO_COMPLETED)
    for p in (50, 95):
        value, reason = percentile(each_j, p)
        keep(f"energy/request_p{p}_j", value, reason if len(each_j) else NO_COMPLETED)


# -- requests


@dataclass(frozen=True)
class RequestEnergies:
    """Energy of each request within the window; with `unattributed_j` they sum to the window's energy.

    prefill_j, decode_j, idle_j   float64[requests]
    whole             bool[requests], completed with all of its span inside the window
    unattributed_j    drawn while no request was there, or by work that is nobody's (a request without a token)
    """

    prefill_j: Floats
    decode_j: Floats
    idle_j: Floats
    whole: Bools
    unattributed_j: float

    @property
    def total_j(self) -> Floats:
        return self.prefill_j + self.decode_j + self.idle_j


def divide_among_requests(found: Attribution, requests: Requests) -> RequestEnergies:
    """Each interval's prefill, decode and idle energy divided among the requests that were there.

    Prefill by prompt tokens computed, evenly between a request's scheduling and its first token; decode by
    tokens, each between the arrival before it and its own, and what of it is for the context by the tokens that
    were looked back on; idle in equal shares between all requests that are between their scheduling and their last
    token.
    """
    edges_ns = found.edges_ns + found.lag_ns  # requests' stamps are as late as the steps'
    begun = begun_ns(requests)
    count = len(requests)
    last = np.full(count, MISSING)
    np.maximum.at(last, requests.token_request, requests.token_ts_ns)
    there = np.flatnonzero((begun != MISSING) & (last > begun))

    first = requests.first_token_ns[there]
    prompt = requests.input_tokens[there] - np.maximum(requests.cached_tokens[there], 0)
    prefill = Spans(
        begun[there], np.maximum(first, begun[there] + 1), np.maximum(prompt, 1).astype(np.float64)
    )
    prefill_j, prefill_left = share(prefill, there, count, found.prefill_split_j, edges_ns)

    order = requests.by_request
    owner, stamp = requests.token_request[order], requests.token_ts_ns[order]
    tokens = requests.token_count[order].astype(np.float64)
    follows = np.concatenate(([False], owner[1:] == owner[:-1])) if len(owner) else np.empty(0, np.bool_)
    before = np.where(follows, np.concatenate((stamp[:1], stamp[:-1])), begun[owner])
    tokens[~follows] -= 1  # its first token came out of its prefill
    decoded = (tokens > 0) & (before != MISSING)
    start, end, whose = np.minimum(before, stamp - 1)[decoded], stamp[decoded], owner[decoded]
    decode_j, decode_left = share(
        Spans(start, end, tokens[decoded]),
        whose,
        count,
        found.decode_split_j - found.context_split_j,
        edges_ns,
    )
    context = (requests.input_tokens[owner] + requests.tokens_before[order])[decoded] * tokens[decoded]
    context_j, context_left = share(Spans(start, end, context), whose, count, found.context_split_j, edges_ns)

    idle_j, idle_left = share_equally(begun[there], last[there], there, count, found.idle_split_j, edges_ns)
    inside = (begun >= found.edges_ns[0]) & (last <= found.edges_ns[-1]) & (last > begun)
    whole = requests.completed & inside
    left_j = prefill_left + decode_left + context_left + idle_left
    return RequestEnergies(prefill_j, decode_j + context_j, idle_j, whole, left_j)


# -- from a record


def attributed(seen: Observed) -> Attribution | str:
    """`attribute_record` of the window."""
    return NO_STEPS if seen.window is None else attribute_record(seen.record, seen.window)


def attribute_record(record: Record, window: Window) -> Attribution | str:
    """`attribute` with what a record holds; a code of `REASONS` where it does not hold enough."""
    inputs = read_inputs(record, window)
    if isinstance(inputs, str):
        return inputs
    return attribute(
        inputs.energy_at,
        window,
        inputs.work,
        inputs.idle_w,
        idle_u95_w=inputs.idle_u95_w,
        energy_u95_share=inputs.energy_u95_share,
        resolution_s=inputs.resolution_s,
        clock_mhz=inputs.clocks.mean_mhz,
        slowed=(inputs.clocks.slowdown or 0.0) > CLOCK_TOLERANCE_SHARE,
    )


def request_energies(record: Record, window: Window) -> RequestEnergies | str:
    """Energy of each request of `record.requests`, same order; the code of `attribute_record` where there is none."""
    found = attribute_record(record, window)
    return found if isinstance(found, str) else divide_among_requests(found, requests_of(record))


@dataclass(frozen=True)
class Inputs:
    """What `attribute` wants to know of a window, from a record."""

    energy_at: EnergyAt
    energy_u95_share: float
    resolution_s: float
    work: Work
    idle_w: float
    idle_u95_w: float
    clocks: LoadClocks


def read_inputs(record: Record, window: Window) -> Inputs | str:
    """A code of `REASONS` where the record does not hold enough."""
    work = _work_of(record, window)
    if isinstance(work, str):
        return work
    idle = _idle_power_w(record)
    if idle is None:
        return NO_IDLE
    curves: list[EnergyAt] = []
    resolution_s = 0.0
    for uuid in gpu_uuids(record):
        if uuid not in record.power.gpu_uuids:
            return NO_CURVE
        estimate = record.power.energy(window.start_ns, window.end_ns, uuid)
        curve = power_curve(record.power, uuid, estimate.basis or "")
        if estimate.value_j is None or curve is None:
            return NO_CURVE
        curves.append(curve[0])
        resolution_s = max(resolution_s, curve[1], 2 * record.power.clock_bound_ns / 1e9)
    total = window_energy_sum(record, window)
    if total is None or total.value_j <= 0:
        return NO_CURVE
    return Inputs(
        energy_at=lambda t_ns: np.sum([curve(t_ns) for curve in curves], axis=0),
        energy_u95_share=total.u95_j / total.value_j,
        resolution_s=resolution_s,
        work=work,
        idle_w=idle[0],
        idle_u95_w=idle[1],
        clocks=load_clocks(record, window),
    )


def power_curve(power: PowerTrace, gpu_uuid: str, basis: str) -> tuple[EnergyAt, float] | None:
    """Cumulative energy of one GPU and the spacing, s, of the power samples behind it.

    None where `basis`, of the estimate for the window, has no curve at that resolution: the counter or averaged
    power alone.
    """
    model = power.model(gpu_uuid)
    if basis.endswith("power_samples"):
        curve, source, stamp, per_s = model.ring, Source.POWER_SAMPLES, "source_ts_us", 1e6
    elif basis.endswith("power_instant"):
        curve, source, stamp, per_s = model.instant, Source.POWER_INSTANT, "t0_ns", 1e9
    else:
        return None
    step = power.usual_step(gpu_uuid, source, stamp)
    best = model.scaled if "counter" in basis else curve
    return None if best is None or step is None else (best.at, step / per_s)


def _work_of(record: Record, window: Window) -> Work | str:
    requests = requests_of(record)
    if not len(record.steps):
        return arrived_work(record, requests, window)
    work = located_steps(record, requests, Context.of(requests))
    return NO_STEPS if work is None else work


def located_steps(record: Record, requests: Requests, contexts: Context | None = None) -> Work | None:
    """The steps of a record, see `work.locate_steps`. A step of which it is not known how many requests there were had one."""
    steps = record.steps
    running, waiting = int_column(steps, "running"), int_column(steps, "waiting")
    return locate_steps(
        int_column(steps, "logged_ns"),
        int_column(steps, "engine_ts_ns"),
        int_column(steps, "duration_ns"),
        int_column(steps, "prefill_tokens"),
        int_column(steps, "decode_tokens"),
        np.where((running == MISSING) | (waiting == MISSING), 1, running + waiting),
        begun_ns(requests),
        contexts,
    )


def _idle_power_w(record: Record) -> tuple[float, float] | None:
    """Loaded idle of all GPUs, W, and its 95 % uncertainty: mean and half difference of before and after."""
    means = []
    for phase in (Phase.LOADED_IDLE, Phase.IDLE_AFTER):
        span = phase_window(record.info.phases, phase)
        if span is None:
            continue
        values = [
            record.power.energy(span.start_ns, span.end_ns, uuid).value_j
            for uuid in gpu_uuids(record)
            if uuid in record.power.gpu_uuids
        ]
        known = [value for value in values if value is not None]
        if known and len(known) == len(gpu_uuids(record)):
            means.append(math.fsum(known) / span.duration_s)
    if not means:
        return None
    return (max(means) + min(means)) / 2, (max(means) - min(means)) / 2


# -- findings

(AT_SLOWED_CLOCKS,) = finding_specs(
    """
    attribution_at_slowed_clocks | 1 | no | mean SM clock under load in the window below the highest of the record, share;
        only where prefill and decode were told apart, whatever slowed the clock | 2 % | the joules are those of this load,
        but the prices of a token and a step do not hold at other clocks
        ([attribution.md](attribution.md#when-a-fit-does-not-transfer)) | for prices that hold elsewhere measure a lighter
        load, or lock the clock (`gpu.sm_clock_mhz`)
    """
)


@CHECKS.finds_in_window(AT_SLOWED_CLOCKS)
def slowed(seen: Observed, window: Window) -> Iterator[Finding]:
    """Prices of prefill and decode that were fitted at slowed clocks, whatever slowed them."""
    if not isinstance(seen.once(attributed), str):
        yield from prices_at_slowed_clocks(load_clocks(seen.record, window))


def prices_at_slowed_clocks(clocks: LoadClocks) -> Iterator[Finding]:
    if clocks.slowdown is None or clocks.slowdown <= CLOCK_TOLERANCE_SHARE:
        return
    why = " and ".join(clocks.slowed_by) or "something that NVML does not name"
    yield AT_SLOWED_CLOCKS.found(
        clocks.slowdown,
        CLOCK_TOLERANCE_SHARE,
        f"{why} slowed the SM clock to {clocks.mean_mhz:.0f} MHz on average, {clocks.slowdown:.1%} below its highest: the energy of "
        "prefill and decode is that of this load at these clocks, and says nothing of a lighter load or of one token or step elsewhere",
    )
