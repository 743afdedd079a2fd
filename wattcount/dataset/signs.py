"""What the readings of a power sensor tell of where they came from: figures of one GPU's trace, pure functions of arrays.

One true power reaches a record by several ways::

    true power --> low-pass --> a converter with steps --> ring, every 20 ms
        |                                    |---------> instant power: the newest reading, every 100 ms
        |                                    '---------> averaged power: the mean of the last second, every 100 ms
        |--> integral --> counter, every 100 ms
        '--> heat --> temperature

Each function gives a figure for how well two of these fit each other, or one of them fits what such a sensor does. None: there is
too little to tell. What a figure may be, `checks_physics` says.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache

import numpy as np
from numpy.typing import NDArray

from wattcount.energy.curve import S_NS, Floats, Ints, PowerCurve
from wattcount.energy.estimate import EnergyModel
from wattcount.energy.events import Source
from wattcount.energy.plausible import board_limit_w
from wattcount.records import Record
from wattcount.records.schema import Phase

Events = NDArray[np.void]

RING_PERIOD_NS = 20_000_000
"""Period of the samples of the ring [ns]. Measured: on 33 boards of two kinds, H100 and H200."""
BOX_NS = S_NS
"""Length that averaged power is the mean of [ns]. Measured: on the same boards."""
LEAST_SAMPLES = 200
"""Fewest readings of which a figure is made. Chosen: four seconds of the ring."""


@dataclass(frozen=True)
class Trace:
    """One GPU of a record: its readings, and the sources as the estimator prepared them."""

    record: Record
    number: int
    uuid: str

    @property
    def name(self) -> str:
        return str(self.record.info.gpus[self.number].get("name"))

    @cached_property
    def model(self) -> EnergyModel:
        return self.record.power.model(self.uuid)

    @property
    def ring(self) -> PowerCurve | None:
        return self.model.ring

    def of(self, source: Source) -> Events:
        """Readings that NVML gave, in the order of time."""
        events = self.record.power.of(self.uuid, source)
        good: Events = events[events["nvml_return"] == 0]
        return good

    @cached_property
    def samples(self) -> tuple[Ints, Ints]:
        """The ring's own stamps [us] and values [mW], each sample once."""
        samples = self.of(Source.POWER_SAMPLES)
        stamps, first = np.unique(samples["source_ts_us"], return_index=True)
        return stamps, samples["value"][first]

    @cached_property
    def steps(self) -> Steps | None:
        return converter_steps(self.samples[1])

    @cached_property
    def grid(self) -> RingGrid | None:
        return ring_grid(self.samples[0])

    @cached_property
    def limit_w(self) -> float | None:
        return board_limit_w(self.of(Source.POWER_LIMIT))


CACHED = 16
"""Figures of so many GPUs are kept, because several rules look at one. Chosen: two machines of eight."""


@lru_cache(maxsize=2)
def traces(record: Record) -> tuple[Trace, ...]:
    """The GPUs of a record, in its order."""
    return tuple(Trace(record, number, uuid) for number, uuid in enumerate(record.power.gpu_uuids))


# -- the converter's steps

LADDER: Ints = np.array([42, 43, 49, 84, 85, 91, 92, 127, 134, 176], np.int64)
"""Differences of the readings that the sensor of an H100 or H200 can show [its least step of current]. Measured: its converter gives
one of four values in 176, which lie 42, 43, 42 and 49 apart; of this, the differences up to one turn."""
LADDER_STEPS_MW: Floats = np.asarray(np.arange(7.30, 8.10, 0.004), np.float64)
"""Power of the least step of current that is tried [mW]. Chosen: 5 % to either side of what was measured, at a fifth of what tells two apart."""
LADDER_RANGE_MW = (250.0, 1450.0)
"""Differences that are looked at [mW]. Derived: from less than the smallest of the ladder to more than its largest."""
LADDER_TOLERANCE_MW = 1.0
"""Distance of a difference from the ladder [mW]. Derived: two readings rounded to a milliwatt."""


