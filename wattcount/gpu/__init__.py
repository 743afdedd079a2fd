"""GPUs through NVML: what they are, what they may be set to, and the threads that sample them.

`PowerSampler` needs the native module.
"""

from __future__ import annotations

from wattcount.gpu.sampler import PowerSampler

__all__ = ["PowerSampler"]
