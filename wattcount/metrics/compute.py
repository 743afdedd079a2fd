"""`metrics.json` from a record: pure functions of its raw files.

The same raw files give the same bytes on any machine: integers are summed as integers, floating-point
sums are exact (`math.fsum`), and values are kept to 12 significant digits, far beyond what any sensor
means and short of where platforms differ.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.metrics import attribution, drift, percentiles
from wattcount.metrics.idle import Cell, idle_powers, idle_split
from wattcount.metrics.locking import window_energy
from wattcount.metrics.observations import MISSING, Bools, Requests, ends_in, held, int_column, starts_in
from wattcount.metrics.registry import (
    ENERGY_SOURCES,
    METRICS,
    METRICS_VERSION,
    PERCENTILES,
    POLLED_SOURCES,
    gpu_energy_key,
)
from wattcount.metrics.sampler import sampler_figures, timing_figures
from wattcount.metrics.steady import NOT_A_BATCH, STEADY_REASONS, Steady, steady_window
from wattcount.metrics.validity import check
from wattcount.metrics.window import Window, phase_window
from wattcount.power import rapl
from wattcount.power.events import Source
from wattcount.record import Record
from wattcount.record.schema import METRICS_JSON, Phase
from wattcount.trend import Drift

INF = float("inf")

NO_WINDOW = "no_window"
NO_POWER_DATA = "no_power_data"
NO_TOKENS = "no_output_tokens"
NO_COMPLETED = "no_completed_requests"
NO_GOOD = "no_good_requests"
NO_SLO = "no_slo"
NO_PHASE = "phase_missing"
NOT_BATCH = NOT_A_BATCH
BATCH = "batch_has_no_rate"
NOT_A_SERVER = "not_a_server"
NOT_RECORDED = "not_recorded"
NO_DRAFTS = "no_draft_tokens"
SINGLE_TOKEN = "single_token_outputs"
NO_PREFILL = "no_prefill_tokens"
NO_DECODE = "no_decode_tokens"
UNFINISHED = percentiles.REQUESTS_UNFINISHED

NULL_REASONS: dict[str, str] = {
    NO_WINDOW: "the run broke off before its window",
    NO_POWER_DATA: "no usable observation of power or energy in that stretch",
    NO_TOKENS: "no output token was emitted in the window",
    NO_COMPLETED: "no request was completed in the window",
    NO_GOOD: "no request sent in the window met the SLO",
    NO_SLO: "the scenario has no SLO",
    NO_PHASE: "the run has no such phase, or broke off in it",
    NOT_BATCH: "only batch scenarios have it",
    NOT_A_SERVER: "only server scenarios have it",
    BATCH: "a batch sends everything at once",
    NOT_RECORDED: "the engine or the sensor does not tell",
    NO_DRAFTS: "no token was proposed in the window: speculative decoding is off, or had nothing to propose",
    SINGLE_TOKEN: "every output is a single token",
    UNFINISHED: "the percentile falls on a request that never finished",
    percentiles.NO_REQUESTS: "no request was sent in the window",
    rapl.NOT_PRESENT: "the host shows no RAPL counter of that kind",
    rapl.NOT_READABLE: "a RAPL counter could not be read when the run began; `run.json`, `host.rapl`, says why",
    percentiles.TOO_FEW_REQUESTS: "fewer than 100 / (100 - p) values",
    **attribution.REASONS,
    NO_PREFILL: "no prompt token was computed in the window",
    NO_DECODE: "no token was decoded in the window",
    drift.WINDOW_TOO_SHORT: "too short to tell a trend from chance",
    **STEADY_REASONS,
}
"""Codes of `null_reasons`. Energies may also carry the reasons of the estimate itself."""


class _Sheet:
    """Collects values and the reasons of those that are missing."""

    def __init__(self) -> None:
        self.metrics: dict[str, int | float | None] = {}
        self.null_reasons: dict[str, str] = {}

    def put(self, key: str, value: float | None, reason: str | None = None) -> None:
        if value is None:
            self.metrics[key] = None
            self.null_reasons[key] = reason or NOT_RECORDED
            return
        self.metrics[key] = value if isinstance(value, int) else canonical(value)

    def update(self, cells: Mapping[str, Cell]) -> None:
        for key, (value, reason) in cells.items():
            self.put(key, value, reason)

    def cell(self, key: str) -> Cell:
        """What was put, with its reason where it is null."""
        return self.metrics.get(key), self.null_reasons.get(key)

    def ratio(self, key: str, numerator: float | None, denominator: float, empty: str) -> None:
        """numerator / denominator, null with `empty` where the denominator is 0."""
        if numerator is None:
            self.put(key, None, self.null_reasons.get("energy/gpu_j", NO_POWER_DATA))
        elif denominator == 0:
            self.put(key, None, empty)
        else:
            self.put(key, numerator / denominator)


def canonical(value: float) -> float:
    """`value` to 12 significant digits; ValueError for what JSON cannot hold."""
    if not math.isfinite(value):
        raise ValueError(f"not a finite number: {value}")
    return float(f"{value:.12g}") + 0.0  # + 0.0: no negative zero


def _canonical_or_none(value: float | None) -> float | None:
    return None if value is None else canonical(value)


def compute(record: Record) -> dict[str, Any]:
    """The content of `metrics.json`. Works on invalid records too, as far as they go."""
    sheet = _Sheet()
    last_ns = last_energy_ns(record)
    window = phase_window(record.info.phases, Phase.WINDOW, last_ns)
    steady, drifts = Steady(None, NO_WINDOW), None
    sheet.update(idle_powers(record, lambda start, end: _total_joules(record, start, end), last_ns))
    if window is not None:
        requests = Requests.of(record.requests)
        _energy(sheet, record, requests, window)
        _host_energy(sheet, record, window)
        _phases_and_requests(sheet, record, requests, window)
        _throughput_and_latency(sheet, record, requests, window)
        _engine(sheet, record, requests, window)
        _gpu_state(sheet, record, window)
        sheet.update(idle_split(sheet.cell, window))
        steady = steady_window(record, requests, window)
        _steady(sheet, record, requests, steady)
        drifts = _drifts(sheet, record, requests, window, steady)
    findings = check(record, window, drifts)
    figures = sampler_figures(record.info) | timing_figures(record.info)
    for key in METRICS:
        if key.startswith(("sampler/", "run/")):
            sheet.put(key, figures.get(key))
        elif key not in sheet.metrics:
            sheet.put(key, None, NO_WINDOW)
    per_gpu = [key for key in sheet.metrics if key not in METRICS]
    return {
        "metrics_version": METRICS_VERSION,
        "evidence": str(record.info.evidence),
        "window": window.to_json() if window is not None else None,
        "window_steady": steady.window.to_json() if steady.window is not None else None,
        "energy": _estimates(record, window),
        "validity": {
            "valid": record.info.validity.valid and not any(f.invalidates for f in findings),
            "reasons": list(record.info.validity.reasons),
            "findings": [f.to_json() for f in findings],
        },
        "metrics": {key: sheet.metrics[key] for key in (*METRICS, *per_gpu)},
        "null_reasons": {k: sheet.null_reasons[k] for k in (*METRICS, *per_gpu) if k in sheet.null_reasons},
    }


def to_bytes(metrics: dict[str, Any]) -> bytes:
    """The bytes of `metrics.json`."""
    return (json.dumps(metrics, indent=2, allow_nan=False) + "\n").encode()


def write(record_path: str | Path) -> Path:
    """Computes `metrics.json` of a record afresh and puts it in place in one step; returns its path."""
    folder = Path(record_path)
    content = to_bytes(compute(Record.open(folder)))
    target = folder / METRICS_JSON
    beside = folder / f".{METRICS_JSON}.{os.getpid()}.tmp"
    try:
        beside.write_bytes(content)
        beside.replace(target)
    finally:
        beside.unlink(missing_ok=True)
    return target


def gpu_uuids(record: Record) -> list[str]:
    """The GPUs of the run, in the order of `run.json`."""
    named = [str(gpu["uuid"]) for gpu in record.info.gpus if gpu.get("uuid")]
    return named or list(record.power.gpu_uuids)


def _estimates(record: Record, window: Window | None) -> dict[str, dict[str, Any]]:
    """By GPU UUID: the estimate that `energy/gpu_j` is the sum of, and what it rests on."""
    found = {}
    for uuid in gpu_uuids(record) if window is not None else ():
        assert window is not None
        if uuid in record.power.gpu_uuids:
            estimate = window_energy(record, window, uuid)
            found[uuid] = {
                "value_j": _canonical_or_none(estimate.value_j),
                "u95_j": _canonical_or_none(estimate.u95_j),
                "u95_method_j": _canonical_or_none(estimate.u95_method_j),
                "u95_sensor_j": _canonical_or_none(estimate.u95_sensor_j),
                "budget_j": {part: canonical(value) for part, value in estimate.budget_j.items()},
                "basis": estimate.basis,
                "reasons": list(estimate.reasons),
            }
    return found


def last_energy_ns(record: Record) -> int | None:
    """Up to when every GPU's energy is known: where a window that broke off is cut; None: nowhere."""
    ends = []
    for uuid in gpu_uuids(record):
        if uuid not in record.power.gpu_uuids:
            return None
        for source, lag_ns in _KNOWN_UP_TO:
            events = record.power.of(uuid, source)
            events = events[events["nvml_return"] == 0]
            if len(events):
                ends.append(int(events["t0_ns"].max()) - lag_ns)
                break
        else:
            return None
    return min(ends, default=None)


