"""The energy of an interval: against the truth of emulated sensors, and against recorded hardware."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from growth import growth
from hypothesis import given, settings
from hypothesis import strategies as st

from wattcount.emulation.machine import simulate
from wattcount.energy import PowerTrace
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.gpu import _native

S = 1_000_000_000
MS = 1_000_000
GPU = "GPU-a"
REALTIME_OFFSET_NS = 1_700_000_000 * S
START_NS = 1000 * S


def sampled(
    t_ns: np.ndarray,
    power_w: np.ndarray,
    seconds: float,
    *,
    profile: str = "h200",
    counter_period_s: float = 1.009,
    sources: frozenset[Source] = frozenset(Source),
    seed: int = 3,
) -> tuple[PowerTrace, object]:
    """What the sampler would keep of virtual sensors over a true curve, from START_NS on."""
    sensors = simulate(profile, t_ns, power_w, seed=seed)
    rng = np.random.default_rng(seed)
    end_ns = START_NS + int(seconds * S)
    rows: list[tuple[int, ...]] = []

    def polled(source: Source, read: object, period_s: float, scale: float) -> None:
        gaps = rng.uniform(0.95, 1.05, int(seconds / period_s) + 2) * period_s * S
        times = START_NS + np.cumsum(gaps).astype(np.int64)
        times = times[times < end_ns]
        values = np.round(read(times) * scale).astype(np.int64)  # type: ignore[operator]
        last = None
        for t, value in zip(times.tolist(), values.tolist(), strict=True):
            if value != last:
                rows.append((-1, t, t + 1000, -1, value, 0, source, 0))
            last = value

    if Source.ENERGY_COUNTER in sources:
        polled(Source.ENERGY_COUNTER, sensors.counter_j, counter_period_s, 1e3)
    if Source.POWER_INSTANT in sources:
        polled(Source.POWER_INSTANT, sensors.instant_w, 0.02, 1e3)
    if Source.POWER_AVERAGE in sources:
        polled(Source.POWER_AVERAGE, sensors.average_w, 0.02, 1e3)
    if Source.POWER_SAMPLES in sources:
        after = 0
        for drain in range(START_NS, end_ns, S):
            stamps, watts = sensors.ring(drain, after)
            for stamp, power in zip(stamps.tolist(), watts.tolist(), strict=True):
                rows.append((-1, drain, drain, (stamp + REALTIME_OFFSET_NS) // 1000, round(power * 1e3), 0, Source.POWER_SAMPLES, 0))  # fmt: skip
                after = stamp
            rows.append((-1, drain, drain, -1, drain + REALTIME_OFFSET_NS, 0, Source.REALTIME, 0))
    return PowerTrace((GPU,), np.array(rows, EVENT_DTYPE)), sensors


def llm_like(seconds: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Prefill spikes over decode plateaus: steps of 30 to 400 ms between 150 and 690 W."""
    rng = np.random.default_rng(seed)
    steps = (rng.uniform(0.03, 0.4, int(seconds * 10) + 200) * S).astype(np.int64)
    t_ns = START_NS - 15 * S + np.cumsum(steps)
    return t_ns, rng.choice([150.0, 420.0, 480.0, 690.0], len(t_ns))


def windows(rng: np.random.Generator, n: int, seconds: float, length_s: float) -> list[tuple[int, int]]:
    starts = START_NS + (rng.uniform(3.0, seconds - length_s - 5.0, n) * S).astype(np.int64)
    return [(int(a), int(a + length_s * S)) for a in starts]


def relative_errors(trace: PowerTrace, sensors: object, spans: list[tuple[int, int]]) -> np.ndarray:
    errors = []
    for a, b in spans:
        true = np.diff(sensors.true_energy_j(np.array([a, b])))[0]  # type: ignore[attr-defined]
        value = trace.energy(a, b, GPU).value_j
        assert value is not None
        errors.append(value / true - 1)
    return np.array(errors)


