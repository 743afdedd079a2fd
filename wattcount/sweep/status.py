"""How a sweep stands: for people in 80 columns, for scripts, and for MLflow.

The table of its points is the same for all of them: a column is one line of `COLUMNS`.
"""

from __future__ import annotations

import functools
import shlex
import textwrap
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.text import Text

from wattcount.config.schema import SloConfig
from wattcount.errors import WattcountError
from wattcount.metrics.metrics_json import METRICS
from wattcount.records.reader import Record
from wattcount.report.labels import caveats, evidence_label
from wattcount.report.units import clock, count, duration, quantity
from wattcount.result import Result, ResultTable
from wattcount.study.capacity import LoadCurve, load_curves
from wattcount.study.capacity import to_markdown as curves_to_markdown
from wattcount.study.pooled import pooled, to_markdown
from wattcount.sweep.ledger import sweep_folder
from wattcount.sweep.point import Outcome, Point, State
from wattcount.sweep.state import Row, Start, SweepState
from wattcount.text import WIDTH
from wattcount.tracking import SweepPage

GAP = 2
"""Spaces between two columns."""
LEAST_WIDTH = 20
"""Least characters for what a point is called."""


@dataclass(frozen=True)
class Column:
    """One column.

    name      in MLflow and JSON, with its unit
    value     None: not known
    unit      of the value, as in the metrics registry; None: it is text
    heading   in a terminal, beside what the point is called; None: not shown there
    metric    of the record's window that the value is
    """

    name: str
    value: Callable[[Point, Outcome], Any]
    unit: str | None = None
    heading: str | None = None
    metric: str | None = None

    def text(self, point: Point, outcome: Outcome) -> str:
        """The value for people; empty where it is not known."""
        value = self.value(point, outcome)
        if value is None or self.unit is None:
            return "" if value is None else str(value)
        return clock(value) if self.unit == "s" else quantity(value, self.unit)


@functools.cache
def evidence_of(record: str) -> str | None:
    """`measured`, `emulated, random weights`; None where the record cannot be read."""
    try:
        info = Record.open(Path(record)).info
        return evidence_label(info.evidence, info.origin, info.resolved.model.weights.value)
    except WattcountError:
        return None


def _evidence(_point: Point, outcome: Outcome) -> str | None:
    if outcome.state is not State.done or outcome.record is None:
        return None
    return evidence_of(outcome.record)


def _figure(name: str, metric: str, heading: str | None = None) -> Column:
    """Column of a figure of the record's window, of points that are done."""

    def value(_point: Point, outcome: Outcome) -> float | None:
        return outcome.figures.get(metric) if outcome.state is State.done else None

    return Column(name, value, METRICS[metric].unit, heading, metric)


def _of_search(name: str, heading: str | None = None) -> Column:
    """Column of what a search for a capacity found."""
    return Column(name, lambda _, outcome: outcome.figures.get(name), "requests/s", heading)


COLUMNS = (
    Column("model", lambda point, _: point.model),
    Column("gpu", lambda point, _: point.gpu),
    Column("scenario", lambda point, _: point.scenario),
    Column("load", lambda point, _: point.load),
    Column("seed", lambda point, _: point.seed),
    Column("repeat", lambda point, _: point.repeat),
    Column("state", lambda _, outcome: outcome.state.value, heading="state"),
    Column("evidence", _evidence),
    _figure("j_per_output_token", "energy/gpu_j_per_output_token", "per token"),
    _figure("window_energy_j", "energy/gpu_j"),
    _of_search("capacity_rps", "capacity"),
    _of_search("capacity_low_rps"),
    _of_search("capacity_high_rps"),
    Column("run_energy_j", lambda _, outcome: outcome.energy_j, "J", "run's energy"),
    Column("wall_s", lambda _, outcome: outcome.wall_s, "s", "took"),
    Column("tries", lambda _, outcome: outcome.attempt),
    Column("reason", lambda _, outcome: outcome.reason),
    Column("message", lambda _, outcome: outcome.message),
    Column("host", lambda _, outcome: outcome.host),
    Column("gpu_uuid", lambda _, outcome: outcome.gpu_uuid),
    Column("session", lambda _, outcome: outcome.session),
    Column("key", lambda point, _: point.key),
    Column("record", lambda _, outcome: outcome.record),
)
"""The columns of the table of points, from left to right. A new one is a line here."""
FIGURES = tuple(column.metric for column in COLUMNS if column.metric is not None)
"""Metrics that are taken from a record when its point is measured."""


