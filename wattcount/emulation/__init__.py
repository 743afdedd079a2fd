"""Emulated machines: NVML with GPUs whose true power is known, and the power that a CPU engine gives them."""
