"""Random faults of power sensors through the whole pipeline, in virtual time: what a valid record says against the truth.

    python benchmarks/bench_fault_scripts.py                              # 10,000 fault scripts and 10,000 healthy runs
    python benchmarks/bench_fault_scripts.py --scripts 500 --healthy 500
    python benchmarks/bench_fault_scripts.py --only 4711 --show           # one script, with what it did and what was found

A script is a function of its number: a sensor profile, a load, a run with all phases (bare idle, loaded idle, warm-up, window,
drain, loaded idle, bare idle), and one to four faults at random moments. Half of the scripts have one fault. A third of the
faults lie within 1.5 s of the begin or end of a phase whose energy is reported. The emulator's core turns the true power into
what the sensors show, the sampler's schedule turns that into a trace, the faults change the trace, and `metrics.compute` makes
figures and verdict of it, as of any record.

A record fails if it is valid and one of these lies further from the truth than three times its interval:

- `energy/gpu_j`: the interval is `energy/gpu_j_u95_method`, what the estimator says of itself. The sensor's part (5 % and
  2 W) is left out, because the emulated sensor has gain 1 and offset 0: no fault may hide behind a prior about gain;
- the energy of each idle phase whose power is reported (`power/idle_..._w` x its length): the interval is the
  `u95_method_j` of the estimate that it is made of;
- `energy/dynamic_j`: the method's intervals of the window and of the loaded idle phases, in quadrature.

Failures are counted by kind of fault (a script with several counts for each of its kinds) and by profile. Healthy runs are
the same scripts without their faults: how many of them are invalid, and how many fail. Exit code 1 where a script with faults
fails, or more than one healthy run in a thousand is invalid.
"""

from __future__ import annotations

import argparse
import collections
import functools
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
from bench_energy_truth import LOADS, PROFILES
from numpy.typing import NDArray

from wattcount.config.loader import changed, to_json
from wattcount.config.schema import RunConfig, ServerConfig
from wattcount.emulation.machine import VIRTUAL_REALTIME_OFFSET_NS, profiles, simulate, virtual_trace
from wattcount.energy.events import EVENT_DTYPE, Source
from wattcount.energy.trace import PowerTrace
from wattcount.metrics import compute
from wattcount.metrics.observations import phase_window
from wattcount.records import Record, schema
from wattcount.records.schema import Evidence, Phase, PhaseSpan, RunInfo, Validity

S = 1_000_000_000
START_NS = 1000 * S
UUID = "GPU-virtual"
TIMES = 3.0
"""A figure further from the truth than so many of its 95 % intervals fails."""
HEALTHY_INVALID_SHARE = 0.001
"""Of healthy runs, that may be invalid."""
FAULT_LOADS = (
    "constant",
    "steps 1-9 s",
    "500 ms / 1 s",
    "100 / 200 ms",
    "LLM steps",
    "LLM server",
    "idle",
)
"""Of bench_energy_truth.py, less those that alias in the sensor: what these do to an energy is that benchmark's question."""
WINDOWS_S = (10.0, 20.0, 40.0)
POWER_SOURCES = (Source.POWER_SAMPLES, Source.POWER_INSTANT, Source.POWER_USAGE, Source.POWER_AVERAGE)
ABSURD = (0xFFFFFFFF, 0x7FFFFFFF, 1 << 32, 10**12, 1, -1)
"""Values that drivers were seen to answer with, or that a broken one may."""

Events = NDArray[np.void]
Fault = Callable[["Script", np.random.Generator, Events], Events]


@dataclass
class Script:
    """One run: what was true, when each phase was, and what went wrong."""

    number: int
    profile: dict[str, Any]
    load: str
    spans: list[PhaseSpan]
    sensors: Any
    events: Events
    end_ns: int
    kinds: list[str] = field(default_factory=list)
    told: list[str] = field(default_factory=list)

    def moment(self, rng: np.random.Generator) -> int:
        """When a fault begins: anywhere, or close to a bound of a phase whose energy is reported."""
        if rng.uniform() < 1 / 3:
            bounds = [t for span in self.spans for t in (span.start_ns, span.end_ns) if t is not None]
            return int(rng.choice(bounds)) + int(rng.uniform(-1.5, 1.5) * S)
        return START_NS + int(rng.uniform(0.0, (self.end_ns - START_NS) / S) * S)


