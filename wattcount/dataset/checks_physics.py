"""Rules of physics: whether a trace can come from that sensor, and from that load.

What a sensor of a known kind of board does was measured on our own records (`KNOWN`). Limits with "of ours" in their docstring are
chosen by one procedure, on the records of half of the boards: three times as far from their median as their own extreme
(docs/forgeries.md). `benchmarks/bench_forgers.py` tells how often they are wrong on the other half, and which forgers they catch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np

from wattcount.dataset import signs
from wattcount.dataset.rules import Breach, Severity, Submitted, rule
from wattcount.dataset.signs import Trace
from wattcount.energy.events import Source
from wattcount.energy.plausible import MEAN_OVER_LIMIT
from wattcount.records.schema import Evidence


@dataclass(frozen=True)
class Sensor:
    """What is known of the power sensor of a kind of board.

    drivers   versions (their first number) of the driver that it was seen with
    idle_w    power that the board does not go below
    """

    drivers: tuple[str, ...]
    idle_w: float


KNOWN = {
    "NVIDIA H100 80GB HBM3": Sensor(("580",), 50.0),
    "NVIDIA H200": Sensor(("580",), 50.0),
}
"""Sensors that we have learnt, by the name that NVML gives the board. Idle power [W]: the least of ours was 69 W, less a quarter."""

STEP_MW = (7.604, 7.784)
"""Power of the least step of the converter [mW], of ours."""
LADDER_SHARE = 0.2
"""Least share of the readings' differences on the converter's ladder. Chosen: the least of ours was 0.44; values that no such converter
made have up to 0.06."""
RING_PERIOD_OFF = 1e-4
"""Largest distance of the ring's period from 20 ms [share]. Chosen: four times the most of ours; a clock that is worse would be
broken."""
ON_GRID = 0.5
"""Least share of the ring's stamps near its grid, of ours, rounded down."""
COUNTER_GAIN_OFF = 0.008
"""Largest difference of the counter's joules from the ring's over a record [share], of ours."""
COUNTER_RESIDUAL = 0.03
"""Largest difference of the two in a step of the counter, root mean square [share], of ours."""
COUNTER_GRID_MISFIT = 0.025
"""Largest misfit of the counter's steps to one grid [share of a step], of ours, rounded up."""
AVERAGE_GAIN_OFF = 0.01
"""Largest difference of averaged power from the ring's over a record [share], of ours."""
AVERAGE_USUAL = 0.02
"""Largest usual difference of averaged power from the mean of the ring's last second [share], of ours."""
INSTANT_GAIN_OFF = 0.025
"""Largest difference of instant power from the ring's over a record [share], of ours."""
INSTANT_USUAL = 0.12
"""Largest usual difference of instant power from the ring's [share], of ours."""
USAGE_SHARE = 0.97
"""Least share of GetPowerUsage's values that averaged power showed. Chosen: 0.994 was the least of ours."""
BEAT_LAG_MS = 300.0
"""Largest lag between work and power at which they fit best [ms], of ours."""
BEAT_SDS = 5.0
"""Least correlation of power with work [standard deviations of that at other times]. Chosen: 5.5 was the least of ours on the boards
that it was chosen on."""
IDLE_UNDER_WORK_S = 2.5
"""Longest time that a board may draw idle power while steps run [s]. Chosen: twice the longest of ours on those boards, 1.24 s."""
LOAD_WITHOUT_WORK_S = 1.1
"""Longest time that a board may draw the power of steps without a step [s], of ours."""
HEAT_EXPLAINED = 0.4
"""Least share of the temperature's variance that power explains, of ours."""
HEAT_RANGE_C = 6.0
"""Range of the temperature from which on it is judged [C]. Chosen: it is told in whole degrees."""
HEAT_RESIDUAL_C = 3.8
"""Largest difference of the temperature from what power explains, root mean square [C], of ours."""
TOKENS_PER_STEP = 1.05
"""Most tokens of the median request for each step that it was there. Chosen: a step gives each request one; a twentieth for steps that
are reported late."""
TOGETHER_SHARE = 0.06
"""Largest share of arrivals with more than one token of a request, where nothing was drafted, of ours."""
COUNTER_CALL_US = (2_000.0, 4_000.0)
"""Fastest twentieth of the counter's reads [us]. Chosen: 2,514 to 2,806 in all of ours."""
COUNTER_CALL_USUAL_US = 10_000.0
"""Longest usual read of the counter [us]. Chosen: twice the most of ours."""
FIELD_CALL_US = 60.0
"""Longest usual read of a field that the driver keeps [us]. Chosen: four times the most of ours; a slower CPU takes longer."""
RING_CALL_US = (150.0, 3_000.0)
"""Usual read of the ring [us]. Chosen: three times around what ours took, 465 to 999."""

