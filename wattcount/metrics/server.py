"""Whether a server that others may use served only us, by its own counters; and whether it computed what we received.

::

    snapshots ----o--o--o-[o--o--o--o--o]-o--o---->      [ ] our load; before and after it none of ours is in flight
                        ^ before        ^ after          others' = counted in between - ours
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from wattcount.config.schema import FROM_FILES
from wattcount.engines.http.counters import (
    COUNTS,
    FAMILIES,
    Count,
    OthersLoad,
    OwnLoad,
    ServerCounters,
    others_load,
    restarted,
)
from wattcount.metrics.observations import MISSING, Bools, Ints, Requests, Window, phase_window
from wattcount.metrics.sheet import Checks, Finding, MetricSpec, Sheet, finding_specs
from wattcount.metrics.window import Observed
from wattcount.metrics.work import NO_STEPS, Context, Work, arrived_steps, begun_ns, locate_steps
from wattcount.records import Record
from wattcount.records.schema import Phase

OTHERS_SHARE = 0.01
"""Others' load / ours up to which a run is valid: as many of its own requests may fail."""
LAG_NS = 250_000_000
"""Longest time [ns] between a token's arrival here and its count in the server: a busy event loop on either side."""
ABANDONED_NS = 30_000_000_000
"""Longest time [ns] that a server goes on with a request of ours that ended without its end."""
TOKENS_APART = 2
"""Tokens of each request by which a server may count otherwise than we do: of the begin, of the end."""
STEPS_APART = 0.03
"""Share of a window's steps by which those seen in the arrivals may differ from those that the server counted: up to there the energy
of a phase is off by less than its uncertainty (docs/attribution.md)."""
CACHED_SHARE = 0.01
"""Share of prompt tokens out of the server's prefix cache that is none to speak of."""
CACHED_SHARE_FATAL = 0.1
"""The same, from which the window is invalid: the point's prompts have nothing in common, so that each has to be computed."""
AT_ONCE_SHARE = 0.01
"""Share of requests whose tokens may all come at once, in a tenth of the others' time."""
AT_ONCE_TIMES = 0.1
"""Such a request's time / the median of those that were streamed."""

METRICS: dict[str, MetricSpec] = {}
"""No metric of its own: what the server's counters tell goes into those of other modules. Every part of `metrics_json` has this
table."""
NOT_ALONE = "not_alone_on_server"
"""Reason for null: others' requests ran on the server as well, or may have."""
STEPS_UNTOLD = "server_counts_no_steps"
"""Reason for null: the server does not count its steps, so those that the arrivals show cannot be checked."""
STEPS_NOT_SEEN = "steps_not_seen"
"""Reason for null: the arrivals of tokens do not show the steps that the server counted."""
NULL_REASONS = {
    NOT_ALONE: "others used the server, or whether they did is not known: whose work a step was cannot be told",
    STEPS_UNTOLD: "the server does not count its steps in `/metrics`, so what is seen of them in the arrivals cannot be checked",
    STEPS_NOT_SEEN: f"the arrivals of tokens do not show as many steps as the server counted, to {STEPS_APART:.0%}",
}
"""What each of this module's reasons for null means, in words."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


def put(sheet: Sheet, seen: Observed) -> None:
    """Nothing: a server's counters speak for or against a run."""


def is_server(record: Record) -> bool:
    """Whether a server was measured: what it is and what it counted is kept by `engines.http`."""
    details = record.info.engine_details
    return isinstance(details.get("server"), dict) or isinstance(details.get("server_counters"), list)


def snapshots(record: Record) -> list[ServerCounters]:
    """The server's counters through the run, in order of time; what is none is left out."""
    found = []
    rows = record.info.engine_details.get("server_counters")
    for row in rows if isinstance(rows, list) else []:
        try:
            found.append(ServerCounters.from_json(row))
        except ValueError:
            continue
    return sorted(found, key=lambda snapshot: snapshot.t_ns)


def _restarts(counters: list[ServerCounters]) -> int:
    return sum(restarted(*pair) for pair in itertools.pairwise(counters))


# -- ours


