"""What the power sensors of a GPU are like, found out on the spot.

::

    probe      every source is read fast for some seconds      --> periods, costs, resolution, whether they agree
    stimulus   meanwhile, if there is one, known square waves  --> averaging, delay, step response, aliasing

Nothing is taken from a list of GPU models: drivers change what a source means (arXiv 2312.02741). What cannot be told,
because power did not vary or no load was there, is None.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wattcount.config.schema import PowerConfig
from wattcount.energy.counter import CounterGrid
from wattcount.energy.curve import S_NS, Floats, Ints, PowerCurve
from wattcount.energy.events import Source
from wattcount.energy.trace import PowerTrace

PROBE_CONFIG = PowerConfig(
    energy_counter_period_ms=23.0, power_period_ms=4.0, samples_period_ms=500.0, heartbeat_ms=1000.0
)
"""Plan of reads of a probe: fast enough to see every new value; a call of the counter takes some milliseconds."""
FIRST_PROBE_S = 2.5
"""Length of the probe before a first run [s], idle: short, because a user waits for it."""

POLLED = (Source.POWER_AVERAGE, Source.POWER_INSTANT, Source.POWER_USAGE)
"""Sources of power that are polled, and so characterised by their new values."""
BOXES_MS: tuple[float, ...] = (
    0, 5, 10, 15, 20, 25, 35, 50, 75, 100, 150, 200, 300, 500, 700, 1000, 1500, 2000,
)  # fmt: skip
"""Lengths of box [ms] that averaged power is compared with; 0 is a momentary value."""
DELAYS_MS = np.arange(-20.0, 125.0, 5.0)
"""Delays [ms] by which such a box is tried to have ended before its value shows."""
MIN_SWING_W = 10.0
"""Standard deviation of power [W] from which on a box can be told: with less, noise decides."""
SLOW_ON_MS = 800.0
"""Length [ms] of a burst from which on it shows the delay and rise of a source by itself."""
EXPLAINED = 0.7
"""Share of a source's variance that a mean over a box must explain, for the box to be believed."""
TRIMMED_TO = 0.85
"""Share of new values that must be near the mean of a box. Only steps tell boxes apart: a median would not see them."""
MAX_COUNTER_SHARE = 0.003
"""Share of the time that reads of the counter may take when idle; under load they take half as long again."""
COUNTER_PERIOD_MS = (250.0, 1500.0)
"""Shortest and longest period [ms] at which the counter is read: several ticks apart, and two reads in the shortest
windows."""
POWER_PERIOD_MS = (10.0, 100.0)
"""Shortest and longest period [ms] at which power fields are read."""
READS_AN_UPDATE = 5
"""Reads of a power field for each of its updates: a new value is then placed to a fifth of an update."""
RING_SHARE = 0.4
"""Share of the samples ring's length after which it is drained: two drains may fail before a sample is lost."""
LONGEST_DRAIN_MS = 1000.0
"""Longest time [ms] between two drains of the samples ring, so that one lost drain loses little."""
ROUNDING = 1
"""Difference of two rounded values [units of the source] that rounding alone makes."""
COMMON = 0.05
"""Share of a source's steps that are alike, for them to be called its resolution."""


@dataclass(frozen=True)
class Load:
    """A stretch of square waves, CLOCK_MONOTONIC ns; `edges_ns`: when each burst was begun."""

    period_ms: float
    on_ms: float
    start_ns: int
    end_ns: int
    edges_ns: tuple[int, ...]


@dataclass(frozen=True)
class SourceCharacter:
    """One source. Times in ms, power in W; None: could not be told.

    update_period_ms  from one new value to the next
    resolution_w      smallest difference between two values (counter: joule)
    box_ms, delay_ms  the value is the mean of so much power, that ended so long before it showed; box 0: a moment
    rise_ms           10 to 90 % of a step of the load
    step_delay_ms     from the beginning of that step to half of it
    call_p50_ms, call_p99_ms  what one read takes
    """

    update_period_ms: float | None = None
    resolution_w: float | None = None
    box_ms: float | None = None
    delay_ms: float | None = None
    rise_ms: float | None = None
    step_delay_ms: float | None = None
    call_p50_ms: float | None = None
    call_p99_ms: float | None = None