_KNOWN_UP_TO = (
    # A read of the counter returns the energy at its last tick, up to 100 ms before.
    (Source.ENERGY_COUNTER, 100_000_000),
    (Source.POWER_INSTANT, 0),
    (Source.POWER_USAGE, 0),
    (Source.POWER_AVERAGE, 0),
)


def _joules(record: Record, start_ns: int, end_ns: int) -> tuple[list[float | None], str | None]:
    """Energy of each GPU between two times, and why the first missing one is missing."""
    values: list[float | None] = []
    reason: str | None = None
    for uuid in gpu_uuids(record):
        if uuid not in record.power.gpu_uuids:
            values.append(None)
            reason = reason or NO_POWER_DATA
            continue
        estimate = record.power.energy(start_ns, end_ns, uuid)
        values.append(estimate.value_j)
        if estimate.value_j is None:
            reason = reason or (estimate.reasons[0] if estimate.reasons else NO_POWER_DATA)
    return values, reason if values else NO_POWER_DATA


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


def _energy(sheet: _Sheet, record: Record, requests: Requests, window: Window) -> None:
    values, reason = _joules(record, window.start_ns, window.end_ns)
    for index, value in enumerate(values):
        sheet.put(gpu_energy_key(index), value, reason)
    total = _total(values)
    sheet.put("energy/gpu_j", total, reason)
    _uncertainty(sheet, record, window, reason)
    sheet.ratio("power/gpu_mean_w", total, window.duration_s, NO_WINDOW)

    emitted = int(requests.token_count[ends_in(requests.token_ts_ns, window)].sum())
    completed = int((requests.completed & ends_in(requests.last_token_ns, window)).sum())
    sheet.ratio("energy/gpu_j_per_output_token", total, emitted, NO_TOKENS)
    sheet.ratio("energy/gpu_j_per_request", total, completed, NO_COMPLETED)

    by_source: dict[str, list[float | None]] = {source: [] for source in ENERGY_SOURCES}
    for uuid in gpu_uuids(record):
        known = (
            record.power.energy_by_source(window.start_ns, window.end_ns, uuid)
            if uuid in record.power.gpu_uuids
            else {}
        )
        for source in ENERGY_SOURCES:
            by_source[source].append(known[source].value_j if source in known else None)
    for source in ENERGY_SOURCES:
        sheet.put(f"energy_by_source/{source}_j", _total(by_source[source]), NOT_RECORDED)

    _batch_energy(sheet, record, requests)


