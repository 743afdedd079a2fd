"""How sure an energy is: what the estimator adds, and what the board's sensor adds.

All of it follows JCGM 100:2008 (GUM): standard uncertainties of independent causes are added in quadrature and
multiplied by a coverage factor; "95 %" is that. `docs/uncertainty.md` has the formulas in full.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from wattcount.energy.curve import S_NS, Floats, Ints, PowerCurve
from wattcount.statistics import t_975

COVERAGE_95 = 1.96
"""Coverage factor of 95 % of a normal distribution [standard uncertainties]. Derived: JCGM 100:2008, table G.1."""
WIDE_SHARE = 0.03
"""Uncertainty of the method above which an interval says so [share of its energy]. Chosen: well above the 0.1 to 0.5 % of a
window of seconds."""


@dataclass(frozen=True)
class SensorPrior:
    """Type B: what is believed of a board's sensor before anybody holds a meter to it. Normal, 95 % limits.

    gain_u95     relative error that all readings share
    offset_u95_w error in watts that all readings share
    """

    gain_u95: float
    offset_u95_w: float
    source: str


SENSOR_PRIOR = SensorPrior(
    0.05,
    2.0,
    "gain: within 5 % is what NVIDIA states for power readings (nvml.h, nvmlDeviceGetPowerUsage) and what meters found "
    "on some 70 GPUs (arXiv 2312.02741); the counter is taken to share the sensor. Offset: a choice, not published.",
)
"""Gain and offset of a board's sensor, before anybody holds a meter to it. Stated: by NVIDIA and by arXiv 2312.02741 (gain); the
offset is chosen. One prior serves all GPUs, because no GPU's gain is known better here."""


@dataclass(frozen=True)
class ShapeNoise:
    """Variance of the energy between two ticks of the counter that the power source cannot tell.

    A random walk whose variance grows with `steepness` x (length x change of power)^2 of each sampling step and
    with `floor_j2_per_s` x time: shape is lost where power changes between two samples. Tied down at every tick, it
    becomes a Brownian bridge. Each tick is off by `tick_sd_s` x power on top.
    """

    steepness: float
    floor_j2_per_s: float
    tick_sd_s: float


PRIOR_STEEPNESS = 1 / 12
"""Variance of the energy that samples miss within one sampling step [(length x change of power)^2], before any tick was held out.
Derived: a step of power at any time within it, with equal probability, that is put into its middle."""
LEAST_STEEPNESS = 0.055
"""Least variance of that kind that a fit is believed [(length x change of power)^2]. Chosen: two thirds of the prior; a load
that keeps step with the counter hides its errors from ticks that are held out."""
PRIOR_FLOOR_J2_PER_S = 0.01
"""Variance of the energy that samples miss on steady power [J^2/s], before any tick was held out. Chosen: 0.1 J over a second, some
readings' noise of an H200's ring; held-out ticks correct it."""
PRIOR_TICK_SD_S = 0.001
"""Standard deviation of one tick's own place [s], before any tick was held out. Chosen: a hundredth of the ticks' period."""
LEAST_TICK_SD_S = 0.0007
"""Least standard deviation of a tick's place that a fit is believed [s]. Chosen: so that windows of 60 s are covered; a few ticks
in a thousand are off by more, too few for a fit to a hundred ticks to see one."""
PRIOR_WEIGHT = 4.0
"""Weight of the three priors above [held-out ticks]. Chosen: a trace of some ten ticks then follows its own errors."""
LOCAL_TICKS = 8
"""Held-out ticks on either side of an interval that say how well this stretch is predicted. Chosen: with one read a second a stretch
of some 16 s, the length of a load that is measured on its own."""
LOCAL_WEIGHT = 6.0
"""Weight of the whole trace in how well a stretch is predicted [held-out ticks]. Chosen: on the emulated loads, for coverage."""
LEAST_LOCAL = 0.7
"""Least variance of a stretch [share of the whole trace's]. Chosen: a stretch may be predicted well by chance, and 16 errors give a
variance to a third."""
FIT_ROUNDS = 60
"""Rounds of the multiplicative updates that fit the variances. Measured: after some 40 they move by less than a per mille."""
BELIEF_TICKS = 0.3
"""Weight of "the samples are right" (a share of 1) when the share of the whole trace is fitted [held-out ticks of average
informativeness]. Chosen: it decides only where ticks say nothing, such as on constant power."""
WHOLE_TICKS = 6.0
"""Weight of the whole trace's share of the samples when the share of a stretch is fitted [held-out ticks of average
informativeness]. Chosen: like `LOCAL_WEIGHT`."""


