"""What was served in the window: throughput, requests, latencies, goodput, the engine's queue; and what speaks against the load."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.errors import ERROR_CHARACTERS, one_line
from wattcount.load import stalls as load_stalls
from wattcount.metrics.observations import (
    MISSING,
    Bools,
    Floats,
    Requests,
    Window,
    ends_in,
    int_column,
    percentile,
    starts_in,
)
from wattcount.metrics.sheet import (
    NO_REQUESTS,
    Checks,
    Finding,
    MetricSpec,
    Sheet,
    finding_specs,
    metric_specs,
)
from wattcount.metrics.window import Observed
from wattcount.records import Record

INF = float("inf")
"""Latency of a request that never finished: it is later than every bound, and a percentile that falls on it is null."""
PERCENTILES = (50, 95, 99)
"""Percentiles of latencies that are given."""

UNFINISHED_SHARE = 0.01
"""Share of a window's requests that may fail, be cancelled or never be sent."""
NOT_ACHIEVED_SHARE = 0.02
"""Share of the requests planned for the window that may be sent outside it."""
STALLED_SHARE = 0.01
"""Share of the window in which the engine may stand still with work to do."""
STALLED_SHARE_FATAL = 0.1
"""The same, from which the window is invalid: a tenth of it is not how anybody serves."""
STALLED_FATAL_S = 0.5
"""Stalled time [s] below which a window of a few seconds is not invalid."""

NO_GOOD = "no_good_requests"
"""Reason for null: there is no good request to divide by."""
NO_SLO = "no_slo"
"""Reason for null: nothing says what a good request is."""
CLOSED_LOOP = "closed_loop"
"""Reason for null: in a closed loop no request is planned for a time: it comes when its user's last one is answered."""
BATCH = "batch_has_no_rate"
"""Reason for null: a batch sends everything at once, so it has no rate."""
NO_DRAFTS = "no_draft_tokens"
"""Reason for null: no token was proposed, so there is no share of those accepted."""
SINGLE_TOKEN = "single_token_outputs"
"""Reason for null: an output of one token has no time between tokens."""
ONE_ARRIVAL = "one_arrival"
"""Reason for null: outputs that came in one piece have no time between arrivals."""

