"""A mixed model of results: how far boards, starts of the engine and repeats differ, each apart, and how sure a difference is.

    ln x = mean of its setting + its board + its start of the engine + what is left

Boards and starts are random, settings are fixed. A board's effect is one and the same in all of its runs, whatever their
setting: in it is the gain of its power sensor. So it cancels between settings on one board, and only there.

Variances are estimated by restricted maximum likelihood (REML; Patterson and Thompson, Biometrika 58 (1971) 545), and may come
out below 0, as in an analysis of variance: a model that cuts them off at 0 gives intervals that are too short where boards are
few. Degrees of freedom of a difference are Satterthwaite's (Biometrics Bulletin 2 (1946) 110). In balanced designs both are
those of the exact analysis of variance.

Settings are absorbed before anything else (each is only a mean), so all matrices are as large as there are boards and starts
with more than one run.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

from wattcount.statistics import t_975

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

BOARD, START, REST = "board", "start", "rest"
"""The parts that results differ by. REST: repeats on one start, and whatever part cannot be told from them."""

MOST_STEPS = 60
"""Most steps of the search for the variances. It takes 5 to 15 where the data tell them."""
CLOSE = 1e-8
"""Change of the log-likelihood from which on the search is over: far less than it tells of a variance."""
SMALLEST_STEP = 1e-3
"""Smallest share of a step that is tried: where that gains nothing, the search is at the bound of what makes a covariance."""
LEAST_CONDITION = 1e-6
"""Least reciprocal condition number of what the data tell of the variances. Below it two of them cannot be told apart."""
MOST_FREEDOM = 1e6
"""Degrees of freedom that stand for a variance that is known."""
_LEAST_REST = 1e-12
"""Least variance of what is left, of logarithms: 1e-6 of a figure, finer than any source gives it. What is equal to that tells no scatter."""

Key = TypeVar("Key", bound=Hashable)


@dataclass(frozen=True)
class Run:
    """What the model needs to know of a result.

    log_value  natural logarithm of the figure
    setting    what repeats share
    board      what the sensor's gain belongs to; runs on several boards have one of their own
    start      start of the engine
    """

    log_value: float
    setting: Hashable
    board: Hashable
    start: Hashable


@dataclass(frozen=True)
class Contrast:
    """The difference of two settings' means of logarithms, its standard uncertainty, and the degrees of freedom of that."""

    difference: float
    sd: float
    freedom: float

    @property
    def half_width(self) -> float:
        """95 %, by Student's t."""
        return t_975(max(1.0, self.freedom)) * self.sd


