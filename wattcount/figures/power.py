"""The power trace of a run, with its phases, the requests in flight, the work of the steps, temperature and clocks; zoomable."""

from __future__ import annotations

from typing import Any

import numpy as np

from wattcount.figures.figure import POINTER, Figure, Row, Spec
from wattcount.figures.labels import caveats_of
from wattcount.figures.trace import PhaseSpan, RunTrace, Series, rounded, run_trace
from wattcount.metrics.window import Observed
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.report.labels import PHASE_NAMES, headline

NAME = "power_trace"
"""Of the spec."""
ZOOM = "zoom"
"""Name of the parameter that zooms: its signal `zoom_t_s` has the seconds that are seen."""
WIDTH = 640
"""Width of a panel where nobody says another [pixels]."""
LEAST_LABEL_SHARE = 0.09
"""Share of the whole time from which on a phase has room for its name."""

_TIME: dict[str, Any] = {"field": "t_s", "type": "quantitative", "scale": {"nice": False, "zero": False}}
_SECONDS = {**_TIME, "axis": {"title": "seconds since the window began", "format": "~r", "tickCount": 8}}
_UNTITLED = {**_TIME, "axis": {"title": None, "format": "~r", "tickCount": 8}}


def power_trace(record: Record, seen: Observed | None = None) -> Figure:
    """Of a record, failed ones too, as far as they go. `seen`: the record, where somebody else looks at it too."""
    trace = run_trace(record, seen)
    return Figure(
        NAME, spec(), rows(trace), f"Power over time: {headline(record.info.resolved)}", caveats_of(record)
    )


def rows(trace: RunTrace) -> dict[str, list[Row]]:
    """Rows by the names that the spec has: a row is a stretch, `t_s` its begin; the last one is there twice, as its end."""
    whole_s = float(trace.edges_s[-1] - trace.edges_s[0]) if len(trace.edges_s) else 0.0
    found: dict[str, list[Row]] = {name: _of(trace, panel) for name, panel in trace.panels.items()}
    found["moment"] = []
    found["phases"] = [
        {
            "phase": span.phase,
            "start_s": round(span.start_s, 3),
            "end_s": round(span.end_s, 3),
            "seconds": round(span.end_s - span.start_s, 3),
            "label": span.phase if _has_room(span, whole_s) else "",
        }
        for span in trace.phases
    ]
    return found


def _has_room(span: PhaseSpan, whole_s: float) -> bool:
    """Whether a phase is named above its panels. The window always is: it is what the figures speak of."""
    return span.phase == PHASE_NAMES[Phase.WINDOW] or span.end_s - span.start_s >= LEAST_LABEL_SHARE * whole_s


def _of(trace: RunTrace, panel: tuple[Series, ...]) -> list[Row]:
    edges = np.round(trace.edges_s, 4).tolist()
    return [
        {"t_s": t_s, "what": series.name, "value": value}
        for series in panel
        for t_s, value in zip(edges, [*rounded(series.values), *rounded(series.values[-1:])], strict=True)
    ]


def spec() -> Spec:
    """Vega-Lite with the data `phases`, `power`, `flight`, `tokens`, `temperature`, `clock`, and `moment`: a second that is marked."""
    panels = [
        _strip(),
        _panel("power", "Power [W]", 190, [_bands(), *_lines("power", "W", zero=True)]),
        _panel(
            "flight", "Requests in flight", 90, [_bands(), _areas("flight"), _pointer("flight", "requests")]
        ),
        _panel(
            "tokens",
            "Tokens of the engine's steps [tokens/s]",
            90,
            [_bands(), *_lines("tokens", "tokens/s", zero=True)],
        ),
        _panel(
            "temperature", "GPU temperature [°C]", 60, [_bands(), *_lines("temperature", "°C", zero=False)]
        ),
        _panel("clock", "SM clock [MHz]", 60, [_bands(), *_lines("clock", "MHz", zero=True)]),
    ]
    return {
        "params": [
            {
                "name": ZOOM,
                "select": {"type": "interval", "encodings": ["x"], "zoom": "wheel![event.shiftKey]"},
                "bind": "scales",
                "views": [f"{panel['name']}_lines" for panel in panels[1:]],
            }
        ],
        "vconcat": panels,
        "spacing": 12,
        "resolve": {"scale": {"x": "shared", "color": "independent"}, "legend": {"color": "independent"}},
    }