def test_steady_power_is_exact_to_the_resolution() -> None:
    trace, sensors = sampled(np.array([0]), np.array([250.0]), 30.0)
    errors = relative_errors(trace, sensors, windows(np.random.default_rng(0), 50, 30.0, 5.0))
    assert np.abs(errors).max() < 0.005


def test_an_llm_like_load_is_right_over_ten_seconds() -> None:
    trace, sensors = sampled(*llm_like(60.0), 60.0)
    errors = relative_errors(trace, sensors, windows(np.random.default_rng(1), 100, 60.0, 10.0))
    assert np.sqrt(np.mean(errors**2)) < 0.004
    assert np.abs(errors).max() < 0.012


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_second_is_right_once_grid_and_lag_are_known(seed: int) -> None:
    trace, sensors = sampled(*llm_like(120.0, seed=seed), 120.0, seed=seed)
    errors = relative_errors(trace, sensors, windows(np.random.default_rng(seed), 200, 120.0, 1.0))
    assert np.sqrt(np.mean(errors**2)) < 0.01


@pytest.mark.parametrize(("profile", "most"), [("a100", 0.006), ("v100", 0.009)])
def test_other_grids_are_told_from_the_reads(profile: str, most: float) -> None:
    """The counter of an A100 ticks every 100 ms, that of a V100 every 20 ms."""
    trace, sensors = sampled(*llm_like(120.0, seed=2), 120.0, seed=2, profile=profile)
    errors = relative_errors(trace, sensors, windows(np.random.default_rng(1), 100, 120.0, 1.0))
    assert np.sqrt(np.mean(errors**2)) < most


def test_shape_and_counter_beat_straight_lines() -> None:
    trace, sensors = sampled(*llm_like(60.0, seed=5), 60.0)
    spans = windows(np.random.default_rng(2), 100, 60.0, 1.0)
    shaped = relative_errors(trace, sensors, spans)
    straight = []
    for a, b in spans:
        true = np.diff(sensors.true_energy_j(np.array([a, b])))[0]  # type: ignore[attr-defined]
        value = trace.energy_by_source(a, b, GPU)["energy_counter"].value_j
        assert value is not None
        straight.append(value / true - 1)
    assert np.sqrt(np.mean(shaped**2)) < 0.5 * np.sqrt(np.mean(np.square(straight)))


@pytest.mark.parametrize(
    ("left_out", "basis"),
    [
        ((), "energy_counter+power_samples"),
        ((Source.POWER_SAMPLES,), "energy_counter+power_instant"),
        ((Source.POWER_SAMPLES, Source.POWER_INSTANT), "energy_counter"),
        ((Source.ENERGY_COUNTER,), "power_samples"),
        ((Source.ENERGY_COUNTER, Source.POWER_SAMPLES), "power_instant"),
        ((Source.ENERGY_COUNTER, Source.POWER_SAMPLES, Source.POWER_INSTANT), "power_average"),
    ],
)
def test_it_falls_back_to_what_there_is(left_out: tuple[Source, ...], basis: str) -> None:
    sources = frozenset(Source) - set(left_out)
    trace, _ = sampled(np.array([0]), np.array([333.0]), 20.0, sources=sources)
    estimate = trace.energy(START_NS + 5 * S, START_NS + 15 * S, GPU)
    assert estimate.basis == basis
    assert estimate.value_j == pytest.approx(3330.0, rel=0.02)
    if Source.ENERGY_COUNTER in left_out:
        assert "no_energy_counter" in estimate.reasons


def test_averaged_power_alone_refuses_short_windows() -> None:
    only = frozenset({Source.POWER_AVERAGE})
    trace, _ = sampled(np.array([0]), np.array([333.0]), 20.0, sources=only)
    estimate = trace.energy(START_NS + 5 * S, START_NS + 5 * S + 500 * MS, GPU)
    assert estimate.value_j is None
    boxes = trace.energy_by_source(START_NS + 5 * S, START_NS + 5 * S + 500 * MS, GPU)["power_average"]
    assert boxes.reasons == ("shorter_than_averaging_window",)


