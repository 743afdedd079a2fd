"""What a setting's results tell, and one setting against another: ratio, 95 % interval, what it rests on, or that nobody can tell.

How results scatter comes from the two settings' own repeats where these are enough (OWN_FREEDOM), otherwise from the repeats of
all settings with the same kind of load (pooled), and where these are too few as well, from them together with `result.host_part`; which of them is said. A comparison is of means of many starts on
many boards: with the variances between boards, starts and repeats apart (`study.mixed`).
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np

from wattcount.report.labels import gpu_label, name_of
from wattcount.report.units import count
from wattcount.result.host_part import PER_TOKEN, scatter_of_starts
from wattcount.result.result import ENERGY, SHARES_ITS_INTERVAL, Result
from wattcount.statistics import spread
from wattcount.study import mixed
from wattcount.study.mixed import BOARD, REST, Contrast, Run, Variances

OWN_FREEDOM = 5.0
"""Degrees of freedom from which on two settings' own repeats say how they scatter: with fewer, Student's t is wider than 2.6 and moves
by more than how settings differ."""
MOST_POOLED = 250
"""About the most results that variances are pooled over: they tell a variance to 9 %, and take some hundredths of a second."""
NORMAL_975 = 1.959963984540054
"""97.5 % point of the normal distribution: what the sensor's 95 % is of."""


class Tell(StrEnum):
    """What a comparison tells of the first setting's figure against the second's."""

    LESS = "less"
    MORE = "more"
    CANNOT = "cannot tell"


@dataclass(frozen=True)
class Basis:
    """What a figure or comparison rests on.

    boards, starts, runs  how many; boards 0: nobody tells which
    pooled   how the scatter is known: `own`, `pooled`, `prior`, `pairs` or `none`
    settings number of settings whose repeats tell the scatter
    freedom  degrees of freedom of the interval
    """

    boards: int
    starts: int
    runs: int
    pooled: str
    settings: int
    freedom: float | None

    @property
    def words(self) -> str:
        """`3 boards, 4 starts, 6 runs; scatter pooled over 12 settings`."""
        boards = count(self.boards, "board") if self.boards else "boards unknown"
        how = {
            "own": "scatter by their own repeats",
            "pooled": f"scatter pooled over {count(self.settings, 'setting')}",
            "prior": "scatter as of wattcount's own repeats of such loads",
            "pairs": "scatter by pairs with the same arrivals",
            "none": "nothing was repeated",
        }[self.pooled]
        return f"{boards}, {count(self.starts, 'start')}, {count(self.runs, 'run')}; {how}"


@dataclass(frozen=True)
class Comparison:
    """The ratio of the first setting's mean to the second's, with its 95 % interval; None: nothing tells one."""

    ratio: float
    low: float | None
    high: float | None
    basis: Basis

    @property
    def tell(self) -> Tell:
        if self.low is None or self.high is None or self.low <= 1.0 <= self.high:
            return Tell.CANNOT
        return Tell.LESS if self.ratio < 1 else Tell.MORE

    @property
    def percent(self) -> float:
        return 100.0 * (self.ratio - 1.0)

    @property
    def interval(self) -> str:
        """95 %, `-12.3 to -8.1 %`."""
        if self.low is None or self.high is None:
            return "no interval"
        return f"{100 * (self.low - 1):+.1f} to {100 * (self.high - 1):+.1f} %"


@dataclass(frozen=True)
class Estimate:
    """The mean of a setting's figure, with its 95 % interval; None: nothing tells one. `basis` as of a comparison."""

    value: float
    low: float | None
    high: float | None
    basis: Basis

    @property
    def half_width(self) -> float | None:
        """Half of the length of the interval, in the unit of the value."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def family_of(run: Result) -> tuple[str, str, str]:
    """(evidence, origin, kind of weights): results of different families are never compared with each other."""
    return (str(run.evidence or "unknown"), run.origin, run.weights_kind or "unknown")


def setting_of(run: Result) -> Hashable:
    """What repeats share: `setting_key`. An imported result without one is nobody's repeat: what its source did not tell may differ."""
    return (run.origin, run.run_id or id(run)) if run.setting_key is None else run.setting_key


