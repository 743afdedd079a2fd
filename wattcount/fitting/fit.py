"""From rows to a fit: coefficients of the physics, and a Gaussian process over what the physics leaves.

    log(measured) = log(physics(coefficients)) + source + shape + GPU + smooth function of the setting + noise

The coefficients have priors (`PRIORS`) and are found by Gauss-Newton. At their best values the model is linear, so that the prediction of a
row, its variance, and that of rows whose whole group was left out follow from one matrix: a group's rows are then predicted as if
the fit had never seen them, coefficients, corrections and all (to first order).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from wattcount.fitting.rows import Row
from wattcount.prediction.physics import NAMES, Coefficients
from wattcount.prediction.setting import Prepared
from wattcount.prediction.steady import Load, Steady, loads, steady, tables
from wattcount.prediction.work import Facts, Gpu

Array = NDArray[np.float64]

START = Coefficients()
"""Where fits begin, and the middle of the priors."""
PRIOR_SD = 0.35
"""Standard deviation of the logarithm of a coefficient, where PRIORS has none."""
PRIORS = {
    "memory": 0.08,
    "compute": 0.2,
    "corner": 0.3,
    "kv": 0.2,
    "experts": 0.15,
    "four_bit": 0.15,
    "eight_bit": 0.15,
    "attention": 0.3,
    "host_step_s": 0.6,
    "host_sequence_s": 0.6,
    "host_layer_s": 0.5,
    "sequence_s": 0.5,
    "token_s": 0.5,
    "step_s": 0.5,
    "layer_s": 0.5,
    "limit": 0.01,
    "tail": 0.7,
    "waiting": 0.5,
    "throttled": 0.5,
    "loaded_idle": 0.3,
}
"""Of single coefficients: small where data sheets say much, large where hosts differ."""
GPU_EFFECTS = {
    "memory": 0.08,
    "compute": 0.12,
    "active": 0.2,
    "by_memory": 0.25,
    "by_compute": 0.2,
    "loaded_idle": 0.25,
}
"""Coefficients that differ between GPUs, and how far [standard deviation of the logarithm]: what a new GPU leaves open."""
SOURCE_EFFECTS = {
    "host_layer_s": 0.7,
    "host_sequence_s": 1.0,
    "host_step_s": 1.0,
    "step_s": 0.7,
    "layer_s": 1.0,
    "sequence_s": 1.0,
}
"""Coefficients that differ between sources, for their hosts and versions of engines do."""
STEPS = 7
"""Gauss-Newton steps: what changes after them is far below what matters."""
RENEWED = (0, 2, 5)
"""Steps before which the covariance, and what counts as an outlier, are reckoned anew."""
DIFFERENCE = 1e-4
"""Of logarithms of coefficients, for derivatives."""
OUTLIER = 4.0
"""Residuals of more standard deviations than this count less, as in Huber's loss."""


@dataclass(frozen=True)
class Spread:
    """Standard deviations of a quantity's logarithm.

    source, shape, gpu of whole groups; source_shape, source_gpu: of their pairs
    smooth             of the smooth function, and its reach in features
    measure            between the two figures of time
    """

    source: float
    shape: float
    gpu: float
    source_shape: float
    source_gpu: float
    smooth: float
    reach: float
    measure: float


TIME = Spread(
    source=0.25,
    shape=0.08,
    gpu=0.05,
    source_shape=0.06,
    source_gpu=0.06,
    smooth=0.15,
    reach=1.5,
    measure=0.05,
)
POWER = Spread(
    source=0.12, shape=0.05, gpu=0.05, source_shape=0.04, source_gpu=0.06, smooth=0.10, reach=1.5, measure=0.0
)
NOISE = {
    "wattcount": (0.05, 0.03),
    "mlenergy v3 vllm": (0.10, 0.08),
    "mlenergy v2 vllm": (0.25, 0.12),
    "mlenergy v1": (0.25, 0.10),
    "joulebench transformers": (0.25, 0.12),
    "splitwise": (0.12, 0.08),
    "tokenpowerbench vllm": (0.60, 0.35),
}
"""Of time and of power of a row of a source [standard deviation of the logarithm]: our own repeats agree to 1 to 6 %. Sources of another kind of
engine, and of engines of years ago, tell of power and of GPUs, and hardly of how long a step takes today."""
OTHER_NOISE = (0.12, 0.10)
NEWER = ("wattcount", "mlenergy v3 vllm")
"""Sources of closed loads whose TPOT tells more than their rate."""
EAGER_NOISE = (0.20, 0.08)
"""Of our own rows whose kernels the host launches one by one: hosts differ, and one switches within a run."""


