"""How a sweep stands, for people in 80 columns and for scripts."""

from __future__ import annotations

import functools
import math
import shlex
import time
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from wattcount.errors import WattcountError
from wattcount.metrics.summary import evidence_label
from wattcount.metrics.units import quantity
from wattcount.records.reader import Record
from wattcount.sweep.events import Event
from wattcount.sweep.plan import PlannedPoint
from wattcount.sweep.state import PointState, Start, State, SweepState

SHOWN = 10
"""Groups of failures and runs in a summary."""
_ORDER = (State.done, State.failed, State.invalid, State.lost, State.skipped, State.running, State.waiting)


def clock(seconds: float) -> str:
    """`0:07`, `12:30`, `1:02:03`."""
    whole = max(0, math.ceil(seconds - 0.01))
    hours, minutes = whole // 3600, whole // 60 % 60
    return f"{hours}:{minutes:02d}:{whole % 60:02d}" if hours else f"{minutes}:{whole % 60:02d}"


def label(point: PlannedPoint) -> str:
    """`llama3_8b on h200, server 4 requests/s, r0`."""
    return f"{point.model} on {point.gpu}, {point.load}, r{point.repeat}"


def share_done(sweep: SweepState) -> float:
    """Of the points that can be measured, 0 to 1."""
    wanted = len(sweep.points) - sweep.counts[State.skipped]
    return sweep.counts[State.done] / wanted if wanted else 1.0


def counts_line(sweep: SweepState) -> str:
    """`5580 points: 3211 done, 12 failed, 2 running, 2355 waiting`."""
    words = [f"{sweep.counts[state]} {state.value}" for state in _ORDER if sweep.counts[state]]
    return f"{len(sweep.points)} points: {', '.join(words) or 'none'}"


def energy_line(sweep: SweepState) -> str:
    """`812.3 MJ`, and of how many runs where not of all."""
    if sweep.energy_j is None:
        return "not known yet"
    done = sweep.counts[State.done]
    of = "" if sweep.energy_of == done else f", known of {sweep.energy_of} of {done} done"
    return f"{quantity(sweep.energy_j, 'J')}{of}"


def time_line(sweep: SweepState) -> str:
    """`12:34:00, from what was measured`."""
    basis = "from what was measured" if sweep.time_left_basis == "measured" else "as predicted"
    if sweep.work_left_s is None:
        return "not known yet"
    if not sweep.counts[State.waiting] + sweep.counts[State.running]:
        return "nothing left to measure"
    if sweep.time_left_s is not None:
        return f"{clock(sweep.time_left_s)}, {basis}"
    return f"{clock(sweep.work_left_s)} of runs one after another when started again, {basis}"


def latest_line(sweep: SweepState) -> str | None:
    """The latest result; None before the first."""
    if sweep.latest is None or sweep.latest.result is None:
        return None
    return f"{label(sweep.latest.point)}: {result_text(sweep.latest.result)}"


def result_text(event: Event) -> str:
    """`1.970 J per output token, 312.0 s`."""
    parts = []
    if event.j_per_output_token is not None:
        parts.append(f"{quantity(event.j_per_output_token, 'J')} per output token")
    if event.wall_s is not None:
        parts.append(f"took {clock(event.wall_s)}")
    return ", ".join(parts) or "measured"


@functools.cache
def evidence_of(record: str) -> str | None:
    """`measured`, `emulated, random weights`; None where the record cannot be read."""
    try:
        return evidence_label(Record.open(Path(record)).info)
    except WattcountError:
        return None


def evidence_line(sweep: SweepState) -> str | None:
    """What the figures rest on, by a record of each GPU and of each model; None before the first."""
    asked: dict[tuple[str, str], str] = {}
    for point in sweep.points:
        if point.record is not None:
            asked[("gpu", point.point.gpu)] = point.record
            asked[("model", point.point.model)] = point.record
    found = {evidence_of(record) for record in asked.values()} - {None}
    return "; ".join(sorted(text for text in found if text is not None)) or None


