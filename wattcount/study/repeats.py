"""Repeats of one setting: which runs are repeats, their spread, the scatter that settings share, differences, findings."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wattcount.config.identity import key_of
from wattcount.report.labels import board_of, name_of
from wattcount.result.result import Result
from wattcount.statistics import t_975

Floats = NDArray[np.float64]

BATCH_GAP = 2.0
"""Time between the begins of two stretches from which on they belong to two batches [usual time between begins]."""


def spread(values: Sequence[float]) -> tuple[float, float, float]:
    """(mean, standard deviation, 95 % half width of the mean by Student's t) of at least two values."""
    mean, deviation = float(np.mean(values)), float(np.std(values, ddof=1))
    return mean, deviation, t_975(len(values) - 1) * deviation / sqrt(len(values))


def half_width(values: Sequence[float]) -> float | None:
    """95 % half width of the mean of `values`, in their unit, by Student's t; None for fewer than two."""
    return spread(values)[2] if len(values) > 1 else None


@dataclass(frozen=True)
class Scatter:
    """How far repeats of one setting lie apart: variance and degrees of freedom of their logarithms."""

    variance: float
    freedom: int

    @classmethod
    def of(cls, settings: Iterable[Sequence[float]]) -> Scatter:
        """Pooled over the repeats of each setting. All settings are supposed to scatter by the same share."""
        logarithms = [np.log(values) for values in settings if len(values) > 1]
        freedom = sum(len(values) - 1 for values in logarithms)
        squares = sum(float(((values - values.mean()) ** 2).sum()) for values in logarithms)
        return cls(squares / freedom if freedom else 0.0, freedom)


def change(turned: Sequence[float], usual: Sequence[float], scatter: Scatter) -> tuple[float, float | None]:
    """(percent, 95 % half-width in percentage points) of the geometric mean of `turned` against that of `usual`.

    By Student's t for two means of logarithms, with variance and degrees of freedom of `scatter`. None: nothing was repeated.
    The half-width is half of the length of the interval in percent.
    """
    ratio = float(np.log(turned).mean() - np.log(usual).mean())
    percent = 100 * float(np.expm1(ratio))
    if not scatter.freedom:
        return percent, None
    half = t_975(scatter.freedom) * (scatter.variance * (1 / len(turned) + 1 / len(usual))) ** 0.5
    return percent, 100 * float(np.exp(ratio) * np.sinh(half))


@dataclass(frozen=True)
class Difference:
    """A mean difference and its 95 % half width, both in percent, from so many pairs."""

    mean_percent: float
    half_width_percent: float
    pairs: int


def paired(differences: Floats) -> Difference:
    """The mean of relative differences of pairs, with Student's t interval. A single pair has no interval (nan)."""
    if len(differences) < 2:
        return Difference(100 * float(np.mean(differences)), float("nan"), len(differences))
    mean, _, half = spread(differences.tolist())
    return Difference(100 * mean, 100 * half, len(differences))


def detrended(values: Floats, turned: NDArray[np.bool_], start_s: Floats) -> Difference:
    """The effect on log(values) of what was turned in some stretches. Each batch of stretches has a cubic in time beside it.

    Decoding slows down as contexts grow, by more within a pair than the effect that is looked for. The fit is by least squares,
    the interval 95 % by Student's t.

    values   float64[n], of stretches that began at `start_s` [s], increasing
    turned   bool[n]
    """
    batch = np.concatenate(([0], np.cumsum(np.diff(start_s) > BATCH_GAP * np.median(np.diff(start_s)))))
    columns = [turned.astype(float)]
    for number in range(batch[-1] + 1):
        within = batch == number
        t = np.where(within, start_s - start_s[within][0], 0.0) / max(1.0, float(np.ptp(start_s[within])))
        columns += [within * t**power for power in range(min(4, int(within.sum() // 3) + 1))]
    design = np.stack(columns, axis=1)
    solution, _, rank, _ = np.linalg.lstsq(design, np.log(values), rcond=None)
    freedom = len(values) - int(rank)
    left = np.log(values) - design @ solution
    variance = float(left @ left) / max(1, freedom) * np.linalg.pinv(design.T @ design)[0, 0]
    half = t_975(freedom) * float(variance) ** 0.5 if freedom > 0 else float("nan")
    return Difference(100 * float(solution[0]), 100 * half, len(values) // 2)


TOKENS = "throughput/output_tokens_per_s"
"""Key of a figure that every table has."""

UNREMARKABLE = frozenset({"power_capped", "attribution_at_slowed_clocks"})
"""Findings of nearly every full load, which tables do not repeat in each row."""
MANY_SHAPES = ("batch_short", "server_short")
"""Scenarios with which many models were measured. They are short and eager, so their figures depend on the host's CPU, too."""
Key = TypeVar("Key", bound=Hashable)


def is_of_many_shapes(run: Result) -> bool:
    return run.scenario in MANY_SHAPES


def setting_on_any_gpu(run: Result) -> str:
    """What runs on different GPU models must share to be compared."""
    return key_of(run.setting, without=("gpu.found_name",))


def figure(run: Result, key: str) -> float:
    """A figure that every valid run has. Raises ValueError where this one does not have it."""
    if (value := run.value(key)) is None:
        raise ValueError(f"{name_of(run)}: {key} is null")
    return value


def by(runs: Iterable[Result], key: Callable[[Result], Key]) -> dict[Key, list[Result]]:
    """Runs with the same `key` together, in the order in which they come."""
    found: dict[Key, list[Result]] = {}
    for run in runs:
        found.setdefault(key(run), []).append(run)
    return found


def valid(runs: Iterable[Result]) -> list[Result]:
    return [run for run in runs if run.valid]


def over(runs: Sequence[Result], key: str, middle: Callable[[list[float]], Any] = np.mean) -> float | None:
    """The mean (or what `middle` computes) of a figure over the runs that have it, in its unit."""
    values = [value for run in runs if (value := run.value(key)) is not None]
    return float(middle(values)) if values else None


def scatter_of(key: str, *gpus: Sequence[Result], many_shapes: bool) -> Scatter:
    """The scatter of a figure over all settings that were repeated on different boards of a GPU model.

    Repeats on one board do not tell by what boards differ, and a lever may be measured on another board. So they count as one,
    their mean.

    gpus         the runs on each GPU model
    many_shapes  of runs in MANY_SHAPES alone, or of all others
    """
    return Scatter.of(
        [float(np.mean([figure(run, key) for run in board])) for board in by(repeats, board_of).values()]
        for runs in gpus
        for repeats in by(valid(runs), lambda run: run.setting_key).values()
        if is_of_many_shapes(repeats[0]) == many_shapes
    )


def start_scatter(runs: Iterable[Result], key: str) -> dict[str, Scatter]:
    """Of a figure, between starts of the engine, by kind of load (`result.host_part`): pooled over the settings that were repeated.

    Repeats count as they are, on one board or on several: what boards differ by is in it.
    """
    kinds = by(valid(runs), lambda run: run.load_kind)
    return {
        kind: Scatter.of(
            [value for run in repeats if (value := run.value(key)) is not None]
            for repeats in by(found, lambda run: run.setting_key).values()
        )
        for kind, found in sorted(kinds.items(), key=lambda item: str(item[0]))
        if kind is not None
    }


def moves_with(runs: Iterable[Result], cause: str, key: str) -> tuple[float, float, int]:
    """(slope, correlation, runs) of the logarithm of a figure on that of another, within the settings that were repeated; nan where there are none."""
    x: list[float] = []
    y: list[float] = []
    for repeats in by(runs, lambda run: run.setting_key).values():
        both = [(a, b) for run in repeats if (a := run.value(cause)) and (b := run.value(key))]
        if len(both) > 1:
            centred = np.log(both) - np.log(both).mean(axis=0)
            x += centred[:, 0].tolist()
            y += centred[:, 1].tolist()
    across, along = float(np.dot(x, x)), float(np.dot(y, y))
    if not across or not along:
        return float("nan"), float("nan"), len(x)
    together = float(np.dot(x, y))
    return together / across, together / sqrt(across * along), len(x)


def remarks(runs: Sequence[Result], unsaid: Collection[str] = UNREMARKABLE) -> str:
    """Findings in valid runs, and the number of invalid runs with theirs; without the codes `unsaid`."""
    invalid = [run for run in runs if not run.valid]
    said = [_codes(valid(runs), unsaid)]
    if invalid:
        share = f"{len(invalid)} of {len(runs)} " if len(runs) > 1 else ""
        codes = _codes(invalid, unsaid)
        said.append(f"{share}invalid" + (f": {codes}" if codes else ""))
    return "; ".join(part for part in said if part)


def has(run: Result, code: str) -> bool:
    """Whether a finding of this code was made in the run."""
    return any(finding.code == code for finding in run.findings)


def _codes(runs: Sequence[Result], unsaid: Collection[str]) -> str:
    """The findings of runs. One that not all runs have is followed by how many have it."""
    counts: dict[str, int] = {}
    for run in runs:
        for code in dict.fromkeys(finding.code for finding in run.findings):
            if code not in unsaid:
                counts[code] = counts.get(code, 0) + 1
    return ", ".join(
        f"`{code}`" + (f" ({count} of {len(runs)})" if count < len(runs) else "")
        for code, count in counts.items()
    )
