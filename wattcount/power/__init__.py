"""Power and energy of GPUs: sampling them, and the energy of an interval.

`PowerSampler` needs the native module; traces are read without it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wattcount.power.energy import EnergyEstimate
from wattcount.power.trace import PowerTrace

if TYPE_CHECKING:
    from wattcount.power.sampler import PowerSampler

__all__ = ["EnergyEstimate", "PowerSampler", "PowerTrace"]


def __getattr__(name: str) -> Any:
    if name == "PowerSampler":
        from wattcount.power.sampler import PowerSampler

        return PowerSampler
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
