"""The energy counter: which of its ticks each read saw, and when those were.

The counter moves on a grid of its own, 100 ms on an H200. A read at t returns the energy of some tick before t;
reads are sparse, because one costs milliseconds::

    ticks     |         |         |         |         |         |      true time
    shown       '''       ''        ''''      '         '''            0 to 20 ms after each tick
    reads          ^                              ^                    about once a second
    samples   .:.::...::::.:..::.:::.:..:.::..:.:.:.:.::.:::.          power, late by a lag that is not known

1. *Grid.* With the right phase the joules that the samples show between two ticks agree with the counter's
   difference; with a wrong one they are off by a whole step whenever a tick falls on the other side of a read.
   The period (nominal ones are tried, drift is followed) and phase with the least misfit are taken.
2. *Lag.* With the ticks known, the lag of the samples behind them is what makes their joules agree best.
3. *Alignment.* A tick is put where reads begin to return it: it cannot show before it was. A delay that all
   ticks have would be taken for a later tick, and only matters as far as power at an interval's ends differs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from wattcount.energy.curve import S_NS, Floats, Ints, PowerCurve
from wattcount.energy.plausible import MOST_POWER_W, Steps, check_steps
from wattcount.energy.uncertainty import doubt_j2, local_gain

GRID_PERIODS_NS = (100_000_000, 50_000_000, 20_000_000)
"""Update periods of the counter that are looked for [ns]. Measured: 100 ms on an H200; 20 ms is a V100's, 50 ms is tried
between them."""
MIN_READS_FOR_GRID = 6
"""Fewest reads that a grid is looked for in. Chosen: five differences for a period and a phase."""
MAX_DRIFT = 1e-4
"""Largest difference of speed between the counter's clock and this one [share]. Measured: up to 8e-5 in 124 traces of H100s
and H200s."""
MIN_CONTRAST = 1.3
"""Misfit of the median phase from which on the best phase is believed [times the least misfit]. Chosen: on the emulated
loads, so that no wrong grid is believed."""
SHOWN_LATE_NS = 22_000_000
"""Time around a tick within which a read may have met it or not [ns]. Measured: an H200 shows a tick 0 to 20 ms late; the
rest is the call."""
FINE_TICK_NS = 30_000_000
"""Period of the counter below which ticks are not told apart [ns]. Derived: above the 20 ms that a tick takes to show."""
FINE_TICK_SD = 0.5
"""Standard deviation of the place of such a tick [periods]. Chosen: a tick may be taken for its neighbour."""
STUCK_NS = S_NS // 2
"""Time for which a counter may return one value [ns]. Derived: five updates of the slowest counter."""
STUCK_J = 5.0
"""Energy that the samples see meanwhile from which on the counter is not counting [J]. Chosen: an idle board draws that in a
tenth of a second."""
GRID_CHUNK_READS = 64
"""Reads in which a grid is first looked for. Derived: about a minute, over which a drift of 1e-4 blurs the phase by 6 ms at
most."""
FIT_READS = 512
"""Most reads that the grid is fitted to, evenly from all. Chosen: for the time that the fit takes."""
GAIN_READS = 9
"""Differences of reads over which the samples' gain is taken to be one. Chosen: some 9 s, shorter than most loads."""
TABLE_STEP_NS = 5_000_000
"""Step of the table of the samples' energy in the search for the grid [ns]. Chosen: a quarter of a sampling step."""
COUNTER_RESOLUTION_J = 1e-3
"""Least misfit of a grid that counts [J]. Stated: NVML's unit for the counter is the millijoule."""
CLOCK_SD = MAX_DRIFT / 3**0.5
"""Standard deviation of the speed of the counter's clock [share]. Derived: uniform within `MAX_DRIFT`."""
TICK_ENDS_SD_NS = 7e6
"""Standard deviation of the length of the whole trace by its first and last tick [ns]. Chosen: a third of the 20 ms that a
tick takes to show."""
SETTLED_SHARE = 0.2
"""Distance between the joules of a read and those of a tick, within which the read saw that tick [counter's step]. Chosen:
less than half, by a margin."""
SETTLED_DOUBT = 0.25
"""Largest standard deviation of the samples' energy at which joules may settle which tick a read saw [counter's step].
Chosen: then two ticks are four standard deviations apart."""
SETTLED_APART = 1.0
"""Largest difference of the joules between two ticks by counter and by samples, with which they settle the reads between
[counter's step]. Chosen: with more, the counter lost or gained joules between the two, and each read would take up a part.
"""
STARTS_NS: Floats = np.asarray(np.arange(-30e6, 20e6 + 1, 5e5), np.float64)
"""Times at which a tick may begin to show, against the fitted phase [ns]. Chosen: more than the 20 ms of an H200 on either
side."""
TRAILS_NS: Floats = np.asarray(np.arange(-40e6, 40e6 + 1, 2.5e5), np.float64)
"""Times by which the samples may trail the fitted ticks [ns]. Chosen: the longest lag less the widest start."""
LONGEST_LAG_NS = 50e6
"""Longest lag of samples behind the power that they show [ns]. Measured: 12 to 20 ms on an H200; more than twice that is
allowed."""
SHOWN_WIDTHS_NS = (2e6, 5e6, 10e6, 15e6, 20e6, 25e6)
"""Spreads of the time from a tick to when it shows that are tried [ns]. Measured: 20 ms on an H200; less is tried for
others."""
UNKNOWN_LAG_SD_NS = 8e6
"""Standard deviation of the samples' lag where nothing tells it [ns]. Derived: uniform over some 30 ms."""
LONGEST_CALL_NS = 250_000_000
"""Longest call of a read that is used [ns]: its value is of any moment within it. Measured: up to 71 ms on an H200; three
times that is allowed."""
STEP_SLACK_S = 0.25
"""Time at the most power that a step of the counter may have on top [s]. Derived: a tick at either end, 100 ms each, and
each shown up to 20 ms late."""
GLITCH_READS = 3
"""Most reads in a row that are taken for glitches where those around them agree. Chosen: more in a row are a counter that
lost its count."""
REPAIR_ROUNDS = 40
"""Most steps of a counter that are mended. Chosen: a counter with more is not worth it."""


