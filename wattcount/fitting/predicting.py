"""Settings to predictions: figures with intervals that hold, or a reason why there is none.

Intervals are conformal. Each row of the fit is predicted as if its model, its GPU, or both the source and the GPU had not been there; how
many standard deviations it is off, in nine of ten groups at most, widens or narrows the intervals of settings that are as far from the
data. The standard deviation itself grows with that distance.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from wattcount.fitting.fit import (
    NOISE,
    OTHER_NOISE,
    Array,
    Fit,
    Side,
    Table,
    fitted,
    forecast,
    kernel,
    left_out,
    table_of,
    taken,
)
from wattcount.fitting.rows import Row, shape_of
from wattcount.prediction.setting import Abstained, PredictionSetting, Prepared, family_of, prepared

Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

OWN = "wattcount"
"""Source as which settings are predicted: what our own runs measure."""
COVERAGE = 0.90
"""Share of settings that lie within an interval."""
LARGEST_FACTOR = 3.0
"""An interval that reaches further than this times the figure, up or down, says nothing: no prediction."""
UNSERVED_MARGIN = 1.25
"""A rate above this times the predicted capacity is not served; between, it may be, and the figures are those of a full engine."""
LEAST_SCALE, MOST_SCALE = 0.6, 3.0
"""Bounds of what conformal calibration may do to a standard deviation."""
MOST_GPUS = 0.8
"""Share of the GPUs for which the intervals of a new one would have held."""
FIGURES = ("power_w", "tpot_ms", "output_tokens_per_s", "j_per_output_token")


@dataclass(frozen=True)
class Interval:
    """A figure, and between what it lies nine times of ten."""

    value: float
    p05: float
    p95: float


@dataclass(frozen=True)
class Prediction:
    """figures: by the names in FIGURES, of all GPUs; empty: none, and `basis` says why."""

    figures: Mapping[str, Interval]
    basis: str

    @property
    def abstained(self) -> bool:
        return not self.figures


@dataclass(frozen=True)
class Scales:
    """Factors of standard deviations, of time, power and J per token, by what is known of a setting."""

    known: tuple[float, float, float]
    new_model: tuple[float, float, float]
    new_gpu: tuple[float, float, float]
    new_both: tuple[float, float, float]
    new_source: tuple[float, float, float]


class Predictor:
    """What was learned of some rows."""

    def __init__(self, fit: Fit) -> None:
        self.fit = fit
        self.scales = _scales(fit)
        self._own = {row.family for row in fit.rows if row.source == OWN}
        self._families = set(fit.known.families)
        self._shapes = set(fit.known.shapes)

    @classmethod
    def of(cls, rows: Sequence[Row]) -> Predictor:
        return cls(fitted(rows))

    def predict(self, settings: Sequence[PredictionSetting | Abstained]) -> list[Prediction]:
        """In their order; what cannot be predicted abstains."""
        found: list[Prediction | None] = [None] * len(settings)
        known: list[tuple[int, Prepared]] = []
        for at, setting in enumerate(settings):
            if isinstance(setting, Abstained):
                found[at] = Prediction({}, f"no prediction: {setting.reason}")
                continue
            try:
                known.append((at, prepared(setting)))
            except Abstained as reason:
                found[at] = Prediction({}, f"no prediction: {reason.reason}")
        if known:
            for (at, _), one in zip(known, self._predicted([one for _, one in known]), strict=True):
                found[at] = one
        return [one for one in found if one is not None]

    def predict_rows(self, rows: Sequence[Row]) -> list[Prediction]:
        """As `predict`, of rows as their own sources would measure them; of a source that was not learned from, as for a stranger."""
        return self._predicted(
            [row.prepared for row in rows],
            [row.source if row.source in self.fit.known.sources else None for row in rows],
            [not row.served for row in rows],
        )

    def _predicted(
        self,
        each: Sequence[Prepared],
        sources: Sequence[str | None] | None = None,
        plain: Sequence[bool] | None = None,
    ) -> list[Prediction]:
        """sources: whose figures are predicted; None, alone or in it: those that we would measure, or whoever else does."""
        families = [family_of(one.setting.gpu) for one in each]
        shapes = [shape_of(one) for one in each]
        table = table_of(
            each,
            families,
            shapes,
            [source or OWN for source in sources or [None] * len(each)],
            plain or [False] * len(each),
            self.fit.known,
        )
        cycle, tpot, power, steady = forecast(self.fit, table)
        found = []
        for at, one in enumerate(each):
            new_model, new_gpu = shapes[at] not in self._shapes, families[at] not in self._families
            named = sources[at] if sources is not None else None
            stranger = named is None and (sources is not None or families[at] not in self._own)
            scales = self._scale(new_model, new_gpu, stranger)
            noise_t, noise_p = NOISE.get(named or OWN, OTHER_NOISE)
            sd_time = float(np.hypot(tpot.sd[at], noise_t)) * scales[0]
            sd_cycle = float(np.hypot(cycle.sd[at], noise_t)) * scales[0]
            sd_power = float(np.hypot(power.sd[at], noise_p)) * scales[1]
            limit = one.setting.num_gpus * one.gpu.tdp_w
            found.append(
                self._one(
                    one,
                    float(power.mean[at]),
                    sd_power,
                    float(tpot.mean[at]),
                    sd_time,
                    float(cycle.mean[at]),
                    sd_cycle,
                    scales[2] / max(scales[0], scales[1]),
                    bool(steady.served[at]),
                    float(steady.capacity_rps[at]) * one.setting.replicas,
                    limit,
                    _basis(new_model, new_gpu, stranger),
                )
            )
        return found

    def _scale(self, new_model: bool, new_gpu: bool, stranger: bool) -> tuple[float, float, float]:
        scales = self.scales
        one = (
            scales.new_both
            if new_model and new_gpu
            else scales.new_gpu
            if new_gpu
            else scales.new_model
            if new_model
            else scales.known
        )
        if stranger:
            a, b = one, scales.new_source
            one = (max(a[0], b[0]), max(a[1], b[1]), max(a[2], b[2]))
        return one

    def _one(
        self,
        known: Prepared,
        power: float,
        sd_power: float,
        tpot: float,
        sd_time: float,
        cycle: float,
        sd_cycle: float,
        joint: float,
        served: bool,
        capacity: float,
        limit_w: float,
        basis: str,
    ) -> Prediction:
        setting = known.setting
        rate = setting.rate_rps
        if rate is not None and rate > UNSERVED_MARGIN * capacity:
            return Prediction(
                {},
                f"no prediction: {rate:g} requests/s are more than this serves, some {capacity:.3g}: more GPUs, or a lower rate",
            )
        z = 1.645
        watts = _interval(np.log(min(np.exp(power), limit_w)), z * sd_power)
        watts = dataclasses.replace(watts, p95=max(min(watts.p95, 1.05 * limit_w), watts.value))
        step = _interval(tpot + np.log(1e3), z * sd_time)
        if rate is not None and served:
            tokens = rate * setting.output_tokens
            tokens_per_s = Interval(tokens, tokens, tokens)
            joules = Interval(watts.value / tokens, watts.p05 / tokens, watts.p95 / tokens)
        else:
            if rate is not None:
                basis += "; the rate is about what a full engine serves"
            tokens_per_s = _interval(-cycle, z * sd_cycle)
            sd_j = float(np.hypot(sd_cycle, sd_power)) * min(1.0, joint)
            joules = _interval(np.log(watts.value) + cycle, z * sd_j)
        figures = dict(zip(FIGURES, (watts, step, tokens_per_s, joules), strict=True))
        widest = max(one.p95 / one.value for one in figures.values())
        if widest > LARGEST_FACTOR:
            return Prediction(
                {},
                f"no prediction: too far from the data: an interval would reach {widest:.1f} times the figure",
            )
        return Prediction(figures, basis)


def _basis(new_model: bool, new_gpu: bool, stranger: bool) -> str:
    model = "no result of this model" if new_model else "results of this model"
    gpu = "no result of this GPU" if new_gpu else "results of this GPU"
    if stranger and not new_gpu:
        gpu += " by others only"
    return f"predicted: {model}, {gpu}"


def _interval(log: float, half: float) -> Interval:
    return Interval(float(np.exp(log)), float(np.exp(log - half)), float(np.exp(log + half)))


def _scales(fit: Fit) -> Scales:
    served = np.array([row.served for row in fit.rows])
    table = fit.table
    pair = table.shape * 10**6 + table.family * 10**3 + table.source
    known = _quantiles(fit, pair, pair, served)
    model = _quantiles(fit, table.shape, table.shape, served)
    gpu = _of_gpus(fit, served)
    source = _strangers(fit, served)
    both = tuple(max(a, b) for a, b in zip(model, gpu, strict=True))
    return Scales(known, model, gpu, (both[0], both[1], both[2]), source)


def _of_gpus(fit: Fit, served: Flags) -> tuple[float, float, float]:
    """For a GPU that nobody measured: what holds for MOST_GPUS of those that were measured, each left out in turn.

    GPUs differ far more from each other than rows of one GPU do, and there are few: pooling their rows would let the one with most rows decide.
    """
    table = fit.table
    logs = {
        name: left_out(fit, side, table.family) for name, side in (("time", fit.time), ("power", fit.power))
    }
    each = [
        _weighed(fit, logs, np.arange(table.count), served & (table.family == family))
        for family in range(len(fit.known.families))
        if np.any(served & (table.family == family))
    ]
    pooled = _weighed(fit, logs, table.shape * 10**3 + table.family, served)
    most = np.quantile(np.array(each), MOST_GPUS, axis=0)
    return (
        max(pooled[0], float(most[0])),
        max(pooled[1], float(most[1])),
        max(pooled[2], float(most[2])),
    )


def _quantiles(
    fit: Fit,
    groups: Numbers,
    weighing: Numbers,
    served: Flags,
) -> tuple[float, float, float]:
    """How many of the interval's standard deviations rows of left-out groups are off, in COVERAGE of the weighed groups."""
    logs: dict[str, tuple[Array, Array]] = {}
    for name, side in (("time", fit.time), ("power", fit.power)):
        logs[name] = left_out(fit, side, groups)
    return _weighed(fit, logs, weighing, served)


