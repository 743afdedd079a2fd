"""Runs as a study sees them: which of them are repeats of one setting, and what was found in them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from typing import Any, TypeVar

import numpy as np

from wattcount.config.identity import key_of
from wattcount.report.labels import board_of, name_of
from wattcount.result.result import Result
from wattcount.study.statistics import Scatter

PER_TOKEN = "energy/gpu_j_per_output_token"
TOKENS = "throughput/output_tokens_per_s"
WATTS = "power/gpu_mean_w"

UNREMARKABLE = frozenset({"power_capped", "attribution_at_slowed_clocks"})
"""Findings of nearly every full load, so not repeated in each row."""
MANY_SHAPES = ("batch_short", "server_short")
"""Scenarios in which many models were measured: short and eager, so that they depend on the host's CPU, too."""
Key = TypeVar("Key", bound=Hashable)


def is_of_many_shapes(run: Result) -> bool:
    return run.scenario in MANY_SHAPES


def setting_on_any_gpu(run: Result) -> str:
    """What runs on different GPU models must share to be compared."""
    return key_of(run.setting, without=("gpu.found_name",))


def figure(run: Result, key: str) -> float:
    """A figure that every valid run has. ValueError where this one has not."""
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
    """The mean (or what `middle` is) of a figure over those runs that have it, in its unit."""
    values = [value for run in runs if (value := run.value(key)) is not None]
    return float(middle(values)) if values else None


def scatter_of(key: str, *gpus: Sequence[Result], many_shapes: bool) -> Scatter:
    """Of a figure, over all settings that were repeated on different boards of a GPU model; a sequence of runs for each model.

    Repeats on one board tell nothing of what boards differ by, which a lever on another board meets: they count as one,
    their mean.

    many_shapes  of runs in MANY_SHAPES alone, or of all else
    """
    return Scatter.of(
        [float(np.mean([figure(run, key) for run in board])) for board in by(repeats, board_of).values()]
        for runs in gpus
        for repeats in by(valid(runs), lambda run: run.setting_key).values()
        if is_of_many_shapes(repeats[0]) == many_shapes
    )


def remarks(runs: Sequence[Result], unsaid: Collection[str] = UNREMARKABLE) -> str:
    """What was found in valid runs, and how many are invalid with what findings; all but the codes `unsaid`."""
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
    """The findings of runs, each with how many have it, where not all do."""
    counts: dict[str, int] = {}
    for run in runs:
        for code in dict.fromkeys(finding.code for finding in run.findings):
            if code not in unsaid:
                counts[code] = counts.get(code, 0) + 1
    return ", ".join(
        f"`{code}`" + (f" ({count} of {len(runs)})" if count < len(runs) else "")
        for code, count in counts.items()
    )
