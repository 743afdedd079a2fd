"""How long the requests of a run took: which share of them was faster than a time, for TTFT, TPOT and E2E."""

from __future__ import annotations

import numpy as np

from wattcount.figures.figure import POINTER, Figure, Row, Spec
from wattcount.figures.labels import caveats_of
from wattcount.metrics.service import latencies_ms
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.report.labels import headline
from wattcount.study.service import bounds_of

NAME = "latency_distribution"
"""Of the spec."""
MOST_STEPS = 300
"""Steps of a curve: more than its height has pixels."""
TITLES = {"ttft": "time to first token", "tpot": "time per output token", "e2e": "whole request"}
"""What people call the latencies, by their names in keys."""


def latency_distribution(record: Record, seen: Observed | None = None) -> Figure:
    """Of the requests sent in the window. Those that never ended count as slower than all, so a curve may end below 100 %."""
    return Figure(
        NAME,
        spec(),
        rows(record, seen),
        f"Share of requests by latency: {headline(record.info.resolved)}",
        caveats_of(record),
    )


def rows(record: Record, seen: Observed | None = None) -> dict[str, list[Row]]:
    """`latencies`: a point a step of the curves; `bounds`: the SLO of the run, if it has one."""
    found: list[Row] = []
    latencies = latencies_ms(seen or Observed(record))
    for name, title in TITLES.items():
        values = np.sort(latencies.get(name, np.empty(0)))
        values = values[~np.isnan(values)]
        number = len(values)
        ended = values[np.isfinite(values) & (values > 0)]
        chosen = np.unique(np.linspace(0, len(ended) - 1, min(MOST_STEPS, len(ended))).round().astype(int))
        found += [
            {"what": title, "ms": float(f"{ended[at]:.4g}"), "share": round((int(at) + 1) / number, 4)}
            for at in chosen
        ]
    bounds: list[Row] = [
        {"what": TITLES[name], "ms": bound}
        for name, bound in bounds_of(record.info.resolved.scenario.slo).items()
    ]
    return {"latencies": found, "bounds": bounds}


def spec() -> Spec:
    """Vega-Lite with the data `latencies` and `bounds`."""
    x = {
        "field": "ms",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False},
        "axis": {"title": "latency [ms], log scale", "format": "~r", "tickCount": 6},
    }
    colour = {
        "field": "what",
        "type": "nominal",
        "sort": None,
        "legend": {"title": None, "symbolType": "stroke"},
    }
    tooltip = [
        {"field": "what", "type": "nominal", "title": "of"},
        {"field": "ms", "type": "quantitative", "title": "ms", "format": ".4~r"},
        {"field": "share", "type": "quantitative", "title": "as fast or faster", "format": ".1%"},
    ]
    return {
        "title": "Share of requests that were as fast or faster",
        "data": {"name": "latencies"},
        "width": 640,
        "height": 220,
        "layer": [
            {
                "mark": {"type": "line", "interpolate": "step-after"},
                "encoding": {
                    "x": x,
                    "y": {
                        "field": "share",
                        "type": "quantitative",
                        "scale": {"domain": [0, 1]},
                        "axis": {"title": None, "format": ".0%", "values": [0, 0.25, 0.5, 0.75, 0.95]},
                    },
                    "color": colour,
                },
            },
            {
                "name": f"latencies{POINTER}",
                "params": [
                    {
                        "name": "latency_at",
                        "select": {
                            "type": "point",
                            "nearest": True,
                            "on": "pointermove",
                            "clear": "pointerout",
                        },
                    }
                ],
                "mark": {"type": "point"},
                "encoding": {
                    "x": x,
                    "y": {"field": "share", "type": "quantitative"},
                    "color": colour,
                    "opacity": {"condition": {"param": "latency_at", "empty": False, "value": 1}, "value": 0},
                    "tooltip": tooltip,
                },
            },
            {
                "data": {"name": "bounds"},
                "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5},
                "encoding": {
                    "x": x,
                    "color": colour,
                    "tooltip": [
                        {"field": "what", "type": "nominal", "title": "SLO of"},
                        {"field": "ms", "type": "quantitative", "title": "ms", "format": ".4~r"},
                    ],
                },
            },
        ],
    }
