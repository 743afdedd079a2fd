"""What a person sees of a study before it starts and when it has ended: plain text, 80 columns, also in a pipe."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from wattcount.errors import EXIT_NOT_STARTED
from wattcount.sweep.planning.estimate import MEASURED
from wattcount.sweep.planning.plan import Plan, PlannedPoint, PlanState
from wattcount.sweep.planning.planner import NOT_WHAT
from wattcount.sweep.running.task import PointResult

WIDTH = 80
KWH_J = 3.6e6


@dataclass(frozen=True)
class StudyResult:
    """What became of a study that was started.

    results       of the points that were begun, by key
    interrupted   the exit code of an interruption
    """

    plan: Plan
    results: Mapping[str, PointResult] = field(default_factory=dict)
    interrupted: int | None = None
    dry_run: bool = False


def plan_lines(plan: Plan, at_once: int | None, repeated: int = 0) -> Iterator[str]:
    """The plan before it starts. `at_once`: runs at the same time; None: a launcher's to decide."""
    states = Counter(point.state for point in plan.points)
    to_run = plan.in_state(PlanState.to_run)
    yield (
        f"study {plan.name}: {len(plan.points):,} points: {states[PlanState.to_run]:,} to run, "
        f"{states[PlanState.done]:,} done before, {states[PlanState.skipped]:,} skipped"
    )
    if repeated:
        yield f"  {repeated:,} more say the same as one of these and are left out"
    for name in ("model", "gpu", "scenario"):
        values = sorted({getattr(point, name) for point in plan.points})
        yield from _wrapped(f"  {name + 's':<10}", f"{', '.join(values)}", " " * 12)
    repeats = sorted({point.repeat for point in plan.points})
    if len(repeats) > 1:
        yield f"  repeats   {len(repeats)}, one of every point before the next"
    yield from skip_lines(plan)
    if to_run:
        yield from _estimate_lines(to_run, at_once)


def skip_lines(plan: Plan) -> Iterator[str]:
    """Skipped pairs by reason and GPU, with the arithmetic of one of each."""
    groups: dict[tuple[str, str], list[PlannedPoint]] = {}
    for point in plan.in_state(PlanState.skipped):
        groups.setdefault((point.reason or "skipped", point.gpu), []).append(point)
    for (reason, gpu), points in sorted(groups.items()):
        models = Counter(point.model for point in points)
        yield f"  skipped: {reason} on {gpu}: {len(points):,} points of {len(models)} models"
        yield from _wrapped("    ", ", ".join(sorted(models)), "    ")
        example = points[0]
        yield from _wrapped(f"    e.g. {example.model}: ", example.message or "", "      ")


def _estimate_lines(to_run: Sequence[PlannedPoint], at_once: int | None) -> Iterator[str]:
    total_s = sum(point.wall_s or 0.0 for point in to_run)
    joules = [point.energy_j for point in to_run if point.energy_j is not None]
    measured = sum(point.basis == MEASURED for point in to_run)
    runs = f"{duration(total_s)} of runs"
    if at_once is not None and at_once > 1:
        runs += f", {duration(total_s / at_once)} with {at_once} at once"
    basis = f"{measured:,} of {len(to_run):,} points by records like them, the rest by data sheets"
    yield f"  estimate: {runs}, {energy(sum(joules))}"
    yield f"            ({basis})"


def end_lines(study: StudyResult) -> Iterator[str]:
    """What is missing at the end, one entry a point, and counts of the rest; nothing where nothing is missing."""
    plan = study.plan
    if study.dry_run:
        return
    wrong = [
        (point, study.results.get(point.key))
        for point in plan.in_state(PlanState.to_run)
        if point.key not in study.results or not study.results[point.key].done
    ]
    before, skipped = plan.in_state(PlanState.done), plan.in_state(PlanState.skipped)
    wanted = len(plan.points) - len(skipped)
    if wrong:
        yield f"wattcount: {len(wrong):,} of {wanted:,} points not done:"
    for point, result in wrong:
        yield from _problem(point, result)
    if wrong or skipped:
        yield (
            f"study {plan.name}: {wanted - len(wrong):,} done ({len(before):,} before), {len(wrong):,} not done, "
            f"{len(skipped):,} skipped"
        )
    for reason, count in sorted(Counter(point.reason or "" for point in skipped).items()):
        yield f"  skipped {count:,}: {reason}"


def _problem(point: PlannedPoint, result: PointResult | None) -> Iterator[str]:
    what = short_overrides(point.overrides)
    if result is None:
        yield from _wrapped("  ", f"{what}: not begun", "      ")
        return
    if result.invalid:
        state = "invalid"
    else:
        state = "not started" if result.exit_code == EXIT_NOT_STARTED else "failed"
    yield from _wrapped("  ", f"{what}: {state}: {result.message}", "      ")
    if result.reason is not None and result.exit_code != EXIT_NOT_STARTED:
        tries = "1 try" if result.attempt == 1 else f"{result.attempt} tries"
        yield f"      {result.reason}, {tries}"
    if result.log_line:
        yield _cut(f"      log: {result.log_line}")


def short_overrides(overrides: Sequence[str]) -> str:
    """Those that say what a point is, and not its study."""
    return " ".join(text for text in overrides if not text.startswith((*NOT_WHAT, "experiment=")))


def duration(seconds: float) -> str:
    """`45 s`, `12 min`, `3 h 20 min`, `4 days 6 h`."""
    minutes = round(seconds / 60)
    if seconds < 90:
        return f"{seconds:.0f} s"
    if minutes < 60:
        return f"{minutes} min"
    hours, rest = divmod(minutes, 60)
    if hours < 48:
        return f"{hours} h {rest} min" if rest else f"{hours} h"
    days, hours = divmod(hours, 24)
    return f"{days} days {hours} h" if hours else f"{days} days"


def energy(joules: float) -> str:
    """`850 J`, `120 kJ`, `1.4 kWh`."""
    if joules >= KWH_J / 10:
        return f"{joules / KWH_J:.2g} kWh" if joules < 10 * KWH_J else f"{joules / KWH_J:,.0f} kWh"
    return f"{joules / 1e3:.3g} kJ" if joules >= 1e3 else f"{joules:.0f} J"


def _wrapped(first: str, text: str, rest: str) -> list[str]:
    return textwrap.wrap(
        text,
        WIDTH,
        initial_indent=first,
        subsequent_indent=rest,
        break_on_hyphens=False,
        break_long_words=False,
    ) or [first.rstrip()]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