reject, flag, warn = Severity.reject, Severity.flag, Severity.warn


def _measured(submitted: Submitted) -> tuple[Trace, ...]:
    """The GPUs of a measured record; what does not claim to be measured has nothing to prove."""
    record = submitted.record
    return signs.traces(record) if record.info.evidence == Evidence.MEASURED else ()


def _driver(trace: Trace) -> str:
    return str(trace.record.info.nvml.get("driver_version", "")).partition(".")[0]


def _known(submitted: Submitted) -> Iterator[tuple[Trace, Sensor, Severity | None]]:
    """GPUs whose sensor is known. What is found with a driver that it was not seen with is for a person to judge."""
    for trace in _measured(submitted):
        sensor = KNOWN.get(trace.name)
        if sensor is not None:
            yield trace, sensor, None if _driver(trace) in sensor.drivers else flag


def _where(trace: Trace) -> str:
    """Which GPU, where there are several."""
    return f"GPU {trace.number}: " if len(trace.record.power.gpu_uuids) > 1 else ""


def _off(
    submitted: Submitted,
    of: Callable[[Trace], float | None],
    limit: float,
    message: str,
    *,
    least: bool = False,
) -> Iterator[Breach]:
    """A breach for each GPU of a known sensor whose figure is beyond the limit. `message` has {figure} and {limit}."""
    for trace, _, severity in _known(submitted):
        figure = of(trace)
        if figure is not None and (figure < limit if least else figure > limit):
            told = message.format(figure=figure, limit=limit)
            yield Breach(_where(trace) + told, figure, limit, severity=severity)


@rule(
    "physics/unknown_sensor",
    severity=warn,
    clause="The sensor of the board is one whose traces can be judged.",
)
def unknown_sensor(submitted: Submitted) -> Iterator[Breach]:
    for trace in _measured(submitted):
        if trace.name not in KNOWN:
            known = ", ".join(KNOWN)
            yield Breach(
                f"{_where(trace)}nothing is known of the power sensor of {trace.name}; known are {known}. "
                "Only what holds for all sensors was checked"
            )
        elif _driver(trace) not in KNOWN[trace.name].drivers:
            yield Breach(
                f"{_where(trace)}the sensor was not seen with a driver of version {_driver(trace)} yet: "
                "what its readings break is for a person to judge"
            )


@rule(
    "physics/counter_monotone",
    severity=reject,
    clause="The energy counter never falls.",
    limit=0,
    unit="reads",
)
def counter_monotone(submitted: Submitted) -> Iterator[Breach]:
    for trace in _measured(submitted):
        falls = signs.counter_falls(trace)
        if falls:
            yield Breach(f"{_where(trace)}the energy counter falls {falls} times", falls, 0)


@rule(
    "physics/converter_steps",
    severity=reject,
    clause="The readings of the ring lie on the steps of the board's analogue-to-digital converter.",
    limit=LADDER_SHARE,
    unit="share of the differences between readings",
)
def converter_steps(submitted: Submitted) -> Iterator[Breach]:
    for trace, _, severity in _known(submitted):
        found = trace.steps
        if found is None:
            continue
        if found.share < LADDER_SHARE:
            yield Breach(
                f"{_where(trace)}{found.share:.0%} of the differences between readings are steps of this board's converter, of a real "
                f"one at least {LADDER_SHARE:.0%}",
                found.share,
                LADDER_SHARE,
                severity=severity,
            )


