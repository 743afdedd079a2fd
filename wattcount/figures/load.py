"""Energy, good requests and latency by offered load: only at the rates that were measured, joined by lines between them, and none beyond."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from wattcount.config.schema import SloConfig
from wattcount.figures.figure import Figure, Row, Spec
from wattcount.figures.labels import shown
from wattcount.records.schema import Evidence
from wattcount.study.curves import Curve, Point
from wattcount.study.service import bounds_of

NAME = "load_curve"
"""Of the spec."""
MEASURED, KNEE, OVERLOADED = "measured", "knee", "could not keep up"
"""What a point is, by its shape."""


@dataclass(frozen=True, kw_only=True)
class LoadPoint:
    """What was measured at one rate. None: not known.

    curve                name of its curve: what all its points share
    rate_rps             offered load [requests/s]
    j_per_token, low_j_per_token, high_j_per_token   energy of an output token and its 95 % interval [J]
    j_per_request        [J]
    good_low, good_high  least and most share of the requests that keep the SLO
    ttft_ms, tpot_ms     percentile 95 [ms]
    knee                 from here on a token hardly gets cheaper
    overloaded           the server could not keep up in most of the runs
    """

    curve: str
    rate_rps: float
    j_per_token: float
    low_j_per_token: float | None = None
    high_j_per_token: float | None = None
    j_per_request: float | None = None
    good_low: float | None = None
    good_high: float | None = None
    ttft_ms: float | None = None
    tpot_ms: float | None = None
    knee: bool = False
    overloaded: bool = False


def load_points(curves: Iterable[Curve]) -> list[LoadPoint]:
    """The points of curves of a study, whose SLO tells which requests are good."""
    return [_point(curve, point) for curve in curves for point in curve.points]


def curve_name(curve: Curve) -> str:
    """`llama3_8b on NVIDIA H200, fp8`: what the points share, without their rate. What was not measured says so."""
    run = curve.first.first
    words = [f"{run.model or 'unknown model'} on {curve.first.gpu}", *run.particulars, *run.levers]
    if run.evidence is not Evidence.MEASURED:
        words.insert(0, str(run.evidence or "unknown evidence").upper())
    return shown(", ".join(words))


def _point(curve: Curve, point: Point) -> LoadPoint:
    share = point.attained
    return LoadPoint(
        curve=curve_name(curve),
        rate_rps=point.rate_rps,
        j_per_token=point.per_token.value,
        low_j_per_token=point.per_token.low,
        high_j_per_token=point.per_token.high,
        j_per_request=point.per_request,
        good_low=None if share is None else share.low,
        good_high=None if share is None else share.high,
        ttft_ms=point.cell.middle("latency/ttft_p95_ms"),
        tpot_ms=point.cell.middle("latency/tpot_p95_ms"),
        knee=point is curve.knee,
        overloaded=2 * point.overloaded > len(point.cell.runs),
    )


def load_curve(
    points: Sequence[LoadPoint], slo: SloConfig | None = None, caveats: Sequence[str] = ()
) -> Figure:
    """Of the points of one curve or several. `slo`: the bounds that good requests keep, drawn beside the latencies; `caveats`: of all of
    them."""
    names = ", ".join(dict.fromkeys(point.curve for point in points))
    return Figure(NAME, spec(), rows(points, slo), f"Energy and latency by load: {names}", caveats)


def rows(points: Sequence[LoadPoint], slo: SloConfig | None = None) -> dict[str, list[Row]]:
    """Rows by the names that the spec has."""
    ordered = sorted(points, key=lambda point: (point.curve, point.rate_rps))
    bounds = {} if slo is None else bounds_of(slo)
    return {
        "tokens": [
            {
                **_at(point),
                "value": 1e3 * point.j_per_token,
                "low": None if point.low_j_per_token is None else 1e3 * point.low_j_per_token,
                "high": None if point.high_j_per_token is None else 1e3 * point.high_j_per_token,
            }
            for point in ordered
        ],
        "good": [row for point in ordered if (row := _good(point)) is not None],
        "ttft": [{**_at(point), "value": point.ttft_ms} for point in ordered if point.ttft_ms is not None],
        "tpot": [{**_at(point), "value": point.tpot_ms} for point in ordered if point.tpot_ms is not None],
        "ttft_slo": [{"ms": bounds["ttft"]}] if "ttft" in bounds else [],
        "tpot_slo": [{"ms": bounds["tpot"]}] if "tpot" in bounds else [],
    }


def _at(point: LoadPoint) -> dict[str, Any]:
    return {
        "what": point.curve,
        "rate_rps": point.rate_rps,
        "kind": OVERLOADED if point.overloaded else KNEE if point.knee else MEASURED,
    }


def _good(point: LoadPoint) -> Row | None:
    """Energy of a good request: between what it is if most keep the SLO and if least do; without an upper end where none may."""
    if point.j_per_request is None or point.good_high is None or not point.good_high > 0:
        return None
    low = point.j_per_request / point.good_high
    high = point.j_per_request / point.good_low if point.good_low else None
    return {**_at(point), "value": low, "low": low, "high": high, "share": point.good_high}


def spec() -> Spec:
    """Vega-Lite with the data `tokens`, `good`, `ttft`, `tpot`, and `ttft_slo`, `tpot_slo` with a bound each."""
    return {
        "vconcat": [
            _panel(
                "tokens",
                "Energy per output token [mJ], log scale",
                200,
                "mJ per token",
                log=True,
            ),
            _panel("good", "Energy per good request [J], log scale", 150, "J per good request", log=True),
            _panel("ttft", "Time to first token, percentile 95 [ms], log scale", 110, "ms", log=True),
            _panel("tpot", "Time per output token, percentile 95 [ms]", 110, "ms", log=False),
        ],
        "spacing": 14,
        "resolve": {"scale": {"x": "shared", "color": "shared", "shape": "shared"}},
    }


_DECADES = {
    "gridOpacity": {
        "condition": {
            "test": "abs(log(datum.value) / LN10 - round(log(datum.value) / LN10)) < 1e-6",
            "value": 1,
        },
        "value": 0.35,
    }
}
"""Lines of a log scale's grid: those of 10, 100, ... stand out."""