@dataclass(frozen=True)
class Steps:
    """How a ring's readings lie on the converter's ladder.

    step_mw    power of the least step of current that fits best
    share      of the differences from one reading to the next, what lies on the ladder
    pairs      differences that were looked at
    """

    step_mw: float
    share: float
    pairs: int


def converter_steps(value_mw: Ints) -> Steps | None:
    """Of the differences between readings that follow each other."""
    moved = np.abs(np.diff(value_mw))
    moved = moved[(moved > LADDER_RANGE_MW[0]) & (moved < LADDER_RANGE_MW[1])]
    if len(moved) < LEAST_SAMPLES // 2:
        return None
    until = np.concatenate(([0], np.cumsum(np.bincount(moved, minlength=int(LADDER_RANGE_MW[1]) + 200))))
    at = LADDER_STEPS_MW[:, None] * LADDER[None, :]
    low = np.ceil(at - LADDER_TOLERANCE_MW).astype(np.int64)
    high = np.floor(at + LADDER_TOLERANCE_MW).astype(np.int64) + 1
    hits = (until[high] - until[low]).sum(axis=1)
    best = int(np.argmax(hits))
    return Steps(float(LADDER_STEPS_MW[best]), float(hits[best] / len(moved)), len(moved))


# -- the ring's grid


@dataclass(frozen=True)
class RingGrid:
    """The grid of the ring's stamps.

    period_ns   of the line through them
    on_grid     share of the stamps within a twentieth of a period of it
    lost        share of the places of the grid without a sample
    """

    period_ns: float
    on_grid: float
    lost: float


GRID_CHUNK = 200
"""Stamps to which a first period is fitted. Chosen: four seconds, in which a stamp that is late tells little."""
GRID_SHARES: Floats = np.asarray(np.arange(0.97, 1.03, 4e-4), np.float64)
"""Periods that are tried [usual distance of two stamps]. Chosen: most stamps are in time, so that the usual distance is right within
less; as closely as four seconds tell two apart."""
GRID_CHUNKS_TRIED = 3
"""Chunks in which all of them are tried. Chosen: for the time that it takes."""


def ring_grid(stamps_us: Ints) -> RingGrid | None:
    """Of stamps in the order of time, each once: the period with which they keep one phase, followed through its drift."""
    chunks = len(stamps_us) // GRID_CHUNK
    if chunks < 1:
        return None
    since = (stamps_us - stamps_us[0]).astype(np.float64)
    parts = since[: chunks * GRID_CHUNK].reshape(chunks, GRID_CHUNK)
    tried = parts[np.linspace(0, chunks - 1, min(chunks, GRID_CHUNKS_TRIED)).astype(int)]
    periods = float(np.median(np.diff(since))) * GRID_SHARES
    if not periods[0] > 0:
        return None
    turns = 2j * np.pi / periods
    together = [np.abs(np.exp(turns[:, None] * (one - one[0])[None, :]).mean(axis=1)) for one in tried]
    period = float(periods[int(np.argmax(np.sum(together, axis=0)))])
    # The phase of each chunk tells how much longer the period is: a chunk is too short for it to turn around.
    for _ in range(3):
        phase = np.unwrap(np.angle(np.exp(2j * np.pi / period * parts).mean(axis=1)))
        if chunks == 1:
            break
        slope = float(np.polyfit(parts.mean(axis=1), phase, 1)[0])
        period = 1.0 / (1.0 / period - slope / (2 * np.pi))
    phase = np.repeat(np.angle(np.exp(2j * np.pi / period * parts).mean(axis=1)), GRID_CHUNK) / (2 * np.pi)
    off = parts.ravel() / period - phase
    places = np.unique(np.round(off))
    expected = places[-1] - places[0] + 1
    # The mean phase is later than the grid, because stamps are late and never early: their mode is the grid.
    off = off - np.round(off)
    bins = np.bincount(((off % 1.0) * 100).astype(int) % 100, minlength=100)
    around = np.sum([np.roll(bins, way) for way in range(-5, 6)], axis=0)
    return RingGrid(period * 1e3, float(around.max() / len(off)), float(1.0 - len(places) / expected))