def own_load(requests: Requests, before: ServerCounters, after: ServerCounters) -> OwnLoad:
    """What the server must have counted of our requests between two snapshots.

    A count is certain where it was made between them whatever the lag (`LAG_NS`), and possible where it may have been.
    """
    family = next((each for each in FAMILIES if each.name == after.family), None)
    as_made = family is not None and family.as_made
    send, first = requests.actual_send_ns, requests.first_token_ns
    sent = send != MISSING
    end = np.where(requests.last_token_ns != MISSING, requests.last_token_ns, send)
    done = requests.completed

    def certain(event_ns: Ints, sent_ns: Ints) -> Bools:
        began = (event_ns - LAG_NS > before.t_ns) | (sent_ns > before.t_ns)
        inside: Bools = began & (event_ns + LAG_NS < after.asked_ns)
        return inside

    def possible(event_ns: Ints, sent_ns: Ints) -> Bools:
        inside: Bools = (
            (event_ns + LAG_NS > before.asked_ns) & (event_ns - LAG_NS < after.t_ns) & (sent_ns < after.t_ns)
        )
        return inside

    # What became of those that did not end well, the server alone knows.
    unknown = sent & ~done & (send < after.t_ns) & (end + ABANDONED_NS > before.asked_ns)
    sure, maybe = done & certain(end, send), (done & possible(end, send)) | unknown
    ended = Count(int(sure.sum()), int(maybe.sum()))

    tokens = requests.input_tokens
    if as_made:
        begun = first != MISSING
        low = int(tokens[begun & certain(first, send)].sum())
        high = int(tokens[(begun & possible(first, send)) | (unknown & ~begun)].sum())
    else:
        low, high = int(tokens[sure].sum()), int(tokens[maybe].sum())
    prompts = Count(low if family is None or family.all_input else 0, high)

    output = requests.output_tokens
    longest = int(output.max(initial=1))
    if as_made:
        sent_ns = send[requests.token_request]
        low = int(requests.token_count[certain(requests.token_ts_ns, sent_ns)].sum())
        high = int(requests.token_count[possible(requests.token_ts_ns, sent_ns)].sum())
        high += int((longest - output[unknown]).sum())
    else:
        low = int(output[sure].sum())
        high = int(output[done & maybe].sum()) + longest * int(unknown.sum())
    return OwnLoad(ended, prompts, Count(low, high))


def quiet(requests: Requests, counters: list[ServerCounters]) -> Bools:
    """Which of the snapshots were taken while none of our requests was in flight."""
    sent = requests.actual_send_ns != MISSING
    send = requests.actual_send_ns[sent]
    last = requests.last_token_ns[sent]
    ended = np.sort(np.where(last != MISSING, last, send) + LAG_NS)
    begun_by = np.searchsorted(np.sort(send), [each.t_ns for each in counters])
    ended_by = np.searchsorted(ended, [each.asked_ns for each in counters])
    alone: Bools = begun_by == ended_by
    return alone


@dataclass(frozen=True)
class Served:
    """What the server did around the window, between two snapshots with none of our requests in flight if there are such."""

    before: ServerCounters
    after: ServerCounters
    load: OthersLoad
    requests: int
    """Ours, at most."""


def served(requests: Requests, counters: list[ServerCounters], window: Window) -> Served | None:
    """The load around `window`; None where the snapshots do not enclose it, or the server started anew."""
    alone = quiet(requests, counters)
    earlier = [i for i, each in enumerate(counters) if each.t_ns <= window.start_ns]
    later = [i for i, each in enumerate(counters) if each.asked_ns >= window.end_ns]
    if not earlier or not later:
        return None
    first = next((i for i in reversed(earlier) if alone[i]), earlier[0])
    last = next((i for i in later if alone[i]), later[-1])
    before, after = counters[first], counters[last]
    ours = own_load(requests, before, after)
    try:
        load = others_load(before, after, ours)
    except ValueError:
        return None
    return Served(before, after, load, ours.requests.high if ours.requests is not None else 0)


def others_share(found: Served) -> tuple[float, str] | None:
    """Others' load at least / ours, and by which count (`COUNTS`) it is the largest; None where none is known.

    Counts of tokens that differ by a few a request are the server's way of counting: where it counts requests and none is
    others', only more than that is.
    """
    load = found.load
    strangers = load.low("requests")
    shares: dict[str, float] = {}
    for name in COUNTS:
        low, own = load.low(name), getattr(load.ours, name)
        if low is None or own is None or own.high == 0:
            continue
        if name != "requests" and load.per_request and not strangers:
            low = 0 if name == "prompt_tokens" else low - TOKENS_APART * found.requests
        shares[name] = max(0, low) / own.high
    worst = max(shares, key=lambda name: shares[name], default=None)
    return None if worst is None else (shares[worst], worst)


# -- steps