def noise_of(row: Row, time: bool) -> float:
    own = row.source == "wattcount" and row.prepared.setting.enforce_eager
    return (EAGER_NOISE if own else NOISE.get(row.source, OTHER_NOISE))[0 if time else 1]


@dataclass(frozen=True)
class Observed:
    """Logarithms of measured figures, each with its row. kind: 0 cycle of a closed load per token, 1 TPOT, 2 power."""

    row: NDArray[np.int64]
    kind: NDArray[np.int64]
    value: Array


@dataclass(frozen=True)
class Table:
    """Settings as arrays, with their groups by number (-1: none that was seen)."""

    facts: Facts
    gpu: Gpu
    load: Load
    gpus: Array
    replicas: Array
    family: NDArray[np.int64]
    shape: NDArray[np.int64]
    source: NDArray[np.int64]

    @property
    def count(self) -> int:
        return len(self.gpus)


@dataclass(frozen=True)
class Groups:
    """Names of the groups that a fit knows, in the order of their numbers."""

    families: tuple[str, ...]
    shapes: tuple[str, ...]
    sources: tuple[str, ...]


def groups_of(rows: Sequence[Row]) -> Groups:
    return Groups(
        tuple(sorted({row.family for row in rows})),
        tuple(sorted({row.shape for row in rows})),
        tuple(sorted({row.source for row in rows})),
    )


def table_of(
    each: Sequence[Prepared],
    families: Sequence[str],
    shapes: Sequence[str],
    sources: Sequence[str | None],
    plain: Sequence[bool],
    known: Groups,
) -> Table:
    facts, gpu = tables(each)

    def numbers(names: Sequence[str | None], of: tuple[str, ...]) -> NDArray[np.int64]:
        place = {name: at for at, name in enumerate(of)}
        return np.array([place.get(str(name), -1) for name in names], dtype=np.int64)

    return Table(
        facts,
        gpu,
        loads(each, plain=plain),
        np.array([one.setting.num_gpus for one in each], dtype=float),
        np.array([one.setting.replicas for one in each], dtype=float),
        numbers(families, known.families),
        numbers(shapes, known.shapes),
        numbers(sources, known.sources),
    )


def table_of_rows(rows: Sequence[Row], known: Groups) -> Table:
    return table_of(
        [row.prepared for row in rows],
        [row.family for row in rows],
        [row.shape for row in rows],
        [row.source for row in rows],
        [not row.served for row in rows],
        known,
    )


def observed(rows: Sequence[Row]) -> Observed:
    """Rows with a rate tell no time of a cycle: their tokens are those that arrive. Of closed loads of older engines TPOT and rate say the same."""
    found: list[tuple[int, int, float]] = []
    for at, row in enumerate(rows):
        setting = row.prepared.setting
        if setting.rate_rps is None and row.output_rate:
            found.append((at, 0, -np.log(row.output_rate)))
        if row.tpot_s and (row.source in NEWER or setting.rate_rps is not None):
            found.append((at, 1, np.log(row.tpot_s)))
        if row.power_w:
            found.append((at, 2, np.log(row.power_w)))
    return Observed(
        np.array([at for at, _, _ in found], dtype=np.int64),
        np.array([kind for _, kind, _ in found], dtype=np.int64),
        np.array([value for _, _, value in found], dtype=float),
    )