def test_averaged_power_is_read_as_boxes_not_as_power() -> None:
    t_ns = np.array([0, START_NS + 10 * S])
    only = frozenset({Source.POWER_AVERAGE})
    trace, _ = sampled(t_ns, np.array([100.0, 600.0]), 20.0, sources=only)
    a, b = START_NS + 9 * S, START_NS + 11 * S
    value = trace.energy(a, b, GPU).value_j
    # As power it would be some 450 J; the truth is 700 J.
    assert value == pytest.approx(700.0, rel=0.12)


@pytest.mark.parametrize("length_s", [4.1, 4.4, 4.8])
@pytest.mark.parametrize("into_s", [0.0, 0.2])
def test_averaged_power_brings_nothing_in_from_before_an_interval(length_s: float, into_s: float) -> None:
    """The box that ends within an interval's first second holds what was drawn before it."""
    t_ns = np.array([0, START_NS + 10 * S])
    only = frozenset({Source.POWER_AVERAGE})
    trace, sensors = sampled(t_ns, np.array([480.0, 114.0]), 20.0, sources=only)
    a = START_NS + 10 * S - round(into_s * S)
    b = a + round(length_s * S)
    estimate = trace.energy(a, b, GPU)
    true_j = float(np.diff(sensors.true_energy_j(np.array([a, b])))[0])  # type: ignore[attr-defined]
    assert estimate.value_j is not None
    assert estimate.u95_method_j is not None
    assert abs(estimate.value_j - true_j) < estimate.u95_method_j
    assert estimate.value_j == pytest.approx(true_j, rel=0.12)


def test_outside_the_trace_there_is_no_value() -> None:
    trace, _ = sampled(np.array([0]), np.array([333.0]), 10.0)
    for a, b in ((0, S), (START_NS + 100 * S, START_NS + 101 * S), (START_NS - 60 * S, START_NS + 5 * S)):
        estimate = trace.energy(a, b, GPU)
        assert estimate.value_j is None
        assert estimate.reasons
    with pytest.raises(ValueError, match="must end after it starts"):
        trace.energy(S, S, GPU)


def test_a_counter_that_goes_back_is_not_used_across_the_break() -> None:
    trace, _ = sampled(np.array([0]), np.array([300.0]), 20.0)
    events = trace.events.copy()
    late = (events["source"] == Source.ENERGY_COUNTER) & (events["t0_ns"] > START_NS + 10 * S)
    events["value"][late] -= 2_000_000
    broken = PowerTrace((GPU,), events)
    across = broken.energy(START_NS + 8 * S, START_NS + 12 * S, GPU)
    assert "counter_not_continuous" in across.reasons
    assert across.basis == "power_samples"
    assert across.value_j == pytest.approx(1200.0, rel=0.02)


def test_two_reads_between_two_ticks_are_no_stuck_counter() -> None:
    """A counter that is read at a bound of a phase, too, may not have moved since it was last read."""
    trace, _ = sampled(np.array([0]), np.array([690.0]), 20.0)
    counter = trace.events["source"] == Source.ENERGY_COUNTER
    again = trace.events[counter].copy()
    for name in ("t0_ns", "t1_ns"):
        again[name] += 40 * MS
    sensed = sampled(np.array([0]), np.array([690.0]), 20.0)[1].counter_j(again["t0_ns"])  # type: ignore[attr-defined]
    again["value"] = np.round(sensed * 1e3)
    assert (again["value"] == trace.events["value"][counter]).any()
    twice = PowerTrace((GPU,), np.concatenate((trace.events, again)))
    estimate = twice.energy(START_NS + 5 * S, START_NS + 15 * S, GPU)
    assert estimate.basis == "energy_counter+power_samples"
    assert estimate.value_j == pytest.approx(6900.0, rel=0.001)