def _panel(name: str, title: str, height: int, layers: list[Spec]) -> Spec:
    return {
        "name": name,
        "title": title,
        "data": {"name": name},
        "width": WIDTH,
        "height": height,
        "layer": [*layers, _moment()],
    }


def _moment() -> Spec:
    """A line at the second that somebody asks for."""
    return {
        "data": {"name": "moment"},
        "mark": {"type": "rule", "clip": True, "strokeWidth": 1.5, "strokeDash": [3, 2]},
        "encoding": {"x": {"field": "t_s", "type": "quantitative"}},
    }


def _bands() -> Spec:
    """The window on a ground of its own, and a line where a phase begins."""
    ends: Spec = {"x": {"field": "start_s", "type": "quantitative"}, "x2": {"field": "end_s"}}
    return {
        "data": {"name": "phases"},
        "mark": {"type": "rect", "clip": True, "stroke": "#8a94a0", "strokeOpacity": 0.35, "strokeWidth": 1},
        "encoding": {
            **ends,
            "fillOpacity": {"condition": {"test": "datum.phase === 'window'", "value": 0.16}, "value": 0},
            "fill": {"value": "#8a94a0"},
            "tooltip": [
                {"field": "phase", "type": "nominal", "title": "phase"},
                {"field": "start_s", "type": "quantitative", "title": "from [s]", "format": ".4~r"},
                {"field": "end_s", "type": "quantitative", "title": "to [s]", "format": ".4~r"},
            ],
        },
    }


def _strip() -> Spec:
    """The names of the phases, over all panels."""
    band = _bands()
    return {
        "name": "phases",
        "data": {"name": "phases"},
        "width": WIDTH,
        "height": 18,
        "layer": [
            {**band, "encoding": {**band["encoding"], "x": {**band["encoding"]["x"], "axis": None}}},
            {
                "transform": [{"calculate": "(datum.start_s + datum.end_s) / 2", "as": "middle_s"}],
                "mark": {"type": "text", "baseline": "middle", "clip": True},
                "encoding": {
                    "x": {"field": "middle_s", "type": "quantitative", "axis": None},
                    "text": {"field": "label", "type": "nominal"},
                },
            },
        ],
    }


def _lines(name: str, unit: str, *, zero: bool) -> list[Spec]:
    x = _SECONDS if name in ("clock",) else _UNTITLED
    return [
        {
            "name": f"{name}_lines",
            "mark": {"type": "line", "interpolate": "step-after", "clip": True},
            "encoding": {"x": x, "y": _value(zero), "color": _what()},
        },
        _pointer(name, unit),
    ]


def _areas(name: str) -> Spec:
    return {
        "name": f"{name}_lines",
        "mark": {"type": "area", "interpolate": "step-after", "clip": True, "opacity": 0.75},
        "encoding": {
            "x": _UNTITLED,
            "y": {**_value(True), "stack": "zero"},
            "color": {**_what(), "legend": {"title": None, "symbolType": "square"}},
        },
    }


def _pointer(name: str, unit: str) -> Spec:
    """Points that are not seen but for the one under the pointer, which says its values."""
    pointed = f"{name}_at"
    return {
        "name": f"{name}{POINTER}",
        "params": [
            {
                "name": pointed,
                "select": {
                    "type": "point",
                    "encodings": ["x"],
                    "nearest": True,
                    "on": "pointermove",
                    "clear": "pointerout",
                },
            }
        ],
        "mark": {"type": "point", "clip": True},
        "encoding": {
            "x": _TIME,
            "y": {**_value(True), **({"stack": "zero"} if name == "flight" else {})},
            "color": _what(),
            "opacity": {"condition": {"param": pointed, "empty": False, "value": 1}, "value": 0},
            "tooltip": [
                {"field": "t_s", "type": "quantitative", "title": "at [s]", "format": ".4~r"},
                {"field": "what", "type": "nominal", "title": "of"},
                {"field": "value", "type": "quantitative", "title": unit, "format": ".4~r"},
            ],
        },
    }


def _value(zero: bool) -> dict[str, Any]:
    return {
        "field": "value",
        "type": "quantitative",
        "scale": {"zero": zero},
        "axis": {"title": None, "tickCount": 4, "format": ",~r", "minExtent": 46},
    }


def _what() -> dict[str, Any]:
    return {
        "field": "what",
        "type": "nominal",
        "sort": None,
        "legend": {"title": None, "symbolType": "stroke"},
    }