def arrived_work(record: Record, requests: Requests, window: Window) -> Work | str:
    """What the steps of a server computed, by the arrivals of their tokens; a code of why that is not known.

    They are believed where the server served only us, and counted as many steps as are seen.
    """
    if not is_server(record):
        return NO_STEPS
    counters = snapshots(record)
    inside = [each for each in counters if window.start_ns <= each.asked_ns and each.t_ns <= window.end_ns]
    if len(inside) < 2 or inside[0].steps is None or inside[-1].steps is None:
        return STEPS_UNTOLD
    found = served(requests, counters, window)
    others = None if found is None else others_share(found)
    if others is None or others[0] > OTHERS_SHARE:
        return NOT_ALONE
    counted = inside[-1].steps - inside[0].steps
    t_ns, prefill, decode = arrived_steps(requests)
    seen = int(((t_ns > inside[0].t_ns) & (t_ns <= inside[-1].t_ns)).sum())
    if not counted or abs(seen - counted) > STEPS_APART * counted:
        return STEPS_NOT_SEEN
    sent = np.sort(requests.actual_send_ns[requests.actual_send_ns != MISSING])
    ended = np.sort(requests.last_token_ns[requests.last_token_ns != MISSING])
    in_flight = np.searchsorted(sent, t_ns, side="right") - np.searchsorted(ended, t_ns, side="right")
    unknown = np.full(len(t_ns), MISSING)
    work = locate_steps(
        t_ns, unknown, unknown, prefill, decode, in_flight, begun_ns(requests), Context.of(requests)
    )
    return NO_STEPS if work is None else work


# -- findings

OTHERS, OTHERS_IDLE, OTHERS_UNKNOWN, RESTARTED, NOT_COMPUTED, AT_ONCE, CACHED = finding_specs(
    """
    other_users_load | 1 | open | what the server counted around the window and was not ours, at least, / ours: of requests,
        prompt tokens and output tokens the largest | 1 %; a note above 0 | only above 1 %: the energy of others' tokens is
        in the joules | keep others off the server while it is measured
    other_users_in_idle | tokens | no | output tokens (requests, where it counts no tokens) that the server made for others
        in loaded idle | 0 | idle power is too high, and the split of the energy wrong | keep others off the server, its
        idle time included
    other_users_unknown | 1 | no | 1 where a server that others may use tells no counters around the window | 0 | nobody
        else may have been there | make sure that nobody else uses the server, or turn its `/metrics` on
    server_restarted | 1 | yes | times that the server's counters went back, or its process became another | 0 | two servers
        in one run | keep the server up, and measure again
    outputs_not_computed | 1 | yes | share of the output tokens received that the server did not count | 1 % | a cache in
        front of it answered, or another server | turn off the cache or proxy in front of the server, and give its own
        address in `engine.base_url`
    outputs_at_once | 1 | no | share of the window's requests of several tokens that all came at once, in less than a tenth
        of the others' median time | 1 % | a cache of answers looks like that | turn off the cache or proxy in front of the
        server; have it stream each token
    prefix_cache_hits | 1 | open | share of the prompt tokens around the window that a server had in its prefix cache,
        though our prompts have nothing in common | 1 % | only above 10 %: prompts that were seen before cost less, and the
        point's are new | restart the server, or turn its prefix cache off, so that no prompt was seen before
    """
)


@CHECKS.finds(RESTARTED)
def server_restarted(seen: Observed) -> Iterator[Finding]:
    times = _restarts(snapshots(seen.record))
    if times:
        yield RESTARTED.found(
            times, 0, f"the server started anew {times} time(s) during the run: its counters went back"
        )


@CHECKS.finds_in_window(OTHERS, OTHERS_UNKNOWN, NOT_COMPUTED)
def other_users(seen: Observed, window: Window) -> Iterator[Finding]:
    """Others' load around the window, and ours that the server did not compute."""
    if not is_server(seen.record):
        return
    counters = snapshots(seen.record)
    found = served(seen.requests, counters, window)
    worst = None if found is None else others_share(found)
    if found is None or worst is None:
        if not _restarts(counters):
            yield OTHERS_UNKNOWN.found(
                1,
                0,
                "the server told no counters around the window: whether others used it meanwhile is not known",
            )
        return
    share, by = worst
    if share > 0:
        message = (
            f"others used the server: it counted {_counted(found.load)} in "
            f"{(found.after.t_ns - found.before.t_ns) / 1e9:.3g} s around the window, ours were {_ours(found.load)}"
        )
        invalid = share > OTHERS_SHARE
        yield OTHERS.found(
            share, OTHERS_SHARE if invalid else 0, f"{message} ({_WORDS[by]}: {share:.2%} of ours)", invalid
        )
    tokens, ours = found.load.counted["generation_tokens"], found.load.ours.generation_tokens
    if tokens is None or ours is None or not ours.low:
        return
    missing = (ours.low - tokens) / ours.low
    if missing > OTHERS_SHARE:
        yield NOT_COMPUTED.found(
            missing,
            OTHERS_SHARE,
            f"the server counted {tokens:,} output tokens, we received {ours.low:,}: a cache of answers is in front of it, or "
            "several servers share the load and only one was asked for its counters",
        )