def figures_of(result: Result) -> dict[str, float]:
    """The `FIGURES` that a result has."""
    return {name: value for name in FIGURES if (value := result.value(name)) is not None}


_PER_TOKEN, _TOOK = (next(c for c in COLUMNS if c.name == name) for name in ("j_per_output_token", "wall_s"))


def result_text(point: Point, outcome: Outcome) -> str:
    """`81.30 mJ per output token, took 5:12`; `capacity 28 requests/s, ...` of a search, whose energy is that at the capacity."""
    per_token, took = _PER_TOKEN.text(point, outcome), _TOOK.text(point, outcome)
    parts = [f"{per_token} per output token"] * bool(per_token) + [f"took {took}"] * bool(took)
    if "capacity_rps" in outcome.figures:
        rate = outcome.figures["capacity_rps"]
        parts.insert(0, "no rate keeps the SLO" if rate is None else f"capacity {rate:g} requests/s")
    return ", ".join(parts) or "measured"


def wrapped(first: str, text: str, rest: str) -> list[str]:
    """`text` in lines of WIDTH; the first of them begins with `first`, the others with `rest`. No word is cut."""
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    ) or [first.rstrip()]


def values(point: Point, outcome: Outcome) -> dict[str, Any]:
    """The row of a point by column, in plain JSON types."""
    return {column.name: column.value(point, outcome) for column in COLUMNS}


def table_lines(rows: Sequence[tuple[Point, Outcome]]) -> list[str]:
    """The table for a terminal of WIDTH columns. Columns in which nothing is known are left out."""
    shown = [column for column in COLUMNS if column.heading is not None]
    cells = [[column.text(*row) for row in rows] for column in shown]
    known = [(column.heading or "", texts) for column, texts in zip(shown, cells, strict=True) if any(texts)]
    widths = [max(map(len, (heading, *texts))) for heading, texts in known]
    room = max(WIDTH - 2 - sum(width + GAP for width in widths), LEAST_WIDTH)
    labels = [textwrap.wrap(point.label, room, break_on_hyphens=False) for point, _ in rows]
    first = max((len(line) for lines in labels for line in lines), default=0)

    def line(label: str, texts: Sequence[str]) -> str:
        right = "".join(
            f"{'':{GAP}}{text:>{width}}" if number else f"{'':{GAP}}{text:<{width}}"
            for number, (text, width) in enumerate(zip(texts, widths, strict=True))
        )
        return f"  {label:<{first}}{right}".rstrip()

    lines = [line("", [heading for heading, _ in known])]
    for number, label in enumerate(labels):
        lines.append(line(label[0], [texts[number] for _, texts in known]))
        lines += [f"    {rest}" for rest in label[1:]]
    return lines if rows else []


SHOWN = 10
"""Rows and groups in a summary, of each kind."""
_ORDER = (State.done, State.failed, State.invalid, State.lost, State.skipped, State.running, State.waiting)
"""States in the order in which a summary counts them."""


# --- in a line --------------------------------------------------------------------------------------


def share_done(sweep: SweepState) -> float:
    """Share of the points that can be measured, 0 to 1."""
    wanted = len(sweep.plan.points) - sweep.counts[State.skipped]
    return sweep.counts[State.done] / wanted if wanted else 1.0