METRICS = (
    metric_specs(
        """
    energy/gpu_j_per_good_request  | J          | lower  | E / those of the requests completed in the window that met every bound of
        `scenario.slo`, whenever sent: never below `energy/gpu_j_per_request`; null without an SLO
    throughput/output_tokens_per_s | tokens/s   | higher | `tokens/output` / T
    throughput/input_tokens_per_s  | tokens/s   | higher | `tokens/input` / T
    throughput/requests_per_s      | requests/s | higher | `requests/completed_in_window` / T
    throughput/goodput_rps         | requests/s | higher | those same requests / T: never above `throughput/requests_per_s`; null
        without an SLO
    load/offered_rps               | requests/s |        | requests planned at `start <= t < end` / T; null for a batch and in a closed
        loop
    load/achieved_rps              | requests/s |        | `requests/sent` / T; null for a batch
    load/send_lag_p50_ms           | ms         | lower  | actual - planned send of the requests sent in the window, percentile 50
    load/send_lag_p99_ms           | ms         | lower  | the same, percentile 99
    load/send_lag_max_ms           | ms         | lower  | the same, the largest
    """
    )
    | {
        f"latency/{name}_p{p}_ms": MetricSpec("ms", f"{meaning}; percentile {p}", "lower")
        for name, meaning in {
            "ttft": "time to first token: first token - actual send",
            "tpot": "time per output token: (last token - first token) / (output tokens - 1); requests with a single token have none, nor have "
            "those whose tokens all came at once (an SLO on TPOT counts the latter as not met)",
            "itl": "gap between successive arrivals of tokens of a request; tokens that come together are one arrival. The values counted are "
            "gaps, not requests",
            "e2e": "end-to-end latency: last token - actual send",
            "ttft_planned": "first token - planned send: what somebody saw who came when planned, whatever held the request back",
            "e2e_planned": "last token - planned send",
        }.items()
        for p in PERCENTILES
    }
    | metric_specs(
        """
    requests/sent                | 1 |        | sent in the window = completed + failed + cancelled
    requests/completed           | 1 |        | of those, completed by the end of the drain
    requests/failed              | 1 | lower  | of those, ended by an error
    requests/cancelled           | 1 | lower  | of those, still running when the drain's limit was reached or the run broke off
    requests/good                | 1 | higher | of those sent in the window, completed within every bound of `scenario.slo` (at most
        the bound; a single token has no TPOT to break one with): / `requests/sent` is the share that met the SLO; null without an SLO
    requests/not_sent            | 1 | lower  | planned for the window and never sent
    requests/completed_in_window | 1 |        | last token in the window, whenever sent
    tokens/output                | 1 |        | output tokens emitted in the window
    tokens/input                 | 1 |        | prompt tokens of the requests whose first token fell in the window (then their
        prefill is done)
    tokens/cached_input          | 1 |        | of those, served from the prefix cache; null where the engine does not tell
    window/duration_s            | s |        | T, length of the window
    engine/running_mean          | 1 |        | running requests, mean over the engine steps logged in the window
    engine/running_max           | 1 |        | the same, the largest
    engine/waiting_max           | 1 | lower  | waiting requests, the largest
    engine/kv_cache_usage_max    | 1 |        | share of the KV cache in use, the largest, 0..1
    engine/draft_tokens          | 1 |        | proposals of speculative decoding that were checked in the window
    engine/draft_acceptance      | 1 | higher | share of them that became output, 0..1; of random weights it means nothing
    engine/preemptions           | 1 | lower  | preemptions of the requests sent in the window
    """
    )
)
"""The metrics of this module, by key: throughput, latency, the engine's queue, stalls."""
NULL_REASONS = {
    NO_GOOD: "no request completed in the window met the SLO",
    NO_SLO: "the scenario has no SLO",
    BATCH: "a batch sends everything at once",
    CLOSED_LOOP: "in a closed loop no request is planned for a time: it comes when its user's last one is answered",
    NO_DRAFTS: "no token was proposed in the window: speculative decoding is off, or had nothing to propose",
    SINGLE_TOKEN: "every output is a single token",
    ONE_ARRIVAL: "all tokens of a request came at once, so when each was made is not known",
}
"""What each of this module's reasons for null means, in words."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


def put(sheet: Sheet, seen: Observed) -> None:
    """Everything that was served in the window."""
    if seen.window is not None:
        _put_service(sheet, seen, seen.window)
        _put_engine(sheet, seen.record, seen.requests, seen.window)


def _put_service(sheet: Sheet, seen: Observed, window: Window) -> None:
    """`throughput/...`, `tokens/...`, `requests/...`, `load/...` and `latency/...`."""
    requests, seconds = seen.requests, window.duration_s
    emitted, completed_in_window = requests.tokens_in(window), requests.completed_in(window)
    begun = ends_in(requests.first_token_ns, window)
    prompt = int(requests.input_tokens[begun].sum())
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
    if seen.is_batch:
        sheet.put("load/offered_rps", None, BATCH)
        sheet.put("load/achieved_rps", None, BATCH)
    else:
        offered = None if seen.is_closed else int(planned.sum()) / seconds
        sheet.put("load/offered_rps", offered, CLOSED_LOOP)
        sheet.put("load/achieved_rps", int(sent.sum()) / seconds)

    lag_ns = (requests.actual_send_ns - requests.planned_send_ns)[
        sent & (requests.planned_send_ns != MISSING)
    ]
    unplanned = CLOSED_LOOP if seen.is_closed else NO_REQUESTS
    for p in (50, 99):
        value, reason = percentile(lag_ns.astype(np.float64), p)
        reason = unplanned if reason == NO_REQUESTS else reason
        sheet.put(f"load/send_lag_p{p}_ms", None if value is None else value / 1e6, reason)
    sheet.put("load/send_lag_max_ms", int(lag_ns.max()) / 1e6 if len(lag_ns) else None, unplanned)

    latencies = _latencies_ns(requests, sent)
    no_second = ONE_ARRIVAL if (requests.output_tokens[sent] > 1).any() else SINGLE_TOKEN
    for name, values in latencies.items():
        for p in PERCENTILES:
            value, reason = percentile(values[~np.isnan(values)], p)
            if reason == NO_REQUESTS and sent.any() and name == "tpot":
                reason = no_second  # there were requests, but none with a second arrival of tokens
            if reason == NO_REQUESTS and name.endswith("_planned"):
                reason = unplanned
            sheet.put(f"latency/{name}_p{p}_ms", None if value is None else value / 1e6, reason)

    gaps = requests.gaps_ns(sent)
    unfinished = int((sent & ~requests.completed).sum())
    for p in PERCENTILES:
        value, reason = percentile(np.append(gaps, [INF] * unfinished), p)
        if reason == NO_REQUESTS and sent.any():
            reason = no_second
        sheet.put(f"latency/itl_p{p}_ms", None if value is None else value / 1e6, reason)

    _goodput(sheet, seen, window)


def _latencies_ns(requests: Requests, sent: Bools) -> dict[str, Floats]:
    """TTFT, TPOT and E2E of each request in `sent`, same order, and TTFT and E2E from the planned send; `inf`: never got there;
    nan: has none.

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
    planned = requests.planned_send_ns[sent]
    lag = np.where(planned != MISSING, send - planned, np.nan)
    return {
        "ttft": ttft,
        "tpot": np.where(done, tpot, INF),
        "e2e": e2e,
        "ttft_planned": ttft + lag,
        "e2e_planned": e2e + lag,
    }