class HeldOut:
    """Every tick but the first and last, predicted from its neighbours: by a straight line and by the samples.

    ticks_ns, energy_j  the counter's
    shown_j             what the power source shows up to each tick
    doubt_j2            variance of the random walk up to each tick, see `doubt_j2`
    """

    def __init__(self, ticks_ns: Ints, energy_j: Floats, shown_j: Floats, doubt_j2: Floats) -> None:
        self.ticks_ns = ticks_ns
        span_j = energy_j[2:] - energy_j[:-2]
        flat_j = (ticks_ns[1:-1] - ticks_ns[:-2]) / (ticks_ns[2:] - ticks_ns[:-2]) * span_j
        gain = local_gain(energy_j, shown_j)
        gain = (gain[1:] + gain[:-1]) / 2
        left_j = span_j - gain * (shown_j[2:] - shown_j[:-2])
        doubt = (doubt_j2[1:-1] - doubt_j2[:-2]) / np.maximum(doubt_j2[2:] - doubt_j2[:-2], 1e-30)
        shaped_j = gain * (shown_j[1:-1] - shown_j[:-2]) + doubt * left_j
        self.off_line_j = energy_j[1:-1] - energy_j[:-2] - flat_j
        """How far the tick lies off the straight line ..."""
        self.shown_off_line_j = shaped_j - flat_j
        """... and how far the samples say it does."""

    def samples_weight(self) -> Floats:
        """Share w of the samples, 0..1, in the shape of each interval between ticks; float64[len(ticks) - 1].

        Least squares of `off_line_j` on `shown_off_line_j` over the ticks around, with some belief in the share that
        is best for the whole trace; in that, with a little belief in w = 1.
        """
        intervals = len(self.ticks_ns) - 1
        if not len(self.off_line_j):
            return np.ones(intervals)
        x, y = self.shown_off_line_j, self.off_line_j
        scale = float(np.mean(x**2))
        if scale == 0.0:
            return np.ones(intervals)
        whole = (float(x @ y) + BELIEF_TICKS * scale) / (float(x @ x) + BELIEF_TICKS * scale)
        whole = min(max(whole, 0.0), 1.0)
        around = _around(x * x, intervals) + WHOLE_TICKS * scale
        weight: Floats = (_around(x * y, intervals) + WHOLE_TICKS * scale * whole) / around
        return np.clip(weight, 0.0, 1.0)

    def errors_j(self, weight: Floats) -> Floats:
        """Errors of predictions with these shares (one an interval); each held-out tick takes the mean of its two intervals' shares."""
        errors: Floats = self.off_line_j - (weight[:-1] + weight[1:]) / 2 * self.shown_off_line_j
        return errors


def local_gain(energy_j: Floats, shown_j: Floats) -> Floats:
    """Counter's joules against the samples' around each interval between ticks; float64[len(ticks) - 1].

    The median over the `LOCAL_TICKS` intervals on either side: one across a gap in the samples does not count.
    """
    ratios = np.diff(energy_j) / np.maximum(np.diff(shown_j), 1e-30)
    reach = min(LOCAL_TICKS, len(ratios) - 1)
    padded = np.pad(ratios, reach, mode="reflect") if reach else ratios
    gain: Floats = np.median(np.lib.stride_tricks.sliding_window_view(padded, 2 * reach + 1), axis=1)
    return gain


def doubt_j2(shape: PowerCurve) -> Floats:
    """Variance of what the samples miss up to each knot of the curve, by the priors alone; float64[knots]."""
    h = np.diff(shape.t_ns) / S_NS
    steps = PRIOR_STEEPNESS * (h * shape.change_w) ** 2 + PRIOR_FLOOR_J2_PER_S * h
    return np.concatenate(([0.0], np.cumsum(steps)))


