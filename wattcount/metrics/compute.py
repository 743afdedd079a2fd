"""`metrics.json` from a record: pure functions of its raw files.

The same raw files give the same bytes on any machine: integers are summed as integers, floating-point
sums are exact (`math.fsum`), and values are kept to 12 significant digits, far beyond what any sensor
means and short of where platforms differ.
"""

from __future__ import annotations

import dataclasses
from typing import Any

from wattcount.metrics import drift
from wattcount.metrics.energy import (
    energy_estimates,
    last_energy_ns,
    put_host_energy,
    put_phase_energy,
    put_window_energy,
    total_joules,
)
from wattcount.metrics.idle import idle_powers, idle_split
from wattcount.metrics.null_reasons import NO_COMPLETED, NO_TOKENS, NO_WINDOW, NOT_A_SERVER
from wattcount.metrics.observations import Requests, ends_in
from wattcount.metrics.registry import METRICS, METRICS_VERSION
from wattcount.metrics.sampler import sampler_figures, timing_figures
from wattcount.metrics.service import put_service
from wattcount.metrics.sheet import Sheet
from wattcount.metrics.states import put_engine, put_gpu
from wattcount.metrics.steady import Steady, steady_window
from wattcount.metrics.validity import check
from wattcount.metrics.window import Window, phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.trend import Drift


def compute(record: Record) -> dict[str, Any]:
    """The content of `metrics.json`. Works on invalid records too, as far as they go."""
    sheet = Sheet()
    last_ns = last_energy_ns(record)
    window = phase_window(record.info.phases, Phase.WINDOW, last_ns)
    steady, drifts = Steady(None, NO_WINDOW), None
    sheet.update(idle_powers(record, lambda start, end: total_joules(record, start, end), last_ns))
    if window is not None:
        requests = Requests.of(record.requests)
        put_window_energy(sheet, record, requests, window)
        put_host_energy(sheet, record, window)
        put_phase_energy(sheet, record, requests, window)
        put_service(sheet, record, requests, window)
        put_engine(sheet, record, requests, window)
        put_gpu(sheet, record, window)
        sheet.update(idle_split(sheet.cell, window))
        steady = steady_window(record, requests, window)
        _steady(sheet, record, requests, steady)
        drifts = _drifts(sheet, record, requests, window, steady)
    attributed = sheet.metrics.get("attribution/residual_share") is not None
    findings = check(record, window, drifts, steady.window, attributed=attributed)
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
        "energy": energy_estimates(record, window),
        "validity": {
            "valid": record.info.validity.valid and not any(f.invalidates for f in findings),
            "reasons": list(record.info.validity.reasons),
            "findings": [f.to_json() for f in findings],
        },
        "metrics": {key: sheet.metrics[key] for key in (*METRICS, *per_gpu)},
        "null_reasons": {k: sheet.null_reasons[k] for k in (*METRICS, *per_gpu) if k in sheet.null_reasons},
    }


def _steady(sheet: Sheet, record: Record, requests: Requests, steady: Steady) -> None:
    window = steady.window
    if window is None:
        for key in METRICS:
            if key.partition("/")[0].endswith("_steady"):
                sheet.put(key, None, steady.reason)
        return
    seconds = window.duration_s
    energy, reason = total_joules(record, window.start_ns, window.end_ns)
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
    sheet: Sheet, record: Record, requests: Requests, window: Window, steady: Steady
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
        lambda start, end: total_joules(record, start, end),
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
