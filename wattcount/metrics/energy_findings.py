"""What speaks against the joules themselves: of the window, of its steady part, and of each idle phase, by one set of rules."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from wattcount.energy import plausible
from wattcount.energy.agreement import BROKEN_SHARE, DISAGREE, DISAGREE_SHARE
from wattcount.metrics.findings import Finding, on
from wattcount.metrics.idle import idle_spans
from wattcount.metrics.observations import gpu_uuids
from wattcount.metrics.window import Window

if TYPE_CHECKING:
    from wattcount.records import Record

WINDOW = "the window"
STEADY = "the steady window"
IDLE_NAMES = {
    "bare": "bare idle",
    "loaded": "loaded idle",
    "loaded_after": "loaded idle after the load",
    "bare_after": "bare idle after the engine",
}
MOST_IDLE_SHARE = 0.8
"""Largest believed idle power, in power limits: boards idle at 0.05 to 0.22 of theirs, with an engine loaded at up to 0.35."""
LEAST_PLAUSIBLE_S = 1.0
"""Length [s] from which a mean is held against the power limit, which a board keeps within a second."""
IDLE_OVER_LOAD = 1.25
"""Loaded idle power / mean power of the window that is believed: clocks that stay up raise idle by some per cent."""
NOT_CONTINUOUS = "counter_not_continuous"


def energy_spans(record: Record, window: Window | None, steady: Window | None) -> dict[str, Window]:
    """Every stretch whose energy is reported, by its name."""
    spans = {} if window is None else {WINDOW: window}
    if steady is not None:
        spans[STEADY] = steady
    for name, (span, _) in idle_spans(record, None if window is None else window.end_ns).items():
        if span is not None:
            spans[IDLE_NAMES[name]] = span
    return spans


def unknown(record: Record, window: Window) -> Iterator[Finding]:
    """GPUs whose energy in the window is not known."""
    missing = [
        uuid
        for uuid in gpu_uuids(record)
        if uuid not in record.power.gpu_uuids
        or record.power.energy(window.start_ns, window.end_ns, uuid).value_j is None
    ]
    nothing = not gpu_uuids(record)
    if missing or nothing:
        which = "no GPU is known" if nothing else f"the sensors of {', '.join(missing)} do not tell"
        yield Finding(
            "energy_unknown",
            max(len(missing), 1),
            0,
            "GPUs",
            f"the energy of the window is not known: {which}",
            True,
        )


def implausible(record: Record, spans: Mapping[str, Window]) -> Iterator[Finding]:
    """Mean power that no board of this limit draws, or not when it is idle."""
    for uuid in record.power.gpu_uuids:
        limit_w = _limit_w(record, uuid)
        most_w, least_w = plausible.most_mean_w(limit_w), plausible.LEAST_POWER_W
        means: dict[str, float] = {}
        for name, span in spans.items():
            value_j = record.power.energy(span.start_ns, span.end_ns, uuid).value_j
            if value_j is None or span.duration_s < LEAST_PLAUSIBLE_S:
                continue
            mean_w = means[name] = value_j / span.duration_s
            idle = name in IDLE_NAMES.values()
            high_w = MOST_IDLE_SHARE * limit_w if idle and limit_w is not None else most_w
            if not least_w <= mean_w <= high_w:
                bound_w = least_w if mean_w < least_w else high_w
                yield Finding(
                    "power_implausible",
                    mean_w,
                    bound_w,
                    "W",
                    f"the mean power{on(record, uuid)} in {name} would be {mean_w:.4g} W, "
                    f"{'below' if mean_w < least_w else 'above'} the {bound_w:.4g} W that are possible",
                    True,
                )
        for name in (IDLE_NAMES["loaded"], IDLE_NAMES["loaded_after"]):
            if (
                name in means
                and means.get(WINDOW, 0.0) > 0.0
                and means[name] > IDLE_OVER_LOAD * means[WINDOW]
            ):
                yield Finding(
                    "idle_above_load",
                    means[name] / means[WINDOW],
                    IDLE_OVER_LOAD,
                    "1",
                    f"{name}{on(record, uuid)} drew {means[name]:.4g} W, the window {means[WINDOW]:.4g} W: what serving "
                    "the requests added cannot be told",
                    True,
                )


def sources(record: Record, spans: Mapping[str, Window]) -> Iterator[Finding]:
    """Energy of one stretch by different sources."""
    for uuid in record.power.gpu_uuids:
        for name, span in spans.items():
            found = record.power.model(uuid).disagreement(span.start_ns, span.end_ns)
            if found is None or not found.told:
                continue
            yield Finding(
                DISAGREE,
                abs(found.share),
                BROKEN_SHARE if found.broken else DISAGREE_SHARE,
                "1",
                f"{found.source} of {uuid} gives {found.share:+.1%} of the energy by {found.against} in {name}",
                found.broken,
            )


def counter_broke(record: Record, spans: Mapping[str, Window]) -> Iterator[Finding]:
    """Stretches in which the energy counter lost its count."""
    for uuid in record.power.gpu_uuids:
        for name, span in spans.items():
            breaks = record.power.model(uuid).counter_breaks(span.start_ns, span.end_ns)
            if breaks:
                yield Finding(
                    NOT_CONTINUOUS,
                    breaks,
                    0,
                    "times",
                    f"the energy counter{on(record, uuid)} went back, stood still or jumped {breaks} times in {name}",
                    True,
                )


def _limit_w(record: Record, uuid: str) -> float | None:
    """Highest power limit of a board, as read in the run or as `run.json` has it."""
    facts = next((gpu for gpu in record.info.gpus if gpu.get("uuid") == uuid), {})
    stated = [facts.get(name) for name in ("power_limit_max_mw", "power_limit_enforced_mw", "power_limit_mw")]
    limits_w = [record.power.model(uuid).limit_w, *[mw / 1e3 for mw in stated if mw]]
    return max((limit for limit in limits_w if limit is not None), default=None)