def _host_energy(sheet: _Sheet, record: Record, window: Window) -> None:
    cpu = record.host_power.energy(window.start_ns, window.end_ns, rapl.PACKAGE)
    sheet.put("energy/cpu_package_j", cpu.value_j, cpu.reason)
    mean_w = None if cpu.value_j is None else cpu.value_j / window.duration_s
    sheet.put("power/cpu_package_mean_w", mean_w, cpu.reason)
    dram = record.host_power.energy(window.start_ns, window.end_ns, rapl.DRAM)
    sheet.put("energy/dram_j", dram.value_j, dram.reason)


def _uncertainty(sheet: _Sheet, record: Record, window: Window, reason: str | None) -> None:
    """Of the sum over the GPUs: the estimator's errors are independent, those of the boards' sensors may not be."""
    estimates = [
        window_energy(record, window, uuid) for uuid in gpu_uuids(record) if uuid in record.power.gpu_uuids
    ]
    method = _total([None if e.u95_method_j is None else e.u95_method_j**2 for e in estimates])
    sensor = _total([e.u95_sensor_j for e in estimates])
    if len(estimates) < len(gpu_uuids(record)) or method is None or sensor is None:
        for part in ("", "_method", "_sensor"):
            sheet.put(f"energy/gpu_j_u95{part}", None, reason)
        return
    sheet.put("energy/gpu_j_u95_method", math.sqrt(method))
    sheet.put("energy/gpu_j_u95_sensor", sensor)
    sheet.put("energy/gpu_j_u95", math.sqrt(method + sensor**2))