def _weighed(
    fit: Fit,
    logs: Mapping[str, tuple[Array, Array]],
    weighing: Numbers,
    served: Flags,
) -> tuple[float, float, float]:
    count = len(fit.rows)
    cycle, watts = np.full((2, count), np.nan), np.full((2, count), np.nan)
    (time_error, time_sd), (power_error, power_sd) = logs["time"], logs["power"]
    time_row, time_kind = fit.seen.row[fit.time.picked], fit.seen.kind[fit.time.picked]
    power_row = fit.seen.row[fit.power.picked]
    first = time_kind == 0
    cycle[:, time_row[first]] = time_error[first], time_sd[first]
    watts[:, power_row] = power_error, power_sd
    both = np.isfinite(cycle[0]) & np.isfinite(watts[0])
    joules = np.abs(cycle[0] + watts[0])[both] / np.hypot(cycle[1], watts[1])[both]
    rows = np.flatnonzero(both)
    return (
        _quantile(np.abs(time_error) / time_sd, weighing[time_row], served[time_row]),
        _quantile(np.abs(power_error) / power_sd, weighing[power_row], served[power_row]),
        _quantile(joules, weighing[rows], served[rows]),
    )


def _quantile(
    score: Array,
    groups: Numbers,
    served: Flags,
) -> float:
    use = served & np.isfinite(score)
    if not use.any():
        return MOST_SCALE
    score, groups = score[use], groups[use]
    _, member, counts = np.unique(groups, return_inverse=True, return_counts=True)
    order = np.argsort(score, kind="stable")
    weight = np.cumsum((1.0 / counts[member])[order]) / len(counts)
    level = min(1.0, COVERAGE * (1 + 1 / len(counts)))
    at = min(int(np.searchsorted(weight, level)), len(order) - 1)
    return float(np.clip(score[order][at] / 1.645, LEAST_SCALE, MOST_SCALE))


