"""What an engine's steps computed, and when: amounts of work in any intervals.

Times are CLOCK_MONOTONIC nanoseconds.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from wattcount.metrics.observations import MISSING, Floats, Ints, Requests

TERMS = ("prefill_token", "decode_token", "decode_step", "context_token")
"""Kinds of work, by their index."""
PREFILL, DECODE_TOKEN, DECODE_STEP, CONTEXT = range(4)

NEGLIGIBLE = 1e-9
"""Of all work: less than that in an interval is rounding."""


@dataclass(frozen=True)
class Spans:
    """Amounts of work, each done evenly within a stretch of time.

    start_ns, end_ns   int64[n], start < end
    amount             float64[n]
    """

    start_ns: Ints
    end_ns: Ints
    amount: Floats

    def between(self, edges_ns: Ints) -> Floats:
        """Amount in each interval: float64[edges - 1] for increasing `edges_ns`."""
        if not len(self.amount):
            return np.zeros(len(edges_ns) - 1)
        origin = edges_ns[0]
        rate = self.amount / ((self.end_ns - self.start_ns) / 1e9)
        event_s = (np.concatenate((self.start_ns, self.end_ns)) - origin) / 1e9
        order = np.argsort(event_s, kind="stable")
        event_s = event_s[order]
        # The rate that holds after each event, summed to the amount that is done by then.
        rate_now = np.cumsum(np.concatenate((rate, -rate))[order])
        done = np.concatenate(([0.0], np.cumsum(rate_now[:-1] * np.diff(event_s))))
        amounts: Floats = np.diff(np.interp((edges_ns - origin) / 1e9, event_s, done))
        # A rate that has come back to 0 but for rounding does no work.
        amounts[amounts < NEGLIGIBLE * float(self.amount.sum())] = 0.0
        return amounts


@dataclass(frozen=True)
class Work:
    """What an engine's steps computed and within which stretch each of them ran, in the order of time.

    start_ns, end_ns               int64[steps], start < end
    late_start_ns                  int64[steps], start <= late start < end: the other end of what is plausible
    prefill_tokens, decode_tokens  int64[steps]
    context_tokens                 float64[steps], that its decoded tokens looked back on, all together; 0 where unknown
    """

    start_ns: Ints
    late_start_ns: Ints
    end_ns: Ints
    prefill_tokens: Ints
    decode_tokens: Ints
    context_tokens: Floats

    def terms(self, edges_ns: Ints, *, late: bool = False) -> Floats:
        """Amounts of work in each interval by term (`TERMS`): float64[edges - 1, 4]."""
        start_ns = self.late_start_ns if late else self.start_ns
        amounts = (self.prefill_tokens, self.decode_tokens, self.decode_tokens > 0, self.context_tokens)
        columns = [Spans(start_ns, self.end_ns, np.asarray(a, np.float64)).between(edges_ns) for a in amounts]
        return np.stack(columns, axis=1)


def locate_steps(
    logged_ns: Ints,
    engine_ts_ns: Ints,
    duration_ns: Ints,
    prefill_tokens: Ints,
    decode_tokens: Ints,
    in_flight: Ints,
    begun_ns: Ints,
    context: Context | None = None,
) -> Work | None:
    """When each step ran, as far as can be told; None where tokens are missing. `MISSING` stands for null.

    With the engine's own stamp and length of every step that is exact. Otherwise a step ended by when it was
    logged and began after the one two before it was: under asynchronous scheduling the next step is launched
    while one runs, so reports come up to a step late. After a pause it began when a request was scheduled.

    in_flight   int64[steps], running and waiting requests after the step
    begun_ns    when requests were scheduled (or sent, where that is not known), in any order, `MISSING` where never
    context     of the requests that decode
    """
    if not len(logged_ns) or (prefill_tokens == MISSING).any() or (decode_tokens == MISSING).any():
        return None
    exact = bool((engine_ts_ns != MISSING).all() and (duration_ns != MISSING).all())
    end_ns = engine_ts_ns if exact else logged_ns
    order = np.lexsort((in_flight, decode_tokens, prefill_tokens, end_ns))
    end_ns, prefill, decode = end_ns[order], prefill_tokens[order], decode_tokens[order]
    if exact:
        start_ns = late_ns = end_ns - duration_ns[order]
    else:
        begun = np.sort(begun_ns[begun_ns != MISSING])
        first_ns = min([int(end_ns[0]) - 1, *begun[:1].tolist()])
        before = np.concatenate(([first_ns], end_ns[:-1]))
        two_before = np.concatenate((before[:1], before[:-1]))
        resumed = np.append(begun, np.iinfo(np.int64).max)[np.searchsorted(begun, before)]
        paused = np.concatenate(([True], in_flight[order][:-1] == 0)) & (resumed < end_ns)
        floor = np.where(paused, resumed, np.iinfo(np.int64).min)
        late_ns = np.maximum(before, floor)
        # The second step of a burst did not begin before the burst either.
        start_ns = np.maximum(two_before, np.maximum(floor, np.concatenate((floor[:1], floor[:-1]))))
    looked_back: Floats = np.zeros(len(decode)) if context is None else decode * context.mean_at(end_ns)
    return Work(
        np.minimum(start_ns, end_ns - 1),
        np.minimum(late_ns, end_ns - 1),
        end_ns,
        prefill,
        decode,
        looked_back,
    )


@dataclass(frozen=True)
class Context:
    """How many tokens the requests that decode look back on, as steps of time.

    t_ns     int64[n], increasing
    tokens   float64[n], of all requests together, from each time on
    requests int64[n], how many they are
    """

    t_ns: Ints
    tokens: Floats
    requests: Ints

    @classmethod
    def of(cls, requests: Requests) -> Context:
        """Each request from its first token to its last, with its prompt and what it has made so far."""
        order = np.lexsort((requests.token_ts_ns, requests.token_request))
        owner, stamp = requests.token_request[order], requests.token_ts_ns[order]
        if not len(owner):
            return cls(np.zeros(1, np.int64), np.zeros(1), np.zeros(1, np.int64))
        count = requests.token_count[order]
        is_first = np.concatenate(([True], owner[1:] != owner[:-1]))
        is_last = np.concatenate((is_first[1:], [True]))
        prompt = requests.input_tokens[owner]
        change = np.where(is_first, prompt + count, count).astype(np.float64)
        change[is_last] -= (prompt + tokens_before(requests)[order] + count)[is_last]
        by_time = np.argsort(stamp, kind="stable")
        return cls(
            stamp[by_time],
            np.cumsum(change[by_time]),
            np.cumsum(is_first[by_time].astype(np.int64) - is_last[by_time]),
        )

    def mean_at(self, t_ns: Ints) -> Floats:
        """Of a request, just before each time: float64[len(t_ns)]; 0 while none decodes."""
        at = np.searchsorted(self.t_ns, t_ns, side="left") - 1
        tokens = np.where(at < 0, 0.0, self.tokens[at])
        requests = np.where(at < 0, 0, self.requests[at])
        mean: Floats = np.divide(tokens, requests, out=np.zeros(len(t_ns)), where=requests > 0)
        return mean


def tokens_before(requests: Requests) -> Floats:
    """How many tokens its request had made before each arrival of tokens: float64, as `requests.token_ts_ns`."""
    order = np.lexsort((requests.token_ts_ns, requests.token_request))
    owner = requests.token_request[order]
    made = np.cumsum(requests.token_count[order]) - requests.token_count[order]
    first = (
        np.flatnonzero(np.concatenate(([True], owner[1:] != owner[:-1]))) if len(owner) else np.zeros(0, int)
    )
    made = made - np.repeat(made[first], np.diff(np.append(first, len(owner))))
    before = np.empty(len(owner))
    before[order] = made
    return before


def begun_ns(requests: Requests) -> Ints:
    """When each request was scheduled; its send where the engine does not tell."""
    known = requests.engine_scheduled_ns
    begun: Ints = np.where(known != MISSING, known, requests.actual_send_ns)
    return begun