# -- pairs of sources


@dataclass(frozen=True)
class Pair:
    """One source against another.

    gain     the first's sum / the second's
    residual root of the mean square of their difference, after the gain [share of the mean]
    usual    the median of its size instead
    lag_ms   by how much the first trails
    """

    gain: float
    residual: float
    usual: float
    lag_ms: float
    count: int


def _pair(first: Floats, second: Floats, lag_ms: float) -> Pair:
    gain = float(first.sum() / second.sum())
    off = np.abs(first - gain * second)
    mean = float(first.mean())
    return Pair(
        gain, float(np.sqrt(np.mean(off**2))) / mean, float(np.median(off)) / mean, lag_ms, len(first)
    )


def _best_pair(first: Floats, second: Floats, lags_ns: Ints) -> Pair:
    """With the lag at which the two are most alike. `second`: float64[lags, n]."""
    off = np.abs(first - (first.sum() / second.sum(axis=1))[:, None] * second)
    usual = np.median(off, axis=1)
    best = int(np.argmin(np.where(np.isnan(usual), np.inf, usual)))
    return _pair(first, second[best], int(lags_ns[best]) / 1e6)


@lru_cache(maxsize=CACHED)
def counter_by_ring(trace: Trace) -> Pair | None:
    """The counter's joules between its ticks against those of the ring's samples."""
    ring, counter = trace.ring, trace.model.counter
    if ring is None or len(counter.ticks_ns) < 10:
        return None
    lag_ns = round(counter.shape_lag_ns)
    ticks = counter.ticks_ns
    ticks_in = (ticks + lag_ns >= ring.t_ns[0]) & (ticks + lag_ns <= ring.t_ns[-1])
    ticks, energy_j = ticks[ticks_in], counter.energy_j[ticks_in]
    if len(ticks) < 10:
        return None
    counted, seen = np.diff(energy_j), np.diff(ring.at(ticks + lag_ns))
    if seen.sum() <= 0 or counted.sum() <= 0:
        return None
    return _pair(counted, seen, lag_ns / 1e6)


BOX_LAGS_NS: Ints = np.arange(-40, 161, 10, dtype=np.int64) * 1_000_000
"""How long after its box a value of averaged power is read [ns], that is tried. Derived: an update of 100 ms, and a read."""


@lru_cache(maxsize=CACHED)
def average_by_ring(trace: Trace) -> Pair | None:
    """Averaged power against the mean of the ring's samples over the second before."""
    ring, average = trace.ring, trace.of(Source.POWER_AVERAGE)
    if ring is None or len(average) < 20:
        return None
    t_ns = average["t0_ns"]
    inside = (t_ns - BOX_NS - BOX_LAGS_NS[-1] >= ring.t_ns[0]) & (t_ns - BOX_LAGS_NS[0] <= ring.t_ns[-1])
    # A value that stays is repeated once in a while: only the first of them is new.
    inside &= np.concatenate(([True], np.diff(average["value"]) != 0))
    t_ns, value = t_ns[inside], average["value"][inside] / 1e3
    if len(t_ns) < 20:
        return None
    best: Pair | None = None
    chosen = np.linspace(0, len(t_ns) - 1, min(len(t_ns), 100)).astype(np.int64)
    for where in (chosen, np.arange(len(t_ns))):
        lags = BOX_LAGS_NS if best is None else np.array([round(best.lag_ms * 1e6)], np.int64)
        ends = t_ns[where] - lags[:, None]
        until_j, from_j = ring.at(np.stack((ends, ends - BOX_NS)))
        best = _best_pair(value[where], (until_j - from_j) / (BOX_NS / S_NS), lags)
    return best