def missing(sweep: SweepState) -> int:
    """Number of points that are neither done nor skipped."""
    return len(sweep.plan.points) - sweep.counts[State.done] - sweep.counts[State.skipped]


def condition(sweep: SweepState) -> str:
    """`running`, `finished`, `killed`, `ended` with points left, or `not started`."""
    if sweep.alive:
        return "running"
    if not missing(sweep):
        return "finished"
    if not sweep.starts:
        return "not started"
    return "killed" if sweep.starts[-1].killed else "ended"


def counts_text(sweep: SweepState) -> str:
    """`3,211 done, 12 failed, 2 running, 2,355 waiting`."""
    return ", ".join(f"{sweep.counts[state]:,} {state.value}" for state in _ORDER if sweep.counts[state])


def energy_text(sweep: SweepState) -> str:
    """`812.3 MJ`, and of how many runs where not of all."""
    if sweep.energy_j is None:
        return "not known yet"
    done = sweep.counts[State.done]
    of = "" if sweep.energy_of == done else f", known of {sweep.energy_of:,} of {done:,} done"
    return f"{quantity(sweep.energy_j, 'J')}{of}"


def time_text(sweep: SweepState) -> str:
    """`12 h 34 min, from what was measured`."""
    basis = "from what was measured" if sweep.time_left_basis == "measured" else "as predicted"
    if sweep.work_left_s is None:
        return "not known yet"
    if not sweep.counts[State.waiting] + sweep.counts[State.running]:
        return "nothing left to measure"
    if sweep.time_left_s is not None:
        return f"{duration(sweep.time_left_s)}, {basis}"
    return f"{duration(sweep.work_left_s)} of runs one after another when started again, {basis}"


def engine_text(sweep: SweepState) -> str | None:
    """`12 runs on 3 starts`, where runs share one; of those that were measured with this sweep."""
    sessions = [outcome.session for outcome in sweep.outcomes.values() if outcome.session is not None]
    starts = len(set(sessions))
    return f"{len(sessions):,} runs on {count(starts, 'start')}" if starts < len(sessions) else None


def latest_text(sweep: SweepState) -> str | None:
    """The latest result; None before the first."""
    if sweep.latest is None:
        return None
    point, outcome = sweep.latest
    return f"{point.label}: {result_text(point, outcome)}"


def evidence_text(sweep: SweepState) -> str | None:
    """What the figures rest on, by a record of each GPU and of each model; None before the first."""
    asked: dict[tuple[str, str], str] = {}
    for point, outcome in sweep.rows:
        if outcome.state is State.done and outcome.record is not None:
            asked[("gpu", point.gpu)] = outcome.record
            asked[("model", point.model)] = outcome.record
    found = {evidence_of(record) for record in asked.values()}
    return "; ".join(sorted(text for text in found if text is not None)) or None


def start_text(sweep: SweepState) -> str:
    """`running: pid 12 on node3 since 14:02:00`, `was killed (pid 12 on node3, begun 14:02:00)`, ..."""
    how = condition(sweep)
    if how == "running":
        alive = [start for start in sweep.starts if start.alive]
        who = ", ".join(f"{_who(start)} since {when(start.began_utc_ns, sweep.t_utc_ns)}" for start in alive)
        return f"running: {who}"
    if sweep.running:
        return "runs are measured, but no start of the sweep is alive"
    if how == "finished":
        return how
    if how == "not started":
        return "not started yet"
    last = sweep.starts[-1]
    if how == "killed":
        return f"was killed ({_who(last)}, begun {when(last.began_utc_ns, sweep.t_utc_ns)})"
    ended = when(last.ended_utc_ns or last.began_utc_ns, sweep.t_utc_ns)
    return f"ended {ended}{f' ({last.reason})' if last.reason else ''}, {missing(sweep)} not done"


