"""From rows to a fit: coefficients of the physics, and a Gaussian process over what the physics leaves.

    log(measured) = log(physics(coefficients)) + source + shape + GPU + smooth function of the setting + noise

The coefficients have priors (`PRIORS`) and are found by Gauss-Newton. At their best values the model is linear, so that the prediction of a
row, its variance, and that of rows whose whole group was left out follow from one matrix: a group's rows are then predicted as if
the fit had never seen them, coefficients, corrections and all (to first order).
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.linalg import cho_factor, cho_solve, solve_triangular

from wattcount.fitting.rows import Row
from wattcount.prediction.physics import NAMES, Coefficients
from wattcount.prediction.setting import Prepared
from wattcount.prediction.steady import Load, Steady, loads, steady, tables
from wattcount.prediction.work import Facts, Gpu

Array = NDArray[np.float64]

OWN = "wattcount"
"""Source of our own runs, and as which settings are predicted. Its engine prepares a step while the one before runs; those of others did not yet."""
START = Coefficients()
"""Where fits begin, and the middle of the priors."""
PRIOR_SD = 0.35
"""Standard deviation of the logarithm of a coefficient, where PRIORS has none."""
PRIORS = {
    "memory": 0.08,
    "compute": 0.2,
    "corner": 0.2,
    "kv": 0.15,
    "experts": 0.15,
    "expert_compute": 0.4,
    "four_bit": 0.15,
    "eight_bit": 0.15,
    "attention": 0.3,
    "host_step_s": 0.6,
    "host_sequence_s": 0.6,
    "old_sequence_s": 0.4,
    "host_layer_s": 0.5,
    "sequence_s": 0.5,
    "token_s": 0.5,
    "step_s": 0.5,
    "layer_s": 0.3,
    "expert_layer_s": 0.5,
    "bandwidth_power": 0.4,
    "limit": 0.01,
    "tail": 0.7,
    "waiting": 0.5,
    "throttled": 0.5,
    "loaded_idle": 0.15,
    "gddr": 0.25,
}
"""Of single coefficients: small where data sheets say much, large where hosts differ."""
GPU_EFFECTS = {
    "memory": 0.08,
    "compute": 0.12,
    "active": 0.2,
    "by_memory": 0.25,
    "by_compute": 0.2,
    "loaded_idle": 0.15,
}
"""Coefficients that differ between GPUs, and how far [standard deviation of the logarithm]: what a new GPU leaves open."""
SOURCE_EFFECTS = {
    "host_layer_s": 0.7,
    "host_sequence_s": 1.0,
    "old_sequence_s": 0.4,
    "host_step_s": 1.0,
    "step_s": 0.7,
    "layer_s": 0.4,
    "sequence_s": 1.0,
    "waiting": 0.7,
}
"""Coefficients that differ between sources, for their hosts and versions of engines do."""
HOST_EFFECTS = {"host_layer_s": 0.35, "host_sequence_s": 0.4, "host_step_s": 0.4}
"""Coefficients that differ between the hosts of one source: those of one kind of GPU have one kind of host."""
STEPS = 5
"""Gauss-Newton steps: what changes after them is far below what matters."""
RENEWED = (0, 2)
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
CORRELATION = -0.4
"""Between what the physics leaves of time and of power: who takes longer than thought, and does the same work, draws less meanwhile."""
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
EAGER_NOISE = (0.20, 0.08)
"""Of our own rows whose kernels the host launches one by one: hosts differ, and one switches within a run."""


def noise_of(row: Row, time: bool) -> float:
    own = row.source == OWN and row.prepared.setting.enforce_eager
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
    host: NDArray[np.int64]

    @property
    def count(self) -> int:
        return len(self.gpus)


@dataclass(frozen=True)
class Groups:
    """Names of the groups that a fit knows, in the order of their numbers."""

    families: tuple[str, ...]
    shapes: tuple[str, ...]
    sources: tuple[str, ...]
    hosts: tuple[str, ...]


def host_of(source: str | None, family: str) -> str:
    """Rows of one source on one kind of GPU."""
    return f"{source} {family}"


def groups_of(rows: Sequence[Row]) -> Groups:
    return Groups(
        tuple(sorted({row.family for row in rows})),
        tuple(sorted({row.shape for row in rows})),
        tuple(sorted({row.source for row in rows})),
        tuple(sorted({host_of(row.source, row.family) for row in rows})),
    )


def table_of(
    each: Sequence[Prepared],
    families: Sequence[str],
    shapes: Sequence[str],
    sources: Sequence[str | None],
    plain: Sequence[bool],
    known: Groups,
    gaps: Sequence[bool] | None = None,
) -> Table:
    facts, gpu = tables(each)

    def numbers(names: Sequence[str | None], of: tuple[str, ...]) -> NDArray[np.int64]:
        place = {name: at for at, name in enumerate(of)}
        return np.array([place.get(str(name), -1) for name in names], dtype=np.int64)

    return Table(
        facts,
        gpu,
        loads(each, plain=plain, gaps=gaps, serial=[source != OWN for source in sources]),
        np.array([one.setting.num_gpus for one in each], dtype=float),
        np.array([one.setting.replicas for one in each], dtype=float),
        numbers(families, known.families),
        numbers(shapes, known.shapes),
        numbers(sources, known.sources),
        numbers([host_of(*one) for one in zip(sources, families, strict=True)], known.hosts),
    )


def table_of_rows(rows: Sequence[Row], known: Groups) -> Table:
    return table_of(
        [row.prepared for row in rows],
        [row.family for row in rows],
        [row.shape for row in rows],
        [row.source for row in rows],
        [row.launched for row in rows],
        known,
        [row.gaps for row in rows],
    )


def observed(rows: Sequence[Row]) -> Observed:
    """Rows with a rate tell no time of a cycle: their tokens are those that arrive."""
    found: list[tuple[int, int, float]] = []
    for at, row in enumerate(rows):
        setting = row.prepared.setting
        if setting.rate_rps is None and row.output_rate:
            found.append((at, 0, -np.log(row.output_rate)))
        if row.tpot_s:
            found.append((at, 1, np.log(row.tpot_s)))
        if row.power_w:
            found.append((at, 2, np.log(row.power_w)))
    return Observed(
        np.array([at for at, _, _ in found], dtype=np.int64),
        np.array([kind for _, kind, _ in found], dtype=np.int64),
        np.array([value for _, _, value in found], dtype=float),
    )


class Layout:
    """Where each parameter lies in the vector: coefficients, then those of each GPU, of each source, of each host."""

    def __init__(self, known: Groups) -> None:
        self.known = known
        self.names = list(NAMES)
        self.gpu_at = {name: len(NAMES) + at * len(known.families) for at, name in enumerate(GPU_EFFECTS)}
        after = len(NAMES) + len(GPU_EFFECTS) * len(known.families)
        self.source_at = {name: after + at * len(known.sources) for at, name in enumerate(SOURCE_EFFECTS)}
        after += len(SOURCE_EFFECTS) * len(known.sources)
        self.host_at = {name: after + at * len(known.hosts) for at, name in enumerate(HOST_EFFECTS)}
        self.size = after + len(HOST_EFFECTS) * len(known.hosts)
        sd = [PRIORS.get(name, PRIOR_SD) for name in NAMES]
        for value in GPU_EFFECTS.values():
            sd += [value] * len(known.families)
        for value in SOURCE_EFFECTS.values():
            sd += [value] * len(known.sources)
        for value in HOST_EFFECTS.values():
            sd += [value] * len(known.hosts)
        self.prior_sd = np.array(sd)

    def effects(self, table: Table) -> Iterator[tuple[Mapping[str, int], tuple[str, ...], NDArray[np.int64]]]:
        """Of each kind of group: where its effects begin by coefficient, its names, and the group of each row."""
        yield self.gpu_at, self.known.families, table.family
        yield self.source_at, self.known.sources, table.source
        yield self.host_at, self.known.hosts, table.host

    def coefficients(self, theta: Array, table: Table) -> Coefficients:
        """By row of a table, as arrays where they differ."""
        values: dict[str, Array | float] = {}
        for at, name in enumerate(NAMES):
            log = np.full(table.count, np.log(getattr(START, name)) + theta[at])
            for starts, groups, member in self.effects(table):
                if name in starts:
                    begin = starts[name]
                    log = log + np.append(theta[begin : begin + len(groups)], 0.0)[member]
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
    # What a coefficient does, its own of the row's GPU, source and host do.
    for starts, _, member in layout.effects(table):
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


@dataclass(frozen=True)
class Kernel:
    """Covariance of what the physics leaves, of settings a and b.

    between  of time and power of a (0, 1) with those of b, 2 x 2 x a x b; measure: what is added between figures of one kind
    """

    between: Array
    measure: Array

    def of(
        self,
        a: NDArray[np.int64],
        kinds_a: NDArray[np.int64],
        b: NDArray[np.int64],
        kinds_b: NDArray[np.int64],
    ) -> Array:
        """Of observations: rows and kinds of figures."""
        found = self.between[(kinds_a // 2)[:, None], (kinds_b // 2)[None, :], a[:, None], b[None, :]]
        same = (kinds_a[:, None] == kinds_b[None, :]) & (kinds_a < 2)[:, None]
        return np.asarray(found + np.where(same, self.measure[a[:, None], b[None, :]], 0.0))


def kernel(spreads: tuple[Spread, Spread], a: tuple[Array, Table], b: tuple[Array, Table]) -> Kernel:
    """Of features and tables.

    spreads  of time and of power
    """
    (xa, ta), (xb, tb) = a, b
    reach = spreads[0].reach
    squares = np.sum((xa / reach) ** 2, 1)[:, None] + np.sum((xb / reach) ** 2, 1)[None, :]
    distance = np.maximum(squares - 2 * (xa / reach) @ (xb / reach).T, 0.0)
    same = {
        name: (getattr(ta, name)[:, None] == getattr(tb, name)[None, :]) & (getattr(ta, name)[:, None] >= 0)
        for name in ("source", "shape", "family")
    }
    shared = {
        "smooth": np.exp(-0.5 * distance),
        "source": same["source"],
        "shape": same["shape"],
        "gpu": same["family"],
        "source_shape": same["source"] & same["shape"],
        "source_gpu": same["source"] & same["family"],
    }
    between = np.zeros((2, 2, len(xa), len(xb)))
    for one in (0, 1):
        for other in (0, 1):
            for name, by in shared.items():
                between[one, other] += getattr(spreads[one], name) * getattr(spreads[other], name) * by
    between[0, 1] *= CORRELATION
    between[1, 0] *= CORRELATION
    return Kernel(between, spreads[0].measure ** 2 * same["source"])


def total_variance(spread: Spread) -> float:
    """Of what the physics leaves of one figure."""
    return float(sum(value**2 for name, value in dataclasses.asdict(spread).items() if name != "reach"))


@dataclass(frozen=True)
class Fit:
    """All of it. `rows` in the order in which `table` has them.

    covariance  of the observations, coefficients and all; factor: its Cholesky factor
    residual    from the priors' mean; weights: the inverse covariance times it
    """

    rows: tuple[Row, ...]
    known: Groups
    layout: Layout
    theta: Array
    table: Table
    features: Array
    jacobian: Array
    seen: Observed
    spreads: tuple[Spread, Spread]
    covariance: Array
    factor: Array
    weights: Array
    residual: Array

    @functools.cached_property
    def inverse(self) -> Array:
        """Of the covariance."""
        return np.asarray(cho_solve((self.factor, True), np.eye(len(self.weights))))


def fitted(rows: Sequence[Row], *, spreads: tuple[Spread, Spread] = (TIME, POWER)) -> Fit:
    """Deterministic: the same rows give the same fit.

    spreads  of time and of power
    """
    known = groups_of(rows)
    layout, table, seen = Layout(known), table_of_rows(rows, known), observed(rows)
    theta = np.zeros(layout.size)
    noise = np.array([noise_of(rows[row], kind < 2) for row, kind in zip(seen.row, seen.kind, strict=True)])
    inflated = np.ones(len(seen.value))
    for at in range(STEPS):
        logs, found = predicted(layout, theta, table)
        part = derivatives(layout, theta, table)[seen.kind, seen.row]
        residual = seen.value - logs[seen.kind, seen.row]
        if at in RENEWED:
            left = _left(spreads, features(found, table), table, seen, noise * inflated)
            lower = np.linalg.cholesky(left)
        white = solve_triangular(lower, np.column_stack([part, residual]), lower=True)
        normal = np.diag(1.0 / layout.prior_sd**2) + white[:, :-1].T @ white[:, :-1]
        gradient = white[:, :-1].T @ white[:, -1] - theta / layout.prior_sd**2
        if at + 1 in RENEWED:
            # Each observation by all the others: what they cannot explain counts less.
            inverse = cho_solve((lower, True), np.eye(len(residual)))
            alone = (inverse @ residual) / np.sqrt(np.diag(inverse))
            inflated = np.maximum(1.0, np.abs(alone) / OUTLIER)
        change = np.linalg.solve(normal, gradient)
        theta = theta + change * min(1.0, 0.5 / np.max(np.abs(change)))
    logs, found = predicted(layout, theta, table)
    jacobian = derivatives(layout, theta, table)
    x = features(found, table)
    part = jacobian[seen.kind, seen.row]
    covariance = _left(spreads, x, table, seen, noise * inflated) + (part * layout.prior_sd**2) @ part.T
    residual = seen.value - logs[seen.kind, seen.row] + part @ theta
    factor = cho_factor(covariance, lower=True)[0]
    return Fit(
        tuple(rows),
        known,
        layout,
        theta,
        table,
        x,
        jacobian,
        seen,
        spreads,
        covariance,
        factor,
        cho_solve((factor, True), residual),
        residual,
    )


def _left(spreads: tuple[Spread, Spread], x: Array, table: Table, seen: Observed, noise: Array) -> Array:
    """Covariance of observations around the physics, noise included."""
    found = kernel(spreads, (x, table), (x, table)).of(seen.row, seen.kind, seen.row, seen.kind)
    found[np.diag_indices_from(found)] += noise**2
    return found


@dataclass(frozen=True)
class Forecast:
    """Of settings: logarithms by kind of figure (3 x rows), their standard deviations, and that of cycle and power together; noise is left out."""

    mean: Array
    sd: Array
    joules_sd: Array
    steady: Steady


def forecast(fit: Fit, table: Table) -> Forecast:
    """Of settings: seconds of a closed load per token of all, TPOT, watts of all GPUs."""
    logs, found = predicted(fit.layout, fit.theta, table)
    x, jacobian = features(found, table), derivatives(fit.layout, fit.theta, table)
    at, kinds = fit.seen.row, fit.seen.kind
    other, prior = fit.jacobian[kinds, at], fit.layout.prior_sd**2
    every = np.arange(table.count)
    shared = kernel(fit.spreads, (x, table), (fit.features, fit.table))
    mean, explained = np.empty((3, table.count)), []
    for kind in range(3):
        cross = shared.of(every, np.full(table.count, kind), at, kinds) + (jacobian[kind] * prior) @ other.T
        mean[kind] = logs[kind] - jacobian[kind] @ fit.theta + cross @ fit.weights
        explained.append(solve_triangular(fit.factor, cross.T, lower=True))

    def variance(a: int, b: int, before: float) -> Array:
        of_physics = np.sum(jacobian[a] * jacobian[b] * prior, axis=1)
        return np.asarray(before + of_physics - np.sum(explained[a] * explained[b], axis=0))

    each = [variance(kind, kind, total_variance(fit.spreads[kind // 2])) for kind in range(3)]
    joules = each[0] + each[2] + 2 * variance(0, 2, shared_variance(fit.spreads))
    return Forecast(mean, _sd(np.stack(each)), _sd(joules), found)


def shared_variance(spreads: tuple[Spread, Spread]) -> float:
    """Covariance of what the physics leaves of time and of power of one row."""
    time, power = (dataclasses.asdict(one) for one in spreads)
    both = sum(time[name] * power[name] for name in time if name not in ("reach", "measure"))
    return float(CORRELATION * both)


def _sd(variance: Array) -> Array:
    return np.asarray(np.sqrt(np.maximum(variance, 1e-8)))


@dataclass(frozen=True)
class LeftOut:
    """Errors of rows, as if their group had not been there: measured less predicted logarithm. nan: not measured.

    error, sd       by kind of figure, 3 x rows; sd with the noise of a measurement
    joules, joules_sd   of J per token: of power alone where the rate is given
    """

    error: Array
    sd: Array
    joules: Array
    joules_sd: Array


def left_out(fit: Fit, groups: NDArray[np.int64]) -> LeftOut:
    """Of all rows.

    groups  number of the group by row
    """
    rows, kinds, count = fit.seen.row, fit.seen.kind, fit.table.count
    error, sd, shared = np.full((3, count), np.nan), np.full((3, count), np.nan), np.zeros(count)
    member = groups[rows]
    for group in np.unique(member):
        at = np.flatnonzero(member == group)
        block = np.linalg.inv(fit.inverse[np.ix_(at, at)])
        error[kinds[at], rows[at]] = block @ fit.weights[at]
        sd[kinds[at], rows[at]] = np.sqrt(np.diag(block))
        cycles = {row: place for place, row in enumerate(rows[at]) if kinds[at[place]] == 0}
        for place in np.flatnonzero(kinds[at] == 2):
            if (row := rows[at[place]]) in cycles:
                shared[row] = block[place, cycles[row]]
    arriving = np.isfinite(np.asarray(fit.table.load.rate_rps, dtype=float))
    joules = np.where(arriving, error[2], error[0] + error[2])
    variance = np.where(arriving, sd[2] ** 2, sd[0] ** 2 + sd[2] ** 2 + 2 * shared)
    return LeftOut(error, sd, joules, _sd(variance))