INSTANT_LAGS_NS: Ints = np.arange(-20, 121, 10, dtype=np.int64) * 1_000_000
"""How long after its sample a value of instant power is read [ns], that is tried. Derived: an update of 100 ms, and a read."""


@lru_cache(maxsize=CACHED)
def instant_by_ring(trace: Trace) -> Pair | None:
    """Instant power against the ring's power at that moment."""
    ring, instant = trace.ring, trace.of(Source.POWER_INSTANT)
    if ring is None or len(instant) < 20:
        return None
    t_ns = instant["t0_ns"]
    inside = (t_ns - INSTANT_LAGS_NS[-1] >= ring.t_ns[0]) & (t_ns - INSTANT_LAGS_NS[0] <= ring.t_ns[-1])
    inside &= np.concatenate(([True], np.diff(instant["value"]) != 0))
    t_ns, value = t_ns[inside], instant["value"][inside] / 1e3
    if len(t_ns) < 20:
        return None
    return _best_pair(value, ring.power_at(t_ns - INSTANT_LAGS_NS[:, None]), INSTANT_LAGS_NS)


def usage_in_average(trace: Trace) -> float | None:
    """Share of the values of GetPowerUsage that averaged power showed, too, within half a second."""
    usage, average = trace.of(Source.POWER_USAGE), trace.of(Source.POWER_AVERAGE)
    if len(usage) < 10 or len(average) < 20:
        return None
    near = np.searchsorted(average["t0_ns"], usage["t0_ns"])
    hit = np.zeros(len(usage), bool)
    for way in range(-5, 6):
        at = np.clip(near + way, 0, len(average) - 1)
        close = np.abs(average["t0_ns"][at] - usage["t0_ns"]) < 5 * S_NS // 2
        hit |= close & (average["value"][at] == usage["value"])
    return float(hit.mean())


# -- heat

HEAT_TAUS_S = (0.5, 3.0, 15.0, 80.0)
"""Time constants of the parts of a board that warm up [s]. Chosen: from the die to the heat sink, each some five times the one before."""
HEAT_STEP_S = 0.25
"""Step at which the power is averaged for it [s]. Chosen: half the shortest time constant."""


@dataclass(frozen=True)
class Heat:
    """Temperature as power explains it.

    range_c      from the 5th to the 95th percentile of the temperature
    residual_c   root of the mean square of what power does not explain
    explained    share of the temperature's variance that it does
    """

    range_c: float
    residual_c: float
    explained: float
    count: int


def heat(trace: Trace) -> Heat | None:
    """Non-negative least squares of the temperature on the power behind first-order low-passes."""
    from scipy.optimize import nnls

    ring, told = trace.ring, trace.of(Source.TEMPERATURE_GPU)
    if ring is None or len(told) < 20:
        return None
    t_ns, value = told["t0_ns"], told["value"].astype(np.float64)
    inside = (t_ns >= ring.t_ns[0] + 2 * S_NS) & (t_ns <= ring.t_ns[-1])
    t_ns, value = t_ns[inside], value[inside]
    if len(t_ns) < 20:
        return None
    step_ns = round(HEAT_STEP_S * S_NS)
    edges = np.arange(ring.t_ns[0], ring.t_ns[-1] + step_ns, step_ns)
    power_w = np.diff(ring.at(edges)) / HEAT_STEP_S
    columns = [np.ones(len(t_ns))]
    for tau_s in HEAT_TAUS_S:
        share = 1.0 - np.exp(-HEAT_STEP_S / tau_s)
        warm = _low_passed(power_w, share)
        columns.append(
            np.interp((t_ns - edges[1]).astype(float), (edges[1:] - edges[1]).astype(float), warm) / 100.0
        )
        # What the part still keeps of the time before.
        columns.append(np.exp(-(t_ns - edges[0]) / (tau_s * S_NS)))
    design = np.stack(
        [c for i, c in enumerate(columns) if i == 0 or i % 2 == 1 or i == len(columns) - 1], axis=1
    )
    # The rest of the time before may have been hot or cold.
    design = np.concatenate((design, -design[:, -1:]), axis=1)
    scale = np.sqrt((design**2).sum(axis=0)) + 1e-12
    found, _ = nnls(design / scale, value)
    off = value - (design / scale) @ found
    low, high = np.quantile(value, [0.05, 0.95])
    spread = float(np.var(value))
    return Heat(
        float(high - low),
        float(np.sqrt(np.mean(off**2))),
        1.0 - float(np.mean(off**2)) / max(spread, 1e-9),
        len(t_ns),
    )


