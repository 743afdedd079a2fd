"""Which of a machine's GPUs this process may use: a batch system gives its jobs some of them.

SLURM and Ray say so in `CUDA_VISIBLE_DEVICES`, which NVML knows nothing of: it shows all GPUs that the process can
open. A run on the one beside its own would measure somebody else's energy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wattcount.errors import NotStartedError

if TYPE_CHECKING:
    from wattcount.power.nvml import GpuFacts

VISIBLE_ENV = "CUDA_VISIBLE_DEVICES"
SLURM_ENVS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
"""Numbers of the GPUs that SLURM gave, on clusters that leave CUDA_VISIBLE_DEVICES alone."""


def visible_gpus(there: Sequence[GpuFacts], environment: Mapping[str, str]) -> list[GpuFacts]:
    """Those of `there` that the environment names, in its order; all where it names none.

    GPUs are named by UUID (or how it begins) or by number. A number is NVML's index, which is CUDA's where
    CUDA_DEVICE_ORDER=PCI_BUS_ID or all GPUs are alike. An instance of MIG is not told apart: all are returned.
    Raises `NotStartedError` where a batch system gave no GPU, or one that NVML does not show.
    """
    name = next((name for name in (VISIBLE_ENV, *SLURM_ENVS) if environment.get(name)), None)
    if name is None:
        return list(there)
    words = [word.strip() for word in environment[name].split(",")]
    if any(word.startswith("MIG-") for word in words):
        return list(there)
    if name in SLURM_ENVS and len(words) == len(there):
        return list(there)  # it may have counted GPUs that it hides from this job
    chosen = []
    for word in words:
        found = _named(word, there)
        if found is None:
            listed = ", ".join(f"{gpu.index}: {gpu.uuid}" for gpu in there) or "none"
            hint = (
                "the batch system gave this job no GPU: ask it for one"
                if word in ("NoDevFiles", "-1")
                else f"NVML shows {listed}"
            )
            raise NotStartedError(f"{name}={environment[name]}: {hint}")
        chosen.append(found)
    return chosen


def _named(word: str, there: Sequence[GpuFacts]) -> GpuFacts | None:
    for gpu in there:
        if word == str(gpu.index) or (word.startswith("GPU-") and gpu.uuid.startswith(word)):
            return gpu
    return None