@rule(
    "physics/converter_gain",
    severity=reject,
    clause=f"The converter's least step of current is {STEP_MW[0]} to {STEP_MW[1]} mW: no factor lies between the sensor and the readings.",
)
def converter_gain(submitted: Submitted) -> Iterator[Breach]:
    for trace, _, severity in _known(submitted):
        found = trace.steps
        if found is None or found.share < LADDER_SHARE or STEP_MW[0] <= found.step_mw <= STEP_MW[1]:
            continue
        limit = STEP_MW[found.step_mw > STEP_MW[1]]
        yield Breach(
            f"{_where(trace)}the readings move in steps of {found.step_mw:.3f} mW, those of this board in {STEP_MW[0]} to {STEP_MW[1]} mW",
            found.step_mw,
            limit,
            severity=severity,
        )


@rule(
    "physics/ring_period",
    severity=reject,
    clause="The samples of the ring come every 20 ms by the driver's own stamps.",
    limit=RING_PERIOD_OFF,
    unit="share",
)
def ring_period(submitted: Submitted) -> Iterator[Breach]:
    def off(trace: Trace) -> float | None:
        grid = trace.grid
        return None if grid is None else abs(grid.period_ns / signs.RING_PERIOD_NS - 1.0)

    yield from _off(
        submitted,
        off,
        RING_PERIOD_OFF,
        "the ring's period is off from 20 ms by a share of {figure:.2g}, of a real one by at most {limit:g}",
    )


@rule(
    "physics/ring_grid",
    severity=reject,
    clause="The stamps of the ring keep one phase.",
    limit=ON_GRID,
    unit="share of the samples",
)
def ring_grid(submitted: Submitted) -> Iterator[Breach]:
    def near(trace: Trace) -> float | None:
        grid = trace.grid
        return None if grid is None else grid.on_grid

    message = (
        "{figure:.0%} of the ring's samples lie on one grid of 20 ms, of a real one at least {limit:.0%}"
    )
    yield from _off(submitted, near, ON_GRID, message, least=True)


@rule(
    "physics/counter_against_ring",
    severity=reject,
    clause="The counter has the joules of the ring's samples.",
    limit=COUNTER_GAIN_OFF,
    unit="share",
)
def counter_against_ring(submitted: Submitted) -> Iterator[Breach]:
    def off(trace: Trace) -> float | None:
        pair = signs.counter_by_ring(trace)
        return None if pair is None else abs(pair.gain - 1.0)

    message = "counter and ring differ by {figure:.2%} over the record, in a real one by at most {limit:.1%}"
    yield from _off(submitted, off, COUNTER_GAIN_OFF, message)


@rule(
    "physics/counter_steps",
    severity=flag,
    clause="Each step of the counter has the joules of the ring's samples in it.",
    limit=COUNTER_RESIDUAL,
    unit="share, root mean square",
)
def counter_steps(submitted: Submitted) -> Iterator[Breach]:
    def off(trace: Trace) -> float | None:
        pair = signs.counter_by_ring(trace)
        return None if pair is None else pair.residual

    message = (
        "counter and ring differ by {figure:.1%} from step to step, in a real record by at most {limit:.1%}"
    )
    yield from _off(submitted, off, COUNTER_RESIDUAL, message)


@rule(
    "physics/counter_grid",
    severity=flag,
    clause="The reads of the counter see ticks of one grid, with one phase and drift.",
    limit=COUNTER_GRID_MISFIT,
    unit="share of a step",
)
def counter_grid(submitted: Submitted) -> Iterator[Breach]:
    def off(trace: Trace) -> float | None:
        counter = trace.model.counter
        if counter.grid is None or len(counter.energy_j) < 10:
            return None
        return counter.grid.error_j / max(float(np.median(np.diff(counter.energy_j))), 1e-9)

    message = "the counter's steps miss one grid by {figure:.1%}, in a real record by at most {limit:.1%}"
    yield from _off(submitted, off, COUNTER_GRID_MISFIT, message)


@rule(
    "physics/average_against_ring",
    severity=reject,
    clause="Averaged power is the mean of the ring's last second: over the record they agree.",
    limit=AVERAGE_GAIN_OFF,
    unit="share",
)
def average_against_ring(submitted: Submitted) -> Iterator[Breach]:
    def off(trace: Trace) -> float | None:
        pair = signs.average_by_ring(trace)
        return None if pair is None else abs(pair.gain - 1.0)

    message = (
        "averaged power and ring differ by {figure:.2%} over the record, in a real one by at most {limit:.1%}"
    )
    yield from _off(submitted, off, AVERAGE_GAIN_OFF, message)