def test_a_break_spoils_only_what_touches_it() -> None:
    trace, _ = sampled(np.array([0]), np.array([300.0]), 30.0)
    events = trace.events.copy()
    counter = events["source"] == Source.ENERGY_COUNTER
    events["value"][counter & (events["t0_ns"] > START_NS + 10 * S)] -= 2_000_000
    broken = PowerTrace((GPU,), events)
    reads_ns = broken.of(GPU, Source.ENERGY_COUNTER)["t0_ns"]
    first_after = int(reads_ns[reads_ns > START_NS + 10 * S][0])
    for a, b in ((12.0, 25.0), (2.0, 8.0)):
        estimate = broken.energy(START_NS + int(a * S), START_NS + int(b * S), GPU)
        assert estimate.basis == "energy_counter+power_samples"
        assert estimate.value_j == pytest.approx(300.0 * (b - a), rel=0.005)
    # It broke somewhere between the read before and this one: a window that ends in between is touched.
    touched = broken.energy(START_NS + 5 * S, first_after - 300 * MS, GPU)
    assert touched.basis == "power_samples"
    assert "counter_not_continuous" in touched.reasons
    assert touched.value_j == pytest.approx(300.0 * (first_after - 300 * MS - START_NS - 5 * S) / S, rel=0.02)


def test_a_counter_that_stands_for_a_while_is_used_before_and_after() -> None:
    trace, _ = sampled(np.array([0]), np.array([300.0]), 30.0)
    events = trace.events.copy()
    stands = (
        (events["source"] == Source.ENERGY_COUNTER)
        & (events["t0_ns"] > START_NS + 10 * S)
        & (events["t0_ns"] < START_NS + 14 * S)
    )
    events["value"][stands] = events["value"][stands][0]
    stuck = PowerTrace((GPU,), events)
    within = stuck.energy(START_NS + 11 * S, START_NS + 13 * S, GPU)
    assert within.basis == "power_samples"
    assert "counter_not_continuous" in within.reasons
    after = stuck.energy(START_NS + 17 * S, START_NS + 25 * S, GPU)
    assert after.basis == "energy_counter+power_samples"
    assert after.value_j == pytest.approx(2400.0, rel=0.005)


@pytest.mark.parametrize("sources", [{Source.POWER_SAMPLES, Source.REALTIME}, {Source.POWER_INSTANT}])
def test_power_that_was_not_seen_for_seconds_has_no_energy(sources: set[Source]) -> None:
    trace, _ = sampled(*llm_like(20.0), 20.0, sources=frozenset(sources))
    hole = (START_NS + 8 * S, START_NS + 12 * S)
    events = trace.events
    stamps = events["source_ts_us"] * 1000 - REALTIME_OFFSET_NS
    seen_ns = np.where(events["source_ts_us"] > 0, stamps, events["t0_ns"])
    keep = (seen_ns < hole[0]) | (seen_ns > hole[1]) | (events["source"] == Source.REALTIME)
    holed = PowerTrace((GPU,), events[keep])
    across = holed.energy(START_NS + 5 * S, START_NS + 15 * S, GPU)
    assert across.value_j is None
    (alone,) = holed.energy_by_source(START_NS + 5 * S, START_NS + 15 * S, GPU).values()
    assert alone.reasons == ("power_not_seen",)
    assert holed.energy(START_NS + 13 * S, START_NS + 15 * S, GPU).value_j is not None


