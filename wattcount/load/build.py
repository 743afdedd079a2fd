"""Makes the load that is sent of a scenario and a seed, and the rehearsal that is played before it."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

import numpy as np

from wattcount.config.loader import check_fields
from wattcount.config.schema import (
    ArrivalKind,
    BatchConfig,
    ConcurrencyConfig,
    ScenarioConfig,
    ServerConfig,
)
from wattcount.errors import NotStartedError
from wattcount.load import arrivals, lengths
from wattcount.load.plan import LoadPlan, Stream, derived_seed, workload_seed
from wattcount.load.prompts import Tokenize

LEAST_REQUEST_S, LEAST_TOKEN_S = 0.005, 0.0005
"""A request of a closed loop takes longer than this, and each of its output tokens [s]: 2,000 tokens/s for one user, which no GPU reaches."""
SAMPLED = 1000
"""Requests whose mean length is taken for that of all."""
NATURAL_SHARE = 0.1
"""Answers that the model ends may be so much shorter than their limit."""
MOST_CLOSED = 300_000
"""Requests that a closed loop is given at most where `scenario.max_requests` does not say: each takes some 400 bytes of memory."""


@dataclass(frozen=True)
class BuiltLoad:
    """Everything a run sends.

    ::

        server   main:  |-- warm-up --|-------- window --------|      one arrival process
                        0             window_start_offset_ns   end_offset_ns
                 more_warmup:         |-- as long as needed --|       another one, where the warm-up is adaptive;
                                                                      the window's part of `main` waits for its end
        closed   main:  requests in the order in which users take them; warm-up and window follow each other without a gap
        batch    warmup: all at 0, drained, then main: all at 0       window_start_offset_ns = 0

    """

    main: LoadPlan
    window_start_offset_ns: int
    """Requests of `main` planned before this belong to the warm-up."""
    end_offset_ns: int | None
    """End of the window; None for a batch, whose window ends with its last token."""
    warmup: LoadPlan | None
    """Batch only: sent and drained before the window."""
    seed: int
    """The workload's seed."""
    more_warmup: LoadPlan | None = None
    """Server only: what comes between warm-up and window until power and throughput have settled; offsets are from
    its own begin. None: the warm-up's length is fixed."""
    more_warmup_ns: int = 0
    """The longest it may last."""
    length_changes: lengths.LengthChanges | None = None
    """What the bounds of `scenario.lengths` changed of the requests of `main`; None: nothing."""
    notes: tuple[str, ...] = ()
    """Lines that a reader of the record should know."""
    users: int | None = None
    """Closed loop only: so many send, each its next request when the last one is answered; offsets of `main` are 0 and mean nothing.
    `main` holds more requests than can be sent in time, and those that are not sent were never planned."""


def build_plan(
    scenario: ScenarioConfig, seed: int, repeat: int, *, tokenize: Tokenize | None = None
) -> BuiltLoad:
    """The load of a scenario, a function of the scenario, the seed and the repeat alone.

    tokenize  needed for prompt files that hold text

    Raises `NotStartedError`.
    """
    check_fields(scenario, "scenario")
    workload = workload_seed(seed, repeat)
    if isinstance(scenario, BatchConfig):
        return _build_batch(scenario, workload, tokenize)
    if isinstance(scenario, ServerConfig):
        return _build_server(scenario, workload, tokenize)
    if isinstance(scenario, ConcurrencyConfig):
        return _build_closed(scenario, workload, tokenize)
    raise TypeError(f"no load is defined for a {type(scenario).__name__}")


def _build_batch(scenario: BatchConfig, seed: int, tokenize: Tokenize | None) -> BuiltLoad:
    source = lengths.create(scenario.lengths, tokenize=tokenize)
    warmup = None
    if scenario.warmup_requests:
        offsets = np.zeros(scenario.warmup_requests, np.int64)
        warmup = _plan(offsets, source, scenario, derived_seed(seed, Stream.WARMUP))
    drawn = source.draw(scenario.num_requests, seed)
    main = _planned(np.zeros(scenario.num_requests, np.int64), drawn, scenario, seed)
    return BuiltLoad(main, 0, None, warmup, seed, length_changes=drawn.changes(), notes=source.notes)