def when(t_utc_ns: int, now_utc_ns: int) -> str:
    """Local time, with the date where it is not of today."""
    at, now = time.localtime(t_utc_ns / 1e9), time.localtime(now_utc_ns / 1e9)
    return time.strftime("%H:%M:%S" if at[:3] == now[:3] else "%Y-%m-%d %H:%M", at)


# --- in groups --------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Group:
    """Points that failed, or were skipped, for the same reason."""

    reason: str
    rows: Sequence[Row]

    @property
    def tries(self) -> int:
        return sum(outcome.attempt for _, outcome in self.rows)


def groups(rows: Iterable[Row]) -> list[Group]:
    """Rows by reason, the most frequent reason first."""
    found: defaultdict[str, list[Row]] = defaultdict(list)
    for row in rows:
        found[row[1].reason or row[1].state.value].append(row)
    return sorted((Group(*group) for group in found.items()), key=lambda group: -len(group.rows))


# --- for people -------------------------------------------------------------------------------------


def render(sweep: SweepState, *, everything: bool = False) -> list[Text]:
    """The whole summary, from the sweep's name to its failures; for a console of 80 columns or more.

    everything   every point, and not SHOWN of them or one a reason
    """
    shown: list[Text] = [Text(f"{sweep.name}: {start_text(sweep)}", style="bold"), *_facts(sweep)]
    if not sweep.alive and share_done(sweep) < 1:
        again = f"python -m wattcount {shlex.join(sweep.plan.arguments)}"
        # Whole: a command that is wrapped cannot be copied.
        shown.append(Text(f"  go on with     {again}", no_wrap=True, overflow="ignore"))
    if sweep.running:
        shown += [Text("running", style="bold"), *_running(sweep)]
        shown += _more(len(sweep.running) - SHOWN, "running")
    if failures := groups(sweep.failures):
        shown += [Text("failures", style="bold"), *_failures(failures, everything=everything)]
        if not everything:
            shown += _more(len(failures) - SHOWN, "reasons")
    if skipped := groups(sweep.skipped):
        shown.append(Text("skipped", style="bold"))
        for group in skipped if everything else skipped[:SHOWN]:
            shown.append(Text(f"  {group.reason}: {count(len(group.rows), 'point')}"))
            for point, outcome in group.rows if everything else group.rows[:1]:
                shown += _indented(f"{point.label}: {outcome.message or '-'}", 4)
    done = [row for row in sweep.rows if row[1].state is State.done]
    if done:
        latest = sorted(done, key=lambda row: row[1].t_utc_ns)[-SHOWN:]
        shown.append(Text("results" if everything or len(done) <= SHOWN else "latest results", style="bold"))
        shown += [Text(line) for line in table_lines(done if everything else latest)]
        if not everything:
            shown += _more(len(done) - SHOWN, "results")
    return shown


def _facts(sweep: SweepState) -> list[Text]:
    facts = {
        "points": f"{counts_text(sweep) or 'none'} of {len(sweep.plan.points):,}",
        "share done": f"{100 * share_done(sweep):.1f} % of what can be measured",
        "time left": time_text(sweep),
        "energy so far": energy_text(sweep),
        "engine": engine_text(sweep),
        "latest result": latest_text(sweep),
        "evidence": evidence_text(sweep),
    }
    return [
        Text(line, style="yellow" if name == "evidence" else "")
        for name, text in facts.items()
        if text is not None
        for line in wrapped(f"  {name:<15}", text, " " * 17)
    ]


def _running(sweep: SweepState) -> list[Text]:
    """What is measured right now: what, where, since when."""
    lines: list[Text] = []
    for point, outcome in sweep.running[:SHOWN]:
        took = clock((sweep.t_utc_ns - outcome.t_utc_ns) / 1e9)
        since = f"since {when(outcome.t_utc_ns, sweep.t_utc_ns)}, {took}, on {_where(outcome)}"
        lines += [Text(line) for line in wrapped("  ", f"{point.label}: {since}", "    ")]
    return lines


