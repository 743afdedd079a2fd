"""What was served in the window: throughput, requests, latencies, goodput."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from wattcount.metrics import percentiles
from wattcount.metrics.null_reasons import BATCH, NO_GOOD, NO_SLO, ONE_ARRIVAL, SINGLE_TOKEN
from wattcount.metrics.observations import MISSING, Bools, Requests, ends_in, starts_in
from wattcount.metrics.registry import PERCENTILES
from wattcount.metrics.sheet import Sheet
from wattcount.metrics.window import Window
from wattcount.records import Record

INF = float("inf")


def put_service(sheet: Sheet, record: Record, requests: Requests, window: Window) -> None:
    """`throughput/...`, `tokens/...`, `requests/...`, `load/...` and `latency/...`."""
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
    no_second = ONE_ARRIVAL if (requests.output_tokens[sent] > 1).any() else SINGLE_TOKEN
    for name, values in latencies.items():
        for p in PERCENTILES:
            value, reason = percentiles.percentile(values[~np.isnan(values)], p)
            if reason == percentiles.NO_REQUESTS and sent.any():
                reason = no_second  # there were requests, but none with a second arrival of tokens
            sheet.put(f"latency/{name}_p{p}_ms", None if value is None else value / 1e6, reason)

    gaps = requests.gaps_ns(sent)
    unfinished = int((sent & ~requests.completed).sum())
    for p in PERCENTILES:
        value, reason = percentiles.percentile(np.append(gaps, [INF] * unfinished), p)
        if reason == percentiles.NO_REQUESTS and sent.any():
            reason = no_second
        sheet.put(f"latency/itl_p{p}_ms", None if value is None else value / 1e6, reason)

    _goodput(sheet, record, latencies, requests.output_tokens[sent] == 1, seconds)


def _latencies_ns(requests: Requests, sent: Bools) -> dict[str, NDArray[np.float64]]:
    """TTFT, TPOT and E2E of each request in `sent`, same order; `inf`: never got there; nan: has none.

    TPOT of a single token does not exist (nan), nor does that of tokens which all came in one arrival: when each
    was made is not known. A request that broke off after its first token has a TTFT, and an infinite TPOT and E2E.
    """
    send = requests.actual_send_ns[sent]
    first = requests.first_token_ns[sent]
    last = requests.last_token_ns[sent]
    tokens = requests.output_tokens[sent]
    done = requests.completed[sent] & (last != MISSING)
    ttft = np.where(first != MISSING, first - send, INF)
    e2e = np.where(done, last - send, INF)
    with np.errstate(divide="ignore", invalid="ignore"):
        tpot = np.where((tokens > 1) & (last > first), (last - first) / (tokens - 1), np.nan)
    return {"ttft": ttft, "tpot": np.where(done, tpot, INF), "e2e": e2e}


def _goodput(
    sheet: Sheet,
    record: Record,
    latencies: dict[str, NDArray[np.float64]],
    single_token: Bools,
    seconds: float,
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
            # A single token has no TPOT to break a bound with. Tokens that came at once do not show that they keep one.
            kept = latencies[name] <= float(bound) * 1e6
            good &= kept | single_token if name == "tpot" else kept
    count = int(good.sum())
    sheet.put("requests/good", count)
    sheet.put("throughput/goodput_rps", count / seconds)
    sheet.ratio("energy/gpu_j_per_good_request", energy, count, NO_GOOD)