def _panel(name: str, title: str, height: int, unit: str, *, log: bool) -> Spec:
    x = {
        "field": "rate_rps",
        "type": "quantitative",
        "scale": {"type": "log", "base": 2, "nice": False, "padding": 12},
        "axis": {
            "title": "offered load [requests/s], log scale",
            "format": "~r",
            "tickCount": 8,
            "grid": True,
        },
    }
    scale = {"type": "log", "nice": False, "padding": 10} if log else {"zero": True}
    y = {
        "field": "value",
        "type": "quantitative",
        "scale": scale,
        "axis": {
            "title": None,
            "tickCount": 4,
            "format": ",~r",
            "minExtent": 46,
            **(_DECADES if log else {}),
        },
    }
    colour = {
        "field": "what",
        "type": "nominal",
        "sort": None,
        "legend": {"title": None, "symbolType": "stroke", "columns": 1, "labelLimit": 620},
    }
    shape = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": [MEASURED, KNEE, OVERLOADED], "range": ["circle", "diamond", "triangle-down"]},
        "legend": {"title": None, "columns": 3},
    }
    tooltip = [
        {"field": "what", "type": "nominal", "title": "of"},
        {"field": "rate_rps", "type": "quantitative", "title": "requests/s", "format": ".4~r"},
        {"field": "value", "type": "quantitative", "title": unit, "format": ".4~r"},
    ]
    layers: list[Spec] = [
        {
            "mark": {"type": "line", "strokeWidth": 1.2, "opacity": 0.7},
            "encoding": {"x": x, "y": y, "color": colour},
        }
    ]
    if name in ("tokens", "good"):
        between = [
            {"field": "low", "type": "quantitative", "title": "at least", "format": ".4~r"},
            {"field": "high", "type": "quantitative", "title": "at most", "format": ".4~r"},
        ]
        tooltip += between
        layers.append(
            {
                "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
                "mark": {"type": "rule", "strokeWidth": 3, "opacity": 0.4},
                "encoding": {
                    "x": x,
                    "y": {**y, "field": "low"},
                    "y2": {"field": "high"},
                    "color": colour,
                },
            }
        )
    if name == "good":
        tooltip.append(
            {"field": "share", "type": "quantitative", "title": "keep the SLO, at most", "format": ".1%"}
        )
    if name in ("ttft", "tpot"):
        layers.append(
            {
                "data": {"name": f"{name}_slo"},
                "mark": {"type": "rule", "strokeDash": [5, 4], "strokeWidth": 1.5},
                "encoding": {
                    "y": {"field": "ms", "type": "quantitative"},
                    "tooltip": [{"field": "ms", "type": "quantitative", "title": "SLO [ms]"}],
                },
            }
        )
    layers.append(
        {
            "mark": {"type": "point", "size": 70},
            "encoding": {"x": x, "y": y, "color": colour, "shape": shape, "tooltip": tooltip},
        }
    )
    return {
        "name": name,
        "title": title,
        "data": {"name": name},
        "width": 640,
        "height": height,
        "layer": layers,
    }