@rule(
    "physics/average_box",
    severity=reject,
    clause="Averaged power is the mean of the ring's last second: reading by reading.",
    limit=AVERAGE_USUAL,
    unit="share, median",
)
def average_box(submitted: Submitted) -> Iterator[Breach]:
    def off(trace: Trace) -> float | None:
        pair = signs.average_by_ring(trace)
        return None if pair is None else pair.usual

    message = "averaged power differs from the ring's last second by {figure:.1%}, in a real record by at most {limit:.1%}"
    yield from _off(submitted, off, AVERAGE_USUAL, message)


@rule(
    "physics/instant_against_ring",
    severity=flag,
    clause="Instant power is the ring's power: over the record they agree.",
    limit=INSTANT_GAIN_OFF,
    unit="share",
)
def instant_against_ring(submitted: Submitted) -> Iterator[Breach]:
    def off(trace: Trace) -> float | None:
        pair = signs.instant_by_ring(trace)
        if pair is None:
            return None
        # By how much more than it may in one and the other, so that one figure tells.
        return max(abs(pair.gain - 1.0), pair.usual * INSTANT_GAIN_OFF / INSTANT_USUAL)

    message = "instant power and ring differ by {figure:.1%}, in a real record by at most {limit:.1%}"
    yield from _off(submitted, off, INSTANT_GAIN_OFF, message)


@rule(
    "physics/usage_is_average",
    severity=reject,
    clause="GetPowerUsage gives the values of averaged power.",
    limit=USAGE_SHARE,
    unit="share of the readings",
)
def usage_is_average(submitted: Submitted) -> Iterator[Breach]:
    message = "{figure:.0%} of GetPowerUsage's values are those of averaged power, of a real board at least {limit:.0%}"
    yield from _off(submitted, signs.usage_in_average, USAGE_SHARE, message, least=True)


@rule(
    "physics/power_limit",
    severity=reject,
    clause="Averaged power stays within the board's power limit.",
    limit=MEAN_OVER_LIMIT,
    unit="power limits",
)
def power_limit(submitted: Submitted) -> Iterator[Breach]:
    for trace in _measured(submitted):
        found = signs.limits(trace)
        if found is not None and found.most_share > MEAN_OVER_LIMIT:
            yield Breach(
                f"{_where(trace)}averaged power reaches {found.most_share:.2f} of the power limit",
                found.most_share,
                MEAN_OVER_LIMIT,
            )


@rule(
    "physics/idle_floor",
    severity=reject,
    clause="A board draws at least what one of its kind draws idle.",
    unit="W",
)
def idle_floor(submitted: Submitted) -> Iterator[Breach]:
    for trace, sensor, severity in _known(submitted):
        found = signs.limits(trace)
        if found is not None and found.idle_w < sensor.idle_w:
            yield Breach(
                f"{_where(trace)}the board goes down to {found.idle_w:.1f} W, one of its kind to no less than {sensor.idle_w:g} W",
                found.idle_w,
                sensor.idle_w,
                severity=severity,
            )


@rule(
    "physics/heat",
    severity=flag,
    clause="Temperature follows power with the time constants of a board that warms up.",
    limit=HEAT_EXPLAINED,
    unit="share of its variance",
)
def heat(submitted: Submitted) -> Iterator[Breach]:
    for trace in _measured(submitted):
        found = signs.heat(trace)
        if found is None or found.range_c < HEAT_RANGE_C:
            continue
        if found.explained < HEAT_EXPLAINED or found.residual_c > HEAT_RESIDUAL_C:
            yield Breach(
                f"{_where(trace)}power explains {found.explained:.0%} of how the temperature varies and leaves {found.residual_c:.1f} C "
                f"of it; in a real record at least {HEAT_EXPLAINED:.0%}, and at most {HEAT_RESIDUAL_C:g} C",
                found.explained,
                HEAT_EXPLAINED,
            )


