"""Every picture of wattcount: plain functions that take records and rows, and give a `Figure` (docs/figures.md)."""

from wattcount.figures.budget import energy_budget
from wattcount.figures.comparing import Compared, Value, compare
from wattcount.figures.effects import LeverEffect, lever_effects, levers
from wattcount.figures.figure import Figure
from wattcount.figures.latency import latency_distribution
from wattcount.figures.load import LoadPoint, load_curve, load_points
from wattcount.figures.pareto import Tradeoff, tradeoff
from wattcount.figures.power import power_trace

__all__ = [
    "Compared",
    "Figure",
    "LeverEffect",
    "LoadPoint",
    "Tradeoff",
    "Value",
    "compare",
    "energy_budget",
    "latency_distribution",
    "lever_effects",
    "levers",
    "load_curve",
    "load_points",
    "power_trace",
    "tradeoff",
]
