"""What a tracking store is told of a study: counts, a table of its results, a description."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from wattcount.sweep.ledger import study_folder
from wattcount.sweep.state import PointState, State, StudyState
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
from wattcount.tracking import StudyPage

COLUMNS = (
    "model", "gpu", "scenario", "load", "seed", "repeat", "state", "evidence", "j_per_output_token", "energy_j", "wall_s",
    "tries", "reason", "message", "host", "gpu_uuid", "key", "record",
)  # fmt: skip


def study_page(study: StudyState, records_dir: str | Path) -> StudyPage:
    """The page of the study as it stands."""
    counts = study.counts
    missing = len(study.points) - counts[State.done] - counts[State.skipped]
    if not missing:
        state, status = "finished", "FINISHED"
    elif study.alive:
        state, status = "running", "KILLED"
    elif study.starts and not study.starts[-1].killed and study.starts[-1].reason == "finished":
        state, status = "incomplete", "FAILED"
    else:
        state, status = "interrupted", "KILLED"
    evidence = evidence_line(study)
    return StudyPage(
        name=study.name,
        folder=str(study_folder(records_dir, study.name)),
        state=state,
        status=status,
        metrics={f"study/{kind.value}": number for kind, number in counts.items()}
        | {
            "study/points": len(study.points),
            "study/energy_j": None if study.energy_j is None else float(f"{study.energy_j:.6g}"),
            "study/time_left_s": study.time_left_s,
        },
        columns=COLUMNS,
        rows=[_row(point) for point in study.points],
        note=_note(study, evidence),
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


def _note(study: StudyState, evidence: str | None) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(study.t_utc_ns / 1e9))
    lines = [
        f"**{counts_line(study)}**",
        "",
        f"As of {at}: {start_line(study)}.",
        "",
        f"- evidence: {evidence or 'nothing measured yet'}",
        f"- time left: {time_line(study)}",
        f"- energy so far: {energy_line(study)}",
        f"- latest result: {latest_line(study) or 'none yet'}",
    ]
    lines += [f"- failed, {group.reason}: {len(group.points)} points" for group in failure_groups(study)]
    lines += [f"- skipped, {group.reason}: {len(group.points)} points" for group in skip_groups(study)]
    lines += [
        "",
        "Every point is in `results.json` and `results.csv`, the runs of its records are below this one. MLflow calls "
        "a study KILLED until it is finished, so that one that is killed is never RUNNING for ever.",
    ]
    return "\n".join(lines)
