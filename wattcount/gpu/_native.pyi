"""The native module as Python sees it (csrc/bindings.cpp). Only `wattcount.gpu` imports it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

class NvmlError(RuntimeError):
    """An NVML call failed. `code` is its nvmlReturn_t, `function` its name."""

    code: int
    function: str

class NvmlLibraryNotFound(RuntimeError):  # noqa: N818 - named as FileNotFoundError is
    """No NVML library could be loaded. The message says what to do."""

def build_config() -> dict[str, str]:
    """Version, build type, compiler, C++ standard and pybind11 of this binary."""

class Nvml:
    """A loaded and initialised NVML library: `path`, else $WATTCOUNT_NVML_PATH, else libnvidia-ml.so.1.

    Raises NvmlLibraryNotFound or NvmlError. Its methods raise NvmlError.
    """

    def __init__(self, path: str | None = None) -> None: ...
    @property
    def path(self) -> str:
        """The real path of the loaded library."""
    @property
    def emulated(self) -> bool:
        """Whether the library exports `wattcount_nvml_emulator_version`."""
    @property
    def driver_version(self) -> str: ...
    @property
    def nvml_version(self) -> str: ...
    @property
    def cuda_driver_version(self) -> int | None: ...
    def missing_symbols(self) -> list[str]:
        """The functions that this library does not export."""
    def device_count(self) -> int: ...
    def device_uuids(self) -> list[str]: ...
    def device_info(self, uuid: str) -> dict[str, Any]:
        """The facts of `GpuFacts` in wattcount/gpu/nvml.py. None: NVML does not tell it."""
    def compute_processes(self, uuid: str) -> list[tuple[int, int | None]]:
        """(process id, used memory [bytes] or None) of each compute process."""
    def supported_sm_clocks_mhz(self, uuid: str) -> list[int]:
        """The SM clocks [MHz, ascending] that the device can be locked to. Empty: NVML does not tell them."""
    # These change the device for every process, and the change stays when this process ends.
    def set_power_limit_mw(self, uuid: str, limit_mw: int) -> None: ...
    def lock_sm_clock_mhz(self, uuid: str, clock_mhz: int) -> None: ...
    def unlock_sm_clock(self, uuid: str) -> None: ...
    def close(self) -> None:
        """Shut NVML down. Nothing of this object may be used afterwards."""

class Sampler:
    """Reads all sources of these GPUs, with one native thread for each. See csrc/sampler/sampler.h.

    `plan`: the fields of `SamplingPlan` there, but for the clock. Raises ValueError for a period that is too short.
    """

    def __init__(self, nvml: Nvml, uuids: list[str], plan: dict[str, Any]) -> None: ...
    def start(self, limit_ns: int = ...) -> None:
        """Raises RuntimeError if NVML does not answer within the limit. Python handles signals meanwhile."""
    def stop(self, limit_ns: int = ...) -> bool:
        """Whether the threads have ended within the limit. Python handles signals meanwhile."""
    def mark(self) -> None:
        """Make each thread read all its sources now."""
    def drain(self) -> list[NDArray[np.void]]:
        """The events since the last drain: for each GPU one array of EVENT_DTYPE, not copied."""
    def latest(self) -> list[dict[str, int]]:
        """The newest value of each source that works, by its name, for each GPU."""
    def health(self) -> list[dict[str, Any]]:
        """How the sampling goes, for each GPU: cpu_ns, wall_ns, missed deadlines, dropped events; and each source's state,
        calls, errors and call times."""

def emulator_profiles() -> list[dict[str, Any]]:
    """The sensor profiles that the emulator knows. See csrc/emulator/profile.h."""

class VirtualSensors:
    """The sensors of one emulated GPU in virtual time. Every question names its moment [ns].

    The true power is `power_w[i]` from `t_ns[i]` on. Raises ValueError for a profile that does not exist and for a
    curve whose times do not increase. Phases: shares (0..1) of the period, None: from the seed.
    """

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
        """(stamps [ns], power [W]) of the samples in the ring at `t_ns` whose stamp is above `after_ns`."""
    def samples(
        self, start_ns: int, end_ns: int
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.float64]]:
        """(slots, stamps [ns], power [W]) of all samples with a stamp in [start, end), also more than the ring holds."""

class LiveTruthWriter:
    """The writer of a true power curve that others read meanwhile. See csrc/emulator/live_truth.h."""

    def __init__(self, path: str, capacity: int) -> None: ...
    @staticmethod
    def attach(path: str) -> LiveTruthWriter:
        """Go on after the last point of another writer, which must not append any more."""
    def append(self, t_ns: int, power_mw: int) -> None:
        """From `t_ns` on the power is `power_mw`. Raises ValueError for a negative power."""
    @property
    def clamped(self) -> int:
        """How many points were moved to a later moment, up to which a reader had read already."""
    def history(self) -> list[tuple[int, int]]:
        """(t_ns, power_mw) of all points since this writer came, as they took effect."""