def _failures(found: Sequence[Group], *, everything: bool) -> list[Text]:
    """One line a reason with the latest point it met, or (`everything`) one a point, each with what was said."""
    lines: list[Text] = []
    for group in found if everything else found[:SHOWN]:
        rows = sorted(group.rows, key=lambda row: row[1].t_utc_ns)
        text = f"  {group.reason}: {count(len(rows), 'point')}, tried {_times(group.tries)}"
        lines.append(Text(text, style="red"))
        for point, outcome in rows if everything else rows[-1:]:
            again = ", to be tried again" if outcome.state is State.waiting else ""
            tried = f"{outcome.state.value}, tried {_times(outcome.attempt)}{again}"
            lines += [Text(line) for line in wrapped("    ", f"{point.label}: {tried}", "      ")]
            if outcome.message:
                lines += _indented(outcome.message, 6)
    return lines


def _who(start: Start) -> str:
    return f"pid {start.pid} on {start.host}"


def _where(outcome: Outcome) -> str:
    gpus = [uuid[:12] for uuid in (outcome.gpu_uuid or "").split(",") if uuid]
    return " ".join([outcome.host or "?", *gpus])


def _times(number: int) -> str:
    return "once" if number == 1 else f"{number} times"


def _indented(text: str, columns: int) -> list[Text]:
    margin = " " * columns
    return [Text(line, style="dim") for line in wrapped(margin, text, margin)]


def _more(number: int, what: str) -> list[Text]:
    return [Text(f"  and {number} more {what} (--all-points)", style="dim")] if number > 0 else []


# --- for scripts ------------------------------------------------------------------------------------


def to_json(sweep: SweepState, *, everything: bool = False) -> dict[str, Any]:
    """Plain JSON types; seconds, joules, and UTC nanoseconds as the keys say. `everything`: a row of every point too."""
    found = {
        "name": sweep.name,
        "arguments": list(sweep.plan.arguments),
        "t_utc_ns": sweep.t_utc_ns,
        "alive": sweep.alive,
        "points": len(sweep.plan.points),
        "counts": {state.value: number for state, number in sweep.counts.items()},
        "time_left_s": sweep.time_left_s,
        "time_left_basis": sweep.time_left_basis,
        "work_left_s": sweep.work_left_s,
        "energy_j": sweep.energy_j,
        "energy_known_of_done": sweep.energy_of,
        "evidence": evidence_text(sweep),
        "latest": None if sweep.latest is None else _row_json(sweep.latest),
        "running": [_row_json(row) for row in sweep.running],
        "failures": [_row_json(row) for row in sweep.failures],
        "skipped": [
            {"reason": group.reason, "points": len(group.rows), "message": group.rows[0][1].message}
            for group in groups(sweep.skipped)
        ],
        "starts": [vars(start) | {"killed": start.killed} for start in sweep.starts],
    }
    return found | ({"rows": [_row_json(row) for row in sweep.rows]} if everything else {})


def _row_json(row: Row) -> dict[str, Any]:
    point, outcome = row
    return values(*row) | {
        "overrides": list(point.overrides),
        "t_utc_ns": outcome.t_utc_ns or None,
        "pid": outcome.pid,
    }


# --- for MLflow -------------------------------------------------------------------------------------