def _goodput(sheet: Sheet, seen: Observed, window: Window) -> None:
    """How many of the requests sent kept the SLO; and, as for throughput and energy, how many of those that the window completed."""
    slo = seen.scenario.slo
    if all(bound is None for bound in _bounds_ms(slo).values()):
        for key in ("throughput/goodput_rps", "requests/good", "energy/gpu_j_per_good_request"):
            sheet.put(key, None, NO_SLO)
        return
    sheet.put("requests/good", good_of(seen.requests, seen.requests.sent_in(window), slo))
    completed = good_of(seen.requests, seen.requests.completed_within(window), slo)
    sheet.put("throughput/goodput_rps", completed / window.duration_s)
    sheet.ratio("energy/gpu_j_per_good_request", sheet.cell("energy/gpu_j")[0], completed, NO_GOOD)


def good_of(requests: Requests, chosen: Bools, slo: SloConfig) -> int:
    """How many of the chosen requests were completed within every bound."""
    return int(_good(requests, chosen, slo).sum())


def _good(requests: Requests, chosen: Bools, slo: SloConfig) -> Bools:
    single_token = requests.output_tokens[chosen] == 1
    return _within(_latencies_ns(requests, chosen), single_token, _bounds_ms(slo))


def kept_slo(record: Record, slo: SloConfig) -> Bools | None:
    """Which of the requests sent in the window keep an SLO, in their order, whatever the run was asked for. None: there is no window."""
    seen = Observed(record)
    if seen.window is None:
        return None
    return _good(seen.requests, seen.requests.sent_in(seen.window), slo)


def good_requests(record: Record, slo: SloConfig) -> int | None:
    """How many they are."""
    good = kept_slo(record, slo)
    return None if good is None else int(good.sum())


def latencies_ms(seen: Observed) -> dict[str, Floats]:
    """TTFT, TPOT and E2E of each request sent in the window [ms], by name; `inf`: never got there; nan: has none. Empty: no window."""
    if seen.window is None:
        return {}
    found = _latencies_ns(seen.requests, seen.requests.sent_in(seen.window))
    return {name: found[name] / 1e6 for name in ("ttft", "tpot", "e2e")}


def _bounds_ms(slo: SloConfig) -> dict[str, float | None]:
    return {"ttft": slo.ttft_ms, "tpot": slo.tpot_ms, "e2e": slo.e2e_ms}


def _within(latencies: dict[str, Floats], single_token: Bools, bounds_ms: dict[str, float | None]) -> Bools:
    """Which requests were completed within every bound."""
    good = np.isfinite(latencies["e2e"])
    for name, bound in bounds_ms.items():
        if bound is not None:
            # A single token has no TPOT to break a bound with. Tokens that came at once do not show that they keep one.
            kept = latencies[name] <= bound * 1e6
            good &= kept | single_token if name == "tpot" else kept
    return good


def _put_engine(sheet: Sheet, record: Record, requests: Requests, window: Window) -> None:
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


def stalls(record: Record, requests: Requests, window: Window) -> load_stalls.Stalls | None:
    """Stalls within a window: time in which the engine had work and did not do it (`load.stalls`).

    None where the engine's steps are not known, or are too few to tell. A run that contains stalls says what starting up
    costs, not what serving costs.
    """
    steps = record.steps
    reported_ns = int_column(steps, "logged_ns")
    prefill, decode = int_column(steps, "prefill_tokens"), int_column(steps, "decode_tokens")
    if not len(reported_ns) or (prefill == MISSING).any() or (decode == MISSING).any():
        return None
    sent = requests.actual_send_ns != MISSING
    # One that never got a last token was in flight until the end, for all that is known.
    ended_ns = np.where(requests.last_token_ns == MISSING, int(reported_ns.max()), requests.last_token_ns)
    return load_stalls.stalls(
        load_stalls.Steps(reported_ns, prefill, decode),
        requests.actual_send_ns[sent],
        ended_ns[sent],
        window.start_ns,
        window.end_ns,
    )


# -- findings

