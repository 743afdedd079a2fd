"""Energy of each request: its share of what the phases drew while it was there."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from wattcount.metrics.observations import MISSING, Bools, Floats, Ints, Requests
from wattcount.metrics.phase_energy import Attribution
from wattcount.metrics.work import Spans, begun_ns, tokens_before


@dataclass(frozen=True)
class RequestEnergies:
    """Energy of each request within the window; with `unattributed_j` they sum to the window's energy.

    prefill_j, decode_j, idle_j   float64[requests]
    whole             bool[requests], completed with all of its span inside the window
    unattributed_j    drawn while no request was there, or by work that is nobody's (a request without a token)
    """

    prefill_j: Floats
    decode_j: Floats
    idle_j: Floats
    whole: Bools
    unattributed_j: float

    @property
    def total_j(self) -> Floats:
        return self.prefill_j + self.decode_j + self.idle_j


def divide_among_requests(found: Attribution, requests: Requests) -> RequestEnergies:
    """Each interval's prefill, decode and idle energy divided among the requests that were there.

    Prefill by prompt tokens computed, evenly between a request's scheduling and its first token; decode by
    tokens, each between the arrival before it and its own, and what of it is for the context by the tokens that
    were looked back on; idle in equal shares between all requests that are between their scheduling and their last
    token.
    """
    edges_ns = found.edges_ns + found.lag_ns  # requests' stamps are as late as the steps'
    begun = begun_ns(requests)
    count = len(requests)
    last = np.full(count, MISSING)
    np.maximum.at(last, requests.token_request, requests.token_ts_ns)
    there = np.flatnonzero((begun != MISSING) & (last > begun))

    first = requests.first_token_ns[there]
    prompt = requests.input_tokens[there] - np.maximum(requests.cached_tokens[there], 0)
    prefill = Spans(
        begun[there], np.maximum(first, begun[there] + 1), np.maximum(prompt, 1).astype(np.float64)
    )
    prefill_j, prefill_left = _share(prefill, there, count, found.prefill_split_j, edges_ns)

    order = np.lexsort((requests.token_ts_ns, requests.token_request))
    owner, stamp = requests.token_request[order], requests.token_ts_ns[order]
    tokens = requests.token_count[order].astype(np.float64)
    follows = np.concatenate(([False], owner[1:] == owner[:-1])) if len(owner) else np.empty(0, np.bool_)
    before = np.where(follows, np.concatenate((stamp[:1], stamp[:-1])), begun[owner])
    tokens[~follows] -= 1  # its first token came out of its prefill
    decoded = (tokens > 0) & (before != MISSING)
    start, end, whose = np.minimum(before, stamp - 1)[decoded], stamp[decoded], owner[decoded]
    decode_j, decode_left = _share(
        Spans(start, end, tokens[decoded]),
        whose,
        count,
        found.decode_split_j - found.context_split_j,
        edges_ns,
    )
    context = (requests.input_tokens[owner] + tokens_before(requests)[order])[decoded] * tokens[decoded]
    context_j, context_left = _share(
        Spans(start, end, context), whose, count, found.context_split_j, edges_ns
    )

    idle_j, idle_left = _share_equally(begun[there], last[there], there, count, found.idle_split_j, edges_ns)
    inside = (begun >= found.edges_ns[0]) & (last <= found.edges_ns[-1]) & (last > begun)
    whole = requests.completed & inside
    left_j = prefill_left + decode_left + context_left + idle_left
    return RequestEnergies(prefill_j, decode_j + context_j, idle_j, whole, left_j)


def _share(spans: Spans, owner: Ints, owners: int, energy_j: Floats, edges_ns: Ints) -> tuple[Floats, float]:
    """Each interval's energy by the amount of work in it: (float64[owners], joules of intervals without work)."""
    amounts = spans.between(edges_ns)
    worked = amounts > 0
    price = np.divide(energy_j, amounts, out=np.zeros_like(amounts), where=worked)  # joules per unit of work
    lengths_s = np.diff(edges_ns) / 1e9
    until = np.concatenate(([0.0], np.cumsum(price * lengths_s)))
    rate = spans.amount / ((spans.end_ns - spans.start_ns) / 1e9)
    each = rate * (_at(spans.end_ns, edges_ns, until) - _at(spans.start_ns, edges_ns, until))
    return _sums(owner, each, owners), math.fsum(energy_j[~worked])


def _share_equally(
    start_ns: Ints, end_ns: Ints, owner: Ints, owners: int, energy_j: Floats, edges_ns: Ints
) -> tuple[Floats, float]:
    """Each moment's energy in equal shares: (float64[owners], joules of moments without anyone)."""
    times = np.unique(
        np.concatenate((edges_ns, np.clip(start_ns, *edges_ns[[0, -1]]), np.clip(end_ns, *edges_ns[[0, -1]])))
    )
    present = np.searchsorted(np.sort(start_ns), times[:-1], side="right") - np.searchsorted(
        np.sort(end_ns), times[:-1], side="right"
    )
    moment_j = np.diff(_at(times, edges_ns, np.concatenate(([0.0], np.cumsum(energy_j)))))
    each_j = np.divide(moment_j, present, out=np.zeros_like(moment_j), where=present > 0)
    until = np.concatenate(([0.0], np.cumsum(each_j)))
    shares = _at(end_ns, times, until) - _at(start_ns, times, until)
    return _sums(owner, shares, owners), math.fsum(moment_j[present == 0])


def _sums(owner: Ints, value: Floats, owners: int) -> Floats:
    return np.bincount(owner, value, owners).astype(np.float64)


def _at(t_ns: Ints, grid_ns: Ints, value: Floats) -> Floats:
    """`value` at `t_ns`, straight lines between the points of `grid_ns`, constant beyond them."""
    found: Floats = np.interp(t_ns - grid_ns[0], grid_ns - grid_ns[0], value)
    return found