def _around(values: Floats, intervals: int) -> Floats:
    """The sum over the held-out ticks within `LOCAL_TICKS` of each interval."""
    total = np.concatenate(([0.0], np.cumsum(values)))
    index = np.arange(intervals)
    low = np.clip(index - LOCAL_TICKS, 0, len(values))
    high = np.clip(index + LOCAL_TICKS, 0, len(values))
    sums: Floats = total[high] - total[low]
    return sums


class ShapeUncertainty:
    """Variance of the estimate at any moment between ticks, fitted to the errors of held-out ticks.

    shape     the power source (None: straight lines between the ticks)
    ticks_ns  int64[n], at least 2
    power_w   float64[n]: power around each tick
    """

    def __init__(
        self, shape: PowerCurve | None, ticks_ns: Ints, power_w: Floats, errors_j: Floats, tick_sd_s: float
    ) -> None:
        self.ticks_ns, self.power_w = ticks_ns, power_w
        self._origin_ns = int(ticks_ns[0])
        self._knots_ns = ticks_ns if shape is None else shape.t_ns
        if shape is None:
            self._steep = np.zeros(len(ticks_ns))
        else:
            h = np.diff(shape.t_ns) / S_NS
            self._steep = np.concatenate(([0.0], np.cumsum((h * shape.change_w) ** 2)))
        prior = np.array([PRIOR_STEEPNESS, PRIOR_FLOOR_J2_PER_S, max(PRIOR_TICK_SD_S, tick_sd_s) ** 2])
        if shape is None:
            # Nothing says how the power moves between ticks: by half of itself, within a second.
            prior[:2] = 0.0, float(np.mean(power_w)) ** 2 / 4
        steep, seconds = self._walks(ticks_ns)
        parts = np.stack((_tied(steep), _tied(seconds), self._ticks_alone()))
        # Ticks that are a second apart, or values that are held, say little of the next load's begin.
        least_local = LEAST_LOCAL if shape is not None and not shape.held else 1.0
        self.noise, self._local = _fit(parts, errors_j, prior, tick_sd_s, least_local)
        self._ticks_widen = few_widen(np.array([PRIOR_WEIGHT + len(errors_j)]))[0]

    def _walks(self, t_ns: Ints) -> tuple[Floats, Floats]:
        """Variances of the two random walks up to each time, per unit of `steepness` and of `floor_j2_per_s`."""
        since_ns = (t_ns - self._origin_ns).astype(float)
        steep = np.interp(since_ns, (self._knots_ns - self._origin_ns).astype(float), self._steep)
        return steep, since_ns / S_NS

    def _ticks_alone(self) -> Floats:
        """Variance of each held-out tick's error per unit of a tick's own time variance."""
        share = (self.ticks_ns[1:-1] - self.ticks_ns[:-2]) / (self.ticks_ns[2:] - self.ticks_ns[:-2])
        part: Floats = self.power_w[1:-1] ** 2 * (1 + share**2 + (1 - share) ** 2)
        return part

    def variance_j2(self, start_ns: Ints, end_ns: Ints) -> tuple[Floats, Floats]:
        """(shape, tick) variances of the energy of each interval, joule^2."""
        i, j = self._interval(start_ns), self._interval(end_ns)
        t_ns = (start_ns, end_ns, self.ticks_ns[i], self.ticks_ns[i + 1], self.ticks_ns[j], self.ticks_ns[j + 1])  # fmt: skip
        at_start, at_end, low_i, high_i, low_j, high_j = self._walked(np.stack(t_ns))

        def bridge(low: Floats, at: Floats, high: Floats) -> Floats:
            total = np.maximum(high - low, 1e-30)
            # Beyond the first and last tick nothing ties it down.
            inside = (at >= low) & (at <= high)
            return np.where(
                inside, (at - low) * (high - at) / total, np.abs(np.where(at < low, low - at, at - high))
            )

        same = i == j
        moved = np.abs(at_end - at_start)
        within = moved * np.clip(1 - moved / np.maximum(high_i - low_i, 1e-30), 0.0, 1.0)
        outside = same & ((at_start < low_i) | (at_end > high_i))
        apart = (
            bridge(low_i, at_start, high_i) * self._local[i] + bridge(low_j, at_end, high_j) * self._local[j]
        )
        shape = np.where(same & ~outside, within * self._local[i], apart)
        tick = self._ticks_widen * self.noise.tick_sd_s**2 * self._tick_variance(i, j, start_ns, end_ns)
        return shape, tick

    def _walked(self, t_ns: Ints) -> Floats:
        steep, seconds = self._walks(t_ns)
        walked: Floats = self.noise.steepness * steep + self.noise.floor_j2_per_s * seconds
        return walked

    def _interval(self, t_ns: Ints) -> Ints:
        found: Ints = np.clip(
            np.searchsorted(self.ticks_ns, t_ns, side="right") - 1, 0, len(self.ticks_ns) - 2
        )
        return found

    def _tick_variance(self, i: Ints, j: Ints, start_ns: Ints, end_ns: Ints) -> Floats:
        """Sum of squares of (coefficient x power) over the ticks that an interval rests on; s^2 give joule^2."""

        def share(k: Ints, t_ns: Ints) -> Floats:
            part: Floats = np.clip(
                (t_ns - self.ticks_ns[k]) / (self.ticks_ns[k + 1] - self.ticks_ns[k]), 0.0, 1.0
            )
            return part

        a, b = share(i, start_ns), share(j, end_ns)
        p = self.power_w
        # Coefficients: -(1 - a) on tick i, -a on i + 1, (1 - b) on j, b on j + 1; they add where ticks coincide.
        first = np.where(j == i, (1 - b) - (1 - a), -(1 - a)) * p[i]
        second = np.where(j == i, b - a, np.where(j == i + 1, (1 - b) - a, -a)) * p[i + 1]
        third = np.where(j > i + 1, 1 - b, 0.0) * p[j]
        fourth = np.where(j > i, b, 0.0) * p[j + 1]
        total: Floats = first**2 + second**2 + third**2 + fourth**2
        return total