def load_of(run: Result) -> tuple[Hashable, ...]:
    """What two results must share for GPU or settings to be the only difference: family, model, lengths and load."""
    return (
        *family_of(run), run.by, run.model, run.scenario, run.kind, run.num_requests, run.rate_rps, run.input_tokens,
        run.output_tokens,
    )  # fmt: skip


@dataclass(frozen=True)
class Cell:
    """The valid results of one setting at its load: repeats, on whatever boards, starts and days."""

    key: Hashable
    runs: tuple[Result, ...]

    @property
    def first(self) -> Result:
        return self.runs[0]

    @property
    def gpu(self) -> str:
        """What GPU choice is about: `NVIDIA H200`, `2 x NVIDIA H200`."""
        return gpu_label(self.first.gpus) if self.first.gpus else str(self.first.gpu)

    @property
    def gpu_model(self) -> str:
        """As `gpu`, however many: `NVIDIA H200`."""
        return gpu_label(sorted(set(self.first.gpus))) if self.first.gpus else str(self.first.gpu)

    @property
    def levers(self) -> tuple[str, ...]:
        return self.first.levers

    @property
    def name(self) -> str:
        return f"{name_of(self.first)} on {self.gpu}"

    def values(self, key: str) -> list[float]:
        return [value for run in self.runs if (value := run.value(key)) is not None]

    def mean(self, key: str) -> float | None:
        """The geometric mean of a figure over the runs; None where no run has it, or one is not positive."""
        values = self.values(key)
        return float(np.exp(np.mean(np.log(values)))) if values and min(values) > 0 else None

    def middle(self, key: str) -> float | None:
        """The arithmetic mean of a figure; None where no run has it."""
        values = self.values(key)
        return float(np.mean(values)) if values else None


def cells(results: Iterable[Result]) -> list[Cell]:
    """Valid results by setting, in the order in which they come."""
    found: dict[Hashable, list[Result]] = {}
    for run in results:
        if run.valid:
            found.setdefault(setting_of(run), []).append(run)
    return [Cell(key, tuple(runs)) for key, runs in found.items()]


def kind_of(run: Result) -> tuple[Hashable, ...]:
    """Whose repeats may tell how this run scatters: of its family, kind of load, and eager or not."""
    eager = bool(run.setting.get("engine", {}).get("enforce_eager")) or "eager" in run.levers
    return (*family_of(run), run.kind, eager)


def boards_of(runs: Iterable[Result]) -> set[tuple[str, ...]]:
    """The boards, or groups of boards, that runs were on."""
    return {tuple(sorted(run.boards)) for run in runs if run.boards}