def make(number: int, *, faulty: bool) -> Script:
    """The script of a number, with its faults or without."""
    rng = np.random.default_rng([20260901, number])
    name = str(rng.choice(PROFILES))
    profile = next(known for known in profiles() if known["name"] == name)
    load = str(rng.choice(FAULT_LOADS))
    window_s = float(rng.choice(WINDOWS_S))
    spans, at_s = [], 0.5
    for phase, length_s in (
        (Phase.BARE_IDLE, rng.uniform(5, 8)),
        (Phase.ENGINE_START, rng.uniform(2, 4)),
        (Phase.LOADED_IDLE, rng.uniform(5, 8)),
        (Phase.WARMUP, rng.uniform(2, 5)),
        (Phase.WINDOW, window_s),
        (Phase.DRAIN, rng.uniform(1, 3)),
        (Phase.IDLE_AFTER, rng.uniform(4, 7)),
        (Phase.BARE_IDLE_AFTER, rng.uniform(5, 8)),
    ):
        if phase is Phase.BARE_IDLE_AFTER:
            at_s += 1.5
        spans.append(PhaseSpan(phase, START_NS + int(at_s * S), START_NS + int((at_s + length_s) * S)))
        at_s += length_s
    seconds = at_s + 1.5
    t_ns, power_w = _truth(rng, profile, load, {span.phase: span for span in spans}, seconds)
    seed = int(rng.integers(1 << 31))
    sensors = simulate(name, t_ns, power_w, seed=seed)
    trace = virtual_trace(name, sensors, START_NS, seconds, gpu_uuid=UUID, seed=seed + 1)
    limit = np.zeros(int(seconds), EVENT_DTYPE)
    limit["prev_t0_ns"], limit["source_ts_us"], limit["source"] = -1, -1, Source.POWER_LIMIT
    limit["t0_ns"] = limit["t1_ns"] = START_NS + np.arange(len(limit)) * S
    limit["value"] = round(profile["tdp_w"] * 1e3)
    events = np.concatenate((trace.events, limit))
    events = events[np.argsort(events["t0_ns"], kind="stable")]
    script = Script(number, profile, load, spans, sensors, events, START_NS + int(seconds * S))
    if faulty:
        for kind in rng.choice(list(FAULTS), 1 if rng.uniform() < 0.5 else int(rng.integers(2, 5))):
            script.kinds.append(str(kind))
            script.events = FAULTS[str(kind)](script, rng, script.events)
    return script


