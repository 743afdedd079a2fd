"""CodeCarbon's `emissions.csv`: one row a tracker, from its start to its stop.

Energies are in kWh. Those of the GPUs are measured (NVML); those of CPU and RAM may be a constant power times time, and the file does not
tell: they are kept apart from measured ones. It knows neither model nor tokens. Place and user are left out.
"""

from __future__ import annotations

import re
from pathlib import Path

from wattcount.importers import table
from wattcount.importers.source import Setting, Source, numbered, result
from wattcount.importers.table import MAX_GPUS, Row
from wattcount.result import Result

SOURCE = Source(
    name="codecarbon",
    title="CodeCarbon: emissions.csv",
    url="https://github.com/mlco2/codecarbon",
    licence=None,
    gives="J and W of all GPUs, J of CPUs and memory as it reckons them; no model, no tokens",
)
COLUMNS = ("timestamp", "run_id", "duration", "emissions", "cpu_energy", "gpu_energy", "energy_consumed")
J_PER_KWH = 3.6e6
_GPU = re.compile(r"(\d+) x (.+?)(?=\d+ x |$)")
"""`2 x NVIDIA RTX A6000`; of several kinds one behind the other, without a sign between."""
MOST_KWH = 1e6
SUM_SAME = 0.01
"""Most that the whole and the sum of its parts differ [relative]: they agree to all digits."""


def recognises(path: Path) -> bool:
    return table.has_columns(path, *COLUMNS)


def results(path: Path) -> list[Result]:
    return numbered(table.each(table.read_rows(path, "file of CodeCarbon", COLUMNS), _result))


def _result(row: Row) -> Result:
    window_s = row.number("duration", 1e9)
    gpus = row.maybe_whole("gpu_count", MAX_GPUS) or 0
    parts = {name: row.maybe_number(f"{name}_energy", MOST_KWH) for name in ("cpu", "gpu", "ram")}
    whole = row.maybe_number("energy_consumed", MOST_KWH)
    total = sum(value for value in parts.values() if value)
    if whole and all(value is not None for value in parts.values()) and abs(total / whole - 1) > SUM_SAME:
        raise row.wrong(
            "energy_consumed is not cpu_energy + gpu_energy + ram_energy, as this source has it; check the units (kWh)"
        )
    gpu_j = parts["gpu"] * J_PER_KWH if parts["gpu"] and gpus else None
    if gpu_j is not None:
        row.check_power(gpu_j / window_s, gpus, "gpu_energy / duration") if gpu_j / window_s > gpus else None
    names = _GPU.findall(row.maybe_text("gpu_model") or "")
    one_kind = len(names) == 1 and int(names[0][0]) == gpus
    return result(
        SOURCE,
        row,
        Setting(gpu=names[0][1].strip() if one_kind else None, num_gpus=gpus or None, kind=None),
        {
            "window/duration_s": window_s,
            "energy/gpu_j": gpu_j,
            "power/gpu_mean_w": gpu_j / window_s if gpu_j is not None else None,
            "energy/cpu_reckoned_j": parts["cpu"] * J_PER_KWH if parts["cpu"] else None,
            "energy/ram_reckoned_j": parts["ram"] * J_PER_KWH if parts["ram"] else None,
        },
        [
            "window is the tracker's, whatever the program did in it; all GPUs that CodeCarbon was told to track",
            *([] if gpus else ["no GPU was measured"]),
        ],
        scenario=row.maybe_text("project_name"),
        instrument="nvml" if gpu_j is not None else None,
    )