class Layout:
    """Where each parameter lies in the vector: coefficients, then those of each GPU, then those of each source."""

    def __init__(self, known: Groups) -> None:
        self.known = known
        self.names = list(NAMES)
        self.gpu_at = {name: len(NAMES) + at * len(known.families) for at, name in enumerate(GPU_EFFECTS)}
        after = len(NAMES) + len(GPU_EFFECTS) * len(known.families)
        self.source_at = {name: after + at * len(known.sources) for at, name in enumerate(SOURCE_EFFECTS)}
        self.size = after + len(SOURCE_EFFECTS) * len(known.sources)
        sd = [PRIORS.get(name, PRIOR_SD) for name in NAMES]
        for value in GPU_EFFECTS.values():
            sd += [value] * len(known.families)
        for value in SOURCE_EFFECTS.values():
            sd += [value] * len(known.sources)
        self.prior_sd = np.array(sd)

    def coefficients(self, theta: Array, table: Table) -> Coefficients:
        """By row of a table, as arrays where they differ."""
        values: dict[str, Array | float] = {}
        for at, name in enumerate(NAMES):
            log = np.full(table.count, np.log(getattr(START, name)) + theta[at])
            if name in self.gpu_at:
                begin = self.gpu_at[name]
                effects = np.append(theta[begin : begin + len(self.known.families)], 0.0)
                log = log + effects[table.family]
            if name in self.source_at:
                begin = self.source_at[name]
                effects = np.append(theta[begin : begin + len(self.known.sources)], 0.0)
                log = log + effects[table.source]
            values[name] = np.exp(log)
        return Coefficients(**values)


def predicted(layout: Layout, theta: Array, table: Table) -> tuple[Array, Steady]:
    """Logarithms of the three quantities, 3 x rows: seconds of a closed load per token of all, TPOT, watts of all GPUs."""
    found = steady(table.facts, table.gpu, layout.coefficients(theta, table), table.load)
    logs = np.stack(
        [
            -np.log(found.output_rate * table.replicas),
            np.log(found.tpot_s),
            np.log(found.power_w * table.gpus),
        ]
    )
    return logs, found


def derivatives(layout: Layout, theta: Array, table: Table) -> Array:
    """3 x rows x parameters. Parameters of one GPU or source are turned together, for each row has only one of each."""
    base, _ = predicted(layout, theta, table)
    found = np.zeros((3, table.count, layout.size))
    for at in range(len(NAMES)):
        moved = theta.copy()
        moved[at] += DIFFERENCE
        found[:, :, at] = (predicted(layout, moved, table)[0] - base) / DIFFERENCE
    every = np.arange(table.count)
    # What a coefficient does, its own of the row's GPU and of the row's source do.
    for starts, member in ((layout.gpu_at, table.family), (layout.source_at, table.source)):
        for name, begin in starts.items():
            has = member >= 0
            found[:, every[has], begin + member[has]] = found[:, has, NAMES.index(name)]
    return found


def features(found: Steady, table: Table) -> Array:
    """Of each row, scaled so that a distance of 1 is a different kind of setting."""
    facts, gpu, load = table.facts, table.gpu, table.load
    context = load.input_tokens + load.output_tokens / 2
    flight = np.maximum(found.in_flight, 1.0)
    weights = facts.dense_bytes + facts.expert_bytes
    kv = flight * context * (facts.kv_bytes + facts.sliding_kv_bytes) + 1.0
    rate = np.isfinite(load.rate_rps)
    each = [
        np.log(weights) / 2.0,
        np.log(flight) / 2.0,
        np.log1p(flight * load.input_tokens / np.maximum(load.output_tokens, 1.0)) / 4.0,
        np.log1p(kv / weights) * 1.0,
        np.log(load.output_tokens) / 3.0,
        np.log(load.input_tokens) / 4.0,
        np.log(load.tensor_parallel) / 1.0,
        facts.expert_layers * 1.5,
        facts.state_layers * 1.5,
        facts.four_bit * 1.5 + facts.eight_bit * 1.0,
        (1.0 - load.captured) * 1.5,
        rate * np.exp(-found.in_flight) * 1.5 + rate * 0.5,
        np.log(gpu.bandwidth) / 1.0,
        np.log(gpu.peak / gpu.bandwidth) / 1.0,
    ]
    return np.stack([np.asarray(one, dtype=float) for one in each], axis=1)