def start_line(sweep: SweepState) -> str:
    """`running: pid 12 on node3 since 14:02:00`, `was killed (pid 12 on node3, begun 14:02:00)`, ..."""
    alive = [start for start in sweep.starts if start.alive]
    if alive:
        who = ", ".join(f"{_who(start)} since {when(start.began_utc_ns, sweep.t_utc_ns)}" for start in alive)
        return f"running: {who}"
    if sweep.running:
        return "runs are measured, but no start of the sweep is alive"
    missing = len(sweep.points) - sweep.counts[State.done] - sweep.counts[State.skipped]
    if not missing:
        return "finished"
    if not sweep.starts:
        return "not started yet"
    last = sweep.starts[-1]
    if last.killed:
        return f"was killed ({_who(last)}, begun {when(last.began_utc_ns, sweep.t_utc_ns)})"
    ended = when(last.ended_utc_ns or last.began_utc_ns, sweep.t_utc_ns)
    return f"ended {ended}{f' ({last.reason})' if last.reason else ''}, {missing} not done"


def when(t_utc_ns: int, now_utc_ns: int) -> str:
    """Local time, with the date where it is not of today."""
    at, now = time.localtime(t_utc_ns / 1e9), time.localtime(now_utc_ns / 1e9)
    return time.strftime("%H:%M:%S" if at[:3] == now[:3] else "%Y-%m-%d %H:%M", at)


def running_table(sweep: SweepState) -> Table:
    """What is measured right now: what, where, since when."""
    table = Table.grid(padding=(0, 2))
    for point in sweep.running[:SHOWN]:
        event = point.running
        assert event is not None
        table.add_row(
            f"  {label(point.point)}",
            f"since {when(event.t_utc_ns, sweep.t_utc_ns)}",
            clock((sweep.t_utc_ns - event.t_utc_ns) / 1e9),
            _where(event),
        )
    return table


@dataclass(frozen=True)
class FailureGroup:
    """Points that failed, or were skipped, for the same reason."""

    reason: str
    points: Sequence[PointState]

    @property
    def tries(self) -> int:
        return sum(point.tries for point in self.points)


def failure_groups(sweep: SweepState) -> list[FailureGroup]:
    """By reason, the most frequent first."""
    return _grouped((_reason(point), point) for point in sweep.failures)


def skip_groups(sweep: SweepState) -> list[FailureGroup]:
    """By reason; of invalid ones those that other sweeps measured, which no event of this one tells of."""
    skipped = (
        point
        for point in sweep.points
        if point.state is State.skipped or (point.state is State.invalid and point.failure is None)
    )
    return _grouped((point.point.reason or "skipped", point) for point in skipped)


def failure_lines(sweep: SweepState, *, everything: bool = False) -> list[RenderableType]:
    """One line a reason with the latest point it met, or (`everything`) one a point, each with what was said."""
    lines: list[RenderableType] = []
    groups = failure_groups(sweep)
    for group in groups if everything else groups[:SHOWN]:
        points = sorted(group.points, key=_failed_ns)
        lines.append(
            Text(f"  {group.reason}: {_points(len(points))}, tried {_times(group.tries)}", style="red")
        )
        for point in points if everything else points[-1:]:
            tried = "" if point.state is not State.waiting else ", to be tried again"
            lines.append(
                Text(f"    {label(point.point)}: {point.state.value}, tried {_times(point.tries)}{tried}")
            )
            if point.failure is not None and point.failure.message:
                lines.append(_indented(point.failure.message, 6))
    return lines