@dataclass(frozen=True)
class _Design:
    """The runs as matrices, with the settings absorbed.

    y       float64[n], logarithms
    setting int64[n], index of the setting
    counts  int64[settings]
    effects int64[n, parts]: index of the random effect of each part, in one count over all parts
    part    int64[q], of which part an effect is
    num_parts  of random effects, without REST
    cross   float64[settings, q], runs of a setting with an effect
    together float64[q, q] = Z'Z
    a       float64[q, q] = Z'MZ; b float64[q] = Z'My; c = y'My
    """

    y: Floats
    setting: Ints
    counts: Floats
    part: Ints
    num_parts: int
    cross: Floats
    together: Floats
    a: Floats
    b: Floats
    c: float

    @classmethod
    def of(cls, y: Floats, setting: Ints, levels: Sequence[Ints]) -> _Design:
        counts = np.bincount(setting).astype(float)
        sums = np.bincount(setting, weights=y)
        offset, columns, part = 0, [], []
        for number, level in enumerate(levels):
            columns.append(level + offset)
            size = int(level.max()) + 1 if len(level) else 0
            part += [number] * size
            offset += size
        q = offset
        cross = np.zeros((len(counts), q))
        zz, zy = np.zeros((q, q)), np.zeros(q)
        for column in columns:
            np.add.at(cross, (setting, column), 1.0)
            np.add.at(zy, column, y)
            for other in columns:
                np.add.at(zz, (column, other), 1.0)
        return cls(
            y,
            setting,
            counts,
            np.array(part, dtype=np.int64),
            len(levels),
            cross,
            zz,
            zz - cross.T @ (cross / counts[:, None]),
            zy - cross.T @ (sums / counts),
            float(y @ y - sums @ (sums / counts)),
        )

    @property
    def freedom(self) -> int:
        """Runs beyond one of each setting."""
        return len(self.y) - len(self.counts)

    @property
    def q(self) -> int:
        return len(self.part)

    def inverse(self, theta: Floats) -> tuple[Floats, float] | None:
        """(K = L (rest I + A L)^-1 with L the effects' variances, ln det(I + A L / rest)); None where `theta` makes no covariance."""
        rest = float(theta[-1])
        if rest <= _LEAST_REST:
            return None
        if not self.q:
            return np.zeros((0, 0)), 0.0
        variances = theta[:-1][self.part]
        scaled = self.root * variances
        try:
            lower = np.linalg.cholesky(rest * np.eye(self.q) + scaled @ self.root)
            half = np.linalg.solve(lower, scaled)
        except np.linalg.LinAlgError:
            return None
        k: Floats = (np.diag(variances) - half.T @ half) / rest
        return k, float(2.0 * np.log(np.diag(lower)).sum() - self.q * np.log(rest))

    @cached_property
    def root(self) -> Floats:
        """The symmetric square root of A."""
        values, vectors = np.linalg.eigh(self.a)
        found: Floats = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
        return found

    def is_covariance(self, theta: Floats) -> bool:
        """Whether `theta` makes a covariance of the runs themselves, not only of what they differ by within settings."""
        values, vectors = np.linalg.eigh(self.together)
        root = (vectors * np.sqrt(np.clip(values, 0.0, None))) @ vectors.T
        inner = np.eye(self.q) + (root * (theta[:-1][self.part] / theta[-1])) @ root
        return not self.q or float(np.linalg.eigvalsh(inner)[0]) > LEAST_CONDITION

    def likelihood(self, theta: Floats) -> float:
        """Restricted log-likelihood, without its constant; -inf where `theta` makes no covariance."""
        found = self.inverse(theta)
        if found is None:
            return -np.inf
        k, log_det = found
        quadratic = (self.c - float(self.b @ k @ self.b)) / float(theta[-1])
        return -0.5 * (self.freedom * float(np.log(theta[-1])) + log_det + quadratic)

    def scores(self, theta: Floats, k: Floats) -> tuple[Floats, Floats]:
        """(y'P V_i P y, tr(P V_i P V_j)) for the parts and REST: what Fisher's scoring needs."""
        rest = theta[-1]
        size = self.num_parts + 1
        inner = (self.a - self.a @ k @ self.a) / rest  # Z'PZ
        zpy = (self.b - self.a @ k @ self.b) / rest
        ypy = (self.c - float(self.b @ k @ self.b)) / rest
        of = [np.flatnonzero(self.part == number) for number in range(self.num_parts)]
        squares = np.zeros(size)
        traces = np.zeros((size, size))
        trace_one = np.zeros(size)  # tr(P V_i)
        for i, mine in enumerate(of):
            squares[i] = float(zpy[mine] @ zpy[mine])
            trace_one[i] = float(np.trace(inner[np.ix_(mine, mine)]))
            for j, other in enumerate(of):
                traces[i, j] = float((inner[np.ix_(mine, other)] ** 2).sum())
        # P = P V P with V = sum_i theta_i V_i + rest I gives what belongs to the identity.
        squares[-1] = (ypy - float(theta[:-1] @ squares[:-1])) / rest
        trace_one[-1] = (self.freedom - float(theta[:-1] @ trace_one[:-1])) / rest
        for i in range(self.num_parts):
            traces[i, -1] = traces[-1, i] = (trace_one[i] - float(theta[:-1] @ traces[i, :-1])) / rest
        traces[-1, -1] = (trace_one[-1] - float(theta[:-1] @ traces[:-1, -1])) / rest
        return squares, traces

    def told(self) -> Floats:
        """tr(M V_i M V_j): what the runs tell of each part where none is known yet."""
        theta = np.zeros(self.num_parts + 1)
        theta[-1] = 1.0
        return self.scores(theta, np.zeros((self.q, self.q)))[1]


@dataclass(frozen=True)
class Variances:
    """What a set of results tells of the variances of their logarithms.

    of         by part, in the order of `information`; one that was estimated below 0 stays so. A part that cannot be told from REST, or
               that nothing tells of, is not in it. Empty: nothing was repeated
    information float64[parts, parts]: inverse of the covariance of the variances; 0 for one that was given and not estimated
    freedom    results beyond one of each setting
    settings   number of settings that were repeated
    """

    of: dict[str, float]
    information: Floats
    freedom: int
    settings: int

    def sd(self, part: str) -> float | None:
        """Standard deviation of a part, relative; 0 where its variance was estimated below 0; None: not told apart."""
        variance = self.of.get(part)
        return None if variance is None else max(variance, 0.0) ** 0.5