@dataclass
class Scatters:
    """How results scatter, by figure and kind of load: estimated once from all results, when it is asked for."""

    results: Sequence[Cell]
    _kinds: dict[tuple[Hashable, ...], list[Cell]] = field(init=False)
    _known: dict[tuple[str, tuple[Hashable, ...]], Variances] = field(init=False, default_factory=dict)

    def __post_init__(self) -> None:
        self._kinds = {}
        for cell in self.results:
            self._kinds.setdefault(kind_of(cell.first), []).append(cell)

    @property
    def kinds(self) -> list[tuple[Hashable, ...]]:
        return list(self._kinds)

    def pooled(self, key: str, kind: tuple[Hashable, ...]) -> Variances:
        """Of all settings with this kind of load that were repeated."""
        if (key, kind) not in self._known:
            repeated = [mine for cell in self._kinds.get(kind, ()) if len(mine := _runs(cell, key)) > 1]
            # Where there are more, settings from all over the data set, always the same ones.
            step = max(1, sum(map(len, repeated)) // MOST_POOLED)
            runs = [run for mine in repeated[::step] for run in mine]
            self._known[key, kind] = mixed.variances_of(runs)
        return self._known[key, kind]

    def compare(
        self, one: Cell, other: Cell, key: str = PER_TOKEN, *, sensor: bool = True
    ) -> Comparison | None:
        """`one` against `other`. None where a side does not have the figure, or has one that is not positive. `sensor`: with what sensors add."""
        sides = [_runs(cell, key) for cell in (one, other)]
        if not all(sides):
            return None
        apart = boards_of(one.runs) != boards_of(other.runs) or not boards_of(one.runs)
        used, variances, pooled = self._variances(sides, one, key, apart)
        found = mixed.contrast(used[0], used[1], variances) if variances.of else None
        basis = _basis((*one.runs, *other.runs), sum(map(len, sides)), pooled, variances.settings, found)
        if found is None:
            means = [float(np.mean([run.log_value for run in side])) for side in sides]
            return Comparison(math.exp(means[0] - means[1]), None, None, basis)
        of_sensor = self._sensor_sd(one, other, key, variances, apart) if sensor else 0.0
        return Comparison(*_interval(found, of_sensor), basis)

    def estimate(self, cell: Cell, key: str = PER_TOKEN, *, sensor: bool = True) -> Estimate | None:
        """The mean of a cell's figure. None where no run has it. In its interval are scatter, and the sensor if `sensor`."""
        mine = _runs(cell, key)
        if not mine:
            return None
        used, variances, pooled = self._variances([mine], cell, key, apart=True)
        found = mixed.mean(used[0], variances) if variances.of else None
        basis = _basis(cell.runs, len(mine), pooled, variances.settings, found)
        if found is None:
            return Estimate(math.exp(float(np.mean([run.log_value for run in mine]))), None, None, basis)
        return Estimate(*_interval(found, sensor_sd(cell.runs, key) if sensor else 0.0), basis)

    def log_sd(self, cell: Cell, key: str = PER_TOKEN) -> float | None:
        """Standard uncertainty of the logarithm of a cell's mean, without the sensor; None: nothing tells it."""
        mine = _runs(cell, key)
        if not mine:
            return None
        used, variances, _ = self._variances([mine], cell, key, apart=True)
        found = mixed.mean(used[0], variances) if variances.of else None
        return None if found is None else found.sd

    def of_one_start(self, key: str, kind: tuple[Hashable, ...]) -> tuple[float, float] | None:
        """(sd of the logarithm of a figure between single starts, each on a board of its own; its degrees of freedom), by `pooled`."""
        return mixed.total(self.pooled(key, kind))

    def _variances(
        self, sides: Sequence[Sequence[Run]], cell: Cell, key: str, apart: bool
    ) -> tuple[Sequence[Sequence[Run]], Variances, str]:
        """(the sides as the variances are of, the variances that tell how they scatter, where these come from)."""
        own = [run for side in sides for run in side]
        if len(own) > len(sides) + OWN_FREEDOM:
            variances = mixed.variances_of(own)
            if variances.of and (not apart or BOARD in variances.of or _boards_in_rest(own)):
                found = (
                    mixed.contrast(sides[0], sides[1], variances)
                    if len(sides) == 2
                    else mixed.mean(own, variances)
                )
                if found is not None and found.freedom >= OWN_FREEDOM:
                    return sides, variances, "own"
        kind = kind_of(cell.first)
        variances = self.pooled(key, kind)
        known = scatter_of_starts(cell.first.load_kind, key)
        if variances.of and (known is None or variances.freedom >= OWN_FREEDOM):
            return sides, variances, "pooled"
        if known is None:
            return sides, variances, "none"
        others = [run for cell in self._kinds.get(kind, ()) for run in _runs(cell, key)]
        variances = mixed.of_starts(mixed.by_start(others), known.sd**2, known.freedom)
        return [mixed.by_start(side) for side in sides], variances, "prior"

    def _sensor_sd(self, one: Cell, other: Cell, key: str, variances: Variances, apart: bool) -> float:
        """What the sensors add to ln(one / other), as a standard uncertainty.

        Boards of one GPU model may err alike, so it does not get less with their number. Between boards of one model it is in
        what these differ by, where that was seen.
        """
        if one.gpu == other.gpu and (not apart or self._saw_boards(key, kind_of(one.first), variances)):
            return 0.0
        return math.hypot(sensor_sd(one.runs, key), sensor_sd(other.runs, key))

    def _saw_boards(self, key: str, kind: tuple[Hashable, ...], variances: Variances) -> bool:
        if BOARD in variances.of:
            return True
        return any(len(boards_of(cell.runs)) > 1 and cell.values(key) for cell in self._kinds.get(kind, ()))


def sensor_sd(runs: Sequence[Result], key: str) -> float:
    """Standard uncertainty of ln(figure) by the boards' sensors: what all runs of a board share; 0 for figures without energy."""
    if not key.startswith((*SHARES_ITS_INTERVAL, ENERGY, "energy/")):
        return 0.0
    shares = [
        of_sensor / energy
        for run in runs
        if (of_sensor := run.value(f"{ENERGY}_u95_sensor")) is not None and (energy := run.value(ENERGY))
    ]
    return max(shares, default=0.0) / NORMAL_975


def by_chance(*sides: Sequence[Result], key: str = PER_TOKEN) -> Contrast | None:
    """The logarithm of a mean of one setting's runs, or of the first's against the second's, and how far starts of the engine scatter it.

    By their own scatter together with `result.host_part`. What boards and sensors differ by is not told apart, and not added. None: nothing
    tells how they scatter.
    """
    numbered = [_runs(Cell(number, tuple(side)), key) for number, side in enumerate(sides)]
    if not all(numbered):
        return None
    starts = [mixed.by_start(side) for side in numbered]
    known = scatter_of_starts(sides[0][0].load_kind, key)
    prior = () if known is None else (known.sd**2, known.freedom)
    variances = mixed.of_starts([run for side in starts for run in side], *prior)
    return (
        mixed.mean(starts[0], variances)
        if len(starts) == 1
        else mixed.contrast(starts[0], starts[1], variances)
    )


def same_arrivals(one: Iterable[Result], other: Iterable[Result]) -> list[tuple[Result, Result]]:
    """Pairs of runs with the same seed and repeat: with the same arrivals and lengths. Each run is in one pair at most."""
    left: dict[Hashable, list[Result]] = {}
    for run in other:
        left.setdefault((run.seed, run.repeat), []).append(run)
    pairs = []
    for run in one:
        theirs = left.get((run.seed, run.repeat))
        if theirs and (run.seed, run.repeat) != (None, None):
            pairs.append((run, theirs.pop(0)))
    return pairs


def paired(one: Cell, other: Cell, key: str = PER_TOKEN) -> Comparison | None:
    """`one` against `other` by the runs with the same arrivals, whose scatter cancels: Student's t of the pairs. None: no pair has the figure."""
    pairs = [
        (mine, theirs, value / base)
        for mine, theirs in same_arrivals(one.runs, other.runs)
        if (value := mine.value(key)) and (base := theirs.value(key)) and value / base > 0
    ]
    if not pairs:
        return None
    runs = [run for mine, theirs, _ in pairs for run in (mine, theirs)]
    logs = [math.log(ratio) for _, _, ratio in pairs]
    freedom = len(logs) - 1
    basis = Basis(
        len(boards_of(runs)), len({start_of(run) for run in runs}), len(runs), "pairs", 2, freedom or None
    )
    if not freedom:
        return Comparison(math.exp(logs[0]), None, None, basis)
    mean, _, half = spread(logs)
    return Comparison(math.exp(mean), math.exp(mean - half), math.exp(mean + half), basis)


def _interval(found: Contrast, sensor: float) -> tuple[float, float, float]:
    """(value, its 95 % interval) of a logarithm: Student's t for the scatter, the sensor's standard uncertainty beside it in quadrature."""
    half = math.hypot(found.half_width, NORMAL_975 * sensor)
    value = math.exp(found.difference)
    return value, value * math.exp(-half), value * math.exp(half)


def _basis(runs: Sequence[Result], counted: int, pooled: str, settings: int, found: Contrast | None) -> Basis:
    freedom = None if found is None else found.freedom
    starts = len({start_of(run) for run in runs})
    return Basis(len(boards_of(runs)), starts, counted, pooled, settings, freedom)


def _boards_in_rest(runs: Sequence[Run]) -> bool:
    """Whether each run was on a board of its own: then what boards differ by is in what is left."""
    return len({run.board for run in runs}) == len(runs) > 1


def start_of(run: Result) -> Hashable:
    """The start of the engine that a run was on."""
    return run.session or run.run_id or id(run)


def _runs(cell: Cell, key: str) -> list[Run]:
    """The runs of a cell that have a positive figure, for the mixed model."""
    return [
        Run(
            math.log(value),
            cell.key,
            tuple(sorted(run.boards)) or ("unknown", run.origin, run.by),
            start_of(run),
        )
        for run in cell.runs
        if (value := run.value(key)) is not None and value > 0
    ]


def parts_of(variances: Variances) -> Mapping[str, float | None]:
    """Standard deviation of each part, relative."""
    return {part: variances.sd(part) for part in (BOARD, mixed.START, REST)}