def _batch_energy(sheet: _Sheet, record: Record, requests: Requests) -> None:
    key = "energy/batch_gpu_j"
    if record.info.config["scenario"]["kind"] != "batch":
        sheet.put(key, None, NOT_BATCH)
        return
    batch = requests.for_window
    if not batch.any() or not requests.completed[batch].all():
        sheet.put(key, None, UNFINISHED if batch.any() else percentiles.NO_REQUESTS)
        return
    first = int(requests.actual_send_ns[batch].min())
    last = int(requests.last_token_ns[batch].max())
    values, reason = _joules(record, first, last)
    sheet.put(key, _total(values), reason)


def _phases_and_requests(sheet: _Sheet, record: Record, requests: Requests, window: Window) -> None:
    found = attribution.attribute_record(record, window)
    if isinstance(found, str):
        for key in METRICS:
            if key.startswith(("energy/prefill", "energy/decode", "energy/request_", "attribution/")):
                sheet.put(key, None, found)
        return

    def put(key: str, value: float | None, reason: str | None = None) -> None:
        # Least squares: platforms differ sooner than at 12 digits.
        sheet.put(key, None if value is None else float(f"{value:.9g}"), reason)

    for phase, energy_j, u95_j, tokens, empty in (
        ("prefill", found.prefill_j, found.prefill_j_u95, found.prefill_tokens, NO_PREFILL),
        ("decode", found.decode_j, found.decode_j_u95, found.decode_tokens, NO_DECODE),
    ):
        put(f"energy/{phase}_j", energy_j)
        put(f"energy/{phase}_j_per_token", energy_j / tokens if tokens else None, empty)
        put(f"energy/{phase}_j_per_token_u95", u95_j / tokens if tokens else None, empty)
    put("attribution/condition_number", found.condition_number)
    put("attribution/r_squared", found.r_squared)
    put("attribution/residual_share", found.residual_share)
    divided = attribution.divide_among_requests(found, requests)
    each_j = divided.total_j[divided.whole]
    put("energy/request_mean_j", math.fsum(each_j) / len(each_j) if len(each_j) else None, NO_COMPLETED)
    for p in (50, 95):
        value, reason = percentiles.percentile(each_j, p)
        put(f"energy/request_p{p}_j", value, reason if len(each_j) else NO_COMPLETED)