def kernel(
    spread: Spread,
    a: tuple[Array, Table, NDArray[np.int64]],
    b: tuple[Array, Table, NDArray[np.int64]],
) -> Array:
    """Covariance of what the physics leaves, of observations a and b: features, table, and the kind of figure, a row each."""
    (xa, ta, ka), (xb, tb, kb) = a, b
    scaled = spread.reach
    squares = np.sum((xa / scaled) ** 2, 1)[:, None] + np.sum((xb / scaled) ** 2, 1)[None, :]
    distance = np.maximum(squares - 2 * (xa / scaled) @ (xb / scaled).T, 0.0)
    same = {
        name: (getattr(ta, name)[:, None] == getattr(tb, name)[None, :]) & (getattr(ta, name)[:, None] >= 0)
        for name in ("source", "shape", "family")
    }
    found: Array = spread.smooth**2 * np.exp(-0.5 * distance)
    found += (
        spread.source**2 * same["source"] + spread.shape**2 * same["shape"] + spread.gpu**2 * same["family"]
    )
    found += spread.source_shape**2 * (same["source"] & same["shape"])
    found += spread.source_gpu**2 * (same["source"] & same["family"])
    if spread.measure:
        found += spread.measure**2 * (same["source"] & (ka[:, None] == kb[None, :]))
    return found


def taken(table: Table, at: NDArray[np.int64]) -> Table:
    """Some rows of it, in any order, also several times."""

    def part(value: object) -> object:
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.replace(
                value,
                **{field.name: getattr(value, field.name)[at] for field in dataclasses.fields(value)},
            )
        assert isinstance(value, np.ndarray)
        return value[at]

    return Table(**{field.name: part(getattr(table, field.name)) for field in dataclasses.fields(table)})  # type: ignore[arg-type]


@dataclass(frozen=True)
class Side:
    """What was learned of time, or of power: its observations and the matrices that predictions need."""

    spread: Spread
    picked: NDArray[np.int64]
    """Places of its observations in `Observed`."""
    covariance: Array
    """Of its observations, coefficients and all."""
    factor: Array
    weights: Array
    """The inverse covariance times the residuals from the priors' mean."""
    residual: Array


@dataclass(frozen=True)
class Fit:
    """All of it. `rows` in the order in which `table` has them."""

    rows: tuple[Row, ...]
    known: Groups
    layout: Layout
    theta: Array
    table: Table
    features: Array
    jacobian: Array
    seen: Observed
    time: Side
    power: Side


def fitted(rows: Sequence[Row], *, spreads_of: Mapping[str, Spread] | None = None) -> Fit:
    """Deterministic: the same rows give the same fit.

    spreads_of  of `time` and `power`; None: TIME and POWER
    """
    known = groups_of(rows)
    layout, table, seen = Layout(known), table_of_rows(rows, known), observed(rows)
    theta = np.zeros(layout.size)
    noise = np.stack([[noise_of(row, time) for row in rows] for time in (True, False)])
    kinds = {"time": seen.kind < 2, "power": seen.kind == 2}
    spreads = spreads_of or {"time": TIME, "power": POWER}
    inflated = np.ones(len(seen.value))
    lowers: dict[str, NDArray[np.floating[Any]]] = {}
    for at in range(STEPS):
        jacobian = derivatives(layout, theta, table)
        logs, found = predicted(layout, theta, table)
        if at in RENEWED:
            x = features(found, table)
        normal = np.diag(1.0 / layout.prior_sd**2)
        gradient = -theta / layout.prior_sd**2
        for name, mask in kinds.items():
            picked = np.flatnonzero(mask)
            if at in RENEWED:
                at_noise = noise[0 if name == "time" else 1]
                lowers[name] = np.linalg.cholesky(
                    _left(spreads[name], x, table, seen, picked, at_noise, inflated)
                )
            lower = lowers[name]
            residual = seen.value[picked] - logs[seen.kind[picked], seen.row[picked]]
            part = jacobian[seen.kind[picked], seen.row[picked]]
            white = solve_triangular(lower, np.column_stack([part, residual]), lower=True)
            normal += white[:, :-1].T @ white[:, :-1]
            gradient += white[:, :-1].T @ white[:, -1]
            if at + 1 in RENEWED:
                # Each observation by all the others: what they cannot explain counts less.
                inverse = cho_solve((lower, True), np.eye(len(picked)))
                alone = (inverse @ residual) / np.sqrt(np.diag(inverse))
                far = np.abs(alone) / OUTLIER
                inflated[picked] = np.maximum(1.0, far)
        change = np.linalg.solve(normal, gradient)
        largest = np.max(np.abs(change))
        theta = theta + change * min(1.0, 0.5 / largest)
    logs, found = predicted(layout, theta, table)
    jacobian = derivatives(layout, theta, table)
    x = features(found, table)
    sides = {}
    for name, mask in kinds.items():
        picked = np.flatnonzero(mask)
        part = jacobian[seen.kind[picked], seen.row[picked]]
        covariance = _left(spreads[name], x, table, seen, picked, noise[0 if name == "time" else 1], inflated)
        covariance += (part * layout.prior_sd**2) @ part.T
        residual = seen.value[picked] - logs[seen.kind[picked], seen.row[picked]] + part @ theta
        factor = cho_factor(covariance, lower=True)[0]
        sides[name] = Side(
            spreads[name], picked, covariance, factor, cho_solve((factor, True), residual), residual
        )
    return Fit(tuple(rows), known, layout, theta, table, x, jacobian, seen, sides["time"], sides["power"])


