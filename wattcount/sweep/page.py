"""What a tracking store is told of a sweep: counts, a table of its results, a description."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from wattcount.sweep.ledger import sweep_folder
from wattcount.sweep.state import PointState, State, SweepState
from wattcount.sweep.summary import (
    counts_line,
    energy_line,
    evidence_line,
    evidence_of,
    failure_groups,
    latest_line,
    skip_groups,
    start_line,
    time_line,
)
from wattcount.tracking import SweepPage

COLUMNS = (
    "model", "gpu", "scenario", "load", "seed", "repeat", "state", "evidence", "j_per_output_token", "energy_j", "wall_s",
    "tries", "reason", "message", "host", "gpu_uuid", "key", "record",
)  # fmt: skip


def sweep_page(sweep: SweepState, records_dir: str | Path) -> SweepPage:
    """The page of the sweep as it stands."""
    counts = sweep.counts
    missing = len(sweep.points) - counts[State.done] - counts[State.skipped]
    if not missing:
        state, status = "finished", "FINISHED"
    elif sweep.alive:
        state, status = "running", "KILLED"
    elif sweep.starts and not sweep.starts[-1].killed and sweep.starts[-1].reason == "finished":
        state, status = "incomplete", "FAILED"
    else:
        state, status = "interrupted", "KILLED"
    evidence = evidence_line(sweep)
    return SweepPage(
        name=sweep.name,
        folder=str(sweep_folder(records_dir, sweep.name)),
        state=state,
        status=status,
        metrics={f"sweep/{kind.value}": number for kind, number in counts.items()}
        | {
            "sweep/points": len(sweep.points),
            "sweep/energy_j": None if sweep.energy_j is None else float(f"{sweep.energy_j:.6g}"),
            "sweep/time_left_s": sweep.time_left_s,
        },
        columns=COLUMNS,
        rows=[_row(point) for point in sweep.points],
        note=_note(sweep, evidence),
        tags={} if evidence is None else {"evidence": evidence},
    )


def _row(point: PointState) -> list[Any]:
    planned, result, failure = point.point, point.result, point.failure
    wrong = failure if point.state is not State.done else None
    event = result or wrong
    return [
        planned.model, planned.gpu, planned.scenario, planned.load, planned.seed, planned.repeat, point.state.value,
        evidence_of(point.record) if point.record is not None else None,
        result.j_per_output_token if result is not None else None,
        event.energy_j if event is not None else None,
        event.wall_s if event is not None else None,
        point.tries,
        wrong.reason if wrong is not None else planned.reason,
        wrong.message if wrong is not None else planned.message,
        event.host if event is not None else None,
        event.gpu_uuid if event is not None else None,
        planned.key,
        point.record,
    ]  # fmt: skip


def _note(sweep: SweepState, evidence: str | None) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(sweep.t_utc_ns / 1e9))
    lines = [
        f"**{counts_line(sweep)}**",
        "",
        f"As of {at}: {start_line(sweep)}.",
        "",
        f"- evidence: {evidence or 'nothing measured yet'}",
        f"- time left: {time_line(sweep)}",
        f"- energy so far: {energy_line(sweep)}",
        f"- latest result: {latest_line(sweep) or 'none yet'}",
    ]
    lines += [f"- failed, {group.reason}: {len(group.points)} points" for group in failure_groups(sweep)]
    lines += [f"- skipped, {group.reason}: {len(group.points)} points" for group in skip_groups(sweep)]
    lines += [
        "",
        "Every point is in `results.json` and `results.csv`, the runs of its records are below this one. MLflow calls "
        "a sweep KILLED until it is finished, so that one that is killed is never RUNNING for ever.",
    ]
    return "\n".join(lines)
