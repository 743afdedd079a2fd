"""The native module as Python sees it (csrc/bindings.cpp). Only `wattcount.gpu` imports it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

class NvmlError(RuntimeError):
    """An NVML call failed. `code` is the nvmlReturn_t, `function` the NVML function."""

    code: int
    function: str

class NvmlLibraryNotFound(RuntimeError): ...  # noqa: N818 - says what, as FileNotFound does

def build_config() -> dict[str, str]:
    """How this binary was built: compiler, flags, version, pybind11, build type."""

class Nvml:
    """A loaded and initialised NVML library (`path`, else $WATTCOUNT_NVML_PATH, else libnvidia-ml.so.1)."""

    def __init__(self, path: str | None = None) -> None: ...
    @property
    def path(self) -> str:
        """Real path of the loaded library, as the dynamic linker found it."""
    @property
    def emulated(self) -> bool:
        """The library exports `wattcount_nvml_emulator_version`."""
    @property
    def driver_version(self) -> str: ...
    @property
    def nvml_version(self) -> str: ...
    @property
    def cuda_driver_version(self) -> int | None: ...
    def missing_symbols(self) -> list[str]: ...
    def device_count(self) -> int: ...
    def device_uuids(self) -> list[str]: ...
    def device_info(self, uuid: str) -> dict[str, Any]:
        """Everything NVML says of the device; None for what it does not (see power/nvml.py)."""
    def compute_processes(self, uuid: str) -> list[tuple[int, int | None]]:
        """(pid, used bytes) of compute processes."""
    def supported_sm_clocks_mhz(self, uuid: str) -> list[int]:
        """SM clocks the device can be locked to, ascending; empty where NVML does not tell."""
    # What changes the device, for every process on it and beyond the end of this one:
    def set_power_limit_mw(self, uuid: str, limit_mw: int) -> None: ...
    def lock_sm_clock_mhz(self, uuid: str, clock_mhz: int) -> None: ...
    def unlock_sm_clock(self, uuid: str) -> None: ...
    def close(self) -> None: ...

class Sampler:
    """One native thread per GPU. See csrc/sampler/sampler.h."""

    def __init__(self, nvml: Nvml, uuids: list[str], plan: dict[str, Any]) -> None: ...
    def start(self, limit_ns: int = ...) -> None:
        """Raises RuntimeError where NVML does not answer within the limit. Signals are heard meanwhile."""
    def stop(self, limit_ns: int = ...) -> bool:
        """Whether the threads have ended: one may not return from a call of NVML. Signals are heard meanwhile."""
    def mark(self) -> None:
        """Ask every thread to read every source once, now."""
    def drain(self) -> list[NDArray[np.void]]:
        """Per GPU the events since the last drain, EVENT_DTYPE; the arrays own what the sampler wrote."""
    def latest(self) -> list[dict[str, int]]:
        """Per GPU the newest value of each source that works."""
    def health(self) -> list[dict[str, Any]]:
        """Per GPU: cpu_ns, wall_ns, missed_deadlines, dropped_events, calls / errors / call-time quantiles per source, state."""

def emulator_profiles() -> list[dict[str, Any]]: ...

class VirtualSensors:
    """The sensors of one emulated GPU; every question carries its own moment (int64 ns)."""

    def __init__(
        self,
        profile: str,
        t_ns: NDArray[np.int64],
        power_w: NDArray[np.float64],
        seed: int,
        gain: float,
        offset_w: float,
        counter_phase: float | None,
        power_phase: float | None,
        ring_phase: float | None,
    ) -> None: ...
    def counter_j(self, t_ns: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def average_w(self, t_ns: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def instant_w(self, t_ns: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def usage_w(self, t_ns: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def true_energy_j(self, t_ns: NDArray[np.int64]) -> NDArray[np.float64]: ...
    def ring(self, t_ns: int, after_ns: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """(stamps ns, watts) of the ring at `t_ns`, stamps above `after_ns` only."""
    def samples(
        self, start_ns: int, end_ns: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(slot numbers, stamps ns, watts) of all ring samples stamped in [start, end), whatever the depth."""

class LiveTruthWriter:
    def __init__(self, path: str, capacity: int) -> None: ...
    @staticmethod
    def attach(path: str) -> LiveTruthWriter:
        """Goes on where the last writer left off."""
    def append(self, t_ns: int, power_mw: int) -> None: ...
    @property
    def clamped(self) -> int: ...
    def history(self) -> list[tuple[int, int]]: ...
