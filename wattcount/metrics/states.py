"""How engine and GPUs were in the window: queue and cache, temperature, clock and what held it back."""

from __future__ import annotations

import numpy as np

from wattcount.energy.events import Source
from wattcount.metrics.clocks import SW_POWER_CAP, THERMAL_SLOWDOWN
from wattcount.metrics.null_reasons import NO_DRAFTS
from wattcount.metrics.observations import MISSING, Ints, Requests, ends_in, held, int_column
from wattcount.metrics.sheet import Sheet
from wattcount.metrics.window import Window
from wattcount.records import Record


def put_engine(sheet: Sheet, record: Record, requests: Requests, window: Window) -> None:
    """`engine/...`: from the steps that were reported in the window, and the requests sent in it."""
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


def put_gpu(sheet: Sheet, record: Record, window: Window) -> None:
    """`gpu/...`: of all GPUs together, weighted with how long each value held."""

    def gather(source: Source) -> tuple[Ints, Ints]:
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
