"""Energy of a token against a latency or throughput: each setting a point with its interval, and the line of those that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from wattcount.figures.figure import Figure, Row, Spec
from wattcount.figures.labels import shown
from wattcount.records.schema import Evidence

NAME = "tradeoff"
"""Name of the picture, and of its files."""
SHAPES = {Evidence.MEASURED: "circle", Evidence.PREDICTED: "diamond", Evidence.EMULATED: "triangle-up"}
"""Shape of a point by its evidence, so that what was measured is told from what was not."""


@dataclass(frozen=True, kw_only=True)
class Tradeoff:
    """A setting. None: not known.

    what     whose colour it has, such as its GPU
    against  the other figure, in the unit that the picture's axis says
    j_per_token, low_j_per_token, high_j_per_token   energy of an output token and its 95 % interval [J]
    """

    name: str
    what: str
    against: float
    j_per_token: float
    low_j_per_token: float | None = None
    high_j_per_token: float | None = None
    evidence: Evidence = Evidence.MEASURED


def tradeoff(points: Sequence[Tradeoff], against: str, *, less_is_better: bool = True) -> Figure:
    """`against`: what the other figure is, with its unit. The line joins measured points only."""
    made = spec()
    for layer in made["layer"]:
        layer["encoding"]["x"]["axis"]["title"] = against
    return Figure(NAME, made, rows(points, less_is_better), f"Energy per output token against {against}")


def rows(points: Sequence[Tradeoff], less_is_better: bool = True) -> dict[str, list[Row]]:
    """Rows by the names that the spec has; `order` is less where the other figure is better."""
    return {
        "points": [
            {
                "name": shown(point.name),
                "what": shown(point.what),
                "x": point.against,
                "order": point.against if less_is_better else -point.against,
                "value": 1e3 * point.j_per_token,
                "low": None if point.low_j_per_token is None else 1e3 * point.low_j_per_token,
                "high": None if point.high_j_per_token is None else 1e3 * point.high_j_per_token,
                "evidence": point.evidence.value,
            }
            for point in points
        ]
    }


def spec() -> Spec:
    """Vega-Lite with the data `points`. A row's `href`, where it has one, is opened by a click."""
    x = {
        "field": "x",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 12},
        "axis": {"title": None, "format": ",~r", "tickCount": 8, "grid": True},
    }
    y = {
        "field": "value",
        "type": "quantitative",
        "scale": {"type": "log", "nice": False, "padding": 12},
        "axis": {"title": "energy per output token [mJ]", "format": ",~r", "tickCount": 6},
    }
    colour = {
        "field": "what",
        "type": "nominal",
        "sort": None,
        "legend": {"title": None, "columns": 4, "symbolOpacity": 1},
    }
    shape = {
        "field": "evidence",
        "type": "nominal",
        "scale": {"domain": [one.value for one in SHAPES], "range": list(SHAPES.values())},
        "legend": None,
    }
    return {
        "title": "Energy per output token, against",
        "data": {"name": "points"},
        "width": 640,
        "height": 300,
        "layer": [
            {
                "name": "frontier",
                "transform": [
                    {"filter": "datum.evidence === 'measured'"},
                    {
                        "window": [{"op": "min", "field": "value", "as": "least"}],
                        "sort": [{"field": "order"}, {"field": "value"}],
                        "frame": [None, 0],
                    },
                    {"filter": "datum.value <= datum.least"},
                ],
                "mark": {"type": "line", "strokeWidth": 1.2, "opacity": 0.6, "strokeDash": [5, 4]},
                "encoding": {"x": x, "y": y, "order": {"field": "order", "type": "quantitative"}},
            },
            {
                "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
                "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.35},
                "encoding": {"x": x, "y": {**y, "field": "low"}, "y2": {"field": "high"}, "color": colour},
            },
            {
                "mark": {"type": "point", "size": 65, "opacity": 0.85},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "shape": shape,
                    "href": {"field": "href", "type": "nominal"},
                    "tooltip": [
                        {"field": "name", "type": "nominal", "title": "setting"},
                        {"field": "value", "type": "quantitative", "title": "mJ", "format": ".4~r"},
                        {"field": "low", "type": "quantitative", "title": "at least", "format": ".4~r"},
                        {"field": "high", "type": "quantitative", "title": "at most", "format": ".4~r"},
                        {"field": "x", "type": "quantitative", "title": "against", "format": ".4~r"},
                        {"field": "evidence", "type": "nominal", "title": "evidence"},
                    ],
                },
            },
        ],
    }
