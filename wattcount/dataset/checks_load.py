"""Rules of load: the requests are those that seed and repeat give, sent when they were due, and answered within the run."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from wattcount.config.schema import (
    FROM_FILES,
    MAX_REQUESTS,
    ArrivalKind,
    BatchConfig,
    ConcurrencyConfig,
    ScenarioConfig,
    ServerConfig,
)
from wattcount.dataset.rules import Breach, Severity, Submitted, rule
from wattcount.errors import NotStartedError
from wattcount.load.build import BuiltLoad, build_plan
from wattcount.load.plan import LoadPlan
from wattcount.metrics.observations import MISSING, Bools, Ints, int_column
from wattcount.records.packing import US_NS
from wattcount.records.schema import Phase, RequestStatus

EARLY_NS = US_NS
"""Most by which a send may come before its plan [ns]: a record keeps whole microseconds, rounded down."""
PLANNED_APART_NS = 2 * US_NS
"""Most by which a planned send may be off its place in the plan [ns]: begin and send are both rounded to microseconds."""
WINDOW_LENGTH_NS = 1_000_000
"""Most by which a server's window may be longer or shorter than configured [ns]; on our own 117 it is exact to the microsecond."""
OUT_OF_RUN_NS = 1_000_000_000
"""Most by which an answer may come after the last phase of the load [ns]: what is cancelled at the end of the drain may still be on its
way."""
ENGINE_EARLY_NS = 50_000_000
"""Most by which an engine's stamp may be before the client's send [ns]: it is made by another process, whose clock is the same; what is
between are threads that wait."""
MOST_PLANNED_PER_ROW = 50
"""Most requests of a plan that is made again [per request of the record]. A record has a row for each of them; more need memory that a
stranger's configuration asks for. Only a longer warm-up may end before its plan does."""
FEW_PLANNED = 100_000
"""Requests of a plan that is made again whatever the record has: 5 MB."""
MISSING_SHARE = 0.0
"""Most of the requests of a plan that may be missing in a record [share]."""


@dataclass(frozen=True)
class Part:
    """A plan's requests in a record.

    name    of the part, for people
    plan    what they should be
    index   int64[n], which requests of the plan
    rows    int64[n], and where they are in `requests.parquet`
    wanted  how many of the plan there must be; None: as many as were sent
    """

    name: str
    plan: LoadPlan
    index: Ints
    rows: Ints
    wanted: int | None


@dataclass(frozen=True)
class Planned:
    """The load that a record must have; None for `load`: it comes from a file, which is not in the record."""

    load: BuiltLoad | None
    why: str | None
    parts: tuple[Part, ...]
    odd: tuple[str, ...]
    """Requests of no plan, some of them."""
    too_many: bool = False
    """The plan would be far larger than the record."""


_REHEARSAL = re.compile(r"rehearsal-.*u\d+")


def planned(record: Submitted) -> Planned:
    """The plans of a record, and its requests by them."""
    info = record.record.info
    scenario = info.resolved.scenario
    if (file := _from_a_file(scenario)) is not None:
        return Planned(None, file, (), ())
    ids = record.record.requests["request_id"].to_pylist()
    closed = isinstance(scenario, ConcurrencyConfig)
    if isinstance(scenario, ConcurrencyConfig):
        # It is given more than it sends; a plan's beginning is the same however long it is.
        most = max((number for _, _, number in map(_name, ids)), default=0) + 1
        scenario = dataclasses.replace(
            scenario, max_requests=min(MAX_REQUESTS, max(most, scenario.concurrency))
        )
    rows, asked = len(record.record.requests), _requests_asked(scenario)
    if asked > max(FEW_PLANNED, MOST_PLANNED_PER_ROW * rows):
        return Planned(
            None, f"it asks for some {asked:,.0f} requests, and has {rows:,}", (), (), too_many=True
        )
    try:
        load = build_plan(scenario, info.seed, info.repeat)
    except (NotStartedError, ValueError) as error:
        return Planned(None, str(error), (), ())
    at: dict[str, dict[int, int]] = {"main": {}, "warm-up": {}, "longer warm-up": {}}
    before = np.asarray(load.main.send_offset_ns) < load.window_start_offset_ns
    odd = []
    for row, name in enumerate(ids):
        if _REHEARSAL.fullmatch(name or ""):
            continue
        prefix, kind, number = _name(name)
        if prefix == "more-" and kind == "u" and load.more_warmup is not None:
            at["longer warm-up"][number] = row
        elif prefix == "" and kind == "u" and load.warmup is not None:
            at["warm-up"][number] = row
        elif (
            prefix == ""
            and 0 <= number < len(before)
            and kind == ("c" if closed else "u" if before[number] else "w")
        ):
            at["main"][number] = row
        else:
            odd.append(str(name))
    plans = {"main": load.main, "warm-up": load.warmup, "longer warm-up": load.more_warmup}
    parts = []
    for part, plan in plans.items():
        if plan is None:
            continue
        odd += [f"{part} {number}" for number in at[part] if number >= len(plan)]
        index: Ints = np.array(sorted(n for n in at[part] if n < len(plan)), np.int64)
        found: Ints = np.array([at[part][number] for number in index.tolist()], np.int64)
        parts.append(
            Part(part, plan, index, found, None if closed or part == "longer warm-up" else len(plan))
        )
    return Planned(load, None, tuple(parts), tuple(odd))


