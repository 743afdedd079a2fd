"""Power logs of nvidia-smi: its CSV query log and the table of `nvidia-smi dmon`.

    nvidia-smi --query-gpu=timestamp,power.draw,index --format=csv --loop-ms=100
    nvidia-smi dmon -s p -o DT

A stamp is the local time at which the line was made, without a zone. A reading is what the driver showed then: on
a V100 the mean of some 10 ms, on an H200 the mean of the second before (docs/emulator.md), so that on the latter the
trapezoidal rule lags by half a second.

Other programs write the same columns in other forms. These are read: no header, no units, milliwatts, a comma as the
decimal sign, `;` between the columns, ISO 8601 or Unix stamps, UTF-16. What could be read in two ways is refused.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from wattcount.importers.power_log import (
    MAX_BOARD_W,
    S_NS,
    PowerLog,
    bounded_text,
    broken,
    first_line,
    make_log,
    stamp_ns,
)
from wattcount.importers.source import Source, gpu_option
from wattcount.records.schema import Evidence
from wattcount.result import Result

SOURCE = Source(
    name="nvidia-smi",
    title="power log of nvidia-smi, or of a program that writes the same columns",
    url=None,
    licence=None,
    gives="J and W of each GPU over the whole log, with the uncertainty of sampling and gaps",
)

STAMP, DMON_STAMP = "%Y/%m/%d %H:%M:%S.%f", "%Y%m%d %H:%M:%S"
"""Forms of the stamps: of the CSV log, and of dmon's date and time together."""
GPU_COLUMNS = ("uuid", "gpu_uuid", "index", "pci.bus_id", "gpu_bus_id", "gpu")
"""Columns that tell GPUs apart, the best first."""
POWER_COLUMNS = ("power.draw", "power.draw.instant", "power.draw.average")
"""Columns of power, in the order in which one is chosen."""
STAMP_NAMES = ("epoch_ns", "epoch_s", "timestamp_ns", "timestamp_s", "time", "datetime")
"""What other programs call the column of stamps. Its form, not its name, tells seconds from nanoseconds."""
POWER_NAMES = {
    "power_w": "W",
    "power_watts": "W",
    "power_draw_w": "W",
    "gpu_power_w": "W",
    "power_mw": "mW",
    "power_draw_mw": "mW",
}
"""What other programs call the column of power, and the unit that its name says. A name without a unit is not taken."""
NAME_COLUMNS = ("name", "gpu_name")
"""Columns with the name of the GPU."""
WATTS = {"W": 1.0, "mW": 1e-3}
"""Watts in each unit of power that is read."""
NO_READING = re.compile(r"\[.*\]|N/A|ERR!|-", re.IGNORECASE)
"""What nvidia-smi writes where it has no reading."""
GROUP_GAP = 0.3
"""Most time between lines of several GPUs that were asked at once [period of the log]."""
GROUP_SHARE = 0.9
"""Least share of groups with such gaps: a loop that is late now and then makes some short gaps, too."""
MAX_GPUS = 16
"""Most GPUs of one host."""

_NUMBER = re.compile(r"\d+(?:\.\d+)?", re.ASCII)
"""A number without a sign or an exponent."""
_EPOCH = re.compile(r"\d{9,10}(?:\.\d+)?|\d{13}|\d{19}")
"""A Unix time in s (also with a fraction), ms or ns."""


@dataclass(frozen=True)
class _Table:
    """A log as cells. `rows` have as many cells as `names` and `units`; `numbers` are their lines."""

    names: list[str]
    units: list[str | None]
    rows: list[list[str]]
    numbers: list[int]


def recognises(path: Path) -> bool:
    """Whether a file is a CSV log with a header, or a table of dmon. A log without a header is given to `read_nvidia_smi`."""
    first = first_line(path)
    if first.startswith("#"):
        return "pwr" in _dmon_cells(first)
    if "timestamp" in first and "power.draw" in first:
        return True
    names = {name.strip().lower() for name in re.split(r"[,;\t]", first)}
    return bool(names & {"timestamp", *STAMP_NAMES} and names & POWER_NAMES.keys())