def _tied(walked: Floats) -> Floats:
    """Variance of each tick but the first and last in a walk that is tied down at its neighbours."""
    left, right = walked[1:-1] - walked[:-2], walked[2:] - walked[1:-1]
    total = left + right
    variance: Floats = np.where(total > 0, left * right / np.where(total > 0, total, 1.0), 0.0)
    return variance


def few_widen(freedom: Floats) -> Floats:
    """Factor of a variance that comes from so few squared errors, so that `COVERAGE_95` stands for Student's t.

    JCGM 100:2008, G.3.3: a standard uncertainty with few degrees of freedom takes a larger coverage factor.
    """
    whole = np.floor(freedom).astype(np.int64)
    factors = {int(number): (t_975(int(number)) / COVERAGE_95) ** 2 for number in np.unique(whole)}
    return np.array([factors[int(number)] for number in whole])


def _fit(
    parts: Floats, errors_j: Floats, prior: Floats, least_tick_sd_s: float, least_local: float
) -> tuple[ShapeNoise, Floats]:
    """Variance components by maximum likelihood with a weak prior, and how far each interval is off from them.

    parts  float64[3, held out]: variance of each error per unit of each component
    """
    components = prior.copy()
    squares = errors_j**2
    if len(errors_j):
        usual = parts.mean(axis=1)
        for _ in range(FIT_ROUNDS):
            variance = np.maximum(components @ parts, 1e-12)
            ahead = (parts * (squares / variance**2)).sum(axis=1)
            behind = (parts / variance).sum(axis=1)
            # The prior as held-out ticks of usual geometry that err by just as much as it says.
            expected = np.maximum(float(components @ usual), 1e-12)
            believed = np.maximum(float(prior @ usual), 1e-12)
            ahead += PRIOR_WEIGHT * usual * believed / expected**2
            behind += PRIOR_WEIGHT * usual / expected
            # A component that no held-out tick speaks of stays as believed.
            components = components * np.sqrt(np.where(behind > 0, ahead / np.maximum(behind, 1e-30), 1.0))
        components[0] = max(components[0], LEAST_STEEPNESS if usual[0] > 0 else 0.0)
        components[2] = max(components[2], LEAST_TICK_SD_S**2, least_tick_sd_s**2)
        variance = np.maximum(components @ parts, 1e-12)
        intervals = len(errors_j) + 1
        count = _around(np.ones(len(errors_j)), intervals)
        local = (LOCAL_WEIGHT + _around(squares / variance, intervals)) / (LOCAL_WEIGHT + count)
        local = np.maximum(local, least_local) * few_widen(LOCAL_WEIGHT + count)
    else:
        local = few_widen(np.array([LOCAL_WEIGHT]))
    noise = ShapeNoise(float(components[0]), float(components[1]), float(components[2]) ** 0.5)
    return noise, local


