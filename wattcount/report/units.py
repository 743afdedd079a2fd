"""Numbers for people: few significant digits, a prefix that fits, never a unit left to guess."""

from __future__ import annotations

from collections.abc import Iterable

DIGITS = 4
"""Significant digits shown; the sensors are worth fewer."""

_PREFIXES: dict[str, list[tuple[float, str]]] = {
    "J": [(1e6, "MJ"), (1e3, "kJ"), (1.0, "J"), (1e-3, "mJ"), (1e-6, "uJ")],
    "W": [(1.0, "W"), (1e-3, "mW")],
    "s": [(1.0, "s"), (1e-3, "ms"), (1e-6, "us")],
    "ms": [(1e3, "s"), (1.0, "ms"), (1e-3, "us")],
}
"""Size of each prefixed unit in units of the key, largest first."""
_WORDS = {"1": "", "C": "degC"}


def significant(value: float, digits: int = DIGITS) -> str:
    """`value` with `digits` significant digits, without an exponent: 12340, 1.234, 0.01234."""
    if value == 0:
        return "0"
    exponent = int(f"{value:.{digits - 1}e}".rsplit("e", 1)[1])  # of the rounded value: 0.99996 is 1.000
    decimals = max(digits - 1 - exponent, 0)
    return f"{value:.{decimals}f}"


def scale_for(values: Iterable[float | None], unit: str, digits: int = DIGITS) -> tuple[float, str]:
    """(size of the unit to show, its name) that suits the smallest of `values`: 0.0813 J -> (1e-3, `mJ`)."""
    steps = _PREFIXES.get(unit)
    if steps is None:
        return 1.0, _WORDS.get(unit, unit)
    # Rounded first: 999.96 mJ is 1.000 J, not 1000.0 mJ.
    sizes = [abs(float(f"{value:.{digits - 1}e}")) for value in values if value]
    if not sizes:
        return 1.0, unit
    return next((step for step in steps if min(sizes) >= step[0]), steps[-1])


def quantity(value: float | None, unit: str, digits: int = DIGITS) -> str:
    """`value` in `unit` (as in the metrics registry), with a prefix: 0.0813 J -> `81.30 mJ`.

    Counts are whole; None is `-`.
    """
    if value is None:
        return "-"
    if unit == "bitmask":
        return f"0x{int(value):x}"
    scale, name = scale_for([value], unit, digits)
    text = str(value) if isinstance(value, int) and unit in ("1", "C") else significant(value / scale, digits)
    return f"{text} {name}".strip()