def results(path: Path) -> list[Result]:
    """One run a GPU, with its whole log as the window. The log tells neither the load nor the gain of the sensor."""
    table = _table(path, bounded_text(path, "nvidia-smi log").splitlines())
    columns = _gpu_columns(table)
    gpus = dict.fromkeys(row[columns[0]] for row in table.rows) if columns else [None]
    return [_result(path, gpu, _name_of(table, gpu)) for gpu in gpus]


def _name_of(table: _Table, gpu: str | None) -> str | None:
    """Name of a GPU, where the log has it."""
    at = next((table.names.index(name) for name in NAME_COLUMNS if name in table.names), None)
    columns = _gpu_columns(table)
    rows = (row for row in table.rows if gpu is None or row[columns[0]] == gpu)
    return None if at is None else next(rows)[at] or None


def _result(path: Path, gpu: str | None, name: str | None) -> Result:
    log = read_nvidia_smi(path, gpu)
    energy = log.energy()
    missing = [f"{log.missing} lines of the log had no reading"] if log.missing else []
    return Result(
        run_id=f"nvidia-smi {int(log.t_ns[0])}" + (f" {gpu}" if gpu else ""),
        gpu=gpu_option(name) if name else None,
        gpus=(name,) if name else (),
        boards=(gpu,) if gpu else (),
        window_s=energy.duration_s,
        evidence=Evidence.MEASURED,
        origin=SOURCE.origin,
        instrument="nvml",
        source=path,
        notes=("window is the whole log; neither model nor load is in it", *missing),
        metrics={
            "window/duration_s": energy.duration_s,
            "energy/gpu_j": energy.value_j,
            "energy/gpu_j_u95_method": math.hypot(energy.u95_gaps_j, energy.u95_sampling_j),
            "power/gpu_mean_w": energy.value_j / energy.duration_s,
        },
    )


def _is_dmon(lines: list[str]) -> bool:
    return next((line for line in lines if line.strip()), "").lstrip().startswith("#")


def _table(path: Path, lines: list[str]) -> _Table:
    return _dmon(path, lines) if _is_dmon(lines) else _csv(path, lines)


def _gpu_columns(table: _Table) -> list[int]:
    """Columns that tell GPUs apart."""
    return [table.names.index(name) for name in GPU_COLUMNS if name in table.names]


def read_nvidia_smi(path: str | Path, gpu: str | None = None, power: str | None = None) -> PowerLog:
    """Reads the power of one GPU.

    gpu    which one, by what stands in the log's `uuid`, `index`, `pci.bus_id` or (dmon) `gpu` column; needed if there are several
    power  which column, e.g. `power.draw.instant`; default the first of `power.draw`, `.instant`, `.average`
    Lines without a reading (`[N/A]`, `ERR!`) are counted in `missing`. Raises NotStartedError that names file, line and remedy.
    """
    path = Path(path).expanduser()
    lines = bounded_text(path, "nvidia-smi log").splitlines()
    dmon, table = _is_dmon(lines), _table(path, lines)
    columns = [power] if power else ["pwr"] if dmon else list(POWER_COLUMNS)
    power_at = next((table.names.index(name) for name in columns if name in table.names), None)
    if "timestamp" not in table.names or power_at is None:
        how = "dmon -s p -o DT" if dmon else "--query-gpu=timestamp,power.draw,index --format=csv"
        raise broken(
            path,
            1,
            f"expected the columns 'timestamp' and '{power or columns[0]}', found "
            f"{', '.join(table.names)[:80]!r}; log with nvidia-smi {how}",
        )
    gpu_at = _gpu_columns(table)
    stamp_at = table.names.index("timestamp")
    stamps: list[int] = []
    power_w: list[float] = []
    numbers: list[int] = []
    gpus: set[str] = set()
    missing = 0
    for number, row in zip(table.numbers, table.rows, strict=True):
        if gpu_at:
            known_as = [row[at] for at in gpu_at]
            if gpu is not None and gpu not in known_as:
                continue
            gpus.add(known_as[0])
        at_ns = _stamp_ns(row[stamp_at], DMON_STAMP if dmon else STAMP)
        if at_ns is None:
            raise broken(path, number, f"{row[stamp_at]!r} is no time like 2024/04/03 11:08:14.958")
        value = _watts(row[power_at], table.units[power_at])
        if value is None:
            if not NO_READING.fullmatch(row[power_at]):
                raise broken(path, number, f"{row[power_at]!r} is no power like '29.91 W'")
            missing += 1
            continue
        stamps.append(at_ns)
        power_w.append(value)
        numbers.append(number)
    if len(gpus) > 1:
        raise broken(path, 2, f"the log holds {len(gpus)} GPUs; give one of {', '.join(sorted(gpus))}")
    if gpu is not None and not gpu_at:
        raise broken(path, 1, "the log has no column that tells GPUs apart; leave gpu out")
    log = make_log(path, stamps, power_w, missing, numbers)
    if not gpu_at and (group := _lines_at_once(log)) > 1:
        raise broken(
            path,
            numbers[1],
            f"the lines come in groups of {group}: they are of {group} GPUs, and no column tells which; log with "
            "nvidia-smi --query-gpu=timestamp,power.draw,index --format=csv, or one GPU with --id",
        )
    return log


