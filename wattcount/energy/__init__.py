"""Energy of an interval: traces of power and of counters, and what they say with which uncertainty.

It knows neither a configuration nor an engine, and needs no native module.
"""

from __future__ import annotations

from wattcount.energy.trace import PowerTrace
from wattcount.energy.uncertainty import EnergyEstimate

__all__ = ["EnergyEstimate", "PowerTrace"]
