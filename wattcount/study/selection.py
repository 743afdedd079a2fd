"""Choosing among results for tables: those of one kind together, means of the valid ones, their findings, the sizes of their models."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Hashable, Iterable, Sequence
from functools import cache
from typing import Any, TypeVar

import numpy as np

from wattcount.config import model_shape
from wattcount.config.catalogue import model_catalogue
from wattcount.config.identity import key_of
from wattcount.report.labels import name_of
from wattcount.result.result import Result

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


_SIZE = re.compile(r"(?<![\w.])(\d+(?:\.\d+)?)b(?![a-z])")


def sizes_of(run: Result) -> tuple[float, float] | None:
    """(parameters, parameters used for one token): of the catalogue, else as the model's name has them, which says nothing of experts."""
    return _sizes_of(run.model or "")


@cache
def _sizes_of(model: str) -> tuple[float, float] | None:
    known = model_catalogue().get(model)
    if known is not None and (counted := model_shape.count_parameters(known.hf_config)) is not None:
        return float(counted.total), float(counted.active)
    name = model.lower().replace("-", " ").replace("_", " ").replace("/", " ")
    sizes = _SIZE.findall(name)
    if len(sizes) == 2 and re.search(rf"a{re.escape(sizes[1])}b", name):
        return float(sizes[0]) * 1e9, float(sizes[1]) * 1e9
    return (
        (float(sizes[0]) * 1e9,) * 2
        if len(sizes) == 1 and "x" not in name.split(f"{sizes[0]}b")[0][-1:]
        else None
    )
