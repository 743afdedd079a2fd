"""What a person sees of a sweep before it starts and when it has ended: plain text, 80 columns, also in a pipe."""

from __future__ import annotations

import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, field
from pathlib import Path

from wattcount.report.units import count, duration, quantity
from wattcount.sweep.columns import evidence_of, table_lines, wrapped
from wattcount.sweep.estimate import MEASURED
from wattcount.sweep.outcome import Outcome, State
from wattcount.sweep.plan import Plan, Point
from wattcount.sweep.planner import NOT_WHAT
from wattcount.text import WIDTH

DECLARED_LINES = 3
"""For the names of a sweep's models, of its GPUs, of its scenarios."""
SKIPPED_LINES = 12
"""Shared by all groups of skipped points; each has one at least."""
TABLE_LINES = 20
"""Most points whose results are listed at the end of a sweep."""


@dataclass(frozen=True)
class SweepResult:
    """What became of a sweep that was started.

    outcomes      of the points that were begun, by key
    interrupted   the exit code of an interruption
    records_dir   where it is not the one that `wattcount status` looks into by itself
    """

    plan: Plan
    outcomes: Mapping[str, Outcome] = field(default_factory=dict)
    interrupted: int | None = None
    dry_run: bool = False
    records_dir: Path | None = None

    def is_done(self, point: Point) -> bool:
        """Whether a point that was to run is measured now."""
        return point.key in self.outcomes and self.outcomes[point.key].state is State.done


def plan_lines(
    plan: Plan, at_once: int | None, repeated: int = 0, records_dir: Path | None = None
) -> Iterator[str]:
    """The plan before it starts.

    at_once       runs at the same time; None: a launcher's to decide
    repeated      points that were declared more than once
    records_dir   where it is not the one that `wattcount status` looks into by itself
    """
    states = Counter(point.state for point in plan.points)
    to_run = plan.in_state(State.waiting)
    yield (
        f"sweep {plan.name}: {count(len(plan.points), 'point')}: {states[State.waiting]:,} to run, "
        f"{states[State.done]:,} done before, {states[State.skipped]:,} skipped"
    )
    if repeated:
        yield f"  {repeated:,} more say the same as one of these and are left out"
    for name in ("model", "gpu", "scenario"):
        values = sorted({getattr(point, name) for point in plan.points})
        head = f"{len(values)}: " if len(values) > 1 else ""
        yield from _some(f"  {name + 's':<10}", head, values, " " * 12, DECLARED_LINES)
    repeats = [point.repeat for point in plan.points]
    if len(set(repeats)) > 1:
        order = (
            "one of every point before the next" if repeats == sorted(repeats) else "in the order declared"
        )
        yield f"  repeats   {len(set(repeats))}, {order}"
    yield from skip_lines(plan, records_dir)
    starts = len({point.session or point.key for point in to_run})
    if starts < len(to_run):
        yield f"  engine    {len(to_run):,} points on {count(starts, 'start')} of it, more where GPUs would be idle"
    if to_run:
        yield from _estimate_lines(to_run, at_once)


@dataclass(frozen=True)
class _Skipped:
    """Points skipped for one reason: of the same models on each of these GPUs."""

    gpus: Sequence[str]
    models: Sequence[str]
    points: int