def _low_passed(values: Floats, share: float) -> Floats:
    """Each the mean of itself, weighed by `share`, and the one before. To import SciPy's takes longer than a record."""
    found, kept = [], float(values[0]) * (1.0 - share)
    for value in values.tolist():
        found.append(kept + value * share)
        kept = -(found[-1] * (share - 1.0))
    return np.array(found)


# -- calls


def call_us(trace: Trace, source: Source) -> Floats:
    """How long the calls took [us]."""
    events = trace.of(source)
    return np.asarray((events["t1_ns"] - events["t0_ns"]) / 1e3, np.float64)


# -- work

BIN_NS = 20_000_000
"""Step at which power is held against work [ns]. Derived: the ring's."""
LONGEST_STEP_NS = 250_000_000
"""Longest time that a step is taken to have run [ns]. Chosen: ten steps of most models."""
SLOW_BINS = 50
"""Length of the running mean that is taken off both [bins]. Chosen: a second, so that phases and rounds tell nothing."""
NEAR_BINS = 5
"""Lag of work behind power within which they belong together [bins]. Derived: docs/attribution.md allows 40 ms for reports and
the sensor alike; one bin more for the bins."""
FAR_BINS = 500
"""Largest lag at which they are compared by chance [bins]. Chosen: ten seconds."""


@dataclass(frozen=True)
class Beat:
    """Power against what the steps' work predicts of it, both without what is slower than a second.

    near      largest correlation at lags of up to `NEAR_BINS`
    far       largest correlation at larger lags, up to `FAR_BINS`
    lag_ms    where the largest of all lies
    far_sd    standard deviation of those at larger lags
    """

    near: float
    far: float
    lag_ms: float
    far_sd: float
    bins: int


def _spread(start_ns: Ints, end_ns: Ints, amount: Floats, edges_ns: Ints) -> Floats:
    """Amounts in each bin; each is done evenly in its stretch, and stretches do not overlap."""
    knots = np.stack((start_ns, end_ns), axis=1).ravel()
    done = np.cumsum(amount)
    until = np.stack((done - amount, done), axis=1).ravel()
    origin = edges_ns[0]
    return np.asarray(
        np.diff(np.interp((edges_ns - origin).astype(float), (knots - origin).astype(float), until)),
        np.float64,
    )