@CHECKS.finds(OTHERS_IDLE)
def others_in_idle(seen: Observed) -> Iterator[Finding]:
    counters = snapshots(seen.record)
    tokens = 0
    for phase in (Phase.LOADED_IDLE, Phase.IDLE_AFTER):
        span = phase_window(seen.record.info.phases, phase)
        if span is None:
            continue
        inside = [each for each in counters if span.start_ns <= each.asked_ns and each.t_ns <= span.end_ns]
        if len(inside) < 2 or restarted(inside[0], inside[-1]):
            continue
        load = others_load(inside[0], inside[-1], own_load(seen.requests, inside[0], inside[-1]))
        tokens += load.low("generation_tokens") or load.low("requests") or 0
    if tokens:
        yield OTHERS_IDLE.found(tokens, 0, f"the server made {tokens:,} tokens for others in loaded idle")


@CHECKS.finds_in_window(CACHED)
def prefix_hits(seen: Observed, window: Window) -> Iterator[Finding]:
    """Prompts are random tokens, unless they come from a file; what is in a cache then was asked by others, or before."""
    if not is_server(seen.record) or seen.scenario.lengths.kind in FROM_FILES:
        return
    found = served(seen.requests, snapshots(seen.record), window)
    hits = None
    if found is not None and found.after.prefix_hits is not None:
        hits, prompts = (
            found.after.prefix_hits - (found.before.prefix_hits or 0),
            found.load.counted["prompt_tokens"],
        )
    known = seen.requests.cached_tokens != MISSING
    if hits is None and known.any():
        hits, prompts = (
            int(seen.requests.cached_tokens[known].sum()),
            int(seen.requests.input_tokens[known].sum()),
        )
    if hits is None or not prompts or hits / prompts <= CACHED_SHARE:
        return
    yield CACHED.found(
        hits / prompts,
        CACHED_SHARE,
        f"{hits:,} of {prompts:,} prompt tokens came out of the server's prefix cache: it had seen our prompts before (an earlier "
        "run with this seed?), or others' are among them; another seed, or a server started anew, has them computed",
        hits / prompts > CACHED_SHARE_FATAL,
    )


@CHECKS.finds_in_window(AT_ONCE)
def outputs_at_once(seen: Observed, window: Window) -> Iterator[Finding]:
    """Answers that came whole and far too fast beside streamed ones."""
    if not is_server(seen.record):
        return
    requests = seen.requests
    several = requests.sent_in(window) & requests.completed & (requests.output_tokens > 1)
    whole = several & (requests.first_token_ns == requests.last_token_ns)
    if not several.any() or not whole.any() or whole.sum() == several.sum():
        return
    took = requests.last_token_ns - requests.actual_send_ns
    fast = whole & (took < AT_ONCE_TIMES * np.median(took[several & ~whole]))
    share = int(fast.sum()) / int(several.sum())
    if share > AT_ONCE_SHARE:
        yield AT_ONCE.found(
            share,
            AT_ONCE_SHARE,
            f"{int(fast.sum())} of {int(several.sum())} answers came whole in a tenth of the others' time: out of a cache?",
        )


_WORDS = {"requests": "requests", "prompt_tokens": "prompt tokens", "generation_tokens": "output tokens"}
"""Words for what a server counts, by the names in `engines.http.counters.COUNTS`."""


def _counted(load: OthersLoad) -> str:
    return ", ".join(f"{n:,} {_WORDS[name]}" for name in COUNTS if (n := load.counted[name]) is not None)


def _ours(load: OthersLoad) -> str:
    """What is known to be ours of each count, as a range where it is one."""
    told = []
    for name in COUNTS:
        own: Count | None = getattr(load.ours, name)
        if own is not None and load.counted[name] is not None:
            told.append(
                f"{own.low:,}" + (f" to {own.high:,}" if own.high > own.low else "") + f" {_WORDS[name]}"
            )
    return ", ".join(told)
