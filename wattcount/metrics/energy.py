"""Energy of the window: of GPUs and host, its uncertainty, its sources, its phases and its requests."""

from __future__ import annotations

import math
from typing import Any

from wattcount.energy import rapl
from wattcount.energy.events import Source
from wattcount.metrics import attribution, percentiles
from wattcount.metrics.locking import window_energy, window_energy_sum
from wattcount.metrics.null_reasons import (
    NO_COMPLETED,
    NO_DECODE,
    NO_POWER_DATA,
    NO_PREFILL,
    NO_TOKENS,
    NO_WINDOW,
    NOT_BATCH,
    NOT_RECORDED,
    UNFINISHED,
)
from wattcount.metrics.observations import Requests, ends_in, gpu_uuids
from wattcount.metrics.registry import ENERGY_SOURCES, METRICS, gpu_energy_key
from wattcount.metrics.request_energy import divide_among_requests
from wattcount.metrics.sheet import Sheet, canonical
from wattcount.metrics.window import Window
from wattcount.records import Record


def put_window_energy(sheet: Sheet, record: Record, requests: Requests, window: Window) -> None:
    """`energy/...`, `energy_by_gpu/...` and `energy_by_source/...` of the GPUs, with its uncertainty."""
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


def _uncertainty(sheet: Sheet, record: Record, window: Window, reason: str | None) -> None:
    found = window_energy_sum(record, window)
    sheet.put("energy/gpu_j_u95", None if found is None else found.u95_j, reason)
    sheet.put("energy/gpu_j_u95_method", None if found is None else found.u95_method_j, reason)
    sheet.put("energy/gpu_j_u95_sensor", None if found is None else found.u95_sensor_j, reason)


def _batch_energy(sheet: Sheet, record: Record, requests: Requests) -> None:
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


def put_host_energy(sheet: Sheet, record: Record, window: Window) -> None:
    """Energy of the host's CPU packages and memory."""
    cpu = record.host_power.energy(window.start_ns, window.end_ns, rapl.PACKAGE)
    sheet.put("energy/cpu_package_j", cpu.value_j, cpu.reason)
    mean_w = None if cpu.value_j is None else cpu.value_j / window.duration_s
    sheet.put("power/cpu_package_mean_w", mean_w, cpu.reason)
    dram = record.host_power.energy(window.start_ns, window.end_ns, rapl.DRAM)
    sheet.put("energy/dram_j", dram.value_j, dram.reason)


def put_phase_energy(sheet: Sheet, record: Record, requests: Requests, window: Window) -> None:
    """Energy of prefill, decode and requests, and how good the model behind them is (`attribution/...`)."""
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
    divided = divide_among_requests(found, requests)
    each_j = divided.total_j[divided.whole]
    put("energy/request_mean_j", math.fsum(each_j) / len(each_j) if len(each_j) else None, NO_COMPLETED)
    for p in (50, 95):
        value, reason = percentiles.percentile(each_j, p)
        put(f"energy/request_p{p}_j", value, reason if len(each_j) else NO_COMPLETED)


def energy_estimates(record: Record, window: Window | None) -> dict[str, dict[str, Any]]:
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


def _canonical_or_none(value: float | None) -> float | None:
    return None if value is None else canonical(value)


def total_joules(record: Record, start_ns: int, end_ns: int) -> tuple[float | None, str | None]:
    """Energy of all GPUs between two times; None where that of one is not known, with the reason."""
    values, reason = _joules(record, start_ns, end_ns)
    return _total(values), reason


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