def characterise(
    trace: PowerTrace, gpu_uuid: str, health: Mapping[str, Any], loads: Sequence[Load] = ()
) -> dict[str, Any]:
    """What a probe's trace tells of one GPU's sensors, as plain JSON.

    trace   of a sampler with `PROBE_CONFIG`, some seconds at least
    health  the sampler's, of this GPU
    loads   what ran meanwhile, in order
    """
    model = trace.model(gpu_uuid)
    sources: dict[str, Any] = {}
    for source in POLLED:
        events = _good(trace.of(gpu_uuid, source))
        if len(events) >= 2:
            box = _box(events, model.ring) if model.ring is not None else None
            sources[source.name.lower()] = SourceCharacter(
                update_period_ms=_update_ms(events, health, source),
                resolution_w=_resolution(events["value"]) / 1e3,
                box_ms=None if box is None else box[0],
                delay_ms=None if box is None else box[1],
                **_step(events["t0_ns"], events["value"] / 1e3, loads),
                **_calls(health, source),
            )
    samples = _good(trace.of(gpu_uuid, Source.POWER_SAMPLES))
    ring = {"depth": health.get("ring_depth"), "lost_share": None}
    if model.ring is not None:
        steps_ns = np.diff(model.ring.t_ns)
        period_ns = float(np.median(steps_ns))
        ring["lost_share"] = float((np.round(steps_ns / period_ns) - 1).clip(0).sum() / (len(steps_ns) + 1))
        sources["power_samples"] = SourceCharacter(
            update_period_ms=period_ns / 1e6,
            resolution_w=_resolution(samples["value"]) / 1e3,
            **_step(model.ring.t_ns, model.ring.power_at(model.ring.t_ns), loads),
            **_calls(health, Source.POWER_SAMPLES),
        )
    reads = _good(trace.of(gpu_uuid, Source.ENERGY_COUNTER))
    counter: dict[str, Any] = {"present": len(reads) > 0, "moves": None}
    if len(reads):
        moves = bool(reads["value"][-1] > reads["value"][0])
        period_ms = _counter_period_ms(_update_ms(reads, health, Source.ENERGY_COUNTER), model.counter.grid)
        counter = {"present": True, "moves": moves, **_agreement(trace, gpu_uuid, loads)}
        sources["energy_counter"] = SourceCharacter(
            update_period_ms=period_ms if moves else None,
            # A sum has no step of its own: at steady power all of its steps are alike.
            resolution_w=float(np.gcd.reduce(np.diff(reads["value"]))) / 1e3,
            **_calls(health, Source.ENERGY_COUNTER),
        )
    return {
        "seconds": _seconds(trace),
        "sources": {name: asdict(character) for name, character in sources.items()},
        "ring": ring,
        "counter": counter,
        "loads": [_means(trace, gpu_uuid, load) for load in loads],
    }


def sampling_plan(found: Mapping[str, Any] | None, config: PowerConfig) -> PowerConfig:
    """The periods to sample at: those of the config where it names one, else what the sensors ask for.

    Reads of the counter may take 0.3 % of the time; fields are read five times an update; the ring is
    drained long before it wraps. Without a characterisation: what suits an H200.
    """
    sources: Mapping[str, Any] = {} if found is None else found["sources"]
    counter_ms, power_ms, drain_ms = 1000.0, 20.0, LONGEST_DRAIN_MS
    call_ms = sources.get("energy_counter", {}).get("call_p50_ms")
    if call_ms:
        counter_ms = float(np.clip(call_ms / MAX_COUNTER_SHARE, *COUNTER_PERIOD_MS))
    updates = [
        character["update_period_ms"]
        for name, character in sources.items()
        if name not in ("energy_counter", "power_samples") and character["update_period_ms"]
    ]
    if updates:
        power_ms = float(np.clip(min(updates) / READS_AN_UPDATE, *POWER_PERIOD_MS))
    ring_ms = sources.get("power_samples", {}).get("update_period_ms")
    depth = None if found is None else found["ring"]["depth"]
    if ring_ms and depth:
        drain_ms = min(LONGEST_DRAIN_MS, RING_SHARE * depth * ring_ms)

    def chosen(asked: float | None, own: float) -> float:
        return own if asked is None else asked

    return PowerConfig(
        **{
            **{name: getattr(config, name) for name in PowerConfig.__dataclass_fields__},
            # No multiple of anything: reads must not keep step with the counter's own grid.
            "energy_counter_period_ms": chosen(config.energy_counter_period_ms, round(1.009 * counter_ms, 1)),
            "power_period_ms": chosen(config.power_period_ms, power_ms),
            "samples_period_ms": chosen(config.samples_period_ms, drain_ms),
        }
    )