def _csv(path: Path, lines: list[str]) -> _Table:
    """The log of `--format=csv`, with or without its header."""
    used = [(number, line) for number, line in enumerate(lines, start=1) if line.strip()]
    if not used:
        raise broken(
            path, 1, "the file is empty; log with nvidia-smi --query-gpu=timestamp,power.draw --format=csv"
        )
    first = used[0][1]
    between = (
        re.compile(r"\s*;\s*") if ";" in first else re.compile(r",\s+") if ", " in first else re.compile(",")
    )
    header = [cell.strip() for cell in between.split(first.strip())]
    if "timestamp" in {name.partition(" [")[0] for name in header} or not _is_time(header[0]):
        names = [name.partition(" [")[0] for name in header]
        units = [name.partition(" [")[2].rstrip("]") or None for name in header]
        body = [(number, line) for number, line in used[1:] if line.strip() != first.strip()]
    else:
        names, units = _without_header(path, header), [None] * len(header)
        body = used
    names, units = _own_names(names, units)
    rows: list[list[str]] = []
    for number, line in body:
        cells = [cell.strip() for cell in between.split(line.strip())]
        if len(cells) != len(names):
            what = "cut off" if number == used[-1][0] else "damaged"
            raise broken(
                path, number, f"{len(cells)} columns instead of {len(names)}: {what}; remove the line"
            )
        rows.append(cells)
    _check_last(path, rows, [number for number, _ in body])
    return _Table(names, units, rows, [number for number, _ in body])


def _own_names(names: list[str], units: list[str | None]) -> tuple[list[str], list[str | None]]:
    """Names and units with those of other programs as nvidia-smi's own, where it has no column of that name."""
    names, units = list(names), list(units)
    small = [name.lower() for name in names]
    stamp = next((small.index(name) for name in STAMP_NAMES if name in small), None)
    if "timestamp" not in names and stamp is not None:
        names[stamp] = "timestamp"
    power = next((small.index(name) for name in POWER_NAMES if name in small), None)
    if power is not None and not any(name in names for name in POWER_COLUMNS):
        names[power], units[power] = POWER_COLUMNS[0], POWER_NAMES[small[power]]
    return names, units


def _without_header(path: Path, cells: list[str]) -> list[str]:
    """Names of the columns of a log without a header: the stamp comes first, and one column is in watts."""
    in_watts = [at for at, cell in enumerate(cells) if cell.rpartition(" ")[2] in WATTS]
    if len(cells) == 2:
        in_watts = [1]
    if len(in_watts) != 1:
        raise broken(
            path,
            1,
            f"the log has no header, and {len(in_watts)} of its {len(cells)} columns are in watts: which one is the "
            "power cannot be told; add a line like 'timestamp, index, power.draw [W]'",
        )
    names = [f"column {at + 1}" for at in range(len(cells))]
    names[0], names[in_watts[0]] = "timestamp", "power.draw"
    return names


