"""What speaks against the load: requests that were late or lost, an engine that stood still, filled up or drifted."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from wattcount.metrics.drift import Drifts, backlog
from wattcount.metrics.findings import Finding
from wattcount.metrics.observations import MISSING, Requests, int_column, starts_in
from wattcount.metrics.stalls import stalls
from wattcount.metrics.window import Window

if TYPE_CHECKING:
    from wattcount.records import Record

SEND_LAG_MS = 10.0
SEND_LAG_SHARE = 0.05
"""The generator lags where its p99 send lag exceeds both 10 ms and 5 % of the mean gap between arrivals."""
UNFINISHED_SHARE = 0.01
NOT_ACHIEVED_SHARE = 0.02
"""Share of the requests planned for the window that may be sent outside it."""
STALLED_SHARE = 0.01
STALLED_SHARE_FATAL = 0.1
"""Share of the window in which the engine stood still with work to do. A tenth of it is not how anybody serves."""
STALLED_FATAL_S = 0.5
"""In windows of a few seconds, at least this much."""
DRIFT_PERCENT = 5.0
"""Change within a window that is worth a word, if it is more than chance."""
BACKLOG_SHARE = 0.05
"""Share of the requests sent in a window by which those in flight may grow, before the server cannot keep up."""
_NAMES = {"power": "power", "throughput": "output tokens/s", "in_flight": "requests in flight"}


def generator_and_requests(record: Record, window: Window) -> Iterator[Finding]:
    requests = Requests.of(record.requests)
    planned = starts_in(requests.planned_send_ns, window)
    sent = requests.sent_in(window)
    scenario = record.info.config["scenario"]
    lag = np.sort(
        (requests.actual_send_ns - requests.planned_send_ns)[sent & (requests.planned_send_ns != MISSING)]
    )
    open_loop = scenario["kind"] != "batch" and scenario.get("max_in_flight") is None
    if open_loop and len(lag) and planned.any():
        # Nearest rank, so that it exists for few requests too (then it is the largest lag).
        p99_ms = int(lag[-(-99 * len(lag) // 100) - 1]) / 1e6
        mean_gap_ms = window.duration_s * 1e3 / int(planned.sum())
        limit = max(SEND_LAG_MS, SEND_LAG_SHARE * mean_gap_ms)
        if p99_ms > limit:
            yield Finding(
                "generator_lagging",
                p99_ms,
                limit,
                "ms",
                "requests were sent later than planned: the load was not the one asked for",
                p99_ms > max(limit, mean_gap_ms),
            )
    offered, achieved = int(planned.sum()), int((sent & (requests.planned_send_ns != MISSING)).sum())
    if open_loop and offered and 1 - achieved / offered > NOT_ACHIEVED_SHARE:
        yield Finding(
            "load_not_achieved",
            1 - achieved / offered,
            NOT_ACHIEVED_SHARE,
            "1",
            f"{achieved} requests were sent in the window, {offered} were planned for it",
            True,
        )
    not_sent = int((planned & (int_column(record.requests, "actual_send_ns") == MISSING)).sum())
    unfinished = int((sent & ~requests.completed).sum()) + not_sent
    asked = int(sent.sum()) + not_sent
    if asked and unfinished / asked > UNFINISHED_SHARE:
        yield Finding(
            "requests_unfinished",
            unfinished / asked,
            UNFINISHED_SHARE,
            "1",
            f"{unfinished} of {asked} requests of the window failed, were cancelled or never sent",
            False,
        )


def lengths_changed(record: Record) -> Iterator[Finding]:
    """Requests whose lengths are not those of their trace or prompt file, as the run itself counted them."""
    changes = record.info.length_changes
    if not changes:
        return
    words = {
        "input_cut": "prompts were cut at scenario.lengths.input_tokens_max",
        "input_raised": "prompts were made longer, to scenario.lengths.input_tokens_min",
        "output_cut": "outputs were cut at scenario.lengths.output_tokens_max",
        "output_raised": "outputs were made longer, to scenario.lengths.output_tokens_min",
    }
    told = [f"{changes[key]} {text}" for key, text in words.items() if changes.get(key)]
    yield Finding(
        "lengths_changed",
        max(changes[key] for key in words) / changes["requests"],
        0.0,
        "1",
        f"of {changes['requests']} requests, {', '.join(told)}: {changes['input_tokens']:,} of the file's "
        f"{changes['input_tokens_given']:,} prompt tokens and {changes['output_tokens']:,} of its "
        f"{changes['output_tokens_given']:,} output tokens were asked for; set the bounds wider to have the file's own load",
        False,
    )


def stalled(record: Record, window: Window) -> Iterator[Finding]:
    found = stalls(record, Requests.of(record.requests), window)
    if found is None or found.seconds <= STALLED_SHARE * window.duration_s:
        return
    share = found.seconds / window.duration_s
    yield Finding(
        "engine_stalled",
        share,
        STALLED_SHARE,
        "1",
        f"the engine stood still {found.count} times with requests in flight, for up to {found.longest_s:.2g} s:"
        " it compiled kernels (its log names them; a second run finds them compiled), or the host was busy",
        share > STALLED_SHARE_FATAL and found.seconds >= STALLED_FATAL_S,
    )


def warmup(record: Record) -> Iterator[Finding]:
    """A warm-up that ended at its limit, as the run itself found."""
    warmup = record.info.warmup
    for name, percent in (warmup.get("unsettled") or {}).items():
        yield Finding(
            "not_settled",
            abs(float(percent)),
            DRIFT_PERCENT,
            "%",
            f"{_NAMES.get(name, name)} had not settled when the warm-up reached scenario.warmup_limit_s",
            False,
        )
    if not warmup or warmup["settled"]:
        return
    needed_s, seconds = warmup.get("needed_s"), float(warmup["seconds"])
    if needed_s is None or needed_s > seconds:
        yield Finding(
            "warmup_too_short",
            seconds,
            float(needed_s if needed_s is not None else warmup["limit_s"]),
            "s",
            "the window began before the server had filled up: raise scenario.warmup_limit_s above two of its "
            "requests' lives",
            False,
        )


def not_settled(record: Record, drifts: Drifts) -> Iterator[Finding]:
    arrivals = record.info.config["scenario"].get("arrivals") or {}
    if arrivals.get("kind") == "trace":
        # Recorded traffic rises and falls by itself.
        return
    batch = record.info.config["scenario"]["kind"] == "batch"
    for name, drift in (
        ("power", drifts.power_unexplained),
        ("throughput", drifts.throughput if batch else None),
    ):
        if drift is not None and drift.certain and abs(drift.percent) > DRIFT_PERCENT:
            beyond = "" if batch else ", more than the load explains"
            yield Finding(
                "not_settled",
                abs(drift.percent),
                DRIFT_PERCENT,
                "%",
                f"{_NAMES[name]} changed by {drift.percent:+.1f} % within the window{beyond} "
                f"(99 % interval {drift.low:+.1f} to {drift.high:+.1f} %)",
                False,
            )


def overloaded(record: Record, window: Window) -> Iterator[Finding]:
    scenario = record.info.config["scenario"]
    if scenario["kind"] == "batch" or (scenario.get("arrivals") or {}).get("kind") == "trace":
        return
    found = backlog(Requests.of(record.requests), window)
    if found.growth_share > BACKLOG_SHARE and found.certain:
        yield Finding(
            "overloaded",
            found.growth_share,
            BACKLOG_SHARE,
            "1",
            f"requests came faster than they were served: {found.begin} in flight at the window's begin, "
            f"{found.end} at its end; latency depends on how long the window is",
            False,
        )
