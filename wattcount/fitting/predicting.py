"""Settings to predictions: figures with intervals that hold, or a reason why there is none.

Intervals are conformal. Each row of the fit is predicted as if its model, or its GPU, had not been there; how many standard deviations it
is off, in nine of ten groups at most, widens or narrows the intervals of settings that are as far from the data. The standard deviation
itself grows with that distance. On GPUs that only others measured, it is that of a source that nobody knows.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from wattcount.fitting.fit import (
    NOISE,
    OTHER_NOISE,
    OWN,
    Fit,
    Forecast,
    LeftOut,
    Table,
    fitted,
    forecast,
    left_out,
    table_of,
)
from wattcount.fitting.rows import Row, shape_of
from wattcount.prediction.setting import Abstained, PredictionSetting, Prepared, family_of, prepared

Array = NDArray[np.float64]
Numbers = NDArray[np.int64]
Flags = NDArray[np.bool_]

NORMAL_95 = 1.645
"""Standard deviations to either side that hold nine tenths of a normal distribution."""
COVERAGE = 0.90
"""Share of settings that lie within an interval."""
LARGEST_FACTOR = 3.0
"""An interval that reaches further than this times the figure, up or down, says nothing: no prediction."""
UNSERVED_MARGIN = 1.25
"""A rate above this times the predicted capacity is not served; between, it may be, and the figures are those of a full engine."""
LEAST_SCALE, MOST_SCALE = 0.6, 3.0
"""Bounds of what conformal calibration may do to a standard deviation."""
LEAST_ROWS = 30
"""Rows that a fit needs: below, there are more coefficients that differ than rows that tell them apart."""
MOST_GPUS = 0.8
"""Share of the GPUs for which the intervals of a new one would have held."""
FIGURES = ("power_w", "tpot_ms", "output_tokens_per_s", "j_per_output_token")


def one_core() -> threadpool_limits:
    """A context in which linear algebra runs on one core: so that it waits for no other, and sums in the same order on every machine."""
    return threadpool_limits(limits=1, user_api="blas")


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
        with one_core():
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
        """As `predict`, of rows as their own sources would measure them."""
        return self._predicted(
            [row.prepared for row in rows],
            [row.source for row in rows],
            [row.launched for row in rows],
            [row.gaps for row in rows],
        )

    def _predicted(
        self,
        each: Sequence[Prepared],
        sources: Sequence[str] | None = None,
        plain: Sequence[bool] | None = None,
        gaps: Sequence[bool] | None = None,
    ) -> list[Prediction]:
        """sources: whose figures are predicted; None: those that we would measure, or whoever else does."""
        with one_core():
            return self._forecast(each, sources, plain, gaps)

    def _forecast(
        self,
        each: Sequence[Prepared],
        sources: Sequence[str] | None,
        plain: Sequence[bool] | None,
        gaps: Sequence[bool] | None,
    ) -> list[Prediction]:
        families = [family_of(one.setting.gpu) for one in each]
        shapes = [shape_of(one) for one in each]
        named = sources or [OWN] * len(each)
        table = table_of(each, families, shapes, named, plain or [False] * len(each), self.fit.known, gaps)
        found = forecast(self.fit, table)
        strange = np.array([sources is None and family not in self._own for family in families])
        sd, joules_sd = found.sd, found.joules_sd
        if strange.any():
            other = self._of_strangers(table)
            sd = np.where(strange, np.maximum(sd, other.sd), sd)
            joules_sd = np.where(strange, np.maximum(joules_sd, other.joules_sd), joules_sd)
        predictions = []
        for at, one in enumerate(each):
            new_model, new_gpu = shapes[at] not in self._shapes, families[at] not in self._families
            scales = self._scale(new_model, new_gpu)
            noise_t, noise_p = NOISE.get(named[at], OTHER_NOISE)
            predictions.append(
                self._one(
                    one,
                    found.mean[:, at],
                    np.hypot(sd[:, at], [noise_t, noise_t, noise_p]) * [scales[0], scales[0], scales[1]],
                    float(np.hypot(joules_sd[at], np.hypot(noise_t, noise_p))) * scales[2],
                    bool(found.steady.served[at]),
                    float(found.steady.capacity_rps[at]) * one.setting.replicas,
                    _basis(new_model, new_gpu, bool(strange[at])),
                )
            )
        return predictions

    def _of_strangers(self, table: Table) -> Forecast:
        """As a source that nobody knows would measure the settings."""
        nobody = np.full(table.count, -1)
        return forecast(self.fit, dataclasses.replace(table, source=nobody, host=nobody))

    def _scale(self, new_model: bool, new_gpu: bool) -> tuple[float, float, float]:
        scales = self.scales
        if new_gpu:
            return scales.new_both if new_model else scales.new_gpu
        return scales.new_model if new_model else scales.known

    def _one(
        self,
        known: Prepared,
        mean: Array,
        sd: Array,
        joules_sd: float,
        served: bool,
        capacity: float,
        basis: str,
    ) -> Prediction:
        """mean, sd: logarithms of seconds per token of all, of TPOT, and of watts."""
        setting = known.setting
        rate, limit_w = setting.rate_rps, setting.num_gpus * known.gpu.tdp_w
        if rate is not None and rate > UNSERVED_MARGIN * capacity:
            return Prediction(
                {},
                f"no prediction: {rate:g} requests/s are more than this serves, some {capacity:.3g}: more GPUs, or a lower rate",
            )
        watts = _interval(min(float(mean[2]), float(np.log(limit_w))), float(sd[2]))
        watts = dataclasses.replace(watts, p95=max(min(watts.p95, 1.05 * limit_w), watts.value))
        step = _interval(float(mean[1] + np.log(1e3)), float(sd[1]))
        if rate is not None and served:
            tokens = rate * setting.output_tokens
            tokens_per_s = Interval(tokens, tokens, tokens)
            joules = Interval(watts.value / tokens, watts.p05 / tokens, watts.p95 / tokens)
        else:
            if rate is not None:
                basis += "; the rate is about what a full engine serves"
            tokens_per_s = _interval(-float(mean[0]), float(sd[0]))
            joules = _interval(float(np.log(watts.value) + mean[0]), joules_sd)
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


def _interval(log: float, sd: float) -> Interval:
    half = NORMAL_95 * sd
    return Interval(float(np.exp(log)), float(np.exp(log - half)), float(np.exp(log + half)))


def _scales(fit: Fit) -> Scales:
    served = np.array([row.served for row in fit.rows])
    table = fit.table
    pair = table.shape * 10**6 + table.family * 10**3 + table.source
    known = _quantiles(left_out(fit, pair), pair, served)
    model = _quantiles(left_out(fit, table.shape), table.shape, served)
    gpu = _of_gpus(fit, served)
    both = tuple(max(a, b) for a, b in zip(model, gpu, strict=True))
    return Scales(known, model, gpu, (both[0], both[1], both[2]))


def _of_gpus(fit: Fit, served: Flags) -> tuple[float, float, float]:
    """For a GPU that nobody measured: what holds for MOST_GPUS of those that were measured, each left out in turn.

    GPUs differ far more from each other than rows of one GPU do, and there are few: pooling their rows would let the one with most rows decide.
    """
    family = fit.table.family
    left = left_out(fit, family)
    each = [
        _quantiles(left, np.arange(fit.table.count), served & (family == one))
        for one in range(len(fit.known.families))
        if np.any(served & (family == one))
    ]
    pooled = _quantiles(left, fit.table.shape * 10**3 + family, served)
    most = np.quantile(np.array(each), MOST_GPUS, axis=0)
    return (
        max(pooled[0], float(most[0])),
        max(pooled[1], float(most[1])),
        max(pooled[2], float(most[2])),
    )


def _quantiles(left: LeftOut, groups: Numbers, served: Flags) -> tuple[float, float, float]:
    """How many of the interval's standard deviations rows are off that were left out, in COVERAGE of the weighed groups: time, power, J per token."""
    scores = np.abs(left.error) / left.sd
    return (
        _quantile(scores[:2].ravel(), np.tile(groups, 2), np.tile(served, 2)),
        _quantile(scores[2], groups, served),
        _quantile(np.abs(left.joules) / left.joules_sd, groups, served),
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
    return float(np.clip(score[order][at] / NORMAL_95, LEAST_SCALE, MOST_SCALE))
