"""How far played loads are from real runs at rates that were left out (docs/simulation.md)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from wattcount.config.schema import SloConfig
from wattcount.simulation.figures import figures, latencies
from wattcount.simulation.measured import MeasuredSteps, SeenRun, UnusableError, fit, play_run

FEWEST_RATES = 3
"""Rates of a group from which on one can be left out."""
SLOS = {
    "slo": SloConfig(ttft_ms=500.0, tpot_ms=50.0),
    "tight_slo": SloConfig(ttft_ms=100.0, tpot_ms=15.0),
}
"""The SLOs whose attainment is checked, by the name of their gate."""
GATES = {"energy": 0.03, "tpot_p50": 0.05, "ttft_p95": 0.20, **dict.fromkeys(SLOS, 0.05)}
"""Most error of each gate: of the figure, or, of an SLO, of the share that keeps it."""
DEVELOPMENT = ("llama3_8b", "NVIDIA H200")
"""Model and GPU of the runs that the form of the step model was chosen on."""


@dataclass(frozen=True)
class LeftOut:
    """A rate that was left out, played by a model that is fitted to the group's other rates.

    within   whether fitted rates lie on both sides of it
    errors   by gate, mean over its runs: simulated / measured - 1, or of an SLO simulated - measured; None: not defined
    """

    key: str
    model: str
    gpu: str
    engine: str
    rate_rps: float
    runs: int
    within: bool
    errors: Mapping[str, float | None]

    @property
    def development(self) -> bool:
        return (self.model, self.gpu) == DEVELOPMENT

    def to_json(self) -> dict[str, Any]:
        return {
            "setting": self.key[:12],
            "model": self.model,
            "gpu": self.gpu,
            "engine": self.engine,
            "rate_rps": self.rate_rps,
            "runs": self.runs,
            "within": self.within,
            "development": self.development,
            "errors": dict(self.errors),
        }


def groups(runs: Iterable[SeenRun]) -> list[list[SeenRun]]:
    """Runs that differ in their rate alone, where there are enough rates; in the order of model, GPU and engine."""
    found: dict[str, list[SeenRun]] = defaultdict(list)
    for run in runs:
        found[run.key].append(run)
    enough = [group for group in found.values() if len({run.rate_rps for run in group}) >= FEWEST_RATES]
    return sorted(
        enough,
        key=lambda group: (
            group[0].config.model.name,
            group[0].gpu,
            group[0].config.engine.name,
            group[0].key,
        ),
    )


def left_out(group: Sequence[SeenRun]) -> list[LeftOut]:
    """Each rate of a group left out in turn."""
    rates = sorted({run.rate_rps for run in group})
    found = []
    for rate in rates:
        theirs = [run for run in group if run.rate_rps == rate]
        try:
            model = fit([run for run in group if run.rate_rps != rate])
        except UnusableError:
            continue
        each = [errors(run, model) for run in theirs]
        first = theirs[0]
        found.append(
            LeftOut(
                first.key,
                first.config.model.name,
                first.gpu,
                first.config.engine.name,
                rate,
                len(theirs),
                rates[0] < rate < rates[-1],
                {gate: _mean([error[gate] for error in each]) for gate in GATES},
            )
        )
    return found


def repeated(group: Sequence[SeenRun]) -> list[dict[str, float | None]]:
    """By gate, how far each run of a group lies from the mean of the other runs at its rate: what starts of an engine and arrivals make of one setting."""
    found = []
    for run in group:
        others = [other for other in group if other.rate_rps == run.rate_rps and other is not run]
        if others:
            mine, theirs = _seen(run), [_seen(other) for other in others]
            found.append(
                {gate: _apart(gate, _mean([one[gate] for one in theirs]), mine[gate]) for gate in GATES}
            )
    return found


def _seen(run: SeenRun) -> dict[str, float | None]:
    """What the gates are about, as it was measured."""
    return {
        "energy": run.energy_j / (run.window_s[1] - run.window_s[0]),
        "tpot_p50": run.seen.percentile_ms("tpot", 50),
        "ttft_p95": run.seen.percentile_ms("ttft", 95),
        **{name: run.seen.attained(slo) for name, slo in SLOS.items()},
    }


def _apart(gate: str, told: float | None, measured: float | None) -> float | None:
    if told is None or measured is None:
        return None
    if gate in SLOS:
        return told - measured
    return told / measured - 1.0 if measured else None


def errors(run: SeenRun, model: MeasuredSteps) -> dict[str, float | None]:
    """Of a run played by `model`, by gate."""
    played = play_run(run, model)
    made = figures(played, run.window_s, model.front_s)
    seen = latencies(played, run.window_s, model.front_s)
    told = {
        "energy": made["power/gpu_mean_w"],
        "tpot_p50": made["latency/tpot_p50_ms"],
        "ttft_p95": made["latency/ttft_p95_ms"],
        **{name: seen.attained(slo) for name, slo in SLOS.items()},
    }
    measured = _seen(run)
    return {gate: _apart(gate, told[gate], measured[gate]) for gate in GATES}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
