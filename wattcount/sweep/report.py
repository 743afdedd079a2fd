"""What a person sees of a study before it starts and when it has ended: plain text, 80 columns, also in a pipe."""

from __future__ import annotations

import textwrap
from collections import Counter
from collections.abc import Iterator, Sequence

from wattcount.sweep.estimate import MEASURED
from wattcount.sweep.plan import Plan, PlannedPoint, PlanState
from wattcount.sweep.planner import NOT_WHAT

WIDTH = 80
KWH_J = 3.6e6


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
        values = list(dict.fromkeys(getattr(point, name) for point in plan.points))
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
        yield from _wrapped("    ", ", ".join(models), "    ")
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


def problem_lines(problems: Sequence[Problem], total: int) -> Iterator[str]:
    """What is missing at the end, one entry a point. For standard error."""
    yield f"{len(problems):,} of {total:,} points not done:"
    for problem in problems:
        yield from _wrapped("  ", f"{problem.overrides}: {problem.state}: {problem.message}", "      ")
        facts = [text for text in (problem.reason, problem.tried) if text]
        if facts:
            yield from _wrapped("      ", ", ".join(facts), "      ")
        if problem.log_line:
            yield _cut(f"      log: {problem.log_line}")


def short_overrides(overrides: Sequence[str]) -> str:
    """Those that say what a point is."""
    return " ".join(text for text in overrides if not text.startswith(NOT_WHAT))


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
        text, WIDTH, initial_indent=first, subsequent_indent=rest, break_on_hyphens=False, break_long_words=False
    ) or [first.rstrip()]


def _cut(line: str) -> str:
    return line if len(line) <= WIDTH else line[: WIDTH - 3] + "..."
