"""Energy of GPUs and host: of the window, of a batch's steady part, of the idle phases; and what speaks against the joules.

What of a window's energy is idle power, of the bare GPU and of an engine that waits::

    energy = bare idle            P_bare x T
           + context idle        (P_loaded - P_bare) x T      CUDA context, weights in memory, raised clocks
           + dynamic              the rest: what serving the requests added

P_bare and P_loaded are means of what was measured before and after the load, where both were: the GPU is
warmer afterwards and leaks more, and the window lies between. How far the two are apart is the drift.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from wattcount.energy import plausible, rapl
from wattcount.energy.events import Source
from wattcount.energy.plausible import BROKEN_SHARE, DISAGREE, DISAGREE_SHARE
from wattcount.metrics.observations import REQUESTS_UNFINISHED, Window, gpu_uuids, held
from wattcount.metrics.sensors import ENERGY_SOURCES, window_energy, window_energy_sum
from wattcount.metrics.sheet import (
    NO_COMPLETED,
    NO_POWER_DATA,
    NO_REQUESTS,
    NO_TOKENS,
    NO_WINDOW,
    NOT_A_BATCH,
    NOT_RECORDED,
    Cell,
    Checks,
    Finding,
    FindingSpec,
    MetricSpec,
    Sheet,
    canonical,
    finding_specs,
    metric_specs,
)
from wattcount.metrics.window import IDLE_NAMES, WINDOW, Observed, bare_idle_of_session, on

if TYPE_CHECKING:
    from wattcount.records import Record

MOST_IDLE_SHARE = 0.8
"""Largest believed idle power [power limits]: boards idle at 0.05 to 0.22 of theirs, with an engine loaded at up to 0.35."""
LEAST_PLAUSIBLE_S = 1.0
"""Length [s] from which a mean is held against the power limit, which a board keeps within a second."""
IDLE_OVER_LOAD = 1.25
"""Loaded idle power / mean power of the window, up to which it is believed: clocks that stay up raise idle by some per cent."""

METRICS = (
    metric_specs(
        """
    energy/gpu_j                      | J | lower  | energy of the window, all GPUs, by the best estimate for each (the energy
        counter where there is one)
    energy/gpu_j_u95                  | J | lower  | 95 % uncertainty of E: the next two in quadrature
    energy/gpu_j_u95_method           | J | lower  | of that, what the estimator adds (shape, edges, alignment, lowpass,
        timescale, resolution, another machine's clock); GPUs in quadrature
    energy/gpu_j_u95_sensor           | J |        | of that, gain and offset of the boards; GPUs added up, for they may err
        alike. All runs on a board share it, so it cancels when they are compared
    energy/gpu_j_per_output_token     | J | lower  | E / `tokens/output`
    energy/gpu_j_per_request          | J | lower  | E / `requests/completed_in_window`: all energy of the window, idle included
    energy/batch_gpu_j                | J | lower  | batch scenario: from the first send to the last token of the batch; null
        unless all completed
    energy/bare_idle_j                | J | lower  | P_bare x T, what the GPU draws without an engine; P_bare: mean of
        `power/idle_bare_w` and `power/idle_bare_after_w`, or the one there is
    energy/context_idle_j             | J | lower  | (P_loaded - P_bare) x T, what an engine without requests adds; P_loaded: the
        same of `power/idle_loaded_w` and `power/idle_loaded_after_w`
    energy/dynamic_j                  | J | lower  | E - P_loaded x T, what serving the requests added
    energy/dynamic_j_per_output_token | J | lower  | `energy/dynamic_j` / `tokens/output`
    energy/dynamic_j_per_request      | J | lower  | `energy/dynamic_j` / `requests/completed_in_window`
    energy/cpu_package_j              | J | lower  | energy of all CPU packages (sockets) in the window, by RAPL; see
        [Energy](energy.md#cpu-and-dram). Not part of any `gpu` figure
    energy/dram_j                     | J | lower  | the same for all DRAM; not part of the packages
    """
    )
    | {
        f"energy_by_source/{source}_j": MetricSpec(
            "J", f"the window by {what} alone; null unless every GPU has it"
        )
        for source, what in zip(
            ENERGY_SOURCES,
            (
                "the energy counter",
                "the driver's samples ring",
                "the 1 s average of the power",
                "`power_instant`",
                "`power_usage`",
            ),
            strict=True,
        )
    }
    | metric_specs(
        """
    power/gpu_mean_w                      | W          | lower  | E / T
    power/idle_bare_w                     | W          | lower  | mean power without an engine: energy of the phase `bare_idle` /
        its length; of a later run of a session, as its first run measured it (`session` in `run.json`)
    power/idle_loaded_w                   | W          | lower  | mean power with the engine up: the same for `loaded_idle`,
        before the first request
    power/idle_loaded_after_w             | W          | lower  | the same for `loaded_idle_after`, after the drain
    power/idle_bare_after_w               | W          | lower  | the same for `bare_idle_after`, after the engine has ended, from
        when the SM clock is within 20 % of what it was in `bare_idle`
    power/cpu_package_mean_w              | W          | lower  | `energy/cpu_package_j` / T
    power/idle_bare_drift_percent         | %          |        | bare idle after / before - 1
    power/idle_loaded_drift_percent       | %          |        | loaded idle after / before - 1
    gpu/temperature_idle_bare_c           | C          |        | mean over time and GPUs, in `bare_idle`
    gpu/temperature_idle_loaded_c         | C          |        | the same in `loaded_idle`
    gpu/temperature_idle_loaded_after_c   | C          |        | the same in `loaded_idle_after`
    gpu/temperature_idle_bare_after_c     | C          |        | the same in `bare_idle_after`
    window_steady/duration_s              | s          |        | length of the steady window
    energy_steady/gpu_j                   | J          | lower  | energy of the steady window of a batch
    energy_steady/gpu_j_per_output_token  | J          | lower  | the same / output tokens emitted in it
    energy_steady/gpu_j_per_request       | J          | lower  | the same / requests completed in it
    power_steady/gpu_mean_w               | W          | lower  | the same / its length
    throughput_steady/output_tokens_per_s | tokens/s   | higher | output tokens emitted in the steady window / its length
    throughput_steady/requests_per_s      | requests/s | higher | requests completed in the steady window / its length
    """
    )
)
"""The metrics of this module, by key: joules, watts and their uncertainty, and those of the host's RAPL counters."""
NULL_REASONS = {
    rapl.NOT_PRESENT: "the host shows no RAPL counter of that kind: a virtual machine, or no DRAM counter (AMD)",
    rapl.NOT_READABLE: "there is a RAPL counter that could not be read when the run began: permissions, mostly; `run.json` says which "
    "and why in `host.rapl`, `wattcount doctor` what to do",
    rapl.ELSEWHERE: "the GPUs are another machine's (`power.remote`), whose CPU energy is not read",
}
"""What each of this module's reasons for null means, in words."""
CHECKS = Checks()
"""What this module checks of a run. Each finding has its code, its limit and whether it makes the run invalid."""


GPU_METRIC = MetricSpec("J", "the window of one GPU; N is its place in `run.json`'s `gpus`", "lower")
"""What `energy_by_gpu/gpuN_j` is, of which there is one for each GPU."""


def gpu_energy_key(index: int) -> str:
    """Key of one GPU's energy over the window; `index` is its place in `run.json`'s `gpus`."""
    return f"energy_by_gpu/gpu{index}_j"


def put(sheet: Sheet, seen: Observed) -> None:
    """Energy and power of the window, of the idle phases, and of the steady window."""
    whole = _whole_batch(seen)
    seen.record.power.prepare(
        [
            *((span.start_ns, span.end_ns) for span in seen.spans.values()),
            *([whole] if isinstance(whole, tuple) else []),
        ]
    )
    sheet.update(idle_powers(seen))
    window = seen.window
    if window is None:
        return
    _put_window(sheet, seen, window)
    _put_host(sheet, seen.record, window)
    sheet.update(
        idle_split(sheet.cell, window, seen.requests.tokens_in(window), seen.requests.completed_in(window))
    )
    _put_steady(sheet, seen)


def _put_window(sheet: Sheet, seen: Observed, window: Window) -> None:
    """`energy/...`, `energy_by_gpu/...` and `energy_by_source/...` of the GPUs, with its uncertainty."""
    record = seen.record
    values, reason = _joules(record, window.start_ns, window.end_ns)
    for index, value in enumerate(values):
        sheet.put(gpu_energy_key(index), value, reason)
    total = _total(values)
    sheet.put("energy/gpu_j", total, reason)
    found = window_energy_sum(record, window)
    sheet.put("energy/gpu_j_u95", None if found is None else found.u95_j, reason)
    sheet.put("energy/gpu_j_u95_method", None if found is None else found.u95_method_j, reason)
    sheet.put("energy/gpu_j_u95_sensor", None if found is None else found.u95_sensor_j, reason)
    sheet.ratio("power/gpu_mean_w", total, window.duration_s, NO_WINDOW)
    sheet.ratio("energy/gpu_j_per_output_token", total, seen.requests.tokens_in(window), NO_TOKENS)
    sheet.ratio("energy/gpu_j_per_request", total, seen.requests.completed_in(window), NO_COMPLETED)

    by_source: dict[str, list[float | None]] = {source: [] for source in ENERGY_SOURCES}
    for uuid in gpu_uuids(record):
        known = (
            record.power.energy_by_source(window.start_ns, window.end_ns, uuid)
            if uuid in record.power.gpu_uuids
            else {}
        )
        for source in ENERGY_SOURCES:
            by_source[source].append(known[source].value_j if source in known else None)
    for source in ENERGY_SOURCES:
        sheet.put(f"energy_by_source/{source}_j", _total(by_source[source]), NOT_RECORDED)

    sheet.update({"energy/batch_gpu_j": _batch_energy(seen)})


def _batch_energy(seen: Observed) -> Cell:
    """Of a whole batch."""
    whole = _whole_batch(seen)
    return (None, whole) if isinstance(whole, str) else total_joules(seen.record, *whole)


def _whole_batch(seen: Observed) -> tuple[int, int] | str:
    """First send and last token of a batch, or why it has none."""
    if not seen.is_batch:
        return NOT_A_BATCH
    batch = seen.requests.for_window
    if not batch.any() or not seen.requests.completed[batch].all():
        return REQUESTS_UNFINISHED if batch.any() else NO_REQUESTS
    first = int(seen.requests.actual_send_ns[batch].min())
    last = int(seen.requests.last_token_ns[batch].max())
    return first, last


def _put_host(sheet: Sheet, record: Record, window: Window) -> None:
    """Energy of the host's CPU packages and memory."""
    cpu = record.host_power.energy(window.start_ns, window.end_ns, rapl.PACKAGE)
    sheet.put("energy/cpu_package_j", cpu.value_j, cpu.reason)
    mean_w = None if cpu.value_j is None else cpu.value_j / window.duration_s
    sheet.put("power/cpu_package_mean_w", mean_w, cpu.reason)
    dram = record.host_power.energy(window.start_ns, window.end_ns, rapl.DRAM)
    sheet.put("energy/dram_j", dram.value_j, dram.reason)


def _put_steady(sheet: Sheet, seen: Observed) -> None:
    window, reason = seen.steady.window, seen.steady.reason
    if window is None:
        sheet.update({key: (None, reason) for key in METRICS if key.partition("/")[0].endswith("_steady")})
        return
    seconds = window.duration_s
    energy, reason = total_joules(seen.record, window.start_ns, window.end_ns)
    emitted, completed = seen.requests.tokens_in(window), seen.requests.completed_in(window)
    sheet.put("window_steady/duration_s", seconds)
    sheet.put("energy_steady/gpu_j", energy, reason)
    sheet.put("power_steady/gpu_mean_w", None if energy is None else energy / seconds, reason)
    for key, count, empty in (("output_token", emitted, NO_TOKENS), ("request", completed, NO_COMPLETED)):
        value = energy / count if energy is not None and count else None
        sheet.put(f"energy_steady/gpu_j_per_{key}", value, reason if energy is None else empty)
    sheet.put("throughput_steady/output_tokens_per_s", emitted / seconds)
    sheet.put("throughput_steady/requests_per_s", completed / seconds)


def idle_powers(seen: Observed) -> dict[str, Cell]:
    """Mean power and temperature of each idle phase, and the drift from before to after."""
    cells: dict[str, Cell] = {}
    for name, (span, missing) in seen.idle.items():
        power, temperature = f"power/idle_{name}_w", f"gpu/temperature_idle_{name}_c"
        if span is None:
            cells[power] = cells[temperature] = (None, missing)
            if name == "bare" and (watts := bare_idle_of_session(seen.record, "mean_w")) is not None:
                cells[power] = (math.fsum(watts), None)
                degrees = bare_idle_of_session(seen.record, "temperature_c")
                cells[temperature] = (None if degrees is None else sum(degrees) / len(degrees), NOT_RECORDED)
            continue
        value, reason = total_joules(seen.record, span.start_ns, span.end_ns)
        cells[power] = (None, reason) if value is None else (value / span.duration_s, None)
        cells[temperature] = (_temperature(seen.record, span), NOT_RECORDED)
    for name in ("bare", "loaded"):
        before, why = cells[f"power/idle_{name}_w"]
        after, why_after = cells[f"power/idle_{name}_after_w"]
        key = f"power/idle_{name}_drift_percent"
        if before is None or after is None:
            cells[key] = (None, why if before is None else why_after)
        else:
            cells[key] = (100.0 * (after / before - 1.0), None) if before else (None, NOT_RECORDED)
    return cells


def idle_split(value: Callable[[str], Cell], window: Window, tokens: int, completed: int) -> dict[str, Cell]:
    """The parts of `energy/gpu_j`, and the dynamic one per token and request.

    value              a metric by its key, with the reason where it is null
    tokens, completed  output tokens emitted, requests completed in the window
    """
    seconds = window.duration_s
    bare, no_bare = _mean(value("power/idle_bare_w"), value("power/idle_bare_after_w"))
    loaded, no_loaded = _mean(value("power/idle_loaded_w"), value("power/idle_loaded_after_w"))
    energy, no_energy = value("energy/gpu_j")
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
        ("energy/dynamic_j_per_output_token", tokens, NO_TOKENS),
        ("energy/dynamic_j_per_request", completed, NO_COMPLETED),
    ):
        cells[key] = (
            (dynamic[0] / count, None) if dynamic[0] is not None and count else (None, dynamic[1] or empty)
        )
    return cells


def _mean(before: Cell, after: Cell) -> Cell:
    known = [cell[0] for cell in (before, after) if cell[0] is not None]
    return (sum(known) / len(known), None) if known else before


def _temperature(record: Record, span: Window) -> float | None:
    """Mean over time and GPUs, degrees C; None where a GPU does not tell."""
    means = []
    for index in range(len(record.power.gpu_uuids)):
        values, lengths = held(record.power, index, Source.TEMPERATURE_GPU, span)
        if not len(values):
            return None
        means.append(int((values * lengths).sum()) / int(lengths.sum()))
    return sum(means) / len(means) if means else None


def energy_estimates(record: Record, window: Window | None) -> dict[str, dict[str, Any]]:
    """The estimates whose sum is `energy/gpu_j`, by GPU UUID, and what each rests on."""
    found = {}
    for uuid in gpu_uuids(record) if window is not None else ():
        assert window is not None
        if uuid in record.power.gpu_uuids:
            estimate = window_energy(record, window, uuid)
            found[uuid] = {
                "value_j": _canonical_or_none(estimate.value_j),
                "u95_j": _canonical_or_none(estimate.u95_j),
                "u95_method_j": _canonical_or_none(estimate.u95_method_j),
                "u95_sensor_j": _canonical_or_none(estimate.u95_sensor_j),
                "budget_j": {part: canonical(value) for part, value in estimate.budget_j.items()},
                "basis": estimate.basis,
                "reasons": list(estimate.reasons),
            }
    return found


def _canonical_or_none(value: float | None) -> float | None:
    return None if value is None else canonical(value)


def total_joules(record: Record, start_ns: int, end_ns: int) -> tuple[float | None, str | None]:
    """Energy of all GPUs between two times; None where that of one is not known, with the reason."""
    values, reason = _joules(record, start_ns, end_ns)
    return _total(values), reason


def _joules(record: Record, start_ns: int, end_ns: int) -> tuple[list[float | None], str | None]:
    """Energy of each GPU between two times, and why the first missing one is missing."""
    values: list[float | None] = []
    reason: str | None = None
    for uuid in gpu_uuids(record):
        if uuid not in record.power.gpu_uuids:
            values.append(None)
            reason = reason or NO_POWER_DATA
            continue
        estimate = record.power.energy(start_ns, end_ns, uuid)
        values.append(estimate.value_j)
        if estimate.value_j is None:
            reason = reason or (estimate.reasons[0] if estimate.reasons else NO_POWER_DATA)
    return values, reason if values else NO_POWER_DATA


def _total(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return math.fsum(known) if known and len(known) == len(values) else None


# -- findings

UNKNOWN, IMPLAUSIBLE, IDLE_ABOVE_LOAD, NOT_CONTINUOUS = finding_specs(
    """
    energy_unknown | GPUs | yes | GPUs whose energy in the window is not known (`null_reasons`, and `energy`'s `reasons`,
        say why) | 0 | a record without joules measures nothing | `wattcount doctor` says which sensors there are; in a
        container the GPU must be visible to NVML
    power_implausible | W | yes | mean power in the window, its steady part or an idle phase, W, as far as it lasts a second
        | 0.5 W; 1.2 power limits (highest that was read or that `run.json` has; 5 kW where none is known); idle: 0.8 power
        limits | no board draws that | measure again; if it comes again, the driver or the board reports wrong power:
        `wattcount doctor --sensors`
    idle_above_load | 1 | yes | loaded idle power, before or after the load / mean power of the window | 1.25 | dynamic
        energy would be far below 0 | let the GPU come to rest before the run (`cooldown_limit_s`), keep others off it, and
        measure again
    counter_not_continuous | times | yes | times the energy counter lost its count in the window, its steady part or an idle
        phase: went back, stood still, or moved by other joules than power shows ([energy.md](energy.md)) | 0 | a sensor
        that was seen to be wrong | measure again; if it comes again, the driver was reset or the board is failing: see
        `dmesg`
    """
)
SOURCES_DISAGREE = FindingSpec(
    DISAGREE,
    "1",
    "difference between the best estimate and another source (the samples ring; the counter; from 10 s on the 1 s average) in the "
    "window, its steady part or an idle phase, as a share of the energy, where it lasts a second",
    "5 %, when the 95 % intervals of both are taken off",
    None,
    "only above 25 %: the ring aliases fast loads by up to 16 %, more than that is a broken sensor",
    "look at the sensors with `wattcount doctor --sensors`; a longer window makes the counter surer",
)
"""Two sources of one energy differ by more than their intervals allow. By how much decides whether that invalidates."""


@CHECKS.finds(IMPLAUSIBLE, IDLE_ABOVE_LOAD)
def implausible(seen: Observed) -> Iterator[Finding]:
    """Mean power that no board of this limit draws, or not when it is idle."""
    record, idle_names = seen.record, IDLE_NAMES.values()
    for uuid in record.power.gpu_uuids:
        limit_w = _limit_w(record, uuid)
        most_w, least_w = plausible.most_mean_w(limit_w), plausible.LEAST_POWER_W
        means: dict[str, float] = {}
        for name, span in seen.spans.items():
            value_j = record.power.energy(span.start_ns, span.end_ns, uuid).value_j
            if value_j is None or span.duration_s < LEAST_PLAUSIBLE_S:
                continue
            mean_w = means[name] = value_j / span.duration_s
            high_w = MOST_IDLE_SHARE * limit_w if name in idle_names and limit_w is not None else most_w
            if not least_w <= mean_w <= high_w:
                bound_w = least_w if mean_w < least_w else high_w
                yield IMPLAUSIBLE.found(
                    mean_w,
                    bound_w,
                    f"the mean power{on(seen, uuid)} in {name} would be {mean_w:.4g} W, "
                    f"{'below' if mean_w < least_w else 'above'} the {bound_w:.4g} W that are possible",
                )
        load_w = means.get(WINDOW, 0.0)
        for name in (IDLE_NAMES["loaded"], IDLE_NAMES["loaded_after"]):
            if load_w > 0.0 and means.get(name, 0.0) > IDLE_OVER_LOAD * load_w:
                yield IDLE_ABOVE_LOAD.found(
                    means[name] / load_w,
                    IDLE_OVER_LOAD,
                    f"{name}{on(seen, uuid)} drew {means[name]:.4g} W, the window {load_w:.4g} W: what serving "
                    "the requests added cannot be told",
                )


@CHECKS.finds(NOT_CONTINUOUS)
def counter_broke(seen: Observed) -> Iterator[Finding]:
    """Stretches in which the energy counter lost its count."""
    for uuid in seen.record.power.gpu_uuids:
        for name, span in seen.spans.items():
            breaks = seen.record.power.model(uuid).counter_breaks(span.start_ns, span.end_ns)
            if breaks:
                yield NOT_CONTINUOUS.found(
                    breaks,
                    0,
                    f"the energy counter{on(seen, uuid)} went back, stood still or jumped {breaks} times in {name}",
                )


@CHECKS.finds(SOURCES_DISAGREE)
def sources(seen: Observed) -> Iterator[Finding]:
    """Energy of one stretch by different sources."""
    for uuid in seen.record.power.gpu_uuids:
        for name, span in seen.spans.items():
            found = seen.record.power.model(uuid).disagreement(span.start_ns, span.end_ns)
            if found is None or not found.told:
                continue
            yield SOURCES_DISAGREE.found(
                abs(found.share),
                BROKEN_SHARE if found.broken else DISAGREE_SHARE,
                f"{found.source} of {uuid} gives {found.share:+.1%} of the energy by {found.against} in {name}",
                found.broken,
            )


@CHECKS.finds_in_window(UNKNOWN)
def unknown(seen: Observed, window: Window) -> Iterator[Finding]:
    """GPUs whose energy in the window is not known."""
    power, uuids = seen.record.power, gpu_uuids(seen.record)
    missing = [
        uuid
        for uuid in uuids
        if uuid not in power.gpu_uuids or power.energy(window.start_ns, window.end_ns, uuid).value_j is None
    ]
    if missing or not uuids:
        which = f"the sensors of {', '.join(missing)} do not tell" if uuids else "no GPU is known"
        yield UNKNOWN.found(max(len(missing), 1), 0, f"the energy of the window is not known: {which}")


def _limit_w(record: Record, uuid: str) -> float | None:
    """Highest power limit of a board, as read in the run or as `run.json` has it."""
    facts = next((gpu for gpu in record.info.gpus if gpu.get("uuid") == uuid), {})
    stated = [facts.get(name) for name in ("power_limit_max_mw", "power_limit_enforced_mw", "power_limit_mw")]
    limits_w = [record.power.model(uuid).limit_w, *[mw / 1e3 for mw in stated if mw]]
    return max((limit for limit in limits_w if limit is not None), default=None)