def _left(
    spread: Spread,
    x: Array,
    table: Table,
    seen: Observed,
    picked: NDArray[np.int64],
    noise: Array,
    inflated: Array,
) -> Array:
    """Covariance of observations around the physics, noise included."""
    at, kind = seen.row[picked], seen.kind[picked]
    one = (x[at], taken(table, at), kind)
    found = kernel(spread, one, one)
    found[np.diag_indices_from(found)] += (noise[at] * inflated[picked]) ** 2
    return found


@dataclass(frozen=True)
class Forecast:
    """Of one quantity by row: logarithm and its standard deviation, noise left out."""

    mean: Array
    sd: Array


def forecast(fit: Fit, table: Table) -> tuple[Forecast, Forecast, Forecast, Steady]:
    """Of settings: seconds of a closed load per token of all, TPOT, watts of all GPUs."""
    logs, found = predicted(fit.layout, fit.theta, table)
    x, jacobian = features(found, table), derivatives(fit.layout, fit.theta, table)
    each = []
    for kind in range(3):
        side = fit.power if kind == 2 else fit.time
        at = fit.seen.row[side.picked]
        here = (x, table, np.full(table.count, kind))
        there = (fit.features[at], taken(fit.table, at), fit.seen.kind[side.picked])
        part, other = jacobian[kind], fit.jacobian[fit.seen.kind[side.picked], at]
        prior = fit.layout.prior_sd**2
        cross = kernel(side.spread, here, there) + (part * prior) @ other.T
        mean = logs[kind] - part @ fit.theta + cross @ side.weights
        explained = solve_triangular(side.factor, cross.T, lower=True)
        spread = side.spread
        total = (
            spread.smooth**2
            + spread.source**2
            + spread.shape**2
            + spread.gpu**2
            + spread.source_shape**2
            + spread.source_gpu**2
            + spread.measure**2
            + np.sum(part**2 * prior, axis=1)
        )
        each.append(Forecast(mean, np.sqrt(np.maximum(total - np.sum(explained**2, axis=0), 1e-8))))
    return each[0], each[1], each[2], found


def left_out(fit: Fit, side: Side, groups: NDArray[np.int64]) -> tuple[Array, Array]:
    """Error and standard deviation of each observation of a side, as if its group had not been there.

    groups  number of the group by row
    """
    inverse = _inverse(side)
    explained = side.weights
    error, sd = np.zeros(len(side.picked)), np.zeros(len(side.picked))
    member = groups[fit.seen.row[side.picked]]
    for group in np.unique(member):
        at = np.flatnonzero(member == group)
        block = np.linalg.inv(inverse[np.ix_(at, at)])
        error[at] = block @ explained[at]
        sd[at] = np.sqrt(np.diag(block))
    return error, sd


def _inverse(side: Side) -> Array:
    return np.asarray(cho_solve((side.factor, True), np.eye(len(side.weights))))