@pytest.mark.parametrize("step_s", [-3600.0, -0.4, 0.4, 3600.0])
def test_a_stepped_wall_clock_moves_no_sample(step_s: float) -> None:
    trace, _ = sampled(*llm_like(20.0), 20.0)
    events = trace.events.copy()
    step_at_ns = START_NS + 10 * S + 300 * MS
    stamped = events["source_ts_us"] > 0
    later = stamped & (events["source_ts_us"] * 1000 - REALTIME_OFFSET_NS > step_at_ns)
    events["source_ts_us"][later] += round(step_s * 1e6)
    pairs = (events["source"] == Source.REALTIME) & (events["t0_ns"] > step_at_ns)
    events["value"][pairs] += round(step_s * S)
    stepped = PowerTrace((GPU,), events)
    estimate = stepped.energy(START_NS + 5 * S, START_NS + 15 * S, GPU)
    assert "wall_clock_stepped" in estimate.reasons
    assert estimate.basis == "energy_counter+power_samples"
    assert estimate.value_j == pytest.approx(
        trace.energy(START_NS + 5 * S, START_NS + 15 * S, GPU).value_j, rel=1e-3
    )


@pytest.mark.parametrize("ppm", [-60.0, 100.0])
def test_a_drifting_counter_is_followed_through_a_long_run(
    ppm: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = _native.VirtualSensors

    class Drifting:
        def __init__(self, sensors: object) -> None:
            self.sensors = sensors

        def counter_j(self, t_ns: np.ndarray) -> np.ndarray:
            moved = (t_ns - START_NS) * (1 + ppm * 1e-6)
            return self.sensors.counter_j(START_NS + moved.astype(np.int64))  # type: ignore[attr-defined, no-any-return]

        def __getattr__(self, name: str) -> object:
            return getattr(self.sensors, name)

    monkeypatch.setattr(_native, "VirtualSensors", lambda *args: Drifting(real(*args)))
    trace, sensors = sampled(*llm_like(600.0), 600.0)
    errors = relative_errors(trace, sensors, windows(np.random.default_rng(4), 60, 600.0, 10.0))
    assert np.sqrt(np.mean(errors**2)) < 0.005


def test_lost_slots_are_marked() -> None:
    trace, _ = sampled(np.array([0]), np.array([300.0]), 20.0)
    stamps = trace.events["source_ts_us"]
    hole_us = (START_NS + 10 * S + REALTIME_OFFSET_NS) // 1000
    kept = trace.events[(stamps < 0) | (stamps < hole_us) | (stamps > hole_us + 200_000)]
    holed = PowerTrace((GPU,), kept)
    assert "ring_gaps" in holed.energy(START_NS + 9 * S, START_NS + 12 * S, GPU).reasons
    assert "ring_gaps" not in holed.energy(START_NS + 12 * S, START_NS + 15 * S, GPU).reasons


def test_sources_that_disagree_are_reported() -> None:
    trace, _ = sampled(np.array([0]), np.array([300.0]), 20.0)
    events = trace.events.copy()
    ring = events["source"] == Source.POWER_SAMPLES
    events["value"][ring] = events["value"][ring] * 13 // 10
    estimate = PowerTrace((GPU,), events).energy(START_NS + 5 * S, START_NS + 15 * S, GPU)
    assert "sources_disagree" in estimate.reasons
    assert estimate.value_j == pytest.approx(3000.0, rel=0.02)


SHARED, _ = sampled(*llm_like(40.0, seed=9), 40.0)


@settings(max_examples=60)
@given(st.lists(st.integers(2 * S, 35 * S), min_size=3, max_size=6, unique=True))
def test_energies_add_up_and_are_never_negative(cuts: list[int]) -> None:
    edges = [START_NS + cut for cut in sorted(cuts)]
    parts = [SHARED.energy(a, b, GPU).value_j for a, b in itertools.pairwise(edges)]
    whole = SHARED.energy(edges[0], edges[-1], GPU).value_j
    assert whole is not None
    assert all(part is not None and part >= 0 for part in parts)
    assert sum(part for part in parts if part is not None) == pytest.approx(whole, rel=1e-9, abs=1e-6)


def test_the_order_of_events_does_not_matter() -> None:
    shuffled = SHARED.events[np.random.default_rng(0).permutation(len(SHARED.events))]
    a, b = START_NS + 5 * S, START_NS + 25 * S
    assert PowerTrace((GPU,), shuffled).energy(a, b, GPU) == SHARED.energy(a, b, GPU)


def recorded(path: Path, counter_period_s: float) -> tuple[PowerTrace, np.ndarray]:
    """A recording as a trace with a thinned counter, and all reads of the counter (t0, t1, mJ)."""
    kinds = {"R": Source.POWER_SAMPLES, "I": Source.POWER_INSTANT, "A": Source.POWER_AVERAGE}
    rows: list[tuple[int, ...]] = []
    counter: list[tuple[int, int, int]] = []
    with path.open() as file:
        for row in csv.DictReader(file):
            t0, t1, value = round(float(row["t0"]) * S), round(float(row["t1"]) * S), int(row["value"])
            if row["kind"] == "E":
                counter.append((t0, t1, value))
            elif row["kind"] in kinds:
                stamp = t0 // 1000 if row["kind"] == "R" else -1
                rows.append((-1, t0, t1, stamp, value, 0, kinds[row["kind"]], 0))
    last = -S
    for t0, t1, value in counter:
        if t0 - last >= counter_period_s * S:
            rows.append((-1, t0, t1, -1, value, 0, Source.ENERGY_COUNTER, 0))
            last = t0
    rows += [(-1, t, t, -1, t, 0, Source.REALTIME, 0) for t in (counter[0][0], counter[-1][0])]
    return PowerTrace((GPU,), np.array(rows, EVENT_DTYPE)), np.array(counter)


def test_against_all_edges_of_a_recorded_vllm_run(h200_data: Path) -> None:
    """One read in twenty predicts what the counter said in between."""
    trace, counter = recorded(h200_data / "vllm_trace.csv", 1.009)
    changed = np.flatnonzero(np.diff(counter[:, 2])) + 1
    # A tick lies between two reads 50 ms apart; it had shown some 10 ms before.
    ticks_ns = (counter[changed - 1, 0] + counter[changed, 1]) // 2 - 10 * MS
    energy_j = counter[changed, 2] / 1e3
    for span, most in ((10, 0.03), (100, 0.006)):
        chosen = range(20, len(ticks_ns) - span - 20, 7)
        errors = []
        for i in chosen:
            value = trace.energy(int(ticks_ns[i]), int(ticks_ns[i + span]), GPU).value_j
            assert value is not None
            errors.append(value / (energy_j[i + span] - energy_j[i]) - 1)
        assert np.sqrt(np.mean(np.square(errors))) < most


def test_the_work_of_an_estimate_grows_with_its_length_alone() -> None:
    """Ten minutes are no more work for each second than one."""

    def estimating(seconds: int) -> Callable[[], object]:
        trace, _ = sampled(*llm_like(float(seconds)), float(seconds))
        # A trace of its own each time: what it has prepared, it keeps.
        return lambda: PowerTrace(trace.gpu_uuids, trace.events).energy(
            START_NS + 10 * S, START_NS + (seconds - 10) * S, GPU
        )

    assert growth(estimating, 75, 8) < 30


@pytest.mark.parametrize("off_s", [-86_400 * 10, -3600, 3600, 86_400 * 100, 2**43])
def test_a_stamp_far_from_its_read_costs_neither_the_energy_nor_the_memory(off_s: int) -> None:
    """One sample of the ring with a stamp days off, as a driver's glitch or a stranger's record has it."""
    trace, _ = sampled(*llm_like(20.0), 20.0)
    events = trace.events.copy()
    stamped = np.flatnonzero(events["source_ts_us"] > 0)
    events["source_ts_us"][stamped[len(stamped) // 2]] += off_s * 1_000_000
    moved = PowerTrace((GPU,), events)
    estimate = moved.energy(START_NS + 5 * S, START_NS + 15 * S, GPU)
    assert estimate.value_j == pytest.approx(
        trace.energy(START_NS + 5 * S, START_NS + 15 * S, GPU).value_j, rel=1e-3
    )
    ring = moved.model(GPU).ring
    assert ring is not None
    assert ring.t_ns[-1] - ring.t_ns[0] < 60 * S


def frozen_ring(from_s: float, for_s: float) -> PowerTrace:
    """A GPU that has nothing but its ring, which stands still for a while."""
    only = frozenset({Source.POWER_SAMPLES, Source.REALTIME})
    trace, _ = sampled(*llm_like(60.0), 60.0, sources=only)
    events = trace.events.copy()
    seen_ns = events["source_ts_us"] * 1000 - REALTIME_OFFSET_NS
    hit = (events["source"] == Source.POWER_SAMPLES) & (seen_ns >= START_NS + from_s * S)
    hit &= seen_ns < START_NS + (from_s + for_s) * S
    events["value"][hit] = events["value"][np.flatnonzero(hit)[0]]
    return PowerTrace((GPU,), events)


@pytest.mark.parametrize("for_s", [1.0, 5.9, 6.2, 25.0, 45.0])
def test_a_ring_that_stands_still_for_however_long_gives_no_joules(for_s: float) -> None:
    estimate = frozen_ring(8.0, for_s).energy(START_NS + 5 * S, START_NS + 55 * S, GPU)
    assert estimate.value_j is None
    assert "power_samples_frozen" in estimate.reasons


def test_a_reading_that_cannot_be_marks_only_the_intervals_that_meet_it() -> None:
    for value, code in ((0, "zero_power_readings"), (0xFFFFFFFF, "absurd_power_readings")):
        trace, sensors = sampled(*llm_like(30.0), 30.0)
        events = trace.events.copy()
        ring = np.flatnonzero(events["source"] == Source.POWER_SAMPLES)
        events["value"][ring[len(ring) // 2]] = value
        at_ns = int(events["source_ts_us"][ring[len(ring) // 2]]) * 1000 - REALTIME_OFFSET_NS
        wrong = PowerTrace((GPU,), events)
        assert code in wrong.energy(at_ns - S, at_ns + S, GPU).reasons
        assert code not in wrong.energy(at_ns - 9 * S, at_ns - S, GPU).reasons
        assert code not in wrong.energy(at_ns + S, at_ns + 9 * S, GPU).reasons
        assert abs(relative_errors(wrong, sensors, [(at_ns - 5 * S, at_ns + 5 * S)])[0]) < 0.01


def test_a_stepped_clock_marks_only_the_intervals_that_meet_it() -> None:
    trace, _ = sampled(*llm_like(30.0), 30.0)
    events = trace.events.copy()
    later = (events["source"] == Source.REALTIME) & (events["t0_ns"] >= START_NS + 15 * S)
    events["value"][later] += 3600 * S
    stamps = (events["source"] == Source.POWER_SAMPLES) & (events["t0_ns"] >= START_NS + 15 * S)
    events["source_ts_us"][stamps] += 3600 * 1_000_000
    stepped = PowerTrace((GPU,), events)
    assert "wall_clock_stepped" in stepped.energy(START_NS + 13 * S, START_NS + 17 * S, GPU).reasons
    assert "wall_clock_stepped" not in stepped.energy(START_NS + 18 * S, START_NS + 25 * S, GPU).reasons


def test_what_is_added_to_the_counter_in_a_stretch_that_nothing_saw_is_in_the_interval() -> None:
    trace, sensors = sampled(*llm_like(40.0), 40.0)
    events = trace.events.copy()
    seen_ns = np.where(
        events["source_ts_us"] > 0, events["source_ts_us"] * 1000 - REALTIME_OFFSET_NS, events["t0_ns"]
    )
    unseen = (
        (seen_ns >= START_NS + 18 * S) & (seen_ns < START_NS + 20 * S) & (events["source"] != Source.REALTIME)
    )
    counter = events["source"] == Source.ENERGY_COUNTER
    events["value"][counter & (events["t0_ns"] >= START_NS + 20 * S)] += 300_000
    holed = PowerTrace((GPU,), events[~unseen])
    a, b = START_NS + 5 * S, START_NS + 35 * S
    estimate = holed.energy(a, b, GPU)
    true_j = float(np.diff(sensors.true_energy_j(np.array([a, b])))[0])  # type: ignore[attr-defined]
    assert estimate.value_j is not None
    assert estimate.u95_method_j is not None
    assert abs(estimate.value_j - true_j) < 3 * estimate.u95_method_j


def test_beyond_the_last_tick_the_gain_around_it_holds() -> None:
    """Samples that alias on the load say nothing of idle after it."""
    trace, sensors = sampled(np.array([0, START_NS + 25 * S]), np.array([480.0, 75.0]), 40.0)
    events = trace.events.copy()
    ring = (events["source"] == Source.POWER_SAMPLES) & (events["value"] > 200_000)
    events["value"][ring] = np.round(events["value"][ring] * 1.03)
    gone = (events["source"] == Source.ENERGY_COUNTER) & (events["t0_ns"] > START_NS + 36 * S)
    a, b = START_NS + 30 * S, START_NS + 36 * S
    estimate = PowerTrace((GPU,), events[~gone]).energy(a, b, GPU)
    true_j = float(np.diff(sensors.true_energy_j(np.array([a, b])))[0])  # type: ignore[attr-defined]
    assert estimate.basis == "energy_counter+power_samples"
    assert estimate.value_j == pytest.approx(true_j, abs=0.5)
    # That the load may be like another one beyond the tick is in the interval.
    assert estimate.u95_method_j is not None
    assert estimate.u95_method_j > 1.96 * 0.02 * 75.0


def test_one_wrong_sample_in_a_step_of_the_counter_is_in_the_interval() -> None:
    """Too small to be told from chance beside a fall of power: its joules may lie on either side of a moment within the step."""
    trace, sensors = sampled(np.array([0, START_NS + round(19.9 * S)]), np.array([300.0, 30.0]), 40.0)
    events = trace.events.copy()
    ring = np.flatnonzero(events["source"] == Source.POWER_SAMPLES)
    stamps_ns = events["source_ts_us"][ring] * 1000 - REALTIME_OFFSET_NS
    events["value"][ring[np.searchsorted(stamps_ns, START_NS + round(19.95 * S))]] = 700_000
    wrong = PowerTrace((GPU,), events)
    for a_s in np.arange(19.5, 20.5, 0.03):
        a, b = START_NS + round(a_s * S), START_NS + 30 * S
        estimate = wrong.energy(a, b, GPU)
        true_j = float(np.diff(sensors.true_energy_j(np.array([a, b])))[0])  # type: ignore[attr-defined]
        assert estimate.value_j is not None
        assert estimate.u95_method_j is not None
        assert abs(estimate.value_j - true_j) < 3 * estimate.u95_method_j


def test_a_fault_anywhere_in_the_trace_widens_what_passes_for_chance_everywhere() -> None:
    """Samples that stand still, as they do in idle on boards that work, are none."""
    trace, _ = sampled(*llm_like(60.0), 60.0)
    ring = np.flatnonzero(trace.events["source"] == Source.POWER_SAMPLES)
    intervals = [(START_NS + a * S, START_NS + b * S) for a, b in ((30, 30.3), (30, 35), (30, 50))]

    def widths_j(*changed: int, value: int) -> list[float]:
        events = trace.events.copy()
        events["value"][ring[list(changed)]] = value
        model = PowerTrace((GPU,), events).model(GPU)
        return [model.energy(round(a), round(b)).budget_j["agreement"] for a, b in intervals]

    assert widths_j(value=0) == [0.0, 0.0, 0.0]
    still = range(500, 520)
    assert widths_j(*still, value=int(trace.events["value"][ring[500]])) == [0.0, 0.0, 0.0]
    short, middle, long = widths_j(500, value=0)
    # One wrong step at most: of a longer interval the largest counts, and no sum.
    assert 0.0 < short < middle <= long < 2 * middle