def _check_last(path: Path, rows: list[list[str]], numbers: list[int]) -> None:
    """Refuses a last line that is shorter than the others: a program was killed while it wrote the line."""
    if len(rows) < 3:
        return
    last, before = rows[-1][-1], [row[-1] for row in rows[:-1] if not NO_READING.fullmatch(row[-1])]
    if not before or NO_READING.fullmatch(last):
        return
    if _form(last) not in {_form(cell) for cell in before}:
        raise broken(
            path,
            numbers[-1],
            f"cut off: {last!r} has not the form of the values before it, {before[-1]!r}; remove the line",
        )


def _form(cell: str) -> tuple[int, str]:
    """Digits after the decimal sign, and what follows the number."""
    number = re.match(r"[\d.,]*", cell)
    assert number is not None
    return len(re.split("[.,]", number.group())[-1]) if re.search("[.,]", number.group()) else 0, cell[
        number.end() :
    ]


def _dmon(path: Path, lines: list[str]) -> _Table:
    """The table of `nvidia-smi dmon`: two header lines that come again, names and units, each beginning with `#`."""
    names: list[str] = []
    units: list[str | None] = []
    rows: list[list[str]] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, start=1):
        cells = _dmon_cells(line)
        if not cells:
            continue
        if line.lstrip().startswith("#"):
            if not names:
                names = [cell.lower() for cell in cells]
            elif not units:
                units = [cell if cell in WATTS else None for cell in cells]
            continue
        if len(cells) != len(names) or len(units) != len(names):
            what = "cut off" if number == len(lines) else "damaged"
            raise broken(
                path, number, f"{len(cells)} columns instead of {len(names)}: {what}; remove the line"
            )
        rows.append(cells)
        numbers.append(number)
    if "date" in names and "time" in names:
        date, time = names.index("date"), names.index("time")
        names.append("timestamp")
        units.append(None)
        rows = [[*row, f"{row[date]} {row[time]}"] for row in rows]
    return _Table(names, units, rows, numbers)


def _dmon_cells(line: str) -> list[str]:
    text = line.strip().lstrip("#").strip()
    return [cell.strip() for cell in text.split(",")] if "," in text else text.split()


def _lines_at_once(log: PowerLog) -> int:
    """How many lines come at a time: 1 in a log of one GPU; more in a log of several GPUs that no column tells apart."""
    gaps = np.diff(log.t_ns)
    for group in range(2, MAX_GPUS + 1):
        whole = len(log) // group - 1
        if whole < 2:
            break
        cycles = gaps[: whole * group].reshape(whole, group)
        within, between = cycles[:, :-1].max(axis=1), cycles[:, -1]
        if np.mean(within < GROUP_GAP * between) >= GROUP_SHARE:
            return group
    return 1


def _is_time(text: str) -> bool:
    return _stamp_ns(text, STAMP) is not None


def _stamp_ns(text: str, form: str) -> int | None:
    """Nanoseconds since 1970 of nvidia-smi's own stamp, an ISO 8601 one, or a Unix time in s, ms or ns."""
    found = stamp_ns(text, form)
    if found is not None:
        return found
    if _EPOCH.fullmatch(text):
        whole, _, fraction = text.partition(".")
        digits = whole + fraction.ljust(9, "0")[:9] if len(whole) < 13 else whole.ljust(19, "0")
        return int(digits)
    if not re.match(r"\d{4}-\d\d-\d\d[ T]", text):
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)
    return math.floor(moment.replace(microsecond=0).timestamp()) * S_NS + moment.microsecond * 1000


def _watts(text: str, header_unit: str | None) -> float | None:
    """The power in a cell [W]. The unit of the cell comes before that of the header; without either it is W."""
    number, _, unit = text.partition(" ")
    number = number.replace(",", ".") if number.count(",") == 1 and "." not in number else number
    factor = WATTS.get(unit or header_unit or "W")
    if factor is None or not _NUMBER.fullmatch(number):
        return None
    value = float(number) * factor
    return value if value < MAX_BOARD_W else None
