"""Where a window's joules went, and what their uncertainty is made of."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from wattcount.figures.figure import Figure, Row, Spec
from wattcount.figures.labels import caveats_of
from wattcount.records import Record
from wattcount.report.labels import headline
from wattcount.report.units import quantity

NAME = "energy_budget"
"""Of the spec."""

BARE, CONTEXT = "idle without an engine", "idle of the engine"
PREFILL, DECODE, SERVING = "serving: prefill", "serving: decode", "serving the requests"
PARTS = (BARE, CONTEXT, PREFILL, DECODE, SERVING)
"""Where joules go. `SERVING` is what prefill and decode are not told apart of, or the rest beside them."""

CAUSES: Mapping[str, str] = {
    "gain": "the sensor's gain: all runs on the board share it",
    "offset": "the sensor's offset: all runs on the board share it",
    "shape": "how power went between two counts of the energy counter",
    "edges": "where the window's ends lie between two counts",
    "alignment": "counter and samples early or late alike",
    "lowpass": "the low-pass before the samples",
    "timescale": "the counter's clock against the host's",
    "resolution": "the counter counts in mJ",
    "agreement": "counter and samples that differ",
    "locking": "bursts of the load in step with the sensor",
    "clock": "the clock of the other machine that has the GPUs",
}
"""Parts of the uncertainty of an energy, by their keys in `metrics.json` (docs/uncertainty.md)."""
SHARED = ("gain", "offset")
"""Parts that cancel where runs on one board are compared."""
LINEAR = (*SHARED, "locking", "clock")
"""Parts that may be the same for all GPUs: they are added, all others in quadrature."""
CANCELS, ADDS = "cancels between runs on this board", "of this run alone"


def energy_budget(record: Record, content: Mapping[str, Any]) -> Figure:
    """Of a record's window. `content`: its `metrics.json`, from `metrics.load_metrics`."""
    return Figure(
        NAME,
        spec(),
        rows(content),
        f"Energy of the window and its uncertainty: {headline(record.info.resolved)}",
        caveats_of(record),
    )


def rows(content: Mapping[str, Any]) -> dict[str, list[Row]]:
    """Rows of `parts` and `causes`, as far as `metrics.json` tells; GPUs together."""
    return {
        "parts": _parts(content["metrics"]),
        "causes": _causes(content["energy"], content["metrics"].get("energy/gpu_j")),
    }


def _parts(metrics: Mapping[str, float | None]) -> list[Row]:
    whole = metrics.get("energy/gpu_j")
    if not whole:
        return []
    dynamic, prefill, decode = (metrics.get(f"energy/{name}_j") for name in ("dynamic", "prefill", "decode"))
    if dynamic is None:
        return []
    found = {
        BARE: metrics.get("energy/bare_idle_j"),
        CONTEXT: metrics.get("energy/context_idle_j"),
        PREFILL: prefill,
        DECODE: decode,
    }
    if found[BARE] is None:
        found[CONTEXT] = whole - dynamic
    known = math.fsum(value for value in found.values() if value is not None)
    found[SERVING] = whole - known if prefill is None or decode is None else None
    return [
        {"what": name, "order": number, "j": value, "share": value / whole, "text": quantity(value, "J", 3)}
        for number, name in enumerate(PARTS)
        if (value := found[name]) is not None
    ]


def _causes(energy: Mapping[str, Mapping[str, Any]], whole_j: float | None) -> list[Row]:
    """95 % of each cause, GPUs together."""
    if not whole_j:
        return []
    names = dict.fromkeys(cause for told in energy.values() for cause in told["budget_j"])
    found: list[Row] = []
    for cause in names:
        values = [float(told["budget_j"].get(cause, 0.0)) for told in energy.values()]
        value = math.fsum(values) if cause in LINEAR else math.hypot(*values)
        if value > 0:
            found.append(
                {
                    "cause": cause,
                    "about": CAUSES.get(cause, cause),
                    "what": CANCELS if cause in SHARED else ADDS,
                    "j": value,
                    "percent": 100 * value / whole_j,
                }
            )
    return sorted(found, key=lambda row: -float(row["j"]))


def spec() -> Spec:
    """Vega-Lite with the data `parts` and `causes`."""
    return {
        "vconcat": [_where(), _why()],
        "spacing": 16,
        "resolve": {"scale": {"color": "independent"}, "legend": {"color": "independent"}},
    }


def _where() -> Spec:
    return {
        "name": "parts",
        "title": "Where the window's energy went [J]",
        "data": {"name": "parts"},
        "width": 640,
        "height": 34,
        "layer": [
            {
                "mark": {"type": "bar", "height": 30},
                "encoding": {
                    "x": {
                        "field": "j",
                        "type": "quantitative",
                        "stack": "zero",
                        "scale": {"nice": False},
                        "axis": {"title": None, "format": ",~r", "tickCount": 6},
                    },
                    "color": {
                        "field": "what",
                        "type": "nominal",
                        "sort": None,
                        "legend": {"title": None, "columns": 2, "symbolType": "square"},
                    },
                    "order": {"field": "order"},
                    "tooltip": [
                        {"field": "what", "type": "nominal", "title": "part"},
                        {"field": "text", "type": "nominal", "title": "energy"},
                        {"field": "share", "type": "quantitative", "title": "share", "format": ".1%"},
                    ],
                },
            }
        ],
    }


def _why() -> Spec:
    x = {
        "field": "percent",
        "type": "quantitative",
        "scale": {"type": "log", "nice": True, "padding": 10},
        "axis": {"title": "% of the energy, 95 %, log scale", "format": "~r", "tickCount": 5, "grid": True},
    }
    return {
        "name": "causes",
        "title": "What the uncertainty is made of",
        "data": {"name": "causes"},
        "width": 640,
        "height": {"step": 20},
        "layer": [
            {
                "transform": [{"filter": "datum.percent >= 0.001"}],
                "mark": {"type": "point", "size": 80},
                "encoding": {
                    "y": {
                        "field": "cause",
                        "type": "nominal",
                        "sort": None,
                        "axis": {"title": None, "ticks": False, "grid": True},
                    },
                    "x": x,
                    "color": {
                        "field": "what",
                        "type": "nominal",
                        "sort": None,
                        "legend": {"title": None, "columns": 2},
                    },
                    "tooltip": [
                        {"field": "about", "type": "nominal", "title": "cause"},
                        {
                            "field": "percent",
                            "type": "quantitative",
                            "title": "% of the energy",
                            "format": ".3~r",
                        },
                        {"field": "j", "type": "quantitative", "title": "J", "format": ".4~r"},
                    ],
                },
            }
        ],
    }
