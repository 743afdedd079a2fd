"""A continuous-batching engine in virtual time, whose steps draw a known energy: the truth for attribution.

A step computes the prompts that fit into its budget and one token for every request that is running. It draws
`prefill_token_j` for each prompt token, `decode_token_j` for each token decoded, `decode_step_j` if it decoded
any, and `context_token_j` for each token that a decoded one looked back on, evenly while it runs, above idle. Its report comes late: by a millisecond, and by part of the next step where
that is a prefill, as a front end under asynchronous scheduling hears of it.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np

from wattcount.metrics.observations import MISSING, Floats, Ints, Requests, Window
from wattcount.metrics.work import Context, Spans, Work, locate_steps

T0_NS = 1_000_000_000_000_000
NOISE_STEP_NS = 20_000_000
MARGIN_S = 2.0
"""Of idle before the first request and after the last."""


def ns(*seconds: float) -> Ints:
    """Seconds as nanoseconds."""
    return np.array([round(s * 1e9) for s in seconds], np.int64)


def requests(*rows: tuple[float, int, list[float]], **columns: object) -> Requests:
    """Rows of (scheduled, prompt tokens, arrivals of one token each), times in seconds."""
    count = len(rows)
    arrivals = [ns(*stamps) for _, _, stamps in rows]
    none = np.full(count, MISSING, np.int64)
    given_columns = {
        "planned_send_ns": ns(*(row[0] for row in rows)),
        "actual_send_ns": ns(*(row[0] for row in rows)),
        "first_token_ns": np.array([a[0] if len(a) else MISSING for a in arrivals], np.int64),
        "last_token_ns": np.array([a[-1] if len(a) else MISSING for a in arrivals], np.int64),
        "input_tokens": np.array([row[1] for row in rows], np.int64),
        "cached_tokens": none,
        "output_tokens": np.array([len(a) for a in arrivals], np.int64),
        "preemptions": none,
        "engine_scheduled_ns": none,
        "completed": np.ones(count, np.bool_),
        "failed": np.zeros(count, np.bool_),
        "cancelled": np.zeros(count, np.bool_),
        "for_window": np.ones(count, np.bool_),
        "token_ts_ns": np.concatenate(arrivals) if arrivals else ns(),
        "token_count": np.ones(sum(len(a) for a in arrivals), np.int64),
        "token_request": np.repeat(np.arange(count), [len(a) for a in arrivals]),
    }
    return Requests(**(given_columns | columns))  # type: ignore[arg-type]


def even_work(count: int, prefill: int, decode: int, *, step_s: float = 0.02) -> Work:
    """Steps back to back from 0 on, all alike."""
    length_ns = round(step_s * 1e9)
    end = np.arange(1, count + 1, dtype=np.int64) * length_ns
    full = np.ones(count, np.int64)
    return Work(end - length_ns, end - length_ns, end, prefill * full, decode * full, np.zeros(len(end)))


@dataclass
class Truth:
    """What was drawn in the window above idle, J, and by each request (float64[requests])."""

    prefill_j: float
    decode_j: float
    prefill_tokens: float
    decode_tokens: float


@dataclass
class SimulatedEngine:
    """`run()` fills the rest. Rates in 1/s, `rate_rps` None: a batch, all at once."""

    seed: int = 0
    rate_rps: float | None = 8.0
    count: int = 400
    prompt: int = 512
    prompt_max: int | None = None
    """Lengths are then drawn evenly from `prompt` to here."""
    output: int = 128
    slots: int = 128
    budget: int = 2048
    prefill_token_j: float = 0.014
    decode_token_j: float = 0.026
    decode_step_j: float = 1.8
    context_token_j: float = 0.0
    idle_w: float = 118.0
    noise_w: float = 10.0
    """Standard deviation of the power reading, one sample every 20 ms; correlated over `noise_tau_s`."""
    noise_tau_s: float = 0.05
    step_scatter: float = 0.03
    """Relative standard deviation of a step's energy about what it should draw."""
    late_reports: bool = True
    start_s: list[float] = field(default_factory=list)
    end_s: list[float] = field(default_factory=list)
    prefill: list[int] = field(default_factory=list)
    decode: list[int] = field(default_factory=list)
    context: list[int] = field(default_factory=list)
    in_flight: list[int] = field(default_factory=list)

    def run(self) -> SimulatedEngine:
        random = np.random.default_rng(self.seed)
        gaps = random.exponential(1 / self.rate_rps, self.count) if self.rate_rps else np.zeros(self.count)
        longest = self.prompt_max if self.prompt_max is not None else self.prompt
        self.prompts = random.integers(self.prompt, longest, self.count, endpoint=True)
        self.arrival_s = MARGIN_S + np.cumsum(gaps)
        self.scheduled_s = np.full(self.count, np.nan)
        self.token_steps: list[list[int]] = [[] for _ in range(self.count)]
        waiting: deque[int] = deque()
        running: dict[int, int] = {}  # request -> tokens to come
        partly: dict[int, int] = {}  # request -> prompt tokens to come
        now, upcoming = 0.0, 0
        while upcoming < self.count or waiting or running or partly:
            if not (waiting or running or partly):
                now = max(now, float(self.arrival_s[upcoming]))
            while upcoming < self.count and self.arrival_s[upcoming] <= now:
                waiting.append(upcoming)
                upcoming += 1
            decoding = list(running)
            budget = self.budget - len(decoding)
            while waiting and len(running) + len(partly) < self.slots and budget > sum(partly.values()):
                request = waiting.popleft()
                self.scheduled_s[request] = now
                partly[request] = int(self.prompts[request])
            computed, finished = 0, []
            for request in partly:
                tokens = min(partly[request], budget - computed)
                partly[request] -= tokens
                computed += tokens
                if partly[request] == 0:
                    finished.append(request)
            seconds = 0.005 + 2.5e-5 * computed + 3e-5 * len(decoding)
            step = len(self.end_s)
            self.context.append(sum(int(self.prompts[r]) + len(self.token_steps[r]) for r in decoding))
            for request in decoding:
                self.token_steps[request].append(step)
                running[request] -= 1
                if running[request] == 0:
                    del running[request]
            for request in finished:
                del partly[request]
                self.token_steps[request].append(step)
                if self.output > 1:
                    running[request] = self.output - 1
            self.start_s.append(now)
            now += seconds
            self.end_s.append(now)
            self.prefill.append(computed)
            self.decode.append(len(decoding))
            self.in_flight.append(len(running) + len(partly) + len(waiting))
        self._draw(random)
        return self

    def _draw(self, random: np.random.Generator) -> None:
        prefill, decode = np.array(self.prefill, float), np.array(self.decode, float)
        scatter = 1 + self.step_scatter * random.standard_normal((2, len(prefill)))
        self.step_prefill_j = self.prefill_token_j * prefill * scatter[0]
        self.step_decode_j = (
            self.decode_token_j * decode
            + self.decode_step_j * (decode > 0)
            + self.context_token_j * np.array(self.context, float)
        ) * scatter[1]
        self.start_ns = T0_NS + np.round(np.array(self.start_s) * 1e9).astype(np.int64)
        self.end_ns = T0_NS + np.round(np.array(self.end_s) * 1e9).astype(np.int64)
        lengths = np.diff(np.append(self.end_ns, self.end_ns[-1] + 5_000_000))
        late = (
            np.where(np.append(prefill[1:], 0) > 0, 0.7 * lengths, 0).astype(np.int64)
            if self.late_reports
            else 0
        )
        self.logged_ns = np.maximum.accumulate(self.end_ns + 1_000_000 + late)

        self.grid_ns = np.arange(T0_NS, self.end_ns[-1] + round(2 * MARGIN_S * 1e9), NOISE_STEP_NS)
        keep = np.exp(-NOISE_STEP_NS / 1e9 / self.noise_tau_s)
        shocks = random.standard_normal(len(self.grid_ns)) * self.noise_w * np.sqrt(1 - keep**2)
        noise = np.zeros(len(shocks))
        for i in range(1, len(shocks)):
            noise[i] = keep * noise[i - 1] + shocks[i]
        second = np.arange(len(noise)) // round(1e9 / NOISE_STEP_NS)
        # The reading is scaled to the energy counter once a second: within it the noise averages out.
        noise -= (np.bincount(second, noise) / np.bincount(second))[second]
        drawn = Spans(self.start_ns, self.end_ns, self.step_prefill_j + self.step_decode_j).between(
            self.grid_ns
        )
        power_j = (self.idle_w + noise[:-1]) * (NOISE_STEP_NS / 1e9) + drawn
        self._cumulative_j = np.concatenate(([0.0], np.cumsum(np.maximum(power_j, 0.0))))

    def energy_at(self, t_ns: Ints) -> Floats:
        return np.interp(t_ns - T0_NS, self.grid_ns - T0_NS, self._cumulative_j)

    def window(self, skip_s: float = 2.0) -> Window:
        """From a moment after the first step to shortly before the last."""
        return Window(int(self.start_ns[0]) + round(skip_s * 1e9), int(self.end_ns[-1]) - round(skip_s * 1e9))

    def truth(self, window: Window) -> Truth:
        edges = np.array([window.start_ns, window.end_ns])

        def inside(amount: Floats) -> float:
            return float(Spans(self.start_ns, self.end_ns, np.asarray(amount, float)).between(edges)[0])

        return Truth(
            inside(self.step_prefill_j),
            inside(self.step_decode_j),
            inside(np.array(self.prefill, float)),
            inside(np.array(self.decode, float)),
        )

    def request_decode_j(self) -> Floats:
        """What decoding each request should draw, float64[requests]; a step is shared by those that decode in it."""
        drawn = np.zeros(self.count)
        for request, steps in enumerate(self.token_steps):
            for made, step in enumerate(steps[1:], start=1):
                drawn[request] += (
                    self.decode_token_j
                    + self.decode_step_j / self.decode[step]
                    + self.context_token_j * (self.prompts[request] + made)
                )
        return drawn

    def work(self, *, exact: bool = False, context: Context | None = None) -> Work:
        none = np.full(len(self.end_ns), MISSING, np.int64)
        found = locate_steps(
            self.logged_ns,
            self.end_ns if exact else none,
            self.end_ns - self.start_ns if exact else none,
            np.array(self.prefill, np.int64),
            np.array(self.decode, np.int64),
            np.array(self.in_flight, np.int64),
            T0_NS + np.round(self.scheduled_s * 1e9).astype(np.int64),
            context or Context.of(self.requests()),
        )
        assert found is not None
        return found

    def requests(self) -> Requests:
        stamps = [self.logged_ns[steps] for steps in self.token_steps]
        arrival_ns = T0_NS + np.round(self.arrival_s * 1e9).astype(np.int64)
        full = np.ones(self.count, np.int64)
        yes, no = np.ones(self.count, np.bool_), np.zeros(self.count, np.bool_)
        return Requests(
            planned_send_ns=arrival_ns,
            actual_send_ns=arrival_ns,
            first_token_ns=np.array([s[0] for s in stamps]),
            last_token_ns=np.array([s[-1] for s in stamps]),
            input_tokens=self.prompts.astype(np.int64),
            cached_tokens=0 * full,
            output_tokens=self.output * full,
            preemptions=0 * full,
            engine_scheduled_ns=T0_NS + np.round(self.scheduled_s * 1e9).astype(np.int64),
            completed=yes,
            failed=no,
            cancelled=no,
            for_window=yes,
            token_ts_ns=np.concatenate(stamps),
            token_count=np.ones(sum(len(s) for s in stamps), np.int64),
            token_request=np.repeat(np.arange(self.count), [len(s) for s in stamps]),
        )