def sweep_page(sweep: SweepState, records_dir: str | Path) -> SweepPage:
    """What a tracking store is told of the sweep as it stands: counts, the table of its points, a description."""
    how = condition(sweep)
    if how == "finished":
        state, status = "finished", "FINISHED"
    elif how == "running":
        state, status = "running", "KILLED"
    elif how == "ended" and sweep.starts[-1].reason == "finished":
        state, status = "incomplete", "FAILED"
    else:
        state, status = "interrupted", "KILLED"
    evidence = evidence_text(sweep)
    found, curves = _results(sweep), load_curves(_results(sweep, searches=True))
    return SweepPage(
        name=sweep.name,
        folder=str(sweep_folder(records_dir, sweep.name)),
        state=state,
        status=status,
        metrics={f"sweep/{kind.value}": number for kind, number in sweep.counts.items()}
        | {
            "sweep/points": len(sweep.plan.points),
            "sweep/energy_j": None if sweep.energy_j is None else float(f"{sweep.energy_j:.6g}"),
            "sweep/time_left_s": sweep.time_left_s,
        }
        | (_capacity(curves[0]) if len(curves) == 1 else {}),
        columns=[column.name for column in COLUMNS],
        rows=[list(values(*row).values()) for row in sweep.rows],
        note=_note(sweep, evidence),
        results="\n\n".join(
            [*([curves_to_markdown(curves)] * bool(curves)), *([to_markdown(pooled(found))] * bool(found))]
        ),
        pictures=_pictures(found, curves[0].slo if curves else None),
        tags={} if evidence is None else {"evidence": evidence},
    )


def _capacity(curve: LoadCurve) -> dict[str, float | None]:
    found = curve.found
    return {
        "capacity/rate_rps": found.rate_rps,
        "capacity/low_rps": found.low_rps,
        "capacity/high_rps": found.high_rps,
        "capacity/broken_rps": found.broken_rps,
    }


def _pictures(results: Sequence[Result], slo: SloConfig | None = None) -> dict[str, bytes]:
    """PNGs by name: the load curves, where a setting was measured at several rates. `slo`: of a search, else the usual one."""
    from wattcount.figures import load_curve, load_points
    from wattcount.figures.theme import MOST_CATEGORIES
    from wattcount.study.comparison import Scatters, cells
    from wattcount.study.curves import curves
    from wattcount.study.questions import USUAL_SLO

    slo = slo or USUAL_SLO
    measured = cells(results)
    found = curves(measured, Scatters(measured), slo)[:MOST_CATEGORIES]
    if not found:
        return {}
    told = dict.fromkeys(text for one in results for text in caveats(one.evidence, one.weights_kind))
    figure = load_curve(load_points(found), slo, list(told))
    return {f"{figure.name}.png": figure.to_png()}


def _results(sweep: SweepState, *, searches: bool = False) -> list[Result]:
    """Results of the points that were measured; `searches`: only of searches for a capacity."""
    records = [
        Path(record)
        for _, outcome in sweep.rows
        if outcome.state in (State.done, State.invalid) and (outcome.records or not searches)
        for record in outcome.all_records
    ]
    kept: dict[Path, ResultTable] = {}
    found = []
    for path in records:
        records_dir = path.parent.parent
        if records_dir not in kept:
            kept[records_dir] = ResultTable(records_dir)
        if (result := kept[records_dir].of(f"{path.parent.name}/{path.name}")) is not None:
            found.append(result)
    return found


def _note(sweep: SweepState, evidence: str | None) -> str:
    at = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(sweep.t_utc_ns / 1e9))
    lines = [
        f"**{count(len(sweep.plan.points), 'point')}: {counts_text(sweep) or 'none'}**",
        "",
        f"As of {at}: {start_text(sweep)}.",
        "",
        f"- evidence: {evidence or 'nothing measured yet'}",
        f"- time left: {time_text(sweep)}",
        f"- energy so far: {energy_text(sweep)}",
        f"- latest result: {latest_text(sweep) or 'none yet'}",
    ]
    lines += [
        f"- failed, {group.reason}: {count(len(group.rows), 'point')}" for group in groups(sweep.failures)
    ]
    lines += [
        f"- skipped, {group.reason}: {count(len(group.rows), 'point')}" for group in groups(sweep.skipped)
    ]
    lines += [
        "",
        "The results, repeats pooled, are in `results.md`. Every point is in `results.json` and `results.csv`, the runs of its records are below this one. MLflow calls "
        "a sweep KILLED until it is finished, so that one that is killed is never RUNNING for ever.",
    ]
    return "\n".join(lines)
