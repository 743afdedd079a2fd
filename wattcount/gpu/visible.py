"""Which of a machine's GPUs this process may use: a batch system gives its jobs some of them.

SLURM and Ray say so in `CUDA_VISIBLE_DEVICES`, which NVML knows nothing of: it shows all GPUs that the process can
open. A run on the one beside its own would measure somebody else's energy. What CUDA makes of that variable was tried
out with driver 580 on two H200 (`cuDeviceGetCount` under each value):

==================  ==========================================================================================
value               GPUs that CUDA has
==================  ==========================================================================================
empty, blanks       none
`1,0`               1, then 0
`0,-1,1`, `0,9,1`   0: the first entry that names no GPU ends the list; as the first one it leaves none
`0,,1`, `0,none`    0, for the same reason
`0,GPU-...`         0: numbers and UUIDs do not mix, the first entry decides; the same the other way round
`0,0`, `0,1,0`      none, `cuInit` fails: a GPU may be named once
`GPU-0d`, `GPU-0D`  the one whose UUID begins so
==================  ==========================================================================================

It also takes `+1`, `01`, `1a`, `1.5` for 1 and `0x1` for 0, which is refused here: hardly anybody means that.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from wattcount.errors import NotStartedError

if TYPE_CHECKING:
    from wattcount.gpu.nvml import GpuFacts

VISIBLE_ENV = "CUDA_VISIBLE_DEVICES"
"""Environment variable by which CUDA is told which GPUs there are."""
ORDER_ENV = "CUDA_DEVICE_ORDER"
"""Environment variable by which CUDA is told how to number them."""
SLURM_ENVS = ("SLURM_STEP_GPUS", "SLURM_JOB_GPUS")
"""Numbers of the GPUs that SLURM gave, on clusters that leave CUDA_VISIBLE_DEVICES alone."""


def visible_gpus(there: Sequence[GpuFacts], environment: Mapping[str, str]) -> list[GpuFacts]:
    """Those of `there` that the environment names, in its order; all where it names none.

    In CUDA_VISIBLE_DEVICES they are named as CUDA understands it, see the module; a number is NVML's index.
    Raises `NotStartedError` where that leaves no GPU, and where it is not certain which GPU is meant: an ambiguous
    beginning of a UUID, an instance of MIG, the number of a GPU among different models in CUDA's own order, a GPU of
    SLURM's that NVML does not show.
    """
    if VISIBLE_ENV in environment:
        return _as_cuda(there, environment)
    name = next((name for name in SLURM_ENVS if environment.get(name)), None)
    if name is None:
        return list(there)
    words = [word.strip() for word in environment[name].split(",")]
    if len(words) == len(there):
        return list(there)  # it may have counted GPUs that it hides from this job
    chosen = []
    for word in words:
        found = [gpu for gpu in there if word == str(gpu.index)]
        if not found:
            raise _refused(name, environment, f"NVML shows {_listed(there)}")
        chosen += found
    return chosen


def _as_cuda(there: Sequence[GpuFacts], environment: Mapping[str, str]) -> list[GpuFacts]:
    text = environment[VISIBLE_ENV]
    words = text.split(",")
    numbers = re.match(r"\s*[+-]?\d", text) is not None
    chosen: list[GpuFacts] = []
    for word in words:
        found = _by_number(word, there, environment) if numbers else _by_uuid(word, there, environment)
        if found is None:
            break
        chosen.append(found)
    if not chosen:
        said = text.strip().lower()
        if not said or said.startswith("-1") or said in ("nodevfiles", "none", "void"):
            raise _refused(
                VISIBLE_ENV,
                environment,
                "CUDA has no GPU: the batch system gave this job no GPU: ask it for one; or unset the variable",
            )
        raise _refused(VISIBLE_ENV, environment, f"CUDA has no GPU; NVML shows {_listed(there)}")
    if len({gpu.uuid for gpu in chosen}) < len(chosen):
        raise _refused(VISIBLE_ENV, environment, "names a GPU twice, and CUDA then has none; name it once")
    return chosen


def _by_number(word: str, there: Sequence[GpuFacts], environment: Mapping[str, str]) -> GpuFacts | None:
    word = word.strip()
    if not re.fullmatch(r"-?(?:0|[1-9]\d*)", word):
        if re.match(r"[+-]?\d", word):
            raise _refused(VISIBLE_ENV, environment, f"{word!r} is no number of a GPU; write it as in 0,1")
        return None
    found = next((gpu for gpu in there if word == str(gpu.index)), None)
    kinds = {gpu.name for gpu in there}
    if found is not None and len(kinds) > 1 and environment.get(ORDER_ENV) != "PCI_BUS_ID":
        raise _refused(
            VISIBLE_ENV,
            environment,
            f"by a number CUDA may mean another GPU than NVML, as they are of different models ({_listed(there)}); "
            f"name it by its UUID, or set {ORDER_ENV}=PCI_BUS_ID",
        )
    return found


def _by_uuid(word: str, there: Sequence[GpuFacts], environment: Mapping[str, str]) -> GpuFacts | None:
    if word.startswith("MIG-"):
        raise _refused(
            VISIBLE_ENV,
            environment,
            "an instance of MIG has no power of its own to be measured; name the whole GPU by its number or UUID",
        )
    word = word.rstrip()
    if not re.match("GPU-.", word):
        return None
    found = [gpu for gpu in there if gpu.uuid.lower().startswith(word.lower())]
    if len(found) > 1:
        raise _refused(
            VISIBLE_ENV, environment, f"{word} is the beginning of several UUIDs: {_listed(found)}"
        )
    return found[0] if found else None


def _refused(name: str, environment: Mapping[str, str], why: str) -> NotStartedError:
    return NotStartedError(f"{name}={environment[name]}: {why}")


def _listed(there: Sequence[GpuFacts]) -> str:
    return ", ".join(f"{gpu.index}: {gpu.uuid}" for gpu in there) or "none"