def render(sweep: SweepState, *, everything: bool = False) -> list[RenderableType]:
    """The whole summary, from the sweep's name to its failures; for a console of 80 columns or more."""
    shown: list[RenderableType] = [Text(f"{sweep.name}: {start_line(sweep)}", style="bold")]
    evidence = evidence_line(sweep)
    facts = {
        "points": f"{counts_line(sweep).partition(': ')[2]} of {len(sweep.points)}",
        "share done": f"{100 * share_done(sweep):.1f} % of what can be measured",
        "time left": time_line(sweep),
        "energy so far": energy_line(sweep),
        "latest result": latest_line(sweep),
        "evidence": evidence,
    }
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column()
    for name, text in facts.items():
        if text is not None:
            table.add_row(f"  {name}", Text(text, style="yellow" if name == "evidence" else ""))
    shown.append(table)
    if not sweep.alive and share_done(sweep) < 1:
        again = f"python -m wattcount {shlex.join(sweep.plan.arguments)}"
        # Whole: a command that is wrapped cannot be copied.
        shown.append(Text(f"  go on with     {again}", no_wrap=True, overflow="ignore"))
    if sweep.running:
        shown += [Text("running", style="bold"), running_table(sweep)]
        shown += _more(len(sweep.running) - SHOWN, "running")
    if lines := failure_lines(sweep, everything=everything):
        shown += [Text("failures", style="bold"), *lines]
        if not everything:
            shown += _more(len(failure_groups(sweep)) - SHOWN, "reasons")
    if groups := skip_groups(sweep):
        shown.append(Text("skipped", style="bold"))
        for group in groups if everything else groups[:SHOWN]:
            shown.append(Text(f"  {group.reason}: {_points(len(group.points))}"))
            for point in group.points if everything else group.points[:1]:
                shown.append(_indented(f"{label(point.point)}: {point.point.message or '-'}", 4))
    return shown


def to_json(sweep: SweepState) -> dict[str, Any]:
    """Plain JSON types; seconds, joules, and UTC nanoseconds as the keys say."""
    return {
        "name": sweep.name,
        "arguments": list(sweep.plan.arguments),
        "t_utc_ns": sweep.t_utc_ns,
        "alive": sweep.alive,
        "points": len(sweep.points),
        "counts": {state.value: number for state, number in sweep.counts.items()},
        "time_left_s": sweep.time_left_s,
        "time_left_basis": sweep.time_left_basis,
        "work_left_s": sweep.work_left_s,
        "energy_j": sweep.energy_j,
        "energy_known_of_done": sweep.energy_of,
        "evidence": evidence_line(sweep),
        "latest": _point_json(sweep.latest, sweep.latest.result) if sweep.latest else None,
        "running": [_point_json(point, point.running) for point in sweep.running],
        "failures": [_point_json(point, point.failure) for point in sweep.failures],
        "skipped": [
            {"reason": group.reason, "points": len(group.points), "message": group.points[0].point.message}
            for group in skip_groups(sweep)
        ],
        "starts": [vars(start) | {"killed": start.killed} for start in sweep.starts],
    }


def _point_json(point: PointState, event: Event | None) -> dict[str, Any]:
    planned = point.point
    return {
        "key": planned.key,
        "overrides": list(planned.overrides),
        "model": planned.model,
        "gpu": planned.gpu,
        "scenario": planned.scenario,
        "load": planned.load,
        "seed": planned.seed,
        "repeat": planned.repeat,
        "state": point.state.value,
        "tries": point.tries,
        "event": None if event is None else vars(event) | {"kind": event.kind.value},
    }


def _grouped(pairs: Iterable[tuple[str, PointState]]) -> list[FailureGroup]:
    found: defaultdict[str, list[PointState]] = defaultdict(list)
    for reason, point in pairs:
        found[reason].append(point)
    return sorted((FailureGroup(*group) for group in found.items()), key=lambda group: -len(group.points))


def _reason(point: PointState) -> str:
    assert point.failure is not None
    if point.failure.reason:
        return point.failure.reason
    # A `started` that nothing followed: its process died.
    return "process_died" if point.failure.kind.value in ("started", "lost") else point.failure.kind.value


def _failed_ns(point: PointState) -> int:
    return point.failure.t_utc_ns if point.failure is not None else 0


def _who(start: Start) -> str:
    return f"pid {start.pid} on {start.host}"


def _where(event: Event) -> str:
    gpus = [uuid[:12] for uuid in (event.gpu_uuid or "").split(",") if uuid]
    return " ".join([event.host or "?", *gpus])


def _points(number: int) -> str:
    return f"{number} point{'' if number == 1 else 's'}"


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _indented(text: str, columns: int) -> Padding:
    return Padding(Text(" ".join(text.split()), style="dim"), (0, 0, 0, columns), expand=False)


def _more(number: int, what: str) -> list[Text]:
    return [Text(f"  and {number} more {what} (--all-points)", style="dim")] if number > 0 else []
