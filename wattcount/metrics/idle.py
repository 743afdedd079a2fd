"""What of a window's energy is idle power: of the bare GPU, and of an engine that waits.

::

    energy = bare idle            P_bare x T
           + context idle        (P_loaded - P_bare) x T      CUDA context, weights in memory, raised clocks
           + dynamic              the rest: what serving the requests added

P_bare and P_loaded are means of what was measured before and after the load, where both were: the GPU is
warmer afterwards and leaks more, and the window lies between. How far the two are apart is the drift.

The driver keeps the clocks up for a while after the last context has gone (an H200 for 2 s, at 124 instead of 77 W);
bare idle after the engine begins when they are down.
"""

from __future__ import annotations

from collections.abc import Callable

from wattcount.energy.events import Source
from wattcount.metrics.drift import Joules
from wattcount.metrics.observations import held, stretches
from wattcount.metrics.window import Window, phase_window
from wattcount.records import Record
from wattcount.records.schema import Phase

Cell = tuple[float | None, str | None]
"""A value, or why there is none."""

NO_PHASE = "phase_missing"
NOT_RECORDED = "not_recorded"
CLOCKS_UP = "clocks_still_up"

RAISED_CLOCK = 1.2
"""Times the SM clock of bare idle before the engine: above that it is not down yet."""
MIN_BARE_AFTER_S = 1.0

PHASES = (
    ("bare", Phase.BARE_IDLE),
    ("loaded", Phase.LOADED_IDLE),
    ("loaded_after", Phase.IDLE_AFTER),
    ("bare_after", Phase.BARE_IDLE_AFTER),
)


def idle_spans(record: Record, last_ns: int | None) -> dict[str, tuple[Window | None, str | None]]:
    """By name (`bare`, `loaded`, `loaded_after`, `bare_after`): the stretch that idle power is the mean of, or why there is none."""
    spans: dict[str, tuple[Window | None, str | None]] = {}
    for name, phase in PHASES:
        span = phase_window(record.info.phases, phase, last_ns)
        if span is None:
            spans[name] = (None, NO_PHASE)
            continue
        if phase is Phase.BARE_IDLE_AFTER:
            span = _with_clocks_down(record, span)
            if span.duration_s < MIN_BARE_AFTER_S:
                spans[name] = (None, CLOCKS_UP)
                continue
        spans[name] = (span, None)
    return spans


def idle_powers(record: Record, joules: Joules, last_ns: int | None) -> dict[str, Cell]:
    """Mean power and temperature of each idle phase, and the drift from before to after."""
    cells: dict[str, Cell] = {}
    for name, (span, missing) in idle_spans(record, last_ns).items():
        power, temperature = f"power/idle_{name}_w", f"gpu/temperature_idle_{name}_c"
        if span is None:
            cells[power] = cells[temperature] = (None, missing)
            continue
        value, reason = joules(span.start_ns, span.end_ns)
        cells[power] = (None, reason) if value is None else (value / span.duration_s, None)
        cells[temperature] = (_temperature(record, span), NOT_RECORDED)
    for name in ("bare", "loaded"):
        before, why = cells[f"power/idle_{name}_w"]
        after, why_after = cells[f"power/idle_{name}_after_w"]
        key = f"power/idle_{name}_drift_percent"
        if before is None or after is None:
            cells[key] = (None, why if before is None else why_after)
        else:
            cells[key] = (100.0 * (after / before - 1.0), None) if before else (None, NOT_RECORDED)
    return cells


def idle_split(value: Callable[[str], Cell], window: Window) -> dict[str, Cell]:
    """The parts of `energy/gpu_j`, and the dynamic one per token and request.

    value  a metric by its key, with the reason where it is null
    """
    seconds = window.duration_s
    bare, no_bare = _mean(value("power/idle_bare_w"), value("power/idle_bare_after_w"))
    loaded, no_loaded = _mean(value("power/idle_loaded_w"), value("power/idle_loaded_after_w"))
    energy, no_energy = value("energy/gpu_j")
    tokens, _ = value("tokens/output")
    completed, _ = value("requests/completed_in_window")
    cells: dict[str, Cell] = {}
    cells["energy/bare_idle_j"] = (None, no_bare) if bare is None else (bare * seconds, None)
    if bare is None or loaded is None:
        cells["energy/context_idle_j"] = (None, no_loaded if loaded is None else no_bare)
    else:
        cells["energy/context_idle_j"] = ((loaded - bare) * seconds, None)
    dynamic: Cell
    if energy is None or loaded is None:
        dynamic = (None, no_energy if energy is None else no_loaded)
    else:
        dynamic = (energy - loaded * seconds, None)
    cells["energy/dynamic_j"] = dynamic
    for key, count, empty in (
        ("energy/dynamic_j_per_output_token", tokens, "no_output_tokens"),
        ("energy/dynamic_j_per_request", completed, "no_completed_requests"),
    ):
        cells[key] = (
            (dynamic[0] / count, None) if dynamic[0] is not None and count else (None, dynamic[1] or empty)
        )
    return cells


def _mean(before: Cell, after: Cell) -> Cell:
    known = [cell[0] for cell in (before, after) if cell[0] is not None]
    return (sum(known) / len(known), None) if known else before


def _with_clocks_down(record: Record, after: Window) -> Window:
    """The rest of `after` once every GPU's SM clock is as it was before the engine; all of it where none is known."""
    start_ns = after.start_ns
    before = phase_window(record.info.phases, Phase.BARE_IDLE)
    for index in range(len(record.power.gpu_uuids)):
        if before is None:
            break
        clock, lengths = held(record.power.events, index, Source.CLOCK_SM, before)
        if not len(clock):
            continue
        idle = float((clock * lengths).sum() / lengths.sum())
        clock, _, until_ns = stretches(record.power.events, index, Source.CLOCK_SM, after)
        start_ns = max([start_ns, *until_ns[clock > RAISED_CLOCK * idle].tolist()])
    return Window(start_ns, after.end_ns)


def _temperature(record: Record, span: Window) -> float | None:
    """Mean over time and GPUs, degrees C; None where a GPU does not tell."""
    means = []
    for index in range(len(record.power.gpu_uuids)):
        values, lengths = held(record.power.events, index, Source.TEMPERATURE_GPU, span)
        if not len(values):
            return None
        means.append(int((values * lengths).sum()) / int(lengths.sum()))
    return sum(means) / len(means) if means else None
