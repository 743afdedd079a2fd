"""The energy counter: which of its ticks each read saw, and when those were."""

from __future__ import annotations

import numpy as np
import pytest

from wattcount.emulation.machine import simulate, virtual_trace
from wattcount.energy.counter import read_counter
from wattcount.energy.curve import PowerCurve
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.energy.trace import PowerTrace

MS = 1_000_000
S = 1_000_000_000
START_NS = 1000 * S


def varied(seconds: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    steps = (rng.uniform(0.03, 0.4, int(seconds * 10) + 200) * S).astype(np.int64)
    t_ns = START_NS - 15 * S + np.cumsum(steps)
    return t_ns, rng.choice([150.0, 420.0, 480.0, 690.0], len(t_ns))


def true_tick_ns(sensors: object, period_ns: int = 100 * MS) -> float:
    """When the grid's ticks are, modulo the period: the earliest that any of them shows."""
    t_ns = np.arange(START_NS, START_NS + 60 * S, MS // 2)
    shown = t_ns[1:][np.diff(sensors.counter_j(t_ns)) > 0]  # type: ignore[attr-defined]
    phase = (shown - shown[0] + period_ns / 2) % period_ns - period_ns / 2
    return float(shown[0] + phase.min())


@pytest.mark.parametrize("seed", [1, 2, 3, 4])
def test_ticks_and_the_lag_of_the_samples_are_found(seed: int) -> None:
    """To within what it says of them itself: the samples trail by a low-pass of 9 ms and a delay of 4.2 ms."""
    sensors = simulate("h200", *varied(120, seed), seed=seed)
    trace = virtual_trace("h200", sensors, START_NS, 120.0, seed=seed)
    counter = trace.model(trace.gpu_uuids[0]).counter
    assert counter.grid is not None
    assert counter.grid.period_ns == pytest.approx(100e6, rel=1e-4)
    off_ns = (counter.ticks_ns - true_tick_ns(sensors) + 50e6) % 100e6 - 50e6
    assert abs(np.median(off_ns)) < 3 * counter.alignment_sd_ns
    assert abs(counter.shape_lag_ns - 13.2e6) < 3 * counter.alignment_sd_ns
    assert counter.alignment_sd_ns < 6e6


@pytest.mark.parametrize("seed", [5, 6])
def test_every_read_is_put_to_the_tick_it_saw(seed: int) -> None:
    """Reads just where a tick begins to show, too: one step of the counter is tens of joules."""
    sensors = simulate("h200", *varied(120, seed), seed=seed)
    trace = virtual_trace("h200", sensors, START_NS, 120.0, seed=seed)
    counter = trace.model(trace.gpu_uuids[0]).counter
    true_j = sensors.true_energy_j(counter.ticks_ns)
    off_j = (counter.energy_j - counter.energy_j[0]) - (true_j - true_j[0])
    assert np.abs(off_j - np.median(off_j)).max() < 0.2 * 150.0 * 0.1 + 690 * 0.008
    assert len(counter.ticks_ns) > 100


def test_steady_power_shows_no_lag_and_says_so() -> None:
    sensors = simulate("h200", np.array([0]), np.array([300.0]))
    trace = virtual_trace("h200", sensors, START_NS, 60.0)
    counter = trace.model(trace.gpu_uuids[0]).counter
    assert counter.alignment_sd_ns > 8e6


def test_samples_never_come_before_the_power_they_show() -> None:
    for period_s, on_s in ((0.1, 0.025), (0.1, 0.05), (0.0203, 0.01)):
        begin = np.arange(-20.0, 70.0, period_s)
        t_ns = START_NS + (np.stack((begin, begin + on_s), axis=1).ravel() * S).astype(np.int64)
        sensors = simulate("h200", t_ns, np.tile([690.0, 120.0], len(begin)))
        trace = virtual_trace("h200", sensors, START_NS, 60.0)
        assert trace.model(trace.gpu_uuids[0]).counter.shape_lag_ns >= 0


def test_few_reads_have_no_grid_and_are_half_a_step_old() -> None:
    sensors = simulate("h200", *varied(10, 1))
    trace = virtual_trace("h200", sensors, START_NS, 4.0)
    counter = trace.model(trace.gpu_uuids[0]).counter
    assert counter.grid is None
    assert counter.tick_sd_ns == pytest.approx(100e6 / 12**0.5)
    reads = trace.of(trace.gpu_uuids[0], Source.ENERGY_COUNTER)
    middles = (reads["t0_ns"] + reads["t1_ns"]) // 2
    assert (counter.ticks_ns == middles[: len(counter.ticks_ns)] - 50 * MS).all()


def reads(values_mj: list[int], period_ns: int = S) -> np.ndarray:
    made = np.zeros(len(values_mj), EVENT_DTYPE)
    made["t0_ns"] = START_NS + np.arange(len(values_mj)) * period_ns
    made["t1_ns"] = made["t0_ns"] + 3 * MS
    made["value"] = values_mj
    return made


def test_no_reads_at_all() -> None:
    counter = read_counter(reads([]), None)
    assert len(counter.ticks_ns) == 0
    failed = reads([1, 2, 3])
    failed["nvml_return"] = 3
    assert len(read_counter(failed, None).ticks_ns) == 0


def test_a_counter_that_goes_back_is_broken_there() -> None:
    counter = read_counter(reads([1000, 301_000, 2_000, 302_000]), None)
    assert len(counter.breaks_ns) == 1
    start_ns, end_ns = counter.breaks_ns[0]
    assert start_ns < START_NS + S + S // 2 < end_ns


def test_a_counter_that_stands_while_power_was_drawn_is_broken_there() -> None:
    t_ns = START_NS - S + np.arange(500, dtype=np.int64) * 20 * MS
    shape = PowerCurve.through(t_ns, np.full(len(t_ns), 300.0))
    counter = read_counter(reads([0, 300_000, 300_000, 300_000, 600_000, 900_000]), shape)
    assert len(counter.breaks_ns) >= 1
    assert counter.breaks_ns[0][0] <= START_NS + 2 * S <= counter.breaks_ns[-1][1]


def test_a_counter_that_stands_is_not_believed_where_nothing_says_that_no_power_was_drawn() -> None:
    counter = read_counter(reads([5, 5, 5, 5]), None)
    assert len(counter.breaks_ns) == 3


def steady(seconds: int = 30, watts: float = 300.0) -> tuple[np.ndarray, PowerCurve]:
    """Reads of a counter once a second, and 20 ms samples of the same steady power."""
    t_ns = START_NS - S + np.arange((seconds + 2) * 50, dtype=np.int64) * 20 * MS
    shape = PowerCurve.through(t_ns, watts + np.sin(np.arange(len(t_ns))))
    return reads([3_000_000_000 + round(1e3 * watts * k) for k in range(seconds)]), shape


@pytest.mark.parametrize("glitch", [1, 0xFFFFFFFF, 10**15, -(10**9), 2_999_000_000, 3_000_850_000])
@pytest.mark.parametrize("at", [0, 1, 12, 28, 29])
def test_one_read_that_cannot_be_is_left_out(glitch: int, at: int) -> None:
    events, shape = steady()
    events["value"][at] = glitch
    for witness in (shape, None):
        counter = read_counter(events, witness, most_w=1400.0)
        if witness is None and 2_999_000_000 <= glitch <= 3_001_000_000:
            continue  # within what a board can draw: without power nothing tells which read is wrong
        assert len(counter.breaks_ns) == 0
        moved_j = counter.energy_j[-1] - counter.energy_j[0]
        assert moved_j == pytest.approx(300.0 * (counter.ticks_ns[-1] - counter.ticks_ns[0]) / S, rel=1e-6)


@pytest.mark.parametrize("lost_j", [120.0, 150.0, 290.0, -120.0, -400.0])
def test_less_than_a_second_of_counting_that_is_lost_is_a_break(lost_j: float) -> None:
    """Steady power does not tell where ticks are: any step may be off by a tenth of a second, 30 J, at either end."""
    events, shape = steady()
    events["value"][15:] -= round(1e3 * lost_j)
    counter = read_counter(events, shape, most_w=1400.0)
    assert len(counter.breaks_ns) == 1
    start_ns, end_ns = counter.breaks_ns[0]
    assert START_NS + 13 * S < start_ns < START_NS + 14.5 * S < end_ns < START_NS + 16 * S
    # What was counted on either side stays in one piece.
    assert counter.energy_j[-1] - counter.energy_j[0] == pytest.approx(
        300.0 * (counter.ticks_ns[-1] - counter.ticks_ns[0]) / S, abs=3.0
    )


def test_a_read_that_hung_says_nothing() -> None:
    events, shape = steady()
    events["t1_ns"][10] = events["t0_ns"][10] + 900 * MS
    events["value"][10] += 250_000
    assert len(read_counter(events, shape, most_w=1400.0).breaks_ns) == 0


def test_another_power_source_is_the_witness_where_the_first_has_a_gap() -> None:
    events, whole = steady()
    events["value"][15:] -= 200_000
    hidden = (whole.t_ns < START_NS + 14.0 * S) | (whole.t_ns > START_NS + 15.2 * S)
    holed = PowerCurve.through(whole.t_ns[hidden], whole.power_at(whole.t_ns[hidden]))
    assert len(read_counter(events, holed, [], 1400.0).breaks_ns) == 0
    assert len(read_counter(events, holed, [whole], 1400.0).breaks_ns) == 1


@pytest.mark.parametrize("lost_steps", [0, 3, 5])
def test_counting_that_was_lost_is_not_shared_out_over_reads_that_are_not_clear(lost_steps: int) -> None:
    """Each would be taken for the tick before the one that it saw, and no step be off by more than a tick's energy."""
    rng = np.random.default_rng(9)
    t_ns, power_w = varied(60, 9)
    sensors = simulate("h200", t_ns, np.where(t_ns < START_NS + 20 * S, power_w, 94.0), seed=9)
    trace = virtual_trace("h200", sensors, START_NS, 60.0, seed=9)
    events = trace.events[trace.events["source"] != Source.ENERGY_COUNTER]
    ticks_ns = round(true_tick_ns(sensors)) + (np.arange(0, 580, 10) + rng.integers(0, 2, 58)) * 100 * MS
    clear = (ticks_ns < START_NS + 26 * S) | (ticks_ns > START_NS + 34 * S)
    ages_ns = np.where(clear, rng.integers(25 * MS, 75 * MS, 58), 10 * MS)
    reads = np.zeros(len(ticks_ns), EVENT_DTYPE)
    reads["t0_ns"] = reads["t1_ns"] = ticks_ns + ages_ns
    reads["prev_t0_ns"], reads["source_ts_us"], reads["source"] = -1, -1, Source.ENERGY_COUNTER
    reads["value"] = np.round(sensors.counter_j(reads["t0_ns"]) * 1e3)
    reads["value"][reads["t0_ns"] > START_NS + 30 * S] -= lost_steps * 9_400
    counter = PowerTrace(trace.gpu_uuids, np.concatenate((events, reads))).model(trace.gpu_uuids[0]).counter
    assert counter.grid is not None
    assert len(counter.breaks_ns) == (lost_steps > 0)