def _throughput_and_latency(sheet: _Sheet, record: Record, requests: Requests, window: Window) -> None:
    seconds = window.duration_s
    emitted = int(requests.token_count[ends_in(requests.token_ts_ns, window)].sum())
    begun = ends_in(requests.first_token_ns, window)
    prompt = int(requests.input_tokens[begun].sum())
    completed_in_window = int((requests.completed & ends_in(requests.last_token_ns, window)).sum())
    sheet.put("window/duration_s", seconds)
    sheet.put("tokens/output", emitted)
    sheet.put("tokens/input", prompt)
    cached = requests.cached_tokens[begun]
    sheet.put("tokens/cached_input", None if (cached == MISSING).any() else int(cached.sum()))
    sheet.put("throughput/output_tokens_per_s", emitted / seconds)
    sheet.put("throughput/input_tokens_per_s", prompt / seconds)
    sheet.put("throughput/requests_per_s", completed_in_window / seconds)

    sent = requests.sent_in(window)
    planned = starts_in(requests.planned_send_ns, window)
    sheet.put("requests/sent", int(sent.sum()))
    sheet.put("requests/completed", int((sent & requests.completed).sum()))
    sheet.put("requests/failed", int((sent & requests.failed).sum()))
    sheet.put("requests/cancelled", int((sent & requests.cancelled).sum()))
    sheet.put("requests/not_sent", int((planned & (requests.actual_send_ns == MISSING)).sum()))
    sheet.put("requests/completed_in_window", completed_in_window)
    if record.info.config["scenario"]["kind"] == "batch":
        sheet.put("load/offered_rps", None, BATCH)
        sheet.put("load/achieved_rps", None, BATCH)
    else:
        sheet.put("load/offered_rps", int(planned.sum()) / seconds)
        sheet.put("load/achieved_rps", int(sent.sum()) / seconds)

    lag_ns = (requests.actual_send_ns - requests.planned_send_ns)[
        sent & (requests.planned_send_ns != MISSING)
    ]
    for p in (50, 99):
        value, reason = percentiles.percentile(lag_ns.astype(np.float64), p)
        sheet.put(f"load/send_lag_p{p}_ms", None if value is None else value / 1e6, reason)
    sheet.put(
        "load/send_lag_max_ms", int(lag_ns.max()) / 1e6 if len(lag_ns) else None, percentiles.NO_REQUESTS
    )

    latencies = _latencies_ns(requests, sent)
    for name, values in latencies.items():
        for p in PERCENTILES:
            value, reason = percentiles.percentile(values[~np.isnan(values)], p)
            if reason == percentiles.NO_REQUESTS and sent.any():
                reason = SINGLE_TOKEN  # there were requests, but none with a second token
            sheet.put(f"latency/{name}_p{p}_ms", None if value is None else value / 1e6, reason)

    gaps = requests.gaps_ns(sent)
    unfinished = int((sent & ~requests.completed).sum())
    for p in PERCENTILES:
        value, reason = percentiles.percentile(np.append(gaps, [INF] * unfinished), p)
        if reason == percentiles.NO_REQUESTS and sent.any():
            reason = SINGLE_TOKEN
        sheet.put(f"latency/itl_p{p}_ms", None if value is None else value / 1e6, reason)

    _goodput(sheet, record, latencies, seconds)