def variances_of(runs: Sequence[Run], known: Mapping[str, float] | None = None) -> Variances:
    """The variances of `runs` by REML. `known`: variances that are given, by part.

    A part that these runs cannot tell is left out: boards where no setting ran on two of them, or where each run had a board of its
    own (then what boards differ by is in REST). One that makes no covariance (as unbalanced designs may) is left out, too.
    """
    known = dict(known or {})
    settings, names = _indices([run.setting for run in runs])
    y = np.array([run.log_value for run in runs])
    levels = _levels(runs)
    repeated = int((np.bincount(settings) > 1).sum()) if len(runs) else 0
    freedom = len(runs) - len(names)
    if not freedom and not known:
        return Variances({}, np.zeros((0, 0)), 0, 0)
    parts = _told(y, settings, levels, known)
    while True:
        design = _Design.of(y, settings, [levels[part] for part in parts])
        theta, information = _search(design, parts, known)
        if theta is None:
            return Variances({}, np.zeros((0, 0)), freedom, repeated)
        estimated = [i for i, part in enumerate(parts) if part not in known]
        if not estimated or design.is_covariance(theta):
            return Variances(
                dict(zip((*parts, REST), theta.tolist(), strict=True)), information, freedom, repeated
            )
        parts.pop(min(estimated, key=lambda i: theta[i]))


def contrast(one: Sequence[Run], other: Sequence[Run], variances: Variances) -> Contrast | None:
    """ln(mean of `one`) - ln(mean of `other`), two settings, with variances as `variances_of` gives them.

    None where a setting has no run, or there is no variance. `variances` may come from other runs: then they are pooled.
    """
    return _difference((one, other), np.array([1.0, -1.0]), variances)


def mean(runs: Sequence[Run], variances: Variances) -> Contrast | None:
    """The mean of a setting's logarithms, as `contrast`."""
    return _difference((runs,), np.array([1.0]), variances)


def by_start(runs: Sequence[Run]) -> list[Run]:
    """One run for each start of the engine on a setting: the mean of those on it."""
    found: dict[tuple[Hashable, ...], list[Run]] = {}
    for run in runs:
        found.setdefault((run.setting, run.board, run.start), []).append(run)
    return [
        replace(same[0], log_value=float(np.mean([run.log_value for run in same]))) for same in found.values()
    ]


def of_starts(starts: Sequence[Run], variance: float = 0.0, freedom: int = 0) -> Variances:
    """How starts scatter, all parts together, by `starts` as of `by_start` and by what others scattered with: a variance and its degrees of freedom."""
    settings, names = _indices([run.setting for run in starts])
    y = np.array([run.log_value for run in starts])
    counts = np.bincount(settings) if len(starts) else np.zeros(0)
    own = len(starts) - len(names)
    squares = freedom * variance
    if own:
        squares += float(((y - (np.bincount(settings, weights=y) / counts)[settings]) ** 2).sum())
    freedom += own
    if not freedom or squares <= _LEAST_REST * freedom:
        return Variances({}, np.zeros((0, 0)), freedom, 0)
    pooled = squares / freedom
    return Variances(
        {REST: pooled}, np.array([[freedom / (2.0 * pooled**2)]]), freedom, int((counts > 1).sum())
    )


def total(variances: Variances) -> tuple[float, float] | None:
    """(sd of the logarithm of one run on a start and a board of its own, its degrees of freedom by Satterthwaite); None: nothing tells it.

    All parts together; one below 0 takes from the others what these have too much.
    """
    if not variances.of:
        return None
    theta = np.array(list(variances.of.values()))
    found = float(theta.sum())
    if found <= _LEAST_REST:
        return None
    return found**0.5, _freedom(lambda at: float(at.sum()), theta, found, variances.information)


def _difference(sides: Sequence[Sequence[Run]], weights: Floats, variances: Variances) -> Contrast | None:
    if not all(sides) or not variances.of:
        return None
    runs = [run for side in sides for run in side]
    parts = [part for part in variances.of if part != REST]
    numbers = np.repeat(np.arange(len(sides), dtype=np.int64), list(map(len, sides)))
    levels = _levels(runs)
    design = _Design.of(np.array([run.log_value for run in runs]), numbers, [levels[part] for part in parts])
    theta = np.array(list(variances.of.values()))
    found = _contrast(design, weights, theta, variances.information)
    # Pooled variances below 0 need not make a covariance of other runs.
    return found or _contrast(design, weights, np.maximum(theta, 0.0), variances.information)


def _contrast(design: _Design, weights: Floats, theta: Floats, information: Floats) -> Contrast | None:
    scaled = weights / design.counts
    w = design.cross.T @ scaled
    found = design.inverse(theta)
    if found is None:
        return None
    k = found[0]
    means = np.bincount(design.setting, weights=design.y) / design.counts

    def variance_at(theta: Floats) -> float | None:
        found = design.inverse(theta)
        return None if found is None else float(theta[-1] * (scaled @ weights + w @ found[0] @ w))

    variance = variance_at(theta)
    if variance is None or variance <= _LEAST_REST:
        return None
    difference = float(weights @ means - w @ (k @ design.b))
    return Contrast(difference, variance**0.5, _freedom(variance_at, theta, variance, information))