@dataclass(frozen=True)
class CounterGrid:
    """When the counter ticks, as far as reads show it: `phase_ns + k * period_ns`.

    trails_weight  float64[len(TRAILS_NS)], sums to 1: by how much the samples trail these times (negative: are ahead)
    error_j        mean absolute difference between the counter's steps and the samples', at this phase and trail
    """

    period_ns: float
    phase_ns: int
    trails_weight: Floats
    error_j: float

    @property
    def trails_ns(self) -> float:
        return float((self.trails_weight * TRAILS_NS).sum())

    def number_before(self, t_ns: Ints) -> Ints:
        """The last tick before each time, counted from `phase_ns`."""
        numbers: Ints = np.floor((t_ns - self.phase_ns) / self.period_ns).astype(np.int64)
        return numbers

    def tick_ns(self, number: Ints) -> Ints:
        return (self.phase_ns + np.round(number * self.period_ns)).astype(np.int64)


@dataclass(frozen=True)
class Counter:
    """What was read of the energy counter.

    ticks_ns, energy_j  int64[n] increasing, float64[n]: ticks that were read, in true time
    breaks_ns           int64[m, 2]: stretches it did not count through
    grid                None: not found, and a value is taken to be half a step old
    tick_sd_ns          standard deviation of one tick's own place
    shape_lag_ns        by how much the power source trails true time
    alignment_sd_ns     standard deviation of an error in true time that all ticks and the power source share
    timescale_sd        relative standard deviation of the time between ticks: the counter's clock against this one
    left_out            reads and ticks that do not fit those around them
    """

    ticks_ns: Ints
    energy_j: Floats
    breaks_ns: Ints
    grid: CounterGrid | None
    tick_sd_ns: float
    shape_lag_ns: float
    alignment_sd_ns: float
    timescale_sd: float
    left_out: int = 0


