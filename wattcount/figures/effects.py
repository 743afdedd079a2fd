"""What levers do to the energy of a token: each with its interval, beside no effect."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from wattcount.figures.figure import Figure, Row, Spec
from wattcount.figures.labels import shown
from wattcount.study.comparison import Tell

NAME = "levers"
"""Of the spec."""


@dataclass(frozen=True)
class LeverEffect:
    """A lever at a load on a GPU: the change of the energy of an output token [%] with its 95 % interval; None: not known."""

    lever: str
    where: str
    percent: float
    low_percent: float | None
    high_percent: float | None
    tell: Tell


def lever_effects(answered: Iterable[Mapping[str, Any]]) -> list[LeverEffect]:
    """From the rows of the study's answer `levers`; pairs that nothing was compared of are left out."""
    return [
        LeverEffect(
            lever=str(row["lever"]),
            where=f"{row['model']}, {row['load']}, {row['gpu']}",
            percent=float(row["change_percent"]),
            low_percent=row.get("low_percent"),
            high_percent=row.get("high_percent"),
            tell=Tell(row["tell"]),
        )
        for row in answered
        if row.get("change_percent") is not None
    ]


def levers(effects: Sequence[LeverEffect]) -> Figure:
    """Those that save most come first."""
    return Figure(
        NAME,
        spec(),
        rows(effects),
        "Change of the energy of an output token by each lever, with 95 % intervals",
    )


def rows(effects: Sequence[LeverEffect]) -> dict[str, list[Row]]:
    ordered = sorted(effects, key=lambda effect: effect.percent)
    return {
        "levers": [
            {
                "row": number,
                "lever": shown(effect.lever),
                "name": shown(f"{effect.lever}: {effect.where}"),
                "percent": effect.percent,
                "low": effect.low_percent,
                "high": effect.high_percent,
                "what": effect.tell.value,
            }
            for number, effect in enumerate(ordered)
        ]
    }


def spec() -> Spec:
    """Vega-Lite with the data `levers`."""
    x = {
        "field": "percent",
        "type": "quantitative",
        "axis": {
            "title": "change of the energy per output token [%]",
            "format": "+~r",
            "tickCount": 7,
            "grid": True,
        },
    }
    y = {"field": "row", "type": "ordinal", "sort": None, "axis": None}
    colour = {
        "field": "what",
        "type": "nominal",
        "scale": {"domain": [Tell.LESS.value, Tell.MORE.value, Tell.CANNOT.value]},
        "legend": {"title": None, "columns": 3},
    }
    return {
        "title": "What each lever does to the energy of a token",
        "data": {"name": "levers"},
        "width": 640,
        "height": {"step": 40},
        "layer": [
            {"mark": {"type": "rule", "strokeWidth": 1.2}, "encoding": {"x": {"datum": 0}}},
            {
                "transform": [{"filter": "isValid(datum.low) && isValid(datum.high)"}],
                "mark": {"type": "rule", "strokeWidth": 5, "opacity": 0.4, "yOffset": 8},
                "encoding": {"x": {**x, "field": "low"}, "x2": {"field": "high"}, "y": y, "color": colour},
            },
            {
                "mark": {"type": "point", "size": 80, "yOffset": 8},
                "encoding": {
                    "x": x,
                    "y": y,
                    "color": colour,
                    "tooltip": [
                        {"field": "name", "type": "nominal", "title": "lever"},
                        {"field": "percent", "type": "quantitative", "title": "%", "format": "+.3~r"},
                        {"field": "low", "type": "quantitative", "title": "from", "format": "+.3~r"},
                        {"field": "high", "type": "quantitative", "title": "to", "format": "+.3~r"},
                        {"field": "what", "type": "nominal", "title": "tell"},
                    ],
                },
            },
            {
                "mark": {
                    "type": "text",
                    "align": "left",
                    "baseline": "middle",
                    "dy": -10,
                    "fontSize": 11,
                    "limit": 640,
                },
                "encoding": {"x": {"value": 0}, "y": y, "text": {"field": "name", "type": "nominal"}},
            },
        ],
    }