def _build_server(scenario: ServerConfig, seed: int, tokenize: Tokenize | None) -> BuiltLoad:
    process = arrivals.create(scenario.arrivals, scenario.rate_rps, seed)
    trace = process.trace if isinstance(process, arrivals.TraceArrivals) else None
    source = lengths.create(scenario.lengths, trace=trace, tokenize=tokenize)
    window_start_ns = round(scenario.warmup_s * 1e9)
    end_ns = window_start_ns + round(scenario.window_s * 1e9)
    offsets = process.offsets_ns(end_ns / 1e9)
    offsets = offsets[offsets < end_ns]
    if not (offsets >= window_start_ns).any():
        rate = "as recorded" if scenario.rate_rps is None else f"{scenario.rate_rps:g} requests/s"
        kind = "the trace" if scenario.arrivals.kind is ArrivalKind.trace else f"seed {seed}"
        raise NotStartedError(
            f"no request arrives in a window of {scenario.window_s:g} s ({rate}, {kind}):"
            " lengthen scenario.window_s or raise scenario.rate_rps"
        )
    drawn = source.draw(len(offsets), seed)
    main, changes = _planned(offsets, drawn, scenario, seed), drawn.changes()
    more_s = scenario.warmup_limit_s - scenario.warmup_s if scenario.warmup_s > 0 else 0.0
    if isinstance(process, arrivals.TraceArrivals):
        # The trace's beginning once more, and no longer than the trace.
        more_s = min(more_s, process.trace.duration_s * process.stretch)
    if not more_s > 0:
        return BuiltLoad(
            main, window_start_ns, end_ns, None, seed, length_changes=changes, notes=source.notes
        )
    # Of a seed of its own: how much of it is sent must not touch what the window gets.
    other_seed = derived_seed(seed, Stream.WARMUP)
    more_ns = round(more_s * 1e9)
    more = arrivals.create(scenario.arrivals, scenario.rate_rps, other_seed).offsets_ns(more_s)
    more_warmup = _plan(more[more < more_ns], source, scenario, other_seed)
    return BuiltLoad(main, window_start_ns, end_ns, None, seed, more_warmup, more_ns, changes, source.notes)


def _build_closed(scenario: ConcurrencyConfig, seed: int, tokenize: Tokenize | None) -> BuiltLoad:
    source = lengths.create(scenario.lengths, tokenize=tokenize)
    count = scenario.max_requests or _most_sent(scenario, source, seed)
    drawn = source.draw(count, seed)
    main = _planned(np.zeros(count, np.int64), drawn, scenario, seed)
    window_ns = round(scenario.window_s * 1e9)
    users, changes = scenario.concurrency, drawn.changes()
    return BuiltLoad(main, 0, window_ns, None, seed, users=users, length_changes=changes, notes=source.notes)


def _most_sent(scenario: ConcurrencyConfig, source: lengths.Lengths, seed: int) -> int:
    """More requests than a closed loop sends, however fast the engine is."""
    longest_s = max(scenario.warmup_s, scenario.warmup_limit_s) + scenario.window_s
    tokens = float(source.draw(SAMPLED, seed).output_tokens.mean())
    if not scenario.lengths.force_output:
        tokens *= NATURAL_SHARE
    each = ceil(longest_s / (LEAST_REQUEST_S + LEAST_TOKEN_S * tokens)) + 1
    return max(scenario.concurrency, min(MOST_CLOSED, scenario.concurrency * each))


def _plan(
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]],
    source: lengths.Lengths,
    scenario: ScenarioConfig,
    seed: int,
) -> LoadPlan:
    return _planned(offsets, source.draw(len(offsets), seed), scenario, seed)


def _planned(
    offsets: np.ndarray[tuple[int], np.dtype[np.int64]],
    drawn: lengths.DrawnLengths,
    scenario: ScenarioConfig,
    seed: int,
) -> LoadPlan:
    return LoadPlan(
        send_offset_ns=offsets,
        input_tokens=drawn.input_tokens,
        output_tokens=drawn.output_tokens,
        force_output_length=scenario.lengths.force_output,
        seed=seed,
        prompt_token_ids=drawn.prompt_token_ids,
        sampling=scenario.sampling,
        follows=drawn.follows,
    )


def beginning(
    load: LoadPlan, number: int, requests: int, *, begin_ns: int = 0, end_ns: int | None = None
) -> LoadPlan:
    """Round `number` of a rehearsal: the first `requests` of `load` that are planned in [`begin_ns`, `end_ns`).

    Engines compile some kernels (among them Triton's, of mixtures of experts and state-space models) when a step first has
    a certain number of tokens, and stand still for half a second or more each time. A rehearsal plays the load's own
    requests, so that the engine meets the steps of the window before the window::

        load       |-- warm-up --|-------------- window ---------------------|
        rehearsal                |-- played --|
                                  round 0, round 1, ... until nothing new is compiled

    Lengths and arrivals are those of the load. Where no request is planned in that stretch, the load's first requests are
    taken. Each round draws other token ids, so that no prompt is found in a prefix cache.

    begin_ns, end_ns  from the start of the load; None: to its end

    Raises `ValueError` for less than one request.
    """
    if requests < 1:
        raise ValueError(f"a rehearsal needs at least one request, got {requests}")
    offsets = load.send_offset_ns
    chosen = np.flatnonzero((offsets >= begin_ns) & (offsets < (end_ns if end_ns is not None else np.inf)))
    if not len(chosen):
        chosen = np.arange(len(load))
    chosen = chosen[:requests]
    return LoadPlan(
        send_offset_ns=offsets[chosen] - offsets[chosen[0]],
        input_tokens=load.input_tokens[chosen],
        output_tokens=load.output_tokens[chosen],
        force_output_length=load.force_output_length,
        sampling=load.sampling,
        seed=derived_seed(load.seed, Stream.REHEARSAL) + number,
    )