def read_counter(
    reads: NDArray[np.void],
    shape: PowerCurve | None,
    others: Sequence[PowerCurve] = (),
    most_w: float = MOST_POWER_W,
) -> Counter:
    """Ticks, from EVENT_DTYPE reads in the order of time and the finest power source there is.

    others   further power sources, the finest first: witnesses where `shape` has gaps
    most_w   power [W] that the board can draw

    Single reads that do not fit those around them are left out. Through stretches that the counter did not count, the
    joules are the shape's, so that what lies between them stays in one piece.
    """
    reads = reads[(reads["nvml_return"] == 0) & (reads["value"] > 0)]
    reads = reads[reads["t1_ns"] - reads["t0_ns"] <= LONGEST_CALL_NS]
    fit = _without_glitches(reads, most_w)
    reads, left_out = reads[fit], int((~fit).sum())
    if not len(reads):
        nothing = np.empty(0, np.int64)
        return Counter(nothing, np.empty(0), nothing.reshape(0, 2), None, 0.0, 0.0, 0.0, 0.0, left_out)
    seen_ns = (reads["t0_ns"] + reads["t1_ns"]) // 2
    witnesses = ([] if shape is None else [shape]) + list(others)
    moved_j = np.diff(reads["value"] / 1e3)
    # One value may be read several times between two ticks, but not for long.
    number = np.arange(len(seen_ns))
    first = np.maximum.accumulate(np.where(np.concatenate(([True], moved_j != 0)), number, 0))
    stood = seen_ns - seen_ns[first] > STUCK_NS
    if shape is not None:
        drawn = shape.at(np.clip(seen_ns, shape.t_ns[0], shape.t_ns[-1]))
        stood &= drawn - drawn[first] > STUCK_J
    # From the first read of a value that stood to the read after its last: when it stopped is not known.
    energy_j, stuck_ns = _bridged(seen_ns, reads["value"] / 1e3, np.isin(first, first[stood])[:-1], shape)
    # Where ticks are is not known yet: a value is half a step old, give or take as much.
    half_ns = GRID_PERIODS_NS[0] // 2
    keep, energy_j, off_ns = _mended(
        seen_ns - half_ns, energy_j, witnesses, half_ns / 3**0.5, UNKNOWN_LAG_SD_NS
    )
    left_out += int((~keep).sum())
    reads, seen_ns = reads[keep], seen_ns[keep]
    impossible = ~_fits(np.diff(energy_j[keep]), np.diff(seen_ns), most_w)
    energy_j, jumped_ns = _bridged(seen_ns, energy_j[keep], impossible, shape)
    breaks_ns = np.concatenate((stuck_ns, jumped_ns, off_ns + np.array([-half_ns, half_ns])))
    # Where in the call the value is taken is not known.
    call_sd_ns = float(np.median(reads["t1_ns"] - reads["t0_ns"])) / 12**0.5

    grid = None if shape is None else _GridFit(seen_ns, energy_j, shape).best()
    if grid is None or shape is None:
        # On average a value is half a grid step old.
        ticks_ns = seen_ns - GRID_PERIODS_NS[0] // 2
        tick_sd_ns, lag_ns, alignment_sd_ns = GRID_PERIODS_NS[0] / 12**0.5, 0.0, UNKNOWN_LAG_SD_NS
    else:
        number, clear = _numbers(grid, seen_ns, energy_j, shape)
        if clear.sum() >= 2:
            seen_ns, energy_j, number = seen_ns[clear], energy_j[clear], number[clear]
        shown = _begins_to_show(seen_ns - grid.tick_ns(number), grid.period_ns)
        joint = shown[:, None] * grid.trails_weight[None, :]
        lag = TRAILS_NS[None, :] - STARTS_NS[:, None]
        # A sample does not come before the power that it shows.
        joint *= (lag >= 0.0) & (lag <= LONGEST_LAG_NS)
        if joint.sum() <= 0.0:
            joint[:] = 1.0
        joint /= joint.sum()
        shown_ns, lag_ns = float((joint * STARTS_NS[:, None]).sum()), float((joint * lag).sum())
        shown_sd_ns = float((joint * (STARTS_NS[:, None] - shown_ns) ** 2).sum()) ** 0.5
        trails_sd_ns = float((joint * (TRAILS_NS[None, :] - shown_ns - lag_ns) ** 2).sum()) ** 0.5
        alignment_sd_ns = (shown_sd_ns**2 + call_sd_ns**2 + trails_sd_ns**2) ** 0.5
        ticks_ns = grid.tick_ns(number) + round(shown_ns)
        # Ticks that come faster than they show are not told apart for certain.
        tick_sd_ns = FINE_TICK_SD * grid.period_ns if grid.period_ns <= FINE_TICK_NS else 0.0
    ticks_ns, first = np.unique(ticks_ns, return_index=True)
    energy_j = energy_j[first]
    # Several reads of one value: the tick is before the first of them.
    fresh = np.concatenate(([True], np.diff(energy_j) != 0))
    ticks_ns, energy_j = ticks_ns[fresh], energy_j[fresh]
    shifted = [curve.shifted(-round(lag_ns)) for curve in witnesses]
    keep, energy_j, off = _mended(ticks_ns, energy_j, shifted, tick_sd_ns, alignment_sd_ns)
    left_out += int((~keep).sum())
    ticks_ns = ticks_ns[keep]
    breaks_ns = np.concatenate((breaks_ns, off))
    timescale_sd = min(CLOCK_SD, TICK_ENDS_SD_NS / max(float(ticks_ns[-1] - ticks_ns[0]), 1.0))
    return Counter(
        ticks_ns,
        energy_j[keep],
        breaks_ns[np.argsort(breaks_ns[:, 0], kind="stable")],
        grid,
        tick_sd_ns,
        lag_ns,
        alignment_sd_ns,
        timescale_sd,
        left_out,
    )