def _latencies_ns(requests: Requests, sent: Bools) -> dict[str, NDArray[np.float64]]:
    """TTFT, TPOT and E2E of each request in `sent`, same order; `inf`: never got there; nan: has none.

    TPOT of a single token does not exist (nan). A request that broke off after its first token has a
    TTFT, and an infinite TPOT and E2E.
    """
    send = requests.actual_send_ns[sent]
    first = requests.first_token_ns[sent]
    last = requests.last_token_ns[sent]
    tokens = requests.output_tokens[sent]
    done = requests.completed[sent] & (last != MISSING)
    ttft = np.where(first != MISSING, first - send, INF)
    e2e = np.where(done, last - send, INF)
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where(tokens > 1, (last - first) / (tokens - 1), np.nan)
    return {"ttft": ttft, "tpot": np.where(done, tpot, INF), "e2e": e2e}


def _goodput(
    sheet: _Sheet, record: Record, latencies: dict[str, NDArray[np.float64]], seconds: float
) -> None:
    slo = record.info.config["scenario"].get("slo") or {}
    bounds = {name: slo.get(f"{name}_ms") for name in ("ttft", "tpot", "e2e")}
    energy = sheet.metrics["energy/gpu_j"]
    if all(bound is None for bound in bounds.values()):
        for key in ("throughput/goodput_rps", "requests/good", "energy/gpu_j_per_good_request"):
            sheet.put(key, None, NO_SLO)
        return
    good = np.isfinite(latencies["e2e"])
    for name, bound in bounds.items():
        if bound is not None:
            # nan: a single token has no TPOT to break a bound with.
            good &= ~(latencies[name] > float(bound) * 1e6)
    count = int(good.sum())
    sheet.put("requests/good", count)
    sheet.put("throughput/goodput_rps", count / seconds)
    sheet.ratio("energy/gpu_j_per_good_request", energy, count, NO_GOOD)


def _engine(sheet: _Sheet, record: Record, requests: Requests, window: Window) -> None:
    steps = record.steps
    inside = ends_in(int_column(steps, "logged_ns"), window)
    running = int_column(steps, "running")[inside]
    waiting = int_column(steps, "waiting")[inside]
    running, waiting = running[running != MISSING], waiting[waiting != MISSING]
    sheet.put("engine/running_mean", int(running.sum()) / len(running) if len(running) else None)
    sheet.put("engine/running_max", int(running.max()) if len(running) else None)
    sheet.put("engine/waiting_max", int(waiting.max()) if len(waiting) else None)
    usage = np.asarray(steps["kv_cache_usage"].to_numpy(), dtype=np.float64)[inside]
    usage = usage[~np.isnan(usage)]
    sheet.put("engine/kv_cache_usage_max", float(usage.max()) if len(usage) else None)
    drafted, accepted = (int_column(steps, name)[inside] for name in ("draft_tokens", "accepted_tokens"))
    told = (drafted != MISSING) & (accepted != MISSING)
    proposals = int(drafted[told].sum())
    sheet.put("engine/draft_tokens", proposals if told.any() else None, NO_DRAFTS)
    sheet.put(
        "engine/draft_acceptance", int(accepted[told].sum()) / proposals if proposals else None, NO_DRAFTS
    )
    preempted = requests.preemptions[requests.sent_in(window)]
    preempted = preempted[preempted != MISSING]
    sheet.put("engine/preemptions", int(preempted.sum()) if len(preempted) else None)


