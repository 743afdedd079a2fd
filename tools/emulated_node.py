"""Makes an emulated machine that a test cluster's node shows as its GPUs: `emulated_node.py FOLDER GPU COUNT`.

Prints the environment, NAME=VALUE a line, in which NVML is that machine. GPU is an option of the group `gpu`.
"""

from __future__ import annotations

import sys
from pathlib import Path
from uuid import NAMESPACE_URL, uuid5

from wattcount.config.catalogue import gpu_catalogue
from wattcount.emulation.machine import CONFIG_ENV, LIBRARY_ENV, ActivityPower, EmulatedGpu, EmulatedMachine


def main(folder: str, name: str, count: str) -> None:
    gpu = gpu_catalogue()[name]
    # GPUs of its own: those of other folders may be measured at the same time.
    gpus = [
        EmulatedGpu(
            gpu.emulator_profile or name,
            name=gpu.emulated_name,
            uuid=f"GPU-{uuid5(NAMESPACE_URL, f'{folder}/{index}')}",
        )
        for index in range(int(count))
    ]
    machine = EmulatedMachine(gpus, Path(folder))
    for truth in machine.live.values():
        truth.append_now(ActivityPower(gpu).idle_bare_w)
    print(f"{CONFIG_ENV}={machine.config_path}")
    print(f"{LIBRARY_ENV}={machine.library_path}")


if __name__ == "__main__":
    main(*sys.argv[1:])
