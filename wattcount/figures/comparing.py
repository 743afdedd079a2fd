"""Two to six settings side by side: each figure on an axis of its own from zero, with its interval."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from wattcount.figures.figure import Figure, Row, Spec
from wattcount.figures.labels import shown
from wattcount.metrics.metrics_json import spec as metric_spec
from wattcount.result.host_part import PER_TOKEN, WATTS

NAME = "compare"
"""Of the spec."""
MOST = 6
"""Settings that are compared at once: more cannot be told apart at a glance."""
LETTERS = "ABCDEF"
"""What settings are called beside their marks: their names are longer than a phone is wide."""


@dataclass(frozen=True)
class ComparedFigure:
    """A figure that settings are compared by: `value` of a registered key times `factor`, in `unit`."""

    key: str
    title: str
    unit: str
    factor: float = 1.0


FIGURES = (
    ComparedFigure(PER_TOKEN, "Energy per output token", "mJ", 1e3),
    ComparedFigure("energy/gpu_j_per_request", "Energy per request", "J"),
    ComparedFigure(WATTS, "Mean power", "W"),
    ComparedFigure("throughput/output_tokens_per_s", "Output", "tokens/s"),
    ComparedFigure("latency/ttft_p95_ms", "Time to first token, percentile 95", "ms"),
    ComparedFigure("latency/tpot_p95_ms", "Time per output token, percentile 95", "ms"),
)
"""What settings are compared by, from top to bottom."""


@dataclass(frozen=True)
class Value:
    """A figure in its registered unit with its 95 % interval; None: not known."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class Compared:
    """A setting, or a run of one's own: its name, and its figures by key."""

    name: str
    values: Mapping[str, Value]


def compare(settings: Sequence[Compared]) -> Figure:
    """Raises ValueError for fewer than two or more than MOST settings."""
    if not 2 <= len(settings) <= MOST:
        raise ValueError(f"{len(settings)} settings: two to {MOST} can be compared")
    names = "; ".join(f"{letter}: {shown(one.name)}" for letter, one in zip(LETTERS, settings, strict=False))
    return Figure(NAME, spec(), rows(settings), f"Settings side by side: {names}")


def rows(settings: Sequence[Compared]) -> dict[str, list[Row]]:
    """Rows by the names that the spec has: a data set a figure."""
    found: dict[str, list[Row]] = {}
    for number, figure in enumerate(FIGURES):
        found[f"figure{number}"] = [
            {
                "letter": letter,
                "what": f"{letter}: {shown(one.name)}",
                "value": figure.factor * told.value,
                "low": None if told.low is None else figure.factor * told.low,
                "high": None if told.high is None else figure.factor * told.high,
            }
            for letter, one in zip(LETTERS, settings, strict=False)
            if (told := one.values.get(figure.key)) is not None
        ]
    return found


def spec() -> Spec:
    """Vega-Lite with the data `figure0`, `figure1`, ... in the order of FIGURES."""
    return {
        "vconcat": [_panel(number, figure) for number, figure in enumerate(FIGURES)],
        "spacing": 12,
        "resolve": {"scale": {"color": "shared"}},
    }


def _panel(number: int, figure: ComparedFigure) -> Spec:
    better = {"lower": ", less is better", "higher": ", more is better", None: ""}[
        metric_spec(figure.key).better
    ]
    x = {
        "field": "value",
        "type": "quantitative",
        "scale": {"zero": True},
        "axis": {"title": None, "format": ",~r", "tickCount": 6, "grid": True},
    }
    y = {
        "field": "letter",
        "type": "nominal",
        "sort": None,
        "axis": {"title": None, "ticks": False, "domain": False},
    }
    colour = {
        "field": "what",
        "type": "nominal",
        "sort": None,
        "legend": {"title": None, "columns": 1, "labelLimit": 620, "symbolOpacity": 1},
    }
    return {
        "name": f"figure{number}",
        "title": f"{figure.title} [{figure.unit}]{better}",
        "data": {"name": f"figure{number}"},
        "width": 640,
        "height": {"step": 20},
        "layer": [
            {
                "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
                "mark": {"type": "rule", "strokeWidth": 5, "opacity": 0.4},
                "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour},
            },
            {
                "mark": {"type": "point", "size": 80},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "tooltip": [
                        {"field": "what", "type": "nominal", "title": "of"},
                        {"field": "value", "type": "quantitative", "title": figure.unit, "format": ".4~r"},
                        {"field": "low", "type": "quantitative", "title": "at least", "format": ".4~r"},
                        {"field": "high", "type": "quantitative", "title": "at most", "format": ".4~r"},
                    ],
                },
            },
        ],
    }