def skip_lines(plan: Plan, records_dir: Path | None = None) -> Iterator[str]:
    """Skipped points by reason: how many, on which GPUs, some of the models, the arithmetic of one point."""
    skipped = plan.in_state(State.skipped)
    by_reason: defaultdict[str, list[Point]] = defaultdict(list)
    for point in skipped:
        by_reason[point.reason or "skipped"].append(point)
    groups = {reason: _skip_groups(points) for reason, points in by_reason.items()}
    lines = max(1, SKIPPED_LINES // max(1, sum(map(len, groups.values()))))
    all_models = sorted({point.model for point in plan.points})
    for reason, points in sorted(by_reason.items()):
        yield f"  skipped {len(points):,}: {reason}"
        for group in groups[reason]:
            head = f"{', '.join(group.gpus)}: {count(group.points, 'point')} of "
            if group.models == all_models and len(all_models) > 1:
                yield from wrapped("    ", f"{head}all {len(all_models)} models", "      ")
            else:
                head += f"{count(len(group.models), 'model')}: "
                yield from _some("    ", head, group.models, "      ", lines)
        example = points[0]
        yield from wrapped(
            "    ", f"e.g. {example.model} on {example.gpu}: {example.message or ''}", "      "
        )
    if len(skipped) > len(by_reason):
        # Whole: a command that is wrapped cannot be copied.
        yield f"  each of them, once started: {_status_command(plan, records_dir)}"


def _status_command(plan: Plan, records_dir: Path | None) -> str:
    where = "" if records_dir is None else f" --records-dir {shlex.quote(str(records_dir))}"
    return f"wattcount status {plan.name} --all-points{where}"


def _skip_groups(points: Sequence[Point]) -> list[_Skipped]:
    """GPUs on which the same models are skipped go together."""
    numbers = Counter(point.gpu for point in points)
    models: defaultdict[str, set[str]] = defaultdict(set)
    for point in points:
        models[point.gpu].add(point.model)
    alike: defaultdict[tuple[str, ...], list[str]] = defaultdict(list)
    for gpu in sorted(models):
        alike[tuple(sorted(models[gpu]))].append(gpu)
    return [_Skipped(gpus, list(names), sum(numbers[gpu] for gpu in gpus)) for names, gpus in alike.items()]


def _estimate_lines(to_run: Sequence[Point], at_once: int | None) -> Iterator[str]:
    total_s = sum(point.wall_s or 0.0 for point in to_run)
    joules = [point.energy_j for point in to_run if point.energy_j is not None]
    measured = sum(point.basis == MEASURED for point in to_run)
    runs = f"{duration(total_s)} of runs"
    if at_once is not None and at_once > 1:
        runs += f", {duration(total_s / at_once)} with {at_once} at once"
    if measured == len(to_run):
        basis = "by records like them"
    elif measured:
        basis = f"{measured:,} of {len(to_run):,} points by records like them, the rest by data sheets"
    else:
        basis = "no record is like them: by data sheets"
    yield f"  estimate: {runs}, {quantity(sum(joules), 'J', 2)}"
    yield f"            ({basis})"


def result_lines(sweep: SweepResult) -> Iterator[str]:
    """The table of what was measured in this start; of a big sweep the command that shows it."""
    begun = [point for point in sweep.plan.points if sweep.is_done(point)]
    rows = [(point, sweep.outcomes[point.key]) for point in begun if not sweep.outcomes[point.key].before]
    if len(rows) > TABLE_LINES:
        yield f"results: {_status_command(sweep.plan, sweep.records_dir)}"
    elif rows:
        found = {evidence_of(outcome.record) for _, outcome in rows if outcome.record is not None}
        evidence = "; ".join(sorted(text for text in found if text is not None))
        yield f"results ({evidence}):" if evidence else "results:"
        yield from table_lines(rows)


def end_lines(sweep: SweepResult) -> Iterator[str]:
    """What is missing at the end, one entry a point, and counts of the rest; nothing where nothing is missing."""
    plan = sweep.plan
    if sweep.dry_run:
        return
    wrong = [point for point in plan.in_state(State.waiting) if not sweep.is_done(point)]
    before, skipped = plan.in_state(State.done), plan.in_state(State.skipped)
    wanted = len(plan.points) - len(skipped)
    if wrong:
        yield f"wattcount: {len(wrong):,} of {wanted:,} points not done:"
    all_overrides = [frozenset(point.overrides) for point in plan.points]
    shared = frozenset.intersection(*all_overrides) if all_overrides else frozenset()
    for point in wrong:
        yield from _problem(_what(point, shared), sweep.outcomes.get(point.key))
    if wrong or skipped:
        yield (
            f"sweep {plan.name}: {wanted - len(wrong):,} done ({len(before):,} before), {len(wrong):,} not done, "
            f"{len(skipped):,} skipped"
        )
    if sweep.interrupted is not None and wrong:
        yield "the same command again goes on with what is missing"
    for reason, points in sorted(Counter(point.reason or "" for point in skipped).items()):
        yield f"  skipped {points:,}: {reason}"


def _problem(what: str, outcome: Outcome | None) -> Iterator[str]:
    if outcome is None:
        yield from wrapped("  ", f"{what}: not begun", "      ")
        return
    state = (
        "not started" if outcome.refused else "failed" if outcome.state is State.lost else outcome.state.value
    )
    yield from wrapped("  ", f"{what}: {state}: {outcome.message}", "      ")
    if outcome.reason is not None and not outcome.refused:
        tries = "1 try" if outcome.attempt == 1 else f"{outcome.attempt} tries"
        yield f"      {outcome.reason}, {tries}"
    if outcome.log_line:
        yield _cut(f"      log: {outcome.log_line}")


def _what(point: Point, shared: Set[str]) -> str:
    """Overrides that tell a point from others of its sweep; those that say what it is, where it is the only one."""
    mine = [text for text in point.overrides if not text.startswith((*NOT_WHAT, "experiment="))]
    return " ".join([text for text in mine if text not in shared] or mine)


def _some(first: str, head: str, names: Sequence[str], rest: str, lines: int) -> list[str]:
    """As many of the names as `lines` hold, one at least, and how many more there are."""
    found: list[str] = []
    for shown in range(len(names), 0, -1):
        more = f" and {len(names) - shown:,} more" if shown < len(names) else ""
        found = wrapped(first, f"{head}{', '.join(names[:shown])}{more}", rest)
        if len(found) <= lines:
            break
    return found


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
