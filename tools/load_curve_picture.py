"""The picture of README.md: energy per output token against the offered load, from the records in data/, as an SVG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from wattcount.result import Result
from wattcount.result.host_part import PER_TOKEN
from wattcount.study.pooled import pooled

WIDTH, HEIGHT = 760, 400
"""Size of the picture [px]."""
LEFT, RIGHT, TOP, BOTTOM = 78, 26, 44, 62
"""Margins of the plot [px]."""
COLOURS = ("#b45309", "#0f766e")
"""One for each curve; both can be read on white and on black, and told apart without colour vision by the marks."""
RATES = (1, 64)
"""Ends of the axis of the load [requests/s]."""
ENERGIES_J = (0.05, 4.0)
"""Ends of the axis of energy [J per output token]."""


MODEL = "llama3_8b"
"""The model whose curve was measured on both GPUs."""


@dataclass(frozen=True)
class Spot:
    """A measured load: requests/s, J per output token, and its 95 % uncertainty [J]."""

    rate_rps: float
    energy_j: float
    u95_j: float


def spots(runs: Sequence[Result]) -> list[Spot]:
    """The loads that MODEL was measured at as a server with nothing turned, repeats pooled, the lowest first."""
    chosen = [run for run in runs if run.scenario == "server" and run.model == MODEL and not run.levers]
    found = []
    for row in pooled(chosen):
        rate, energy_j, u95_j = row.runs[0].rate_rps, row.mean(PER_TOKEN), row.u95(PER_TOKEN)
        if rate is not None and energy_j is not None and u95_j is not None:
            found.append(Spot(rate, energy_j, u95_j))
    return sorted(found, key=lambda spot: spot.rate_rps)


def svg(curves: Sequence[tuple[str, Sequence[Spot]]]) -> str:
    """The picture; both axes are logarithmic. `curves`: name and measured loads of each GPU."""
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" width="{WIDTH}" height="{HEIGHT}" '
        'font-family="system-ui, sans-serif" font-size="14">',
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>',
        f'<text x="{LEFT}" y="24" font-size="16" fill="#111827">Energy of a token falls as the GPU fills</text>',
    ]
    for energy_j in (0.1, 0.2, 0.5, 1.0, 2.0):
        y = _y(energy_j)
        parts.append(f'<line x1="{LEFT}" y1="{y:.1f}" x2="{WIDTH - RIGHT}" y2="{y:.1f}" stroke="#e5e7eb"/>')
        parts.append(
            f'<text x="{LEFT - 10}" y="{y + 5:.1f}" text-anchor="end" fill="#374151">{energy_j:g}</text>'
        )
    for rate in (1, 2, 4, 8, 16, 32, 64):
        x = _x(rate)
        parts.append(
            f'<text x="{x:.1f}" y="{HEIGHT - BOTTOM + 24}" text-anchor="middle" fill="#374151">{rate}</text>'
        )
    middle = (TOP + HEIGHT - BOTTOM) / 2
    parts.append(
        f'<text transform="translate(20 {middle:.0f}) rotate(-90)" text-anchor="middle" fill="#374151">J per output token</text>'
    )
    parts.append(
        f'<text x="{(LEFT + WIDTH - RIGHT) / 2:.0f}" y="{HEIGHT - 14}" text-anchor="middle" fill="#374151">'
        "offered load [requests/s], 512 tokens in, 128 out</text>"
    )
    for number, (name, found) in enumerate(curves):
        parts += _curve(name, found, COLOURS[number], number)
    return "\n".join([*parts, "</svg>", ""])


def _curve(name: str, found: Sequence[Spot], colour: str, number: int) -> list[str]:
    line = " ".join(f"{_x(spot.rate_rps):.1f},{_y(spot.energy_j):.1f}" for spot in found)
    parts = [
        f'<polyline points="{line}" fill="none" stroke="{colour}" stroke-width="1.5" stroke-opacity="0.6"/>'
    ]
    for spot in found:
        x, y = _x(spot.rate_rps), _y(spot.energy_j)
        low, high = _y(spot.energy_j - spot.u95_j), _y(spot.energy_j + spot.u95_j)
        parts.append(
            f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(_mark(x, y, colour, number))
    x, y = WIDTH - RIGHT - 190, TOP + 18 + 26 * number
    parts.append(_mark(x, y, colour, number))
    parts.append(f'<text x="{x + 14}" y="{y + 5}" fill="#111827">{name}</text>')
    return parts


def _mark(x: float, y: float, colour: str, number: int) -> str:
    if number == 0:
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>'
    return f'<rect x="{x - 3.5:.1f}" y="{y - 3.5:.1f}" width="7" height="7" fill="{colour}"/>'


def _x(rate_rps: float) -> float:
    return LEFT + 20 + (WIDTH - LEFT - RIGHT - 40) * _share(rate_rps, RATES)


def _y(energy_j: float) -> float:
    return HEIGHT - BOTTOM - (HEIGHT - TOP - BOTTOM) * _share(energy_j, ENERGIES_J)


def _share(value: float, ends: tuple[float, float]) -> float:
    return math.log(value / ends[0]) / math.log(ends[1] / ends[0])
