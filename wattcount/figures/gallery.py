"""All kinds of pictures, and their specs without data: what the pages draw with data of their own."""

from __future__ import annotations

from wattcount.figures import budget, comparing, effects, latency, load, pareto, power, theme
from wattcount.figures.figure import Spec

KINDS = {
    power.NAME: power.spec,
    latency.NAME: latency.spec,
    budget.NAME: budget.spec,
    load.NAME: load.spec,
    comparing.NAME: comparing.spec,
    effects.NAME: effects.spec,
    pareto.NAME: pareto.spec,
}
"""By name what makes the spec."""


def specs() -> dict[str, Spec]:
    """The spec of each kind."""
    return {name: make() for name, make in KINDS.items()}


def themes() -> dict[str, Spec]:
    """Colours and fonts for both kinds of screen, by `light` and `dark`."""
    return {"light": theme.config(), "dark": theme.config(dark=True)}