def _freedom(
    variance_at: Callable[[Floats], float | None], theta: Floats, variance: float, information: Floats
) -> float:
    """Satterthwaite's: 2 v^2 / var(v), var(v) by the gradient of v in the variances that were estimated."""
    estimated = np.flatnonzero(np.diag(information) > 0)
    if not len(estimated):
        return MOST_FREEDOM
    gradient = np.zeros(len(theta))
    for i in estimated:
        step = 1e-5 * max(abs(float(theta[i])), 1e-3 * float(theta[-1]))
        ends = []
        for sign in (1.0, -1.0):
            moved = theta.copy()
            moved[i] += sign * step
            ends.append(variance_at(moved))
        up, down = ends
        if up is not None and down is not None:
            gradient[i] = (up - down) / (2.0 * step)
        elif up is not None:
            gradient[i] = (up - variance) / step
        elif down is not None:
            gradient[i] = (variance - down) / step
    of_variances = np.linalg.pinv(information[np.ix_(estimated, estimated)], hermitian=True)
    doubt = float(gradient[estimated] @ of_variances @ gradient[estimated])
    return MOST_FREEDOM if doubt <= 0 else min(max(2.0 * variance**2 / doubt, 1.0), MOST_FREEDOM)


def _indices(keys: Sequence[Key]) -> tuple[Ints, dict[Key, int]]:
    found: dict[Key, int] = {}
    numbers = [found.setdefault(key, len(found)) for key in keys]
    return np.array(numbers, dtype=np.int64), found


def _levels(runs: Sequence[Run]) -> dict[str, Ints]:
    return {
        BOARD: _indices([run.board for run in runs])[0],
        START: _indices([(run.board, run.start) for run in runs])[0],
    }


def _told(y: Floats, settings: Ints, levels: dict[str, Ints], known: dict[str, float]) -> list[str]:
    """The parts that these runs tell apart from each other and from REST, or whose variance is known."""
    if not len(y):
        return []
    chosen = [part for part in levels if part in known or len(set(levels[part])) < len(y)]
    for dropped in ((), (START,), (BOARD,), (BOARD, START)):
        parts = [part for part in chosen if part not in dropped or part in known]
        estimated = [i for i, part in enumerate((*parts, REST)) if part not in known]
        if not estimated:
            return parts
        design = _Design.of(y, settings, [levels[part] for part in parts])
        traces = design.told()[np.ix_(estimated, estimated)]
        scale = np.sqrt(np.diag(traces))
        if (scale <= 0).any():
            continue
        values = np.linalg.eigvalsh(traces / np.outer(scale, scale))
        if values[0] > LEAST_CONDITION * values[-1]:
            return parts
    return [part for part in chosen if part in known]


def _search(design: _Design, parts: Sequence[str], known: dict[str, float]) -> tuple[Floats | None, Floats]:
    """(the variances by REML, with their information); None where no result is beyond one of each setting."""
    names = (*parts, REST)
    fixed = np.array([part in known for part in names])
    nothing = np.zeros((len(names), len(names)))
    given = np.array([known.get(part, 0.0) for part in names])
    if fixed.all():
        return given, nothing
    if design.freedom < 1 or (not fixed[-1] and design.c <= _LEAST_REST * design.freedom):
        return None, nothing
    free = np.flatnonzero(~fixed)
    theta = given.copy()
    # From all scatter in REST, and the parts at 0: always a covariance.
    if not fixed[-1]:
        theta[-1] = design.c / design.freedom
    best = design.likelihood(theta)
    for _ in range(MOST_STEPS):
        found = design.inverse(theta)
        assert found is not None
        squares, traces = design.scores(theta, found[0])
        target = squares - traces[:, fixed] @ theta[fixed]
        step = np.linalg.lstsq(traces[np.ix_(free, free)], target[free], rcond=None)[0] - theta[free]
        # What the likelihood would gain at most, as a parabola has it.
        if 0.25 * float(step @ traces[np.ix_(free, free)] @ step) < CLOSE:
            break
        size, moved = 1.0, False
        while size > SMALLEST_STEP:
            tried = theta.copy()
            tried[free] = theta[free] + size * step
            value = design.likelihood(tried)
            if value > best:
                moved, gained = True, value - best
                theta, best = tried, value
                break
            size /= 2.0
        if not moved or gained < CLOSE:
            break
    found = design.inverse(theta)
    assert found is not None
    # Of REML: half of tr(P V_i P V_j).
    information = 0.5 * design.scores(theta, found[0])[1]
    information[fixed, :] = information[:, fixed] = 0.0
    return theta, information
