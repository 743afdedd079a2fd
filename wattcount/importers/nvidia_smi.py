"""The CSV log of `nvidia-smi --query-gpu=timestamp,power.draw,... --format=csv --loop-ms=...`.

A stamp is the local time at which the line was made, without a zone. A reading is what the driver showed then: on
a V100 the mean of some 10 ms, on an H200 the mean of the second before (docs/emulator.md), so that on the latter the
trapezoidal rule lags by half a second.
"""

from __future__ import annotations

import csv
from pathlib import Path

from wattcount.importers.power_log import PowerLog, broken, make_log, read_lines, stamp_ns

STAMP = "%Y/%m/%d %H:%M:%S.%f"
GPU_COLUMNS = ("uuid", "gpu_uuid", "index", "pci.bus_id", "gpu_bus_id")
POWER_COLUMNS = ("power.draw", "power.draw.instant", "power.draw.average")


def read_nvidia_smi(path: str | Path, gpu: str | None = None, power: str | None = None) -> PowerLog:
    """Reads the power of one GPU.

    gpu    which one, by what stands in the log's `uuid`, `index` or `pci.bus_id` column; needed if there are several
    power  which column, e.g. `power.draw.instant`; default the first of `power.draw`, `.instant`, `.average`
    Lines without a reading (`[N/A]`) are counted in `missing`. Raises NotStartedError that names file, line and remedy.
    """
    path, lines = read_lines(path, "nvidia-smi log")
    rows = list(csv.reader(lines, skipinitialspace=True))
    header = [name.strip().lstrip("\ufeff") for name in rows[0]] if rows else []
    names = [name.split(" [", 1)[0] for name in header]
    power_at = next(
        (names.index(name) for name in ([power] if power else POWER_COLUMNS) if name in names), None
    )
    if "timestamp" not in names or power_at is None:
        raise broken(
            path,
            1,
            f"expected a header with 'timestamp' and '{power or 'power.draw [W]'}', found {', '.join(header)[:80]!r}; "
            "log with nvidia-smi --query-gpu=timestamp,power.draw --format=csv",
        )
    gpu_at = [names.index(name) for name in GPU_COLUMNS if name in names]
    stamps: list[int] = []
    power_w: list[float] = []
    numbers: list[int] = []
    gpus: set[str] = set()
    missing = 0
    for number, row in enumerate(rows[1:], start=2):
        if not row:
            continue
        if len(row) != len(header):
            what = "cut off" if number == len(rows) else "damaged"
            raise broken(
                path, number, f"{len(row)} columns instead of {len(header)}: {what}; remove the line"
            )
        if gpu_at:
            known_as = [row[at] for at in gpu_at]
            if gpu is not None and gpu not in known_as:
                continue
            gpus.add(known_as[0])
        at_ns = stamp_ns(row[names.index("timestamp")], STAMP)
        if at_ns is None:
            raise broken(
                path, number, f"{row[names.index('timestamp')]!r} is no time like 2024/04/03 11:08:14.958"
            )
        value = _watts(row[power_at])
        if value is None:
            if not row[power_at].startswith("["):
                raise broken(path, number, f"{row[power_at]!r} is no power like '29.91 W'")
            missing += 1
            continue
        stamps.append(at_ns)
        power_w.append(value)
        numbers.append(number)
    if len(gpus) > 1:
        raise broken(path, 2, f"the log holds {len(gpus)} GPUs; give one of {', '.join(sorted(gpus))}")
    return make_log(path, stamps, power_w, missing, numbers)


def _watts(text: str) -> float | None:
    number, _, unit = text.strip().partition(" ")
    try:
        value = float(number)
    except ValueError:
        return None
    return value if unit in ("", "W") and 0 <= value < 1e5 else None