@dataclass(frozen=True)
class EnergyEstimate:
    """Energy of an interval, what it rests on, and how sure it is.

    value_j       None: cannot be told, see `reasons`
    u95_j         95 % uncertainty: `u95_method_j` and `u95_sensor_j` in quadrature
    basis         `energy_counter+power_samples`, `energy_counter`, `power_samples`, `power_average`, ...
    reasons       stable codes of what is wrong or worth knowing, e.g. `ring_gaps`, `counter_reset`, `outside_trace`
    u95_method_j  what the estimator adds: gets smaller with more and longer measurements
    u95_sensor_j  gain and offset of the board's sensor: the same sign and share in every run on that board
    budget_j      the parts, 95 % each: `shape`, `edges`, `alignment`, `lowpass`, `timescale`, `resolution`, `agreement`,
                  `gain`, `offset`; `clock` of GPUs of another machine
    """

    value_j: float | None
    u95_j: float | None
    basis: str | None
    reasons: tuple[str, ...] = ()
    u95_method_j: float | None = None
    u95_sensor_j: float | None = None
    budget_j: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class EnergySum:
    """Energy of an interval, several GPUs together, with its 95 % uncertainties [J]."""

    value_j: float
    u95_method_j: float
    u95_sensor_j: float

    @property
    def u95_j(self) -> float:
        return math.hypot(self.u95_method_j, self.u95_sensor_j)


def total(estimates: Sequence[EnergyEstimate]) -> EnergySum | None:
    """The sum of the estimates of several GPUs; None where there is none, or one's value or uncertainty is not known.

    The estimator's errors are independent: in quadrature. Those of the boards' sensors may not be: they are added. GPUs of
    another machine have one clock: what that adds is added, too.
    """
    values = [e.value_j for e in estimates if e.value_j is not None]
    method = [e.u95_method_j for e in estimates if e.u95_method_j is not None]
    sensor = [e.u95_sensor_j for e in estimates if e.u95_sensor_j is not None]
    if not estimates or not len(values) == len(method) == len(sensor) == len(estimates):
        return None
    clock = [e.budget_j.get("clock", 0.0) for e in estimates]
    variance = math.fsum(u**2 for u in method) - math.fsum(u**2 for u in clock) + math.fsum(clock) ** 2
    return EnergySum(math.fsum(values), math.sqrt(variance), math.fsum(sensor))


def estimated(value_j: float, length_ns: int, basis: str, sd_j: Mapping[str, float]) -> EnergyEstimate:
    """The estimate with the method's standard uncertainties by cause; those of the sensor are added here."""
    sensor = {
        "gain": SENSOR_PRIOR.gain_u95 * abs(value_j),
        "offset": SENSOR_PRIOR.offset_u95_w * length_ns / S_NS,
    }
    method = {name: COVERAGE_95 * sd for name, sd in sd_j.items()}
    method_j = float(np.sqrt(sum(u**2 for u in method.values())))
    sensor_j = float(np.hypot(sensor["gain"], sensor["offset"]))
    wide = ("wide_interval",) if method_j > WIDE_SHARE * abs(value_j) else ()
    return EnergyEstimate(
        value_j, float(np.hypot(method_j, sensor_j)), basis, wide, method_j, sensor_j, {**method, **sensor}
    )