def _gpu_state(sheet: _Sheet, record: Record, window: Window) -> None:
    def gather(source: Source) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        pairs = [
            held(record.power.events, index, source, window) for index in range(len(record.power.gpu_uuids))
        ]
        if not pairs:
            empty = np.empty(0, dtype=np.int64)
            return empty, empty
        return np.concatenate([v for v, _ in pairs]), np.concatenate([d for _, d in pairs])

    temperature, _ = gather(Source.TEMPERATURE_GPU)
    sheet.put("gpu/temperature_min_c", int(temperature.min()) if len(temperature) else None)
    sheet.put("gpu/temperature_max_c", int(temperature.max()) if len(temperature) else None)
    clock, span = gather(Source.CLOCK_SM)
    sheet.put("gpu/clock_sm_mean_mhz", int((clock * span).sum()) / int(span.sum()) if len(clock) else None)
    reasons, span = gather(Source.CLOCK_EVENT_REASONS)
    if not len(reasons):
        for key in ("gpu/clock_event_reasons", "gpu/power_capped_share", "gpu/thermal_slowdown_share"):
            sheet.put(key, None)
        return
    total = int(span.sum())
    sheet.put("gpu/clock_event_reasons", int(np.bitwise_or.reduce(reasons)))
    sheet.put("gpu/power_capped_share", int(span[(reasons & SW_POWER_CAP) != 0].sum()) / total)
    sheet.put("gpu/thermal_slowdown_share", int(span[(reasons & THERMAL_SLOWDOWN) != 0].sum()) / total)


SW_POWER_CAP = 0x4
THERMAL_SLOWDOWN = 0x20 | 0x40
"""nvmlClocksEventReasonSwThermalSlowdown and nvmlClocksThrottleReasonHwThermalSlowdown (nvml.h)."""


def _steady(sheet: _Sheet, record: Record, requests: Requests, steady: Steady) -> None:
    window = steady.window
    if window is None:
        for key in METRICS:
            if key.partition("/")[0].endswith("_steady"):
                sheet.put(key, None, steady.reason)
        return
    seconds = window.duration_s
    energy, reason = _total_joules(record, window.start_ns, window.end_ns)
    emitted = int(requests.token_count[ends_in(requests.token_ts_ns, window)].sum())
    completed = int((requests.completed & ends_in(requests.last_token_ns, window)).sum())
    sheet.put("window_steady/duration_s", seconds)
    sheet.put("energy_steady/gpu_j", energy, reason)
    sheet.put("power_steady/gpu_mean_w", None if energy is None else energy / seconds, reason)
    for key, count, empty in (("output_token", emitted, NO_TOKENS), ("request", completed, NO_COMPLETED)):
        value = energy / count if energy is not None and count else None
        sheet.put(f"energy_steady/gpu_j_per_{key}", value, reason if energy is None else empty)
    sheet.put("throughput_steady/output_tokens_per_s", emitted / seconds)
    sheet.put("throughput_steady/requests_per_s", completed / seconds)


def _drifts(
    sheet: _Sheet, record: Record, requests: Requests, window: Window, steady: Steady
) -> drift.Drifts | None:
    """Of the window; of a batch's steady window, because a batch as a whole fills up and runs empty."""
    batch = record.info.config["scenario"]["kind"] == "batch"
    stretch = steady.window if batch else window
    keys = {name: f"window/{name}_drift_percent" for name in ("power", "throughput", "in_flight")}
    if stretch is None:
        sheet.update(dict.fromkeys(keys.values(), (None, steady.reason)))
        return None
    found = drift.drifts(
        requests,
        lambda start, end: _total_joules(record, start, end),
        stretch,
        residence_ns=drift.residence_ns(requests, stretch, since_first_token=batch),
    )
    for name, key in keys.items():
        one: Drift | None = getattr(found, name)
        sheet.put(key, None if one is None else one.percent, found.reasons.get(name))
    if batch:
        # Of a batch all are in flight from its first moment on, and fewer and fewer.
        sheet.put(keys["in_flight"], None, NOT_A_SERVER)
        # Nor has it arrivals that could explain a trend of its power.
        found = dataclasses.replace(found, in_flight=None, power_unexplained=found.power)
    return found


def _total_joules(record: Record, start_ns: int, end_ns: int) -> tuple[float | None, str | None]:
    """Energy of all GPUs between two times; None where that of one is not known, with the reason."""
    values, reason = _joules(record, start_ns, end_ns)
    return _total(values), reason


__all__ = ["NULL_REASONS", "POLLED_SOURCES", "compute", "gpu_uuids", "to_bytes", "write"]