def _truth(
    rng: np.random.Generator,
    profile: dict[str, Any],
    load: str,
    spans: dict[Phase, PhaseSpan],
    seconds: float,
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The true power of a run: (ns, W from then on)."""
    tdp_w, bare_w = profile["tdp_w"], profile["idle_w"] * rng.uniform(0.9, 1.1)
    loaded_w = min(1.55 * bare_w, 0.4 * tdp_w)
    warmer = rng.uniform(1.0, 1.05)
    t_s, share = [np.array([-20.0])], [np.array([bare_w / tdp_w])]

    def stretch(start_ns: int, end_ns: int, watts: float) -> None:
        """Idle power wanders by half a per cent, on half of the boards."""
        start_s, end_s = (start_ns - START_NS) / S, (end_ns - START_NS) / S
        points = np.arange(start_s, end_s, 0.25)
        t_s.append(points)
        share.append(watts / tdp_w * (1 + wander * rng.standard_normal(len(points))))

    wander = float(rng.choice([0.0, 0.005]))
    first = spans[Phase.BARE_IDLE]
    stretch(START_NS - 20 * S, _end(first), bare_w)
    stretch(_end(first), _end(spans[Phase.ENGINE_START]), rng.uniform(0.2, 0.6) * tdp_w)
    stretch(spans[Phase.LOADED_IDLE].start_ns, _end(spans[Phase.LOADED_IDLE]), loaded_w)
    begin_s, end_s = (spans[Phase.WARMUP].start_ns - START_NS) / S, (_end(spans[Phase.DRAIN]) - START_NS) / S
    if load == "idle":
        stretch(spans[Phase.WARMUP].start_ns, _end(spans[Phase.DRAIN]), 1.02 * loaded_w)
    else:
        load_s, of_limit = LOADS[load](rng)
        inside = (load_s > begin_s) & (load_s < end_s)
        before = max(int(np.searchsorted(load_s, begin_s, side="right")) - 1, 0)
        # No load draws less than an engine that waits.
        idle = loaded_w / tdp_w
        of_limit = idle + (1 - idle) * np.clip((of_limit - 0.12) / 0.88, 0.02, 1.0)
        t_s.append(np.concatenate(([begin_s], load_s[inside])))
        share.append(np.concatenate(([of_limit[before]], of_limit[inside])))
    after = spans[Phase.IDLE_AFTER]
    stretch(after.start_ns, _end(after), warmer * loaded_w)
    stretch(_end(after), START_NS + int((seconds + 5) * S), warmer * bare_w)
    all_s = np.concatenate(t_s)
    t_ns, keep = np.unique(START_NS + (all_s * S).astype(np.int64), return_index=True)
    return t_ns, np.concatenate(share)[keep] * tdp_w


def _end(span: PhaseSpan) -> int:
    assert span.end_ns is not None
    return span.end_ns


# -- faults ---------------------------------------------------------------------------------------


def _seen_ns(events: Events) -> NDArray[np.int64]:
    """When each value was true: the driver's stamp of a ring's sample, else the call."""
    stamped = events["source_ts_us"] > 0
    seen: NDArray[np.int64] = np.where(
        stamped, events["source_ts_us"] * 1000 - VIRTUAL_REALTIME_OFFSET_NS, events["t0_ns"]
    )
    return seen


def _within(events: Events, sources: tuple[Source, ...], start_ns: int, end_ns: int) -> NDArray[np.bool_]:
    seen = _seen_ns(events)
    inside: NDArray[np.bool_] = np.isin(events["source"], sources) & (seen >= start_ns) & (seen < end_ns)
    return inside


def _length_ns(rng: np.random.Generator, least_s: float, most_s: float) -> int:
    return int(S * np.exp(rng.uniform(np.log(least_s), np.log(most_s))))


def _some(rng: np.random.Generator, events: Events, counter: bool = True) -> tuple[Source, ...]:
    """One source, or all of them."""
    here = [s for s in (Source.ENERGY_COUNTER, *POWER_SOURCES) if (events["source"] == s).any()]
    if not counter:
        here = [s for s in here if s is not Source.ENERGY_COUNTER]
    if not here or rng.uniform() < 0.25:
        return tuple(here)
    return (here[int(rng.integers(len(here)))],)


def _tell(script: Script, what: str, start_ns: int, *more: object) -> None:
    script.told.append(f"{what} at {(start_ns - START_NS) / S:.2f} s {' '.join(str(m) for m in more)}")


def dropout(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """Readings of one source, or of all, are missing for a while."""
    start, length, sources = script.moment(rng), _length_ns(rng, 0.02, 20), _some(rng, events)
    _tell(script, "dropout", start, f"{length / S:.2f} s", [s.name for s in sources])
    return events[~_within(events, sources, start, start + length)]


def gap(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """The sampler stands still: nothing is read. The ring keeps its last 120 samples (2.4 s)."""
    start, length = script.moment(rng), _length_ns(rng, 0.05, 15)
    _tell(script, "gap", start, f"{length / S:.2f} s")
    end = start + length
    polled = events["source_ts_us"] <= 0
    lost = polled & (events["t0_ns"] >= start) & (events["t0_ns"] < end)
    lost |= ~polled & (_seen_ns(events) >= start) & (_seen_ns(events) < end - 2.4 * S)
    late = ~polled & (events["t0_ns"] >= start) & (events["t0_ns"] < end) & ~lost
    events = events.copy()
    events["t0_ns"][late] = events["t1_ns"][late] = end
    return events[~lost]


def errors(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """NVML answers with an error for a while."""
    start, length, sources = script.moment(rng), _length_ns(rng, 0.02, 20), _some(rng, events)
    _tell(script, "errors", start, f"{length / S:.2f} s", [s.name for s in sources])
    events = events.copy()
    drop = np.zeros(len(events), bool)
    for source in sources:
        at = np.flatnonzero(
            (events["source"] == source) & (events["t0_ns"] >= start) & (events["t0_ns"] < start + length)
        )
        events["nvml_return"][at[:1]] = 999
        events["value"][at[:1]] = 0
        drop[at[1:]] = True
    return events[~drop]


def zeros(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """Power, or the counter, is 0 for a while."""
    start, length, sources = script.moment(rng), _length_ns(rng, 0.02, 20), _some(rng, events)
    _tell(script, "zeros", start, f"{length / S:.2f} s", [s.name for s in sources])
    events = events.copy()
    events["value"][_within(events, sources, start, start + length)] = 0
    return events


def freeze(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """Power of one source, or of all, stands still."""
    start, length, sources = script.moment(rng), _length_ns(rng, 0.1, 60), _some(rng, events, counter=False)
    _tell(script, "freeze", start, f"{length / S:.2f} s", [s.name for s in sources])
    events = events.copy()
    for source in sources:
        at = np.flatnonzero(_within(events, (source,), start, start + length))
        if len(at):
            events["value"][at] = events["value"][at[0]]
    return events


def _counter_at(script: Script, t_ns: int) -> int:
    return round(float(script.sensors.counter_j(np.array([t_ns]))[0]) * 1e3)


def counter_freeze(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """The counter shows one value for a while, and then what it had counted all the same."""
    start, length = script.moment(rng), _length_ns(rng, 0.1, 20)
    _tell(script, "counter freeze", start, f"{length / S:.2f} s")
    at = np.flatnonzero(_within(events, (Source.ENERGY_COUNTER,), start, start + length))
    events = events.copy()
    if len(at):
        events["value"][at] = events["value"][at[0]]
    return events


def lost_counting(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """The counter stands still for a while and goes on from there: what was drawn meanwhile is lost."""
    start, length = script.moment(rng), _length_ns(rng, 0.05, 15)
    first, last = _counter_at(script, start), _counter_at(script, start + length)
    _tell(script, "lost counting", start, f"{length / S:.2f} s {(last - first) / 1e3:.1f} J")
    events = events.copy()
    counter = events["source"] == Source.ENERGY_COUNTER
    inside = counter & (events["t0_ns"] >= start) & (events["t0_ns"] < start + length)
    after = counter & (events["t0_ns"] >= start + length)
    before = events["value"][counter & (events["t0_ns"] < start)]
    stands = int(before[-1]) if len(before) else first
    events["value"][inside] = np.minimum(events["value"][inside], max(first, stands))
    events["value"][after] -= last - first
    return events


def counter_reset(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """The counter starts over."""
    start = script.moment(rng)
    _tell(script, "counter reset", start)
    events = events.copy()
    after = (events["source"] == Source.ENERGY_COUNTER) & (events["t0_ns"] >= start)
    events["value"][after] -= _counter_at(script, start)
    return events


def counter_jump(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """The counter jumps, up or down."""
    start = script.moment(rng)
    joules = float(np.exp(rng.uniform(np.log(2.0), np.log(1e6)))) * (1 if rng.uniform() < 0.7 else -1)
    _tell(script, "counter jump", start, f"{joules:.1f} J")
    events = events.copy()
    after = (events["source"] == Source.ENERGY_COUNTER) & (events["t0_ns"] >= start)
    events["value"][after] += round(joules * 1e3)
    return events


def _absurd(rng: np.random.Generator, value: int) -> int:
    if rng.uniform() < 0.5:
        return int(rng.choice(ABSURD))
    return round(value * float(np.exp(rng.uniform(np.log(0.05), np.log(50)))))


def glitch(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """One to three single values of power that cannot be, or are wrong."""
    events = events.copy()
    for _ in range(int(rng.integers(1, 4))):
        start, sources = script.moment(rng), _some(rng, events, counter=False)[:1]
        at = np.flatnonzero(_within(events, sources, start, script.end_ns))[:1]
        for i in at:
            events["value"][i] = _absurd(rng, int(events["value"][i]))
            _tell(script, "glitch", start, sources[0].name, events["value"][i])
    return events


def counter_glitch(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """One to three single reads of the counter are wrong."""
    events = events.copy()
    for _ in range(int(rng.integers(1, 4))):
        start = script.moment(rng)
        at = np.flatnonzero(_within(events, (Source.ENERGY_COUNTER,), start, script.end_ns))[:1]
        for i in at:
            if rng.uniform() < 0.5:
                off_j = np.exp(rng.uniform(np.log(1.0), np.log(1e9))) * rng.choice([-1, 1])
                events["value"][i] += round(off_j * 1e3)
            else:
                events["value"][i] = int(rng.choice(ABSURD))
            _tell(script, "counter glitch", start, events["value"][i])
    return events


def clock_step(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """The wall clock is stepped; or one pair of clocks, or the stamps of some samples, are wrong."""
    start = script.moment(rng)
    step_ns = int(np.exp(rng.uniform(np.log(0.02), np.log(1e6))) * S * rng.choice([-1, 1]))
    how = str(rng.choice(["step", "step", "pair", "stamps"]))
    _tell(script, "clock step", start, how, f"{step_ns / S:.3f} s")
    events = events.copy()
    pairs = (events["source"] == Source.REALTIME) & (events["t0_ns"] >= start)
    ring = (events["source"] == Source.POWER_SAMPLES) & (_seen_ns(events) >= start)
    if how == "pair":
        events["value"][np.flatnonzero(pairs)[:1]] += step_ns
    elif how == "stamps":
        events["source_ts_us"][np.flatnonzero(ring)[: int(rng.integers(1, 50))]] += step_ns // 1000
    else:
        events["value"][pairs] += step_ns
        events["source_ts_us"][ring] += step_ns // 1000
    return events


def slow_call(script: Script, rng: np.random.Generator, events: Events) -> Events:
    """One read of the counter hangs: its value is of some moment within it."""
    start, length = script.moment(rng), _length_ns(rng, 0.05, 5)
    at = np.flatnonzero(_within(events, (Source.ENERGY_COUNTER,), start, script.end_ns))[:1]
    _tell(script, "slow call", start, f"{length / S:.2f} s")
    events = events.copy()
    for i in at:
        end = int(events["t0_ns"][i]) + length
        events["t1_ns"][i] = end
        events["value"][i] += _counter_at(
            script, int(events["t0_ns"][i] + rng.uniform() * length)
        ) - _counter_at(script, int(events["t0_ns"][i]))
        events = events[~_within(events, (Source.ENERGY_COUNTER,), int(events["t0_ns"][i]) + 1, end)]
    return events


FAULTS: dict[str, Fault] = {
    "dropout": dropout,
    "gap": gap,
    "errors": errors,
    "zeros": zeros,
    "freeze": freeze,
    "counter freeze": counter_freeze,
    "lost counting": lost_counting,
    "counter reset": counter_reset,
    "counter jump": counter_jump,
    "glitch": glitch,
    "counter glitch": counter_glitch,
    "clock step": clock_step,
    "slow call": slow_call,
}


# -- the pipeline ---------------------------------------------------------------------------------


@functools.cache
def _config() -> dict[str, Any]:
    cfg = RunConfig(records_dir="/records", seed=0, repeat=0)
    cfg = changed(cfg, {"scenario": ServerConfig(name="server", rate_rps=2.0)})
    return to_json(cfg)


def _requests(window: PhaseSpan) -> pa.Table:
    """Two requests a second, each of 20 tokens in half a second."""
    rows = []
    names = {item.name for item in schema.REQUESTS_SCHEMA}
    for index, sent in enumerate(range(window.start_ns + S // 4, _end(window), S // 2)):
        stamps = [sent + 50_000_000 + 20_000_000 * i for i in range(20)]
        row = dict.fromkeys(names) | {
            "request_id": f"w{index}",
            "index": index,
            "phase": "window",
            "planned_send_ns": sent,
            "actual_send_ns": sent,
            "first_token_ns": stamps[0],
            "last_token_ns": stamps[-1],
            "token_ts_ns": stamps,
            "token_count": [1] * 20,
            "input_tokens": 100,
            "output_tokens": 20,
            "status": "completed",
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, schema=schema.REQUESTS_SCHEMA)


def record_of(script: Script) -> Record:
    """The run as a record that was never on disk."""
    info = RunInfo(
        schema_version=schema.RECORD_SCHEMA_VERSION,
        run_id="20260901-120000-000000",
        point_id="0" * 64,
        evidence=Evidence.EMULATED,
        origin="wattcount",
        instrument="nvml",
        seed=script.number,
        repeat=0,
        config=_config(),
        started_utc="2026-09-01T12:00:00+00:00",
        clock_pairs=[],
        host={},
        gpus=[{"uuid": UUID, "index": 0, "name": script.profile["device_name"]}],
        nvml={},
        versions={},
        engine={},
        sensors={},
        sampler={},
        phases=script.spans,
        validity=Validity(True),
        complete=True,
    )
    record = Record(Path("/nowhere"), info)
    # `Record` reads its tables when they are asked for, and keeps them.
    record.__dict__["power"] = PowerTrace((UUID,), script.events)
    record.__dict__["requests"] = _requests(next(s for s in script.spans if s.phase is Phase.WINDOW))
    record.__dict__["steps"] = schema.STEPS_SCHEMA.empty_table()
    return record


IDLES = {
    "power/idle_bare_w": Phase.BARE_IDLE,
    "power/idle_loaded_w": Phase.LOADED_IDLE,
    "power/idle_loaded_after_w": Phase.IDLE_AFTER,
    "power/idle_bare_after_w": Phase.BARE_IDLE_AFTER,
}


def judge(script: Script) -> dict[str, Any]:
    """What the pipeline makes of a script, against the truth; `off`: by figure, error / (3 x interval)."""
    record = record_of(script)
    content = compute(record)
    values = content["metrics"]
    off: dict[str, float] = {}
    told: dict[str, tuple[float, float, float]] = {}

    def true_j(start_ns: int, end_ns: int) -> float:
        low, high = script.sensors.true_energy_j(np.array([start_ns, end_ns]))
        return float(high - low)

    def compare(name: str, value: float | None, truth: float, u95: float | None) -> None:
        if value is not None:
            off[name] = abs(value - truth) / max(TIMES * (u95 or 0.0), 1e-6)
            told[name] = (value, truth, u95 or 0.0)

    window = phase_window(script.spans, Phase.WINDOW)
    assert window is not None
    window_j = true_j(window.start_ns, window.end_ns)
    compare("window", values["energy/gpu_j"], window_j, values["energy/gpu_j_u95_method"])
    idle_w: list[float] = []
    idle_u95_w: list[float] = []
    for key, phase in IDLES.items():
        span = phase_window(script.spans, phase)
        if span is None or values[key] is None:
            continue
        seconds = span.duration_s
        estimate = record.power.energy(span.start_ns, span.end_ns, UUID)
        truth = true_j(span.start_ns, span.end_ns)
        compare("idle", values[key] * seconds, truth, estimate.u95_method_j)
        off[key] = off.pop("idle")
        told[key] = told.pop("idle")
        if "loaded" in key:
            idle_w.append(truth / seconds)
            idle_u95_w.append((estimate.u95_method_j or 0.0) / seconds)
    if idle_w and values["energy/dynamic_j"] is not None:
        dynamic_j = window_j - float(np.mean(idle_w)) * window.duration_s
        u95 = np.hypot(
            values["energy/gpu_j_u95_method"],
            window.duration_s * np.sqrt(np.sum(np.square(idle_u95_w))) / len(idle_w),
        )
        compare("dynamic", values["energy/dynamic_j"], dynamic_j, float(u95))
    return {
        "number": script.number,
        "profile": script.profile["name"],
        "load": script.load,
        "kinds": script.kinds,
        "did": script.told,
        "valid": content["validity"]["valid"],
        "findings": [f["code"] for f in content["validity"]["findings"]],
        "reasons": content["energy"][UUID]["reasons"],
        "basis": content["energy"][UUID]["basis"],
        "u95_share": None if not values["energy/gpu_j"] else (values["energy/gpu_j_u95_method"] or 0.0) / values["energy/gpu_j"],
        "off": off,
        "told": told,
        "invalidated_by": [f["code"] for f in content["validity"]["findings"] if f["invalidates"]],
    }  # fmt: skip


def run(job: tuple[int, bool]) -> dict[str, Any]:
    number, faulty = job
    try:
        return judge(make(number, faulty=faulty))
    except Exception as error:
        script = make(number, faulty=faulty)
        return {
            "number": number, "profile": script.profile["name"], "load": script.load, "kinds": script.kinds,
            "did": script.told, "valid": True, "findings": [], "reasons": [], "basis": None, "u95_share": None,
            "off": {"error": float("inf")}, "told": {}, "invalidated_by": [], "error": repr(error),
        }  # fmt: skip


def failed(row: dict[str, Any]) -> bool:
    return row["valid"] and any(off > 1.0 for off in row["off"].values())


def _table(rows: list[dict[str, Any]], of: Callable[[dict[str, Any]], list[str]]) -> None:
    groups: dict[str, list[dict[str, Any]]] = collections.defaultdict(list)
    for row in rows:
        for name in dict.fromkeys(of(row)):
            groups[name].append(row)
    print(f"| {'':<16} | scripts | invalid | no energy | fallback | fail |")
    print("| --- | --- | --- | --- | --- | --- |")
    for name in sorted(groups):
        mine = groups[name]
        print(
            f"| {name:<16} | {len(mine):>7} | {sum(not r['valid'] for r in mine):>7} "
            f"| {sum(r['basis'] is None for r in mine):>9} "
            f"| {sum(r['basis'] not in (None, 'energy_counter+power_samples') for r in mine):>8} "
            f"| {sum(failed(r) for r in mine):>4} |"
        )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--scripts", type=int, default=10_000)
    parser.add_argument("--healthy", type=int, default=10_000)
    parser.add_argument("--first", type=int, default=0, help="number of the first script")
    parser.add_argument("--only", type=int, nargs="*", help="these scripts alone")
    parser.add_argument("--show", action="store_true", help="print each failing script whole")
    parser.add_argument("--jobs", type=int, default=os.cpu_count())
    parser.add_argument("--json", type=Path, help="write the worst scripts here")
    args = parser.parse_args()
    numbers = args.only or range(args.first, args.first + args.scripts)
    healthy = [] if args.only else range(args.first, args.first + args.healthy)
    began = time.perf_counter()
    with ProcessPoolExecutor(args.jobs) as pool:
        faulty_rows = list(pool.map(run, [(n, True) for n in numbers], chunksize=25))
        healthy_rows = list(pool.map(run, [(n, False) for n in healthy], chunksize=25))
    print("by kind of fault:")
    _table(faulty_rows, lambda row: [f"{kind}" for kind in row["kinds"]])
    print("\nby profile:")
    _table(faulty_rows, lambda row: [row["profile"]])
    print("\nalone or together:")
    _table(faulty_rows, lambda row: ["one" if len(row["kinds"]) == 1 else "several"])
    worst = sorted(filter(failed, faulty_rows), key=lambda row: -max(row["off"].values()))
    failures = len(worst)
    print(f"\n{len(faulty_rows)} scripts with faults: {sum(not r['valid'] for r in faulty_rows)} invalid, "
          f"{failures} valid and off by more than {TIMES:g} intervals")  # fmt: skip
    invalid = [row for row in healthy_rows if not row["valid"]]
    if healthy_rows:
        widths = [row["u95_share"] for row in healthy_rows if row["u95_share"] is not None]
        print(f"{len(healthy_rows)} healthy runs: {len(invalid)} invalid, {sum(map(failed, healthy_rows))} off by more "
              f"than {TIMES:g} intervals; method's interval, median {100 * np.median(widths):.3f} %")  # fmt: skip
    print(f"{time.perf_counter() - began:.0f} s")
    if args.show:
        for row in [*(worst if not args.only else faulty_rows), *invalid, *filter(failed, healthy_rows)][:60]:
            print(json.dumps(row, indent=None, default=str))
    if args.json:
        args.json.write_text(json.dumps({"failed": worst, "healthy_invalid": invalid}, indent=1, default=str))
    sys.exit(failures > 0 or len(invalid) > HEALTHY_INVALID_SHARE * len(healthy_rows))


if __name__ == "__main__":
    main()
