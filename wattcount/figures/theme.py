"""How all pictures look, in light and in dark: fonts, lines, colours. The pages' style sheet has the same colours."""

from __future__ import annotations

from typing import Any

FONT = "system-ui, -apple-system, 'Segoe UI', Roboto, 'DejaVu Sans', 'Liberation Sans', sans-serif"
"""What screens are read in; the last ones are for machines without a desktop."""
SIZE = 12
"""Size of all text [pixels]: legible on a phone."""
_LIGHT = {
    "background": "#ffffff",
    "text": "#1d2530",
    "quiet": "#56616f",
    "grid": "#e3e7ec",
    "mark": "#1d2530",
}
_DARK = {"background": "#14181d", "text": "#e8ecf1", "quiet": "#a7b1bd", "grid": "#2c343d", "mark": "#e8ecf1"}
"""Ground, text, axes, lines of the grid, and marks without a colour of their own."""
LIGHT_COLOURS = ("#0067b1", "#c2410c", "#0f766e", "#9333b7", "#8a6d00", "#be185d", "#475569", "#4d7c0f")
DARK_COLOURS = ("#6cb6ff", "#ff9e64", "#4fd1c5", "#d19cf0", "#e5c45a", "#ff8fb8", "#b3bfcc", "#a3d65c")
"""Colours of categories, in order: 4.5 to 1 against the ground, and told apart by people who see less red or green."""
MOST_CATEGORIES = len(LIGHT_COLOURS)
"""Lines that one picture can tell apart."""


def config(dark: bool = False) -> dict[str, Any]:
    """Vega-Lite's `config`."""
    ground = _DARK if dark else _LIGHT
    colours = list(DARK_COLOURS if dark else LIGHT_COLOURS)
    return {
        "background": ground["background"],
        "font": FONT,
        "padding": 6,
        "customFormatTypes": False,
        "view": {"stroke": None},
        "axis": {
            "labelColor": ground["quiet"],
            "titleColor": ground["text"],
            "labelFontSize": SIZE,
            "titleFontSize": SIZE,
            "titleFontWeight": "normal",
            "gridColor": ground["grid"],
            "domainColor": ground["quiet"],
            "tickColor": ground["quiet"],
            "labelOverlap": True,
        },
        "axisX": {"grid": False},
        "axisY": {"domain": False, "ticks": False},
        "legend": {
            "labelColor": ground["text"],
            "titleColor": ground["text"],
            "labelFontSize": SIZE,
            "titleFontSize": SIZE,
            "titleFontWeight": "normal",
            "orient": "top",
            "direction": "horizontal",
            "offset": 4,
            "layout": {"top": {"direction": "vertical", "anchor": "start", "margin": 4}},
            "columns": 2,
            "labelLimit": 300,
            "symbolStrokeWidth": 2,
            "symbolType": "circle",
            "symbolBaseFillColor": ground["mark"],
            "symbolBaseStrokeColor": ground["mark"],
            "symbolSize": 60,
        },
        "title": {"color": ground["text"], "fontSize": 13, "fontWeight": 600, "anchor": "start"},
        "text": {"color": ground["text"], "fontSize": SIZE},
        "rule": {"color": ground["quiet"]},
        "point": {"filled": True, "size": 55, "opacity": 1},
        "line": {"strokeWidth": 1.6, "strokeCap": "round", "strokeJoin": "round"},
        "tick": {"color": ground["mark"]},
        "range": {"category": colours},
    }