@rule(
    "physics/power_follows_steps",
    severity=reject,
    clause="Power moves when the engine's steps do.",
    limit=BEAT_LAG_MS,
    unit="ms",
)
def power_follows_steps(submitted: Submitted) -> Iterator[Breach]:
    for trace in _measured(submitted):
        found = signs.beat(trace)
        if found is None:
            continue
        sds = found.near / max(found.far_sd, 1e-9)
        late, weak = abs(found.lag_ms) > BEAT_LAG_MS, sds < BEAT_SDS
        if late or weak:
            yield Breach(
                f"{_where(trace)}power fits the steps best {found.lag_ms:+.0f} ms from when they ran, and then by {sds:.1f} standard "
                f"deviations of what chance gives; in a real record within {BEAT_LAG_MS:g} ms and by {BEAT_SDS:g} or more",
                abs(found.lag_ms),
                BEAT_LAG_MS,
                severity=None if late and weak else flag,
            )


@rule(
    "physics/idle_under_work",
    severity=reject,
    clause="A board does not draw idle power while steps run.",
    limit=IDLE_UNDER_WORK_S,
    unit="s",
)
def idle_under_work(submitted: Submitted) -> Iterator[Breach]:
    for trace in _measured(submitted):
        found = signs.unexplained(trace)
        if found is not None and found.idle_s > IDLE_UNDER_WORK_S:
            yield Breach(
                f"{_where(trace)}the board draws idle power for {found.idle_s:.1f} s while steps run",
                found.idle_s,
                IDLE_UNDER_WORK_S,
            )


@rule(
    "physics/load_without_work",
    severity=flag,
    clause="A board does not draw the power of steps while none runs.",
    limit=LOAD_WITHOUT_WORK_S,
    unit="s",
)
def load_without_work(submitted: Submitted) -> Iterator[Breach]:
    for trace in _measured(submitted):
        found = signs.unexplained(trace)
        if found is not None and found.busy_s > LOAD_WITHOUT_WORK_S:
            yield Breach(
                f"{_where(trace)}the board draws the power of steps for {found.busy_s:.1f} s without one",
                found.busy_s,
                LOAD_WITHOUT_WORK_S,
            )


@rule(
    "physics/tokens_by_steps",
    severity=reject,
    clause="A request has at most one token from each step, unless tokens are drafted.",
    limit=TOKENS_PER_STEP,
    unit="tokens a step",
)
def tokens_by_steps(submitted: Submitted) -> Iterator[Breach]:
    if not _measured(submitted):
        return
    found = signs.ledger(submitted.record)
    if found is not None and found.tokens_per_step > TOKENS_PER_STEP:
        yield Breach(
            f"the median request has {found.tokens_per_step:.2f} tokens for each step that it was there",
            found.tokens_per_step,
            TOKENS_PER_STEP,
        )


@rule(
    "physics/tokens_one_by_one",
    severity=flag,
    clause="The tokens of a request come one by one, unless tokens are drafted.",
    limit=TOGETHER_SHARE,
    unit="share of the arrivals",
)
def tokens_one_by_one(submitted: Submitted) -> Iterator[Breach]:
    if not _measured(submitted):
        return
    found = signs.ledger(submitted.record)
    if found is not None and found.together > TOGETHER_SHARE:
        yield Breach(
            f"{found.together:.0%} of the arrivals hold several tokens", found.together, TOGETHER_SHARE
        )


@rule(
    "physics/call_durations",
    severity=flag,
    clause="Calls of NVML take as long as those of a real driver.",
    unit="us",
)
def call_durations(submitted: Submitted) -> Iterator[Breach]:
    for trace, _, _ in _known(submitted):
        for source, low, high, quantile in (
            (Source.ENERGY_COUNTER, *COUNTER_CALL_US, 0.05),
            (Source.ENERGY_COUNTER, COUNTER_CALL_US[0], COUNTER_CALL_USUAL_US, 0.5),
            (Source.POWER_SAMPLES, *RING_CALL_US, 0.5),
            (Source.POWER_AVERAGE, 0.0, FIELD_CALL_US, 0.5),
            (Source.TEMPERATURE_GPU, 0.0, FIELD_CALL_US, 0.5),
        ):
            took = signs.call_us(trace, source)
            if len(took) < 10:
                continue
            figure = float(np.quantile(took, quantile))
            if not low <= figure <= high:
                which = "the fastest twentieth of" if quantile < 0.5 else "usual"
                yield Breach(
                    f"{_where(trace)}{which} calls for {source.name.lower()} take {figure:,.0f} us, of a real driver {low:,.0f} to {high:,.0f}",
                    figure,
                    high if figure > high else low,
                )