@rule(
    "load/known",
    severity=Severity.warn,
    clause="The load of a record follows from its seed. Of one that was taken from a file (a trace, a prompt file) only stamps and counts "
    "are checked.",
)
def known(record: Submitted) -> Iterator[Breach]:
    found = record.once(planned)
    if found.load is None:
        yield Breach(f"its load cannot be made again here: {found.why}")


@rule(
    "load/requests",
    severity=Severity.reject,
    clause="A record has every request of the plan that its seed and repeat give, each once, and no other.",
    limit=MISSING_SHARE,
    unit="share",
)
def requests(record: Submitted) -> Iterator[Breach]:
    found = record.once(planned)
    ids = record.record.requests["request_id"]
    if found.too_many:
        yield Breach(str(found.why))
    if len(ids.unique()) != len(ids) or ids.null_count:
        yield Breach("two of its requests have one id, or one has none")
    for part in found.parts:
        if part.wanted is not None and len(part.index) != part.wanted:
            missing = part.wanted - len(part.index)
            yield Breach(
                f"{missing} of {part.wanted} requests of its {part.name} load are missing",
                missing / part.wanted,
                MISSING_SHARE,
            )
    if found.odd:
        yield Breach(f"{len(found.odd)} requests are of no plan of its, first {found.odd[0]}")


@rule(
    "load/arrivals",
    severity=Severity.reject,
    clause="Requests are planned at the times that seed and repeat give.",
    limit=PLANNED_APART_NS / 1e3,
    unit="us",
)
def arrivals(record: Submitted) -> Iterator[Breach]:
    found, send = record.once(planned), record.seen.requests.planned_send_ns
    for part in found.parts:
        assert found.load is not None
        offset = np.asarray(part.plan.send_offset_ns)[part.index]
        for group in _together(part, found.load, offset):
            there = group & (send[part.rows] != MISSING)
            begins = (send[part.rows] - offset)[there]
            if not len(begins):
                continue
            apart = np.abs(begins - np.median(begins))
            if (worst := int(apart.max())) > PLANNED_APART_NS:
                yield Breach(
                    f"{int((apart > PLANNED_APART_NS).sum())} of {len(begins)} requests of its {part.name} load are planned at another "
                    f"time than seed {record.record.info.seed} and repeat {record.record.info.repeat} give, by up to {worst / 1e6:,.3f} ms",
                    worst / 1e3,
                    PLANNED_APART_NS / 1e3,
                )


@rule(
    "load/lengths",
    severity=Severity.reject,
    clause="Prompts and answers have the lengths that seed and repeat give: exactly where they are forced, at most where not.",
    limit=0,
    unit="requests",
)
def lengths(record: Submitted) -> Iterator[Breach]:
    seen = record.seen.requests
    for part in record.once(planned).parts:
        inputs, outputs = seen.input_tokens[part.rows], seen.output_tokens[part.rows]
        want_in, want_out = part.plan.input_tokens[part.index], part.plan.output_tokens[part.index]
        done = seen.completed[part.rows]
        forced = part.plan.force_output_length
        answered = (outputs != want_out) & done if forced else np.zeros(len(done), np.bool_)
        for what, wrong in (
            ("a prompt of another length", inputs != want_in),
            ("an answer of another length", answered),
            ("a longer answer", (outputs > want_out) & ~answered),
        ):
            if count := int(wrong.sum()):
                yield Breach(
                    f"{count} of {len(part.rows)} requests of its {part.name} load have {what} than seed and repeat give",
                    count,
                    0,
                )