NOT_ACHIEVED, UNFINISHED, STALLED, LENGTHS_CHANGED = finding_specs(
    """
    load_not_achieved | 1 | yes | share of the requests planned for the window that were not sent in it (1 - achieved /
        offered), open loop only | 2 % | another load than the one asked for | offer less (`scenario.rate_rps`), raise
        `scenario.max_in_flight`, or give the host more free CPU
    requests_unfinished | 1 | open | share of the window's requests failed, cancelled or never sent | 1 % | only where more
        than 1 % failed: what a server refused or broke off is not the load that was asked for. Of others, latencies count
        them as slowest, and J per request counts those that completed | read why in `requests.parquet` (column `error`) and
        in `engine.log`; offer less, or raise `scenario.drain_limit_s`
    engine_stalled | 1 | open | share of the window in which requests were in flight and the engine stood still for 0.25 s
        and for as long again as its step should have taken (fitted to the window's steps) | 1 % | only above 10 % and 0.5
        s: what compiles kernels on first use is starting up, not serving | raise `scenario.rehearsal_requests`, so that
        kernels are compiled before the window; keep others off the host
    lengths_changed | 1 | no | largest share of requests whose prompt or output is not as long as the trace or prompt file
        gives it | 0: `scenario.lengths.*_min` and `*_max` change none | the load is the one that the record tells, but not
        the file's | raise `engine.max_model_len`, or leave long requests out of the file
    """
)


@CHECKS.finds_in_window(NOT_ACHIEVED, UNFINISHED)
def unsent_and_unfinished(seen: Observed, window: Window) -> Iterator[Finding]:
    """Requests that did not come, or that did not end."""
    requests = seen.requests
    planned = starts_in(requests.planned_send_ns, window)
    sent = requests.sent_in(window)
    open_loop = not seen.is_batch and getattr(seen.scenario, "max_in_flight", None) is None
    offered, achieved = int(planned.sum()), int((sent & (requests.planned_send_ns != MISSING)).sum())
    if open_loop and offered and 1 - achieved / offered > NOT_ACHIEVED_SHARE:
        yield NOT_ACHIEVED.found(
            1 - achieved / offered,
            NOT_ACHIEVED_SHARE,
            f"{achieved} requests were sent in the window, {offered} were planned for it",
        )
    not_sent = int((planned & (requests.actual_send_ns == MISSING)).sum())
    unfinished = int((sent & ~requests.completed).sum()) + not_sent
    asked = int(sent.sum()) + not_sent
    if asked and unfinished / asked > UNFINISHED_SHARE:
        failed = sent & requests.failed
        message = f"{unfinished} of {asked} requests of the window failed, were cancelled or never sent"
        if failed.any():
            told = seen.record.requests["error"][int(np.argmax(failed))].as_py()
            error = one_line(told or "unknown", ERROR_CHARACTERS)
            message += f"; {int(failed.sum())} failed, the first: {error}"
        invalid = bool(failed.sum() / asked > UNFINISHED_SHARE)
        yield UNFINISHED.found(unfinished / asked, UNFINISHED_SHARE, message, invalid)


@CHECKS.finds_in_window(STALLED)
def stalled(seen: Observed, window: Window) -> Iterator[Finding]:
    found = stalls(seen.record, seen.requests, window)
    if found is None or found.seconds <= STALLED_SHARE * window.duration_s:
        return
    share = found.seconds / window.duration_s
    yield STALLED.found(
        share,
        STALLED_SHARE,
        f"the engine stood still {found.count} times with requests in flight, for up to {found.longest_s:.2g} s:"
        " it compiled kernels (its log names them; a second run finds them compiled), or the host was busy",
        share > STALLED_SHARE_FATAL and found.seconds >= STALLED_FATAL_S,
    )


@CHECKS.finds_in_window(LENGTHS_CHANGED)
def lengths_changed(seen: Observed, _: Window) -> Iterator[Finding]:
    """Requests whose lengths are not those of their trace or prompt file, as the run itself counted them."""
    changes = seen.record.info.length_changes
    if not changes:
        return
    words = {
        "input_cut": "prompts were cut at scenario.lengths.input_tokens_max",
        "input_raised": "prompts were made longer, to scenario.lengths.input_tokens_min",
        "output_cut": "outputs were cut at scenario.lengths.output_tokens_max",
        "output_raised": "outputs were made longer, to scenario.lengths.output_tokens_min",
    }
    told = [f"{changes[key]} {text}" for key, text in words.items() if changes.get(key)]
    yield LENGTHS_CHANGED.found(
        max(changes[key] for key in words) / changes["requests"],
        0.0,
        f"of {changes['requests']} requests, {', '.join(told)}: {changes['input_tokens']:,} of the file's "
        f"{changes['input_tokens_given']:,} prompt tokens and {changes['output_tokens']:,} of its "
        f"{changes['output_tokens_given']:,} output tokens were asked for; set the bounds wider to have the file's own load",
    )