def _fits(moved_j: Floats, after_ns: Ints, most_w: float) -> NDArray[np.bool_]:
    """Whether a counter can have moved so far: not back, and by no more than the board can draw."""
    fits: NDArray[np.bool_] = (moved_j >= 0) & (moved_j <= most_w * (after_ns / S_NS + STEP_SLACK_S))
    return fits


def _without_glitches(reads: NDArray[np.void], most_w: float) -> NDArray[np.bool_]:
    """Which reads are kept: up to `GLITCH_READS` in a row are left out where those around them fit each other, and they do not.

    Where either side of a step may be the wrong one, both are kept.
    """
    seen_ns = ((reads["t0_ns"] + reads["t1_ns"]) // 2).astype(np.int64)
    value_j = reads["value"] / 1e3
    keep = np.ones(len(reads), bool)

    def fit(i: int, j: int) -> bool:
        return bool(_fits(value_j[j : j + 1] - value_j[i], seen_ns[j : j + 1] - seen_ns[i], most_w)[0])

    for at in np.flatnonzero(~_fits(np.diff(value_j), np.diff(seen_ns), most_w)).tolist():
        if not (keep[at] and keep[at + 1]):
            continue
        reach = range(1, GLITCH_READS + 1)
        later = next((n for n in reach if at + 1 + n < len(reads) and fit(at, at + 1 + n)), GLITCH_READS + 1)
        earlier = next((n for n in reach if at - n >= 0 and fit(at - n, at + 1)), GLITCH_READS + 1)
        if later < earlier:
            keep[at + 1 : at + 1 + later] = False
        elif earlier < later:
            keep[at + 1 - earlier : at + 1] = False
        elif later > GLITCH_READS and len(reads) > 2:
            # At an end of the trace a read has nothing behind it to fit.
            if at == 0 and fit(1, 2):
                keep[0] = False
            elif at + 2 == len(reads) and fit(at - 1, at):
                keep[-1] = False
    return keep


def _bridged(
    seen_ns: Ints, energy_j: Floats, broken: NDArray[np.bool_], shape: PowerCurve | None
) -> tuple[Floats, Ints]:
    """(joules with those of the shape in place of the broken steps', 0 where there is no shape; breaks [m, 2] ns)."""
    drawn_j = np.zeros(len(broken))
    if shape is not None:
        drawn_j = np.diff(shape.at(np.clip(seen_ns, shape.t_ns[0], shape.t_ns[-1])))
    joules = energy_j[0] + np.concatenate(([0.0], np.cumsum(np.where(broken, drawn_j, np.diff(energy_j)))))
    at = np.flatnonzero(broken)
    return joules, np.stack((seen_ns[at] - GRID_PERIODS_NS[0], seen_ns[at + 1]), axis=1)


def _mended(
    ticks_ns: Ints, energy_j: Floats, witnesses: Sequence[PowerCurve], tick_sd_ns: float, lag_sd_ns: float
) -> tuple[NDArray[np.bool_], Floats, Ints]:
    """(which ticks are kept, joules of all, breaks [m, 2] ns), by the power that was seen between ticks.

    A tick whose neighbours fit each other without it is left out, and up to `GLITCH_READS` at either end. Any other step that does not fit is a break, and takes
    the joules that were seen in place of the counter's.
    """
    keep, energy_j = np.ones(len(ticks_ns), bool), energy_j.copy()
    breaks: list[tuple[int, int]] = []
    at_ends = [0, 0]
    """Ticks that were left out at the begin and at the end."""

    def steps(chosen: NDArray[np.bool_]) -> Steps | None:
        return check_steps(ticks_ns[chosen], energy_j[chosen], witnesses, tick_sd_ns / S_NS, lag_sd_ns / S_NS)

    found = steps(keep)
    for _ in range(REPAIR_ROUNDS):
        if found is None:
            break
        over = np.where(found.seen, np.abs(found.off_j) / found.limit_j, 0.0)
        worst = int(np.argmax(over))
        if over[worst] <= 1.0:
            break
        at = np.flatnonzero(keep)
        without: list[tuple[float, NDArray[np.bool_], Steps]] = []
        for tick in (worst, worst + 1):
            fewer = keep.copy()
            fewer[at[tick]] = False
            if not 0 < tick < len(at) - 1 or (merged := steps(fewer)) is None or not merged.seen[tick - 1]:
                continue
            left_j = abs(float(merged.off_j[tick - 1]))
            if left_j < abs(float(found.off_j[worst])) / 2:
                without.append((left_j / float(merged.limit_j[tick - 1]), fewer, merged))
        best = min(without, key=lambda one: one[0], default=None)
        if best is not None and best[0] <= 1.0:
            keep, found = best[1], best[2]
            continue
        end = 0 if worst == 0 else -1 if worst == len(at) - 2 else None
        if len(at) > 2 and end is not None and at_ends[end] < GLITCH_READS:
            # Nothing lies behind the tick at an end: it may as well be the one that is wrong.
            at_ends[end] += 1
            keep[at[end]] = False
            found = steps(keep)
            continue
        breaks.append((int(ticks_ns[at[worst]]), int(ticks_ns[at[worst + 1]])))
        energy_j[at[worst] + 1 :] -= found.off_j[worst]
        found = steps(keep)
    return keep, energy_j, np.array(breaks, np.int64).reshape(-1, 2)


def _numbers(
    grid: CounterGrid, seen_ns: Ints, energy_j: Floats, shape: PowerCurve
) -> tuple[Ints, NDArray[np.bool_]]:
    """Which tick each read saw, and whether that is clear.

    A read close to where a tick begins to show is settled by its joules: those of the two ticks in question
    differ by a step of the counter, far more than the samples err between the reads around it.
    """
    trails_ns = round(grid.trails_ns)
    number = grid.number_before(seen_ns)
    since_ns = seen_ns - grid.tick_ns(number)
    margin_ns = min(SHOWN_LATE_NS, grid.period_ns / 4)
    clear = (since_ns > margin_ns) & (since_ns < grid.period_ns - margin_ns)
    anchors_j = shape.at(grid.tick_ns(number[clear]) + trails_ns)
    if len(anchors_j) < 2 or (np.diff(anchors_j) < 0).any():
        return number, clear
    asked = np.flatnonzero(~clear)
    candidates = number[asked, None] + np.array([-1, 0, 1])
    drawn = shape.at(grid.tick_ns(candidates) + trails_ns)
    # From the clear ticks on either side, as far as the samples can be trusted between them and the one in question.
    after = np.clip(np.searchsorted(number[clear], number[asked]), 1, len(anchors_j) - 1)[:, None]
    before = after - 1
    energy_clear_j = energy_j[clear]
    gain = local_gain(energy_clear_j, anchors_j)[before]
    anchors_j2, drawn_j2 = (
        _doubt_at(shape, grid.tick_ns(n) + trails_ns) for n in (number[clear], candidates)
    )
    left, right = drawn_j2 - anchors_j2[before], anchors_j2[after] - drawn_j2
    from_before_j = energy_clear_j[before] + gain * (drawn - anchors_j[before])
    from_after_j = energy_clear_j[after] - gain * (anchors_j[after] - drawn)
    share = np.clip(left / np.maximum(left + right, 1e-30), 0.0, 1.0)
    off_j = np.abs((1 - share) * from_before_j + share * from_after_j - energy_j[asked, None])
    best = np.argmin(off_j, axis=1)
    step_j = (drawn[:, 2] - drawn[:, 0]) / 2
    inside = (drawn[:, 0] > anchors_j[0]) & (drawn[:, 2] < anchors_j[-1])
    sd_j = np.sqrt(np.abs(left * right) / np.maximum(left + right, 1e-30))[:, 1]
    sure = (off_j.min(axis=1, initial=np.inf) < SETTLED_SHARE * step_j) & (sd_j < SETTLED_DOUBT * step_j)
    # The difference is the same at each candidate.
    sure &= np.abs(from_after_j - from_before_j)[:, 1] < SETTLED_APART * step_j
    settled = inside & sure
    number[asked] = candidates[np.arange(len(asked)), best]
    clear[asked] = settled
    return number, clear


def _doubt_at(shape: PowerCurve, t_ns: Ints) -> Floats:
    """Variance of what the samples may have missed up to each time, joule^2."""
    first_ns = shape.t_ns[0]
    variance: Floats = np.interp(
        (t_ns - first_ns).astype(float), (shape.t_ns - first_ns).astype(float), doubt_j2(shape)
    )
    return variance


def _begins_to_show(age_ns: Ints, period_ns: float) -> Floats:
    """When, against the fitted phase, ticks begin to show, from the ages at which reads returned them: weights of STARTS_NS.

    A tick shows from x + U(0, w) on. A read of age a, against its tick, then saw it with probability
    clip((a - x) / w, 0, 1), and had not yet seen the next, a period later, likewise. Posterior over x and over the
    widths, both flat. What is taken for the tick itself is where showing begins: it cannot begin before the tick.
    """
    log_likelihood = np.full((len(SHOWN_WIDTHS_NS), len(STARTS_NS)), 0.0)
    age = np.asarray(age_ns, float)
    for row, width in enumerate(SHOWN_WIDTHS_NS):
        if width > period_ns:
            log_likelihood[row] = -np.inf
            continue
        own = np.clip((age[None, :] - STARTS_NS[:, None]) / width, 0.0, 1.0)
        following = np.clip((age[None, :] - period_ns - STARTS_NS[:, None]) / width, 0.0, 1.0)
        # A share of reads is off for other reasons: none of them rules a start out.
        log_likelihood[row] = np.log(0.002 + 0.998 * own * (1.0 - following)).sum(axis=1)
    return _normalised(np.logaddexp.reduce(log_likelihood, axis=0))


class _GridFit:
    """The search for the counter's grid in its reads: `best()` is None where they do not tell.

    Found from a minute's reads, where no drift blurs the phase; then the stretch is doubled until it holds
    all reads, period and phase following. Misfit is measured by absolute values: a read close to a tick may
    be off by a whole step of the counter, whatever the grid.

    seen_ns   when the counter was read
    energy_j  what it said
    """

    def __init__(self, seen_ns: Ints, energy_j: Floats, shape: PowerCurve) -> None:
        inside = (seen_ns - GRID_PERIODS_NS[0] > shape.t_ns[0]) & (seen_ns < shape.t_ns[-1])
        self.seen_ns, self.energy_j = seen_ns[inside], energy_j[inside]
        if len(self.seen_ns) > FIT_READS:
            chosen = np.linspace(0, len(self.seen_ns) - 1, FIT_READS).astype(np.int64)
            self.seen_ns, self.energy_j = self.seen_ns[chosen], self.energy_j[chosen]
        # A table, because the search asks some hundred thousand times.
        self._origin_ns = int(shape.t_ns[0])
        entries = (int(shape.t_ns[-1]) - self._origin_ns) // TABLE_STEP_NS + 2
        self._table = shape.at(self._origin_ns + np.arange(entries, dtype=np.int64) * TABLE_STEP_NS)

    def best(self) -> CounterGrid | None:
        reads = len(self.seen_ns)
        found = self._chunk()
        if found is None:
            return None
        nominal_ns, phase_ns, low, high = found
        period_ns, trails_ns, twice = nominal_ns, 0.0, False
        while True:
            before = self._middle(low, high)
            whole = (low, high) == (0, reads)
            if not whole:
                width = high - low
                low, high = max(0, low - width // 2), min(reads, high + width // 2)
            middle = self._middle(low, high)
            # The tick next to the new middle.
            phase_ns += before + round((middle - before - phase_ns) / period_ns) * period_ns - middle
            for step_ns in (4e6, 1e6, 0.5e6):
                period_ns, phase_ns = self._refine(
                    low, high, nominal_ns, period_ns, phase_ns, trails_ns, step_ns
                )
            if not whole:
                continue
            weight = self._trails(period_ns, phase_ns)
            trails_ns = float((weight * TRAILS_NS).sum())
            if not twice:
                twice = True
                continue
            error_j = self._misfit(0, reads, _just(period_ns), _just(phase_ns), _just(trails_ns))
            return CounterGrid(period_ns, middle + round(phase_ns), weight, float(error_j[0]))

    def _middle(self, low: int, high: int) -> int:
        return int(self.seen_ns[(low + high) // 2])

    def _drawn_j(self, since_ns: Floats, middle: int) -> Floats:
        """What the samples show up to times after `middle`, by the table."""
        place = np.clip(
            (since_ns + (middle - self._origin_ns)) / TABLE_STEP_NS, 0.0, len(self._table) - 1.001
        )
        index = place.astype(np.int64)
        low = self._table[index]
        joules: Floats = low + (place - index) * (self._table[index + 1] - low)
        return joules

    def _misfit(
        self, low: int, high: int, periods_ns: Floats, phases_ns: Floats, trails_ns: Floats
    ) -> Floats:
        """Mean |joule| of each grid over reads [low, high), float64[grids].

        phases_ns   of a tick after the middle read
        """
        middle = self._middle(low, high)
        since_ns = (self.seen_ns[low:high] - middle).astype(float)
        steps = np.floor((since_ns[None, :] - phases_ns[:, None]) / periods_ns[:, None])
        ticks_ns = phases_ns[:, None] + steps * periods_ns[:, None] + trails_ns[:, None]
        drawn_j = np.diff(self._drawn_j(ticks_ns, middle), axis=1)
        moved_j = np.diff(self.energy_j[low:high])
        # The samples' gain differs from load to load where they alias.
        gain = _running(moved_j) / np.maximum(_running(drawn_j), 1e-12)
        errors: Floats = np.mean(np.abs(moved_j - gain * drawn_j), axis=1)
        return errors

    def _chunk(self) -> tuple[float, float, int, int] | None:
        """Nominal period, phase and bounds of the first reads that show a grid: a right phase stands out."""
        contrast, found = MIN_CONTRAST, None
        for start in range(0, len(self.seen_ns), GRID_CHUNK_READS):
            high = min(start + GRID_CHUNK_READS, len(self.seen_ns))
            low = max(0, min(start, high - MIN_READS_FOR_GRID))
            if high - low < MIN_READS_FOR_GRID:
                break
            fits: list[tuple[float, float, float, float]] = []  # least misfit, median, period, phase
            for nominal in GRID_PERIODS_NS:
                phases_ns = np.asarray(np.arange(0.0, nominal, 1e6), np.float64)
                same = np.ones(len(phases_ns))
                errors = self._misfit(low, high, nominal * same, phases_ns, 0.0 * same)
                least = int(np.argmin(errors))
                fits.append(
                    (float(errors[least]), float(np.median(errors)), float(nominal), float(phases_ns[least]))
                )
            fits.sort()
            # On a fine grid the phase matters less than that it is no coarser one.
            stands_out = max(fits[0][1], fits[1][0]) / max(fits[0][0], 1e-3)
            if stands_out > contrast:
                contrast, found = stands_out, (fits[0][2], fits[0][3], low, high)
            if contrast > 3.0:
                break
        return found

    def _refine(
        self,
        low: int,
        high: int,
        nominal_ns: float,
        period_ns: float,
        phase_ns: float,
        trail_ns: float,
        step_ns: float,
    ) -> tuple[float, float]:
        """Period and phase nearby, by how far ticks at the ends and in the middle are moved."""
        middle = self._middle(low, high)
        reach_ns = max(float(self.seen_ns[high - 1] - middle), float(middle - self.seen_ns[low]), period_ns)
        ends, middles = np.meshgrid(np.arange(-6, 7) * step_ns, np.arange(-8, 9) * step_ns / 2)
        ends_ns, middles_ns = ends.ravel(), middles.ravel()
        drift = period_ns / nominal_ns - 1.0 + ends_ns / reach_ns
        allowed = (np.abs(drift) <= MAX_DRIFT) | (ends_ns == 0.0)
        ends_ns, middles_ns = ends_ns[allowed], middles_ns[allowed]
        periods_ns: Floats = period_ns * (1.0 + ends_ns / reach_ns)
        phases_ns: Floats = phase_ns + middles_ns
        errors = self._misfit(low, high, periods_ns, phases_ns, np.full(len(phases_ns), trail_ns))
        low_points = _bottom(errors)
        # The bottom need not be convex: of its points, the one nearest to its middle and to the nominal period.
        off = np.hypot(
            ends_ns[low_points] - ends_ns[low_points].mean(),
            middles_ns[low_points] - middles_ns[low_points].mean(),
        )
        drifted_ns = np.abs(periods_ns[low_points] / nominal_ns - 1.0) * reach_ns
        at = int(low_points[np.argmin(off + drifted_ns)])
        return float(periods_ns[at]), float(phases_ns[at])

    def _trails(self, period_ns: float, phase_ns: float) -> Floats:
        """How likely the samples trail the ticks as they show by each of TRAILS_NS; sums to 1.

        For errors with exponential tails of unknown scale: misfit ** -reads.
        """
        same = np.ones(len(TRAILS_NS))
        errors = self._misfit(0, len(self.seen_ns), period_ns * same, phase_ns * same, TRAILS_NS)
        log_weight = -len(self.seen_ns) * np.log(np.maximum(errors, COUNTER_RESOLUTION_J))
        return _normalised(log_weight)


def _normalised(log_weight: Floats) -> Floats:
    weight = np.exp(log_weight - log_weight.max())
    return np.asarray(weight / weight.sum(), np.float64)


def _running(values: Floats) -> Floats:
    """Sums over the `GAIN_READS` differences around each one, along the last axis."""
    reach = GAIN_READS // 2
    total = np.cumsum(values, axis=-1)
    count = values.shape[-1]
    index = np.arange(count)
    low, high = np.maximum(index - reach, 0), np.minimum(index + reach, count - 1)
    sums: Floats = total[..., high] - total[..., low] + values[..., low]
    return sums


def _just(value: float) -> Floats:
    return np.array([value])


def _bottom(errors: Floats) -> Ints:
    """The grids that fit as well as the best: where no read falls between two phases, the misfit is flat."""
    found: Ints = np.flatnonzero(errors <= float(errors.min()) * 1.02 + 1e-9)
    return found