@rule(
    "load/prompts",
    severity=Severity.reject,
    clause="No prompt drawn from the seed is found in a cache: no two of them share a beginning.",
    limit=0,
    unit="tokens",
)
def prompts(record: Submitted) -> Iterator[Breach]:
    if record.once(planned).load is None:
        return
    cached = record.seen.requests.cached_tokens
    if total := int(np.maximum(cached, 0).sum()):
        yield Breach(
            f"{total:,} tokens of its prompts were in the engine's cache: the prompts were not those of its seed",
            total,
            0,
        )


@rule(
    "load/early",
    severity=Severity.reject,
    clause="No request is sent before it is due.",
    limit=EARLY_NS / 1e3,
    unit="us",
)
def early(record: Submitted) -> Iterator[Breach]:
    seen = record.seen.requests
    both = (seen.planned_send_ns != MISSING) & (seen.actual_send_ns != MISSING)
    ahead = (seen.planned_send_ns - seen.actual_send_ns)[both]
    if len(ahead) and (worst := int(ahead.max())) > EARLY_NS:
        yield Breach(
            f"{int((ahead > EARLY_NS).sum())} of {len(ahead)} requests are sent before they are due, by up to {worst / 1e6:,.3f} ms",
            worst / 1e3,
            EARLY_NS / 1e3,
        )


@rule(
    "load/order",
    severity=Severity.reject,
    clause="Stamps are in order: a request is planned, sent, and answered, token by token, and the engine's own stamps lie between.",
    limit=0,
    unit="requests",
)
def order(record: Submitted) -> Iterator[Breach]:
    table, seen = record.record.requests, record.seen.requests
    queued, scheduled = (int_column(table, f"engine_{name}_ns") for name in ("queued", "scheduled"))
    engine_first, engine_last = (
        int_column(table, f"engine_{name}_ns") for name in ("first_token", "last_token")
    )
    for what, one, other, slack_ns in (
        ("a first token before its send", seen.actual_send_ns, seen.first_token_ns, 0),
        ("a last token before its first", seen.first_token_ns, seen.last_token_ns, 0),
        ("an engine that queued it before its send", seen.actual_send_ns, queued, ENGINE_EARLY_NS),
        ("an engine that scheduled it before it queued it", queued, scheduled, 0),
        ("an engine's first token before it was scheduled", scheduled, engine_first, 0),
        ("an engine's last token before its first", engine_first, engine_last, 0),
        (
            "a token that came before the engine had made it",
            engine_first,
            seen.first_token_ns,
            ENGINE_EARLY_NS,
        ),
    ):
        both = (one != MISSING) & (other != MISSING)
        # Whole microseconds, rounded down: one may be a microsecond late.
        if wrong := int((both & (other < one - slack_ns - US_NS)).sum()):
            yield Breach(f"{wrong} of {int(both.sum())} requests have {what}", wrong, 0)
    completed, answered = seen.completed, seen.first_token_ns != MISSING
    if wrong := int((completed & ~answered).sum()):
        yield Breach(f"{wrong} requests are completed without a token", wrong, 0)
    if wrong := int((answered & (seen.actual_send_ns == MISSING)).sum()):
        yield Breach(f"{wrong} requests are answered and were never sent", wrong, 0)
    known_states = {status.value for status in RequestStatus}
    if odd := set(table["status"].unique().to_pylist()) - known_states:
        yield Breach(f"no request has the status {sorted(map(str, odd))[0]}")