@lru_cache(maxsize=2)
def _work(record: Record) -> tuple[Ints, Floats, Floats] | None:
    """(ends of steps in the order of time, prompt tokens, decoded tokens); of a server without steps, by arrivals of tokens."""
    steps = record.steps
    if len(steps) > 50:
        end = steps["logged_ns"].to_numpy()
        prefill = steps["prefill_tokens"].fill_null(0).to_numpy().astype(np.float64)
        decode = steps["decode_tokens"].fill_null(0).to_numpy().astype(np.float64)
        order = np.argsort(end, kind="stable")
        return end[order], prefill[order], decode[order]
    requests = record.requests
    arrived = requests["token_ts_ns"].combine_chunks()
    end = arrived.flatten().to_numpy(zero_copy_only=False)
    if len(end) < 50:
        return None
    count = (
        requests["token_count"].combine_chunks().flatten().to_numpy(zero_copy_only=False).astype(np.float64)
    )
    prompt = np.zeros(len(end))
    lengths = np.diff(arrived.offsets.to_numpy())
    firsts = arrived.offsets.to_numpy()[:-1][lengths > 0] - arrived.offsets.to_numpy()[0]
    prompt[firsts] = requests["input_tokens"].fill_null(0).to_numpy()[lengths > 0]
    order = np.argsort(end, kind="stable")
    end, count, prompt = end[order], count[order], prompt[order]
    new = np.concatenate(([True], np.diff(end) > 1_500_000))
    number = np.cumsum(new) - 1
    last = np.append(np.flatnonzero(new)[1:], len(end)) - 1
    return (
        end[last],
        np.bincount(number, prompt).astype(np.float64),
        np.bincount(number, count).astype(np.float64),
    )