def common_plan(found: Collection[Mapping[str, Any]], config: PowerConfig) -> PowerConfig:
    """One plan for several GPUs: the counter as seldom as the dearest needs, the rest as often as the fastest."""
    plans = [sampling_plan(each, config) for each in found] or [sampling_plan(None, config)]
    return replace(
        plans[0],
        energy_counter_period_ms=max(plan.energy_counter_period_ms or 0.0 for plan in plans),
        power_period_ms=min(plan.power_period_ms or np.inf for plan in plans),
        samples_period_ms=min(plan.samples_period_ms or np.inf for plan in plans),
    )


def _good(events: NDArray[np.void]) -> NDArray[np.void]:
    good: NDArray[np.void] = events[events["nvml_return"] == 0]
    return good


def _seconds(trace: PowerTrace) -> float:
    t_ns = trace.events["t0_ns"]
    return float(t_ns.max() - t_ns.min()) / S_NS if len(t_ns) else 0.0


def _calls(health: Mapping[str, Any], source: Source) -> dict[str, float | None]:
    found = health.get("sources", {}).get(source.name.lower())
    if not found or not found["calls"]:
        return {"call_p50_ms": None, "call_p99_ms": None}
    return {"call_p50_ms": found["call_p50_ns"] / 1e6, "call_p99_ms": found["call_p99_ns"] / 1e6}


def _news(events: NDArray[np.void]) -> NDArray[np.void]:
    """Events that brought a new value: not the first read, and not heartbeats, which repeat the old one."""
    fresh: NDArray[np.void] = events[1:][np.diff(events["value"]) != 0]
    return fresh


def _update_ms(
    events: NDArray[np.void], health: Mapping[str, Any] | None = None, source: Source | None = None
) -> float | None:
    """A value may repeat, so steps are whole multiples of the period. None where reads were too rare to tell."""
    steps_ns = np.diff(_news(events)["t0_ns"]).astype(float)
    if len(steps_ns) < 5:
        return None
    guess = float(np.quantile(steps_ns, 0.3))
    single = steps_ns[(steps_ns > 0.6 * guess) & (steps_ns < 1.4 * guess)]
    guess = float(np.median(single))
    multiples = np.maximum(np.round(steps_ns / guess), 1)
    usual = multiples <= 5
    period_ms = float(steps_ns[usual].sum() / multiples[usual].sum()) / 1e6
    read = {} if health is None or source is None else health.get("sources", {}).get(source.name.lower(), {})
    read_ms = (read.get("period_ns") or 0) / 1e6
    return None if period_ms < 1.5 * read_ms else period_ms


def _counter_period_ms(seen_ms: float | None, grid: CounterGrid | None) -> float | None:
    """The fitted grid is exact, but one of half the period fits as well; what was seen to be new tells them apart."""
    if grid is None:
        return seen_ms
    fitted_ms = grid.period_ns / 1e6
    return seen_ms if seen_ms is not None and seen_ms > 1.5 * fitted_ms else fitted_ms


def _resolution(values: Ints) -> float:
    """The smallest step between one value and the next that is common: a converter's step varies with the level,
    and is not 1 although values are rounded to 1. Where none is common, the greatest common divisor."""
    steps = np.abs(np.diff(values))
    steps = steps[steps > 0]
    if not len(steps):
        return 0.0
    sizes = np.unique(steps)
    alike = np.array([(np.abs(steps - size) <= ROUNDING).sum() for size in sizes])
    common = sizes[alike >= max(3.0, COMMON * len(steps))]
    if not len(common):
        return float(np.gcd.reduce(steps))
    return float(np.median(steps[np.abs(steps - common[0] - ROUNDING) <= ROUNDING]))


def _trimmed_mean(off: Floats) -> float:
    """Mean of absolute deviations without the worst, where the samples alias and say nothing of the box."""
    kept = np.sort(off)[: max(1, round(TRIMMED_TO * len(off)))]
    return float(np.mean(kept))