@rule(
    "load/within",
    severity=Severity.reject,
    clause="Sends and answers lie within the run: from the first phase of the load to the end of its drain, and a run's phases are in order.",
    limit=OUT_OF_RUN_NS / 1e9,
    unit="s",
)
def within(record: Submitted) -> Iterator[Breach]:
    phases, seen = record.record.info.phases, record.seen.requests
    ends = [span.end_ns for span in phases]
    for one, other in pairwise(phases):
        if one.end_ns is None or one.end_ns > other.start_ns:
            yield Breach(f"its phase {other.phase.value} begins before {one.phase.value} has ended")
    order_of = list(Phase)
    places = [order_of.index(span.phase) for span in phases]
    if places != sorted(places) or len(set(places)) != len(places):
        yield Breach("its phases are in another order than a run's")
    load = [
        span for span in phases if span.phase in (Phase.REHEARSAL, Phase.WARMUP, Phase.WINDOW, Phase.DRAIN)
    ]
    if not load or None in ends:
        return
    begin_ns, end_ns = load[0].start_ns, load[-1].end_ns
    assert end_ns is not None
    stamps: NDArray[np.int64] = np.concatenate((seen.actual_send_ns, seen.token_ts_ns))
    stamps = stamps[stamps != MISSING]
    outside = np.maximum(begin_ns - stamps, stamps - end_ns)
    if len(outside) and (worst := int(outside.max())) > OUT_OF_RUN_NS:
        yield Breach(
            f"{int((outside > OUT_OF_RUN_NS).sum()):,} sends and tokens lie outside its load, by up to {worst / 1e9:,.3f} s",
            worst / 1e9,
            OUT_OF_RUN_NS / 1e9,
        )


@rule(
    "load/window",
    severity=Severity.reject,
    clause="The window lies where the scenario has it: a server's as long as configured and at its place in the plan, a batch's from the "
    "first send to the last token.",
    limit=WINDOW_LENGTH_NS / 1e6,
    unit="ms",
)
def window(record: Submitted) -> Iterator[Breach]:
    found, span = record.once(planned), record.seen.window
    seen = record.seen.requests
    if span is None:
        yield Breach("it has no window")
        return
    if found.load is None:
        return
    main = found.parts[0]
    if found.load.end_offset_ns is None:
        answered = main.rows[seen.actual_send_ns[main.rows] != MISSING]
        if not len(answered):
            return
        want = (int(seen.actual_send_ns[answered].min()), int(seen.last_token_ns[answered].max()))
    elif found.load.users is not None:
        want = (span.start_ns, span.start_ns + found.load.end_offset_ns)
    else:
        offset = np.asarray(main.plan.send_offset_ns)[main.index]
        chosen = (offset >= found.load.window_start_offset_ns) & (seen.planned_send_ns[main.rows] != MISSING)
        if not chosen.any():
            return
        begin_ns = int(np.median((seen.planned_send_ns[main.rows] - offset)[chosen]))
        want = (begin_ns + found.load.window_start_offset_ns, begin_ns + found.load.end_offset_ns)
    for what, is_ns, want_ns in (("begins", span.start_ns, want[0]), ("ends", span.end_ns, want[1])):
        if abs(is_ns - want_ns) > WINDOW_LENGTH_NS:
            yield Breach(
                f"its window {what} {(is_ns - want_ns) / 1e6:+,.3f} ms from where its load has it",
                abs(is_ns - want_ns) / 1e6,
                WINDOW_LENGTH_NS / 1e6,
            )


def _requests_asked(scenario: ScenarioConfig) -> float:
    """About how many requests a scenario's plan has."""
    if isinstance(scenario, BatchConfig):
        return scenario.num_requests + scenario.warmup_requests
    if isinstance(scenario, ServerConfig):
        return (scenario.rate_rps or 0.0) * (scenario.warmup_s + scenario.warmup_limit_s + scenario.window_s)
    if isinstance(scenario, ConcurrencyConfig):
        return scenario.max_requests or 0.0
    return 0.0


def _from_a_file(scenario: ScenarioConfig) -> str | None:
    """Why a load cannot be made again without a file; None: it can."""
    if scenario.lengths.kind in FROM_FILES:
        return "its lengths come from a file"
    arrivals_of = getattr(scenario, "arrivals", None)
    if arrivals_of is not None and arrivals_of.kind is ArrivalKind.trace:
        return "its arrivals come from a file"
    return None


def _name(name: str | None) -> tuple[str, str, int]:
    """A request's id as prefix, kind and number; the number -1 where it is none of ours."""
    found = re.fullmatch(r"(more-|)([uwc])(\d{1,9})", name or "")
    return (found[1], found[2], int(found[3])) if found else ("", "", -1)


def _together(part: Part, load: BuiltLoad, offset: Ints) -> Iterator[Bools]:
    """The requests of a part whose distance from the begin is the same: those of a window may wait for the end of a longer warm-up."""
    if part.plan is load.main and load.more_warmup is not None:
        yield offset < load.window_start_offset_ns
        yield offset >= load.window_start_offset_ns
    else:
        yield np.ones(len(offset), np.bool_)