def _without_slow(values: Floats) -> Floats:
    total = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(len(values))
    low, high = np.maximum(index - SLOW_BINS // 2, 0), np.minimum(index + SLOW_BINS // 2 + 1, len(values))
    return np.asarray(values - (total[high] - total[low]) / (high - low), np.float64)


@dataclass(frozen=True)
class _Load:
    """Power and the steps' work from loaded idle to loaded idle, in bins of `BIN_NS`.

    edges_ns   int64[bins + 1]
    busy       share of each bin in which a step ran
    design     float64[bins, terms], columns of mean square 1; the first is constant
    """

    edges_ns: Ints
    busy: Floats
    design: Floats


@lru_cache(maxsize=2)
def _load(record: Record, first_ns: int, last_ns: int) -> _Load | None:
    spans = {span.phase: span for span in record.info.phases}
    begin = spans.get(Phase.LOADED_IDLE) or spans.get(Phase.REHEARSAL) or spans.get(Phase.WARMUP)
    end = spans.get(Phase.IDLE_AFTER) or spans.get(Phase.DRAIN) or spans.get(Phase.WINDOW)
    work = _work(record)
    if work is None or begin is None or end is None or end.end_ns is None:
        return None
    edges = np.arange(max(begin.start_ns, first_ns), min(end.end_ns, last_ns), BIN_NS, dtype=np.int64)
    ends, prefill, decode = work
    if len(edges) < 4 * SLOW_BINS or not len(ends):
        return None
    starts = np.maximum(np.concatenate((ends[:1] - LONGEST_STEP_NS, ends[:-1])), ends - LONGEST_STEP_NS)
    busy = np.minimum(_spread(starts, ends, (ends - starts).astype(np.float64) / BIN_NS, edges), 1.0)
    prompts = _spread(starts, ends, prefill, edges)
    columns = (
        np.ones(len(edges) - 1),
        busy,
        prompts,
        np.minimum(prompts, 1.0),
        _spread(starts, ends, decode, edges),
        _spread(starts, ends, np.ones(len(ends)), edges),
    )
    design = np.stack(columns, axis=1)
    return _Load(edges, busy, design / np.maximum(np.sqrt((design**2).mean(axis=0)), 1e-12))


def _bins(ring: PowerCurve, load: _Load, lag_bins: int) -> Floats:
    """Mean power of each bin [W], so many bins before the work."""
    return np.asarray(np.diff(ring.at(load.edges_ns - lag_bins * BIN_NS)) / (BIN_NS / S_NS), np.float64)


LAGS_BINS = (0, 1, 2)
"""Lags of work behind power at which the two are fitted [bins]. Derived: those of docs/attribution.md."""


@lru_cache(maxsize=CACHED)
def beat(trace: Trace) -> Beat | None:
    """Whether power moves when the steps do."""
    ring = trace.ring
    load = None if ring is None else _load(trace.record, *ring.bounds_ns)
    if ring is None or load is None:
        return None
    fast = np.stack([_without_slow(column) for column in load.design[:, 1:].T], axis=1)
    gram = fast.T @ fast + 1e-6 * len(fast) * np.eye(fast.shape[1])
    best: tuple[float, Floats, Floats, int] | None = None
    for lag_bins in LAGS_BINS:
        quick = _without_slow(_bins(ring, load, lag_bins))
        shown = fast @ np.linalg.solve(gram, fast.T @ quick)
        left = float(((quick - shown) ** 2).sum())
        if best is None or left < best[0]:
            best = (left, quick, shown, lag_bins)
    assert best is not None
    _, quick, shown, taken = best
    norm = float(np.sqrt((quick**2).sum() * (shown**2).sum()))
    if norm <= 0:
        return None
    size = 1 << int(np.ceil(np.log2(len(quick) + FAR_BINS + 1)))
    across = np.fft.irfft(np.fft.rfft(quick, size) * np.conj(np.fft.rfft(shown, size)), size) / norm
    lags = np.concatenate((across[-FAR_BINS:], across[: FAR_BINS + 1]))
    number = np.arange(-FAR_BINS, FAR_BINS + 1)
    far = lags[np.abs(number) > SLOW_BINS]
    return Beat(
        near=float(lags[np.abs(number) <= NEAR_BINS].max()),
        far=float(far.max()),
        lag_ms=float((number[int(np.argmax(lags))] - taken) * BIN_NS / 1e6),
        far_sd=float(far.std()),
        bins=len(quick),
    )


@dataclass(frozen=True)
class Unexplained:
    """Seconds in which power is not that of the work.

    explained   share of the variance of power that the work explains
    idle_s      longest time of steps in a row, what lies between them left out, in which the board drew idle power
    busy_s      longest stretch without a step in which it drew as much as under steps
    """

    explained: float
    idle_s: float
    busy_s: float


LOW_SHARE, HIGH_SHARE = 0.1, 0.7
"""What idle power and power under steps are taken to be [share of the way from idle power to the usual power under steps]. Chosen:
far from both sides, because the power of steps differs."""
LEAST_RISE_W = 100.0
"""Rise of power under steps from which on they are told apart [W]. Chosen: below, the power of some steps is idle power."""
SURE_BINS = 5
"""Bins around a stretch of work, or of none, that are not judged. Derived: what reports may be late, `NEAR_BINS`."""


@lru_cache(maxsize=CACHED)
def unexplained(trace: Trace) -> Unexplained | None:
    """Stretches in which work and power contradict each other."""
    ring = trace.ring
    load = None if ring is None else _load(trace.record, *ring.bounds_ns)
    if ring is None or load is None:
        return None
    power_w = _bins(ring, load, 1)
    found = np.linalg.lstsq(load.design, power_w, rcond=None)[0]
    left = float(((power_w - load.design @ found) ** 2).sum())
    spread = max(float(((power_w - power_w.mean()) ** 2).sum()), 1e-9)
    padded = np.pad(load.busy, SURE_BINS, mode="edge")
    around = np.lib.stride_tricks.sliding_window_view(padded, 2 * SURE_BINS + 1)
    working, resting = around.min(axis=1) > 0.95, around.max(axis=1) < 0.01
    if working.sum() < SLOW_BINS or resting.sum() < SLOW_BINS // 2:
        return Unexplained(1.0 - left / spread, 0.0, 0.0)
    idle_w, usual_w = float(np.median(power_w[resting])), float(np.median(power_w[working]))
    if usual_w - idle_w < LEAST_RISE_W:
        return Unexplained(1.0 - left / spread, 0.0, 0.0)
    low, high = (idle_w + share * (usual_w - idle_w) for share in (LOW_SHARE, HIGH_SHARE))
    step_s = BIN_NS / S_NS
    return Unexplained(
        1.0 - left / spread,
        _longest((power_w < low)[working]) * step_s,
        _longest(resting & (power_w > high)) * step_s,
    )


def _longest(which: NDArray[np.bool_]) -> int:
    """Length of the longest run."""
    edges = np.flatnonzero(np.diff(np.concatenate(([False], which, [False])).astype(int)))
    return int((edges[1::2] - edges[::2]).max(initial=0))


# -- tokens


LEAST_TOKENS = 32
"""Fewest tokens of a request whose steps are counted. Chosen: three steps more or less are a tenth of them."""


@dataclass(frozen=True)
class Ledger:
    """Tokens of requests against the engine's steps.

    tokens_per_step   tokens of the median request / steps between its first and last (with three more for what is late)
    together          share of the arrivals that hold more than one token
    """

    tokens_per_step: float
    together: float


def ledger(record: Record) -> Ledger | None:
    """None where the engine told no steps, or it drafted tokens."""
    steps, requests = record.steps, record.requests
    if len(steps) < 10 or steps["draft_tokens"].null_count < len(steps):
        return None
    ends = np.sort(steps["logged_ns"].to_numpy())
    import pyarrow.compute as pc

    enough = pc.greater_equal(pc.fill_null(requests["output_tokens"], 0), LEAST_TOKENS)
    known = requests.select(["first_token_ns", "last_token_ns", "output_tokens"]).filter(enough)
    if not len(known):
        return None
    first, last = known["first_token_ns"].to_numpy(), known["last_token_ns"].to_numpy()
    output = known["output_tokens"].to_numpy()
    # A step is reported up to two steps later than its tokens come, or earlier.
    between = np.searchsorted(ends, last, side="right") - np.searchsorted(ends, first)
    counts = requests["token_count"].combine_chunks().flatten().to_numpy(zero_copy_only=False)
    return Ledger(float(np.median(output / (between + 3.0))), float(np.mean(counts > 1)))


def repeated_requests(record: Record) -> int:
    """Requests whose tokens came after each other exactly as another's did, to the microsecond, and at other times.

    At the same times they may be those of one batch, where whoever stamps them does so once a step.
    """
    arrived = record.requests["token_ts_ns"].combine_chunks()
    flat = arrived.flatten().to_numpy(zero_copy_only=False)
    offsets = arrived.offsets.to_numpy() - arrived.offsets.to_numpy()[0]
    apart, size = np.diff(flat).tobytes(), flat.dtype.itemsize
    seen: dict[bytes, int] = {}
    repeated = 0
    long = np.flatnonzero(np.diff(offsets) >= LEAST_REPEATED)
    for low, high, begin in zip(
        offsets[long].tolist(), offsets[long + 1].tolist(), flat[offsets[long]].tolist(), strict=True
    ):
        repeated += seen.setdefault(apart[low * size : (high - 1) * size], begin) != begin
    return repeated


LEAST_REPEATED = 12
"""Fewest arrivals of a request that is held against others. Chosen: eleven differences of some microseconds' scatter are never equal
by chance."""


# -- limits


@dataclass(frozen=True)
class Limits:
    """Power against what the board allows.

    idle_w      2 % of the ring's samples are below
    most_share  highest averaged power [share of the power limit]
    """

    idle_w: float
    most_share: float


@lru_cache(maxsize=CACHED)
def limits(trace: Trace) -> Limits | None:
    """None where no limit was read."""
    average = trace.of(Source.POWER_AVERAGE)
    if trace.limit_w is None or len(average) < 20 or len(trace.samples[1]) < LEAST_SAMPLES:
        return None
    share = average["value"] / 1e3 / trace.limit_w
    return Limits(float(np.quantile(trace.samples[1], 0.02)) / 1e3, float(share.max()))


def counter_falls(trace: Trace) -> int:
    """Reads of the counter that are less than the one before."""
    return int((np.diff(trace.of(Source.ENERGY_COUNTER)["value"]) < 0).sum())