def _box(events: NDArray[np.void], ring: PowerCurve) -> tuple[float, float] | None:
    """(length, delay) ms of the stretch of power, by the samples, whose mean a source's new values are closest to."""
    news = _news(events)
    t_ns = news["t0_ns"]
    inside = (t_ns > ring.t_ns[0] + 2_200_000_000) & (t_ns < ring.t_ns[-1] - 100_000_000)
    t_ns, value_w = t_ns[inside], news["value"][inside] / 1e3
    if len(t_ns) < 10 or float(np.std(value_w)) < MIN_SWING_W:
        return None

    def misfit(box_ms: float, delay_ms: float) -> float:
        end_ns = t_ns - round(delay_ms * 1e6)
        if box_ms == 0.0:
            mean_w = ring.power_at(end_ns)
        else:
            mean_w = (ring.at(end_ns) - ring.at(end_ns - round(box_ms * 1e6))) / (box_ms / 1e3)
        # The samples may have another gain on this load.
        off = value_w - mean_w * (value_w.mean() / max(float(mean_w.mean()), 1e-9))
        return _trimmed_mean(np.abs(off))

    fits = [(misfit(box, float(delay)), box, float(delay)) for box in BOXES_MS for delay in DELAYS_MS]
    _, box, delay = min(fits)
    around = np.unique(np.concatenate((box * np.linspace(0.75, 1.35, 25), np.zeros(1 if box <= 5 else 0))))
    least, box, delay = min(
        (misfit(float(b), float(d)), float(b), float(d)) for b in around for d in delay + np.arange(-4.0, 5.0)
    )
    usual = _trimmed_mean(np.abs(value_w - np.median(value_w)))
    if least > (1 - EXPLAINED) * max(usual, 1e-9):
        return None
    return round(box, 1), round(delay, 1)


def _step(t_ns: Ints, power_w: Floats, loads: Sequence[Load]) -> dict[str, float | None]:
    """`rise_ms` and `step_delay_ms`, from the slowest load's bursts laid over each other."""
    unknown: dict[str, float | None] = {"rise_ms": None, "step_delay_ms": None}
    slow = [load for load in loads if load.on_ms >= SLOW_ON_MS and len(load.edges_ns) > 1]
    if not slow:
        return unknown
    load = max(slow, key=lambda each: each.on_ms)
    edges = np.array(load.edges_ns[1:], np.int64)
    which = np.searchsorted(edges, t_ns + 200_000_000, side="right") - 1
    since_ms = np.where(which >= 0, (t_ns - edges[np.maximum(which, 0)]) / 1e6, np.inf)
    before, late = since_ms < -20, (since_ms > 0.85 * load.on_ms) & (since_ms < load.on_ms)
    inside = since_ms < load.on_ms
    if before.sum() < 3 or late.sum() < 3 or inside.sum() < 20:
        return unknown
    low, high = float(np.median(power_w[before])), float(np.median(power_w[late]))
    if high - low < MIN_SWING_W:
        return unknown
    order = np.argsort(since_ms[inside])
    since = since_ms[inside][order]
    level = np.maximum.accumulate((power_w[inside][order] - low) / (high - low))
    tenth, half, most = (float(since[np.argmax(level >= share)]) for share in (0.1, 0.5, 0.9))
    # Updates are as far apart as this, the bursts laid over each other: what rises faster cannot be told.
    apart_ms = load.on_ms / float(inside.sum())
    rise_ms = round(most - tenth, 1) if most - tenth >= 2 * apart_ms else None
    return {"rise_ms": rise_ms, "step_delay_ms": round(half, 1)}


def _agreement(trace: PowerTrace, gpu_uuid: str, loads: Sequence[Load]) -> dict[str, Any]:
    """The samples' joules (without a ring the polled power's) against the counter's, up to the first fast load."""
    reads = _good(trace.of(gpu_uuid, Source.ENERGY_COUNTER))
    start_ns, end_ns = int(reads["t0_ns"][0]) + S_NS // 2, int(reads["t0_ns"][-1]) - S_NS // 2
    end_ns = min([end_ns, *(load.start_ns for load in loads if load.on_ms < SLOW_ON_MS)])
    if end_ns <= start_ns:
        return {"agrees_with": None, "power_against_counter": None}
    found = trace.energy_by_source(start_ns, end_ns, gpu_uuid)
    counter = found["energy_counter"].value_j if "energy_counter" in found else None
    for name in ("power_samples", "power_instant", "power_average"):
        if counter and name in found and (value := found[name].value_j) is not None:
            return {"agrees_with": name, "power_against_counter": value / counter - 1}
    return {"agrees_with": None, "power_against_counter": None}


def _means(trace: PowerTrace, gpu_uuid: str, load: Load) -> dict[str, Any]:
    """Mean power by each source while a load went on, its first half second left out."""
    start_ns, end_ns = load.start_ns + S_NS // 2, load.end_ns
    mean_w: dict[str, float | None] = {}
    if end_ns - start_ns >= S_NS // 2:
        for name, estimate in trace.energy_by_source(start_ns, end_ns, gpu_uuid).items():
            value = estimate.value_j
            mean_w[name] = None if value is None else value / ((end_ns - start_ns) / S_NS)
    return {"period_ms": load.period_ms, "on_ms": load.on_ms, "mean_w": mean_w}