def _strangers(fit: Fit, served: Flags) -> tuple[float, float, float]:
    """Of rows of other sources, predicted as if they were ours, by a fit that has nothing of that source and nothing of that GPU."""
    if OWN not in fit.known.sources:
        return (MOST_SCALE, MOST_SCALE, MOST_SCALE)
    own = fit.known.sources.index(OWN)
    logs = {}
    table = fit.table
    for name, side in (("time", fit.time), ("power", fit.power)):
        error, sd = np.full(len(side.picked), np.nan), np.full(len(side.picked), np.nan)
        row = fit.seen.row[side.picked]
        source, family = table.source[row], table.family[row]
        for pair in np.unique(source * 1000 + family):
            at = np.flatnonzero((source * 1000 + family == pair) & served[row])
            if source[at].size == 0 or source[at][0] == own:
                continue
            rest = np.flatnonzero((source != source[at][0]) & (family != family[at][0]))
            if len(rest) < 30:
                continue
            error[at], sd[at] = _as_ours(fit, side, at, rest, own)
        logs[name] = (error, sd)
    return _weighed(fit, logs, table.source * 1000 + table.family, served)


def _as_ours(
    fit: Fit,
    side: Side,
    at: Numbers,
    rest: Numbers,
    own: int,
) -> tuple[Array, Array]:
    lower = cho_factor(side.covariance[np.ix_(rest, rest)], lower=True)
    row, kind = fit.seen.row[side.picked], fit.seen.kind[side.picked]
    moved: Table = dataclasses.replace(taken(fit.table, row[at]), source=np.full(len(at), own))
    here = (fit.features[row[at]], moved, kind[at])
    there = (fit.features[row[rest]], taken(fit.table, row[rest]), kind[rest])
    prior = fit.layout.prior_sd**2
    part, other = fit.jacobian[kind[at], row[at]], fit.jacobian[kind[rest], row[rest]]
    cross = kernel(side.spread, here, there) + (part * prior) @ other.T
    error = side.residual[at] - cross @ cho_solve(lower, side.residual[rest])
    explained = solve_triangular(lower[0], cross.T, lower=True)
    total = np.diag(side.covariance)[at]
    return error, np.sqrt(np.maximum(total - np.sum(explained**2, axis=0), 1e-6))
