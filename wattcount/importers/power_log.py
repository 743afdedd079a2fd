"""A series of power readings from a log file, and the energy of a stretch of it."""

from __future__ import annotations

import codecs
import contextlib
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wattcount.errors import NotStartedError
from wattcount.files import read_text

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]

S_NS = 1_000_000_000
"""Nanoseconds of a second."""
GAP_FACTOR = 1.5
"""Time between two readings from which on one between them is missing [median period]."""
Z95 = 1.96
"""Half width of a 95 % interval of a normal distribution [standard deviations]."""
MAX_BOARD_W = 5_000.0
"""The most that a board draws [W]: above the 2,700 W of a GB200 superchip, and below a reading in mW that is taken for W."""
MAX_FILE_BYTES = 512 << 20
"""Largest file that is read [bytes]: a hundred times the largest known one, and it still fits in memory."""
FIRST_BYTES = 4096
"""Bytes that are read to recognise a file: a header of nvidia-smi with all its columns has some 3,000."""


@dataclass(frozen=True)
class LogEnergy:
    """Energy of a stretch of a log by the trapezoidal rule, in joules, and its 95 % uncertainties by cause.

    The gain and offset of the instrument are in none of them: the log does not tell them.
    """

    value_j: float
    duration_s: float
    readings: int
    """That lie in the stretch."""
    gap_s: float
    """Part of the stretch between readings that are too far apart [s]; bridged by straight lines."""
    u95_gaps_j: float
    """Half of what the log's least and greatest power would make of the gaps: a bound, not a fit."""
    u95_sampling_j: float
    """What power does between readings; see `PowerLog.energy`."""


@dataclass(frozen=True)
class PowerLog:
    """Readings of one meter.

    t_ns     int64[n], increasing: nanoseconds since 1970 by the clock and in the time zone of the log
    power_w  float64[n]
    missing  lines without a reading (`[N/A]`), left out
    """

    path: Path
    t_ns: Ints
    power_w: Floats
    missing: int = 0

    def __len__(self) -> int:
        return len(self.t_ns)

    @property
    def period_s(self) -> float:
        """Median time between readings."""
        return float(np.median(np.diff(self.t_ns))) / S_NS

    def gaps(self) -> Ints:
        """Stretches in which a reading is missing, int64[m, 2] ns."""
        wide = np.flatnonzero(np.diff(self.t_ns) > GAP_FACTOR * self.period_s * S_NS)
        return np.stack((self.t_ns[wide], self.t_ns[wide + 1]), axis=1)

    def covers(self, start_ns: int, end_ns: int) -> bool:
        return bool(self.t_ns[0] <= start_ns and end_ns <= self.t_ns[-1])

    def mean_of_readings_w(self, start_ns: int, end_ns: int) -> float:
        """Plain mean of the readings stamped within [start_ns, end_ns]."""
        inside = (self.t_ns >= start_ns) & (self.t_ns <= end_ns)
        if not inside.any():
            raise NotStartedError(
                f"{self.path}: no reading between {utc(start_ns)} and {utc(end_ns)}; "
                f"the log runs from {utc(int(self.t_ns[0]))} to {utc(int(self.t_ns[-1]))}"
            )
        return float(self.power_w[inside].mean())

    def energy(self, start_ns: int | None = None, end_ns: int | None = None) -> LogEnergy:
        """Energy of [start_ns, end_ns] (default: the whole log) by the trapezoidal rule.

        `u95_sampling_j` takes each reading's distance from the line between its neighbours as noise that is new
        in each reading: s_i^2 = (p[i-1] - 2 p[i] + p[i+1])^2 / 6, u^2 = sum s_i^2 dt_i^2. It misses a load that keeps
        step with the readings. Raises NotStartedError where the log does not cover the stretch.
        """
        start_ns = int(self.t_ns[0]) if start_ns is None else start_ns
        end_ns = int(self.t_ns[-1]) if end_ns is None else end_ns
        if end_ns <= start_ns:
            raise ValueError(f"the stretch ends at {end_ns} ns, not after its start at {start_ns} ns")
        if not self.covers(start_ns, end_ns):
            raise NotStartedError(
                f"{self.path} runs from {utc(int(self.t_ns[0]))} to {utc(int(self.t_ns[-1]))} and does not "
                f"cover {utc(start_ns)} to {utc(end_ns)}; check that clocks and time zones are the same"
            )
        t_s = (self.t_ns - self.t_ns[0]) / S_NS
        start_s, end_s = (np.array([start_ns, end_ns]) - self.t_ns[0]) / S_NS
        inside = (t_s > start_s) & (t_s < end_s)
        at_s = np.concatenate(([start_s], t_s[inside], [end_s]))
        at_w = np.interp(at_s, t_s, self.power_w)
        value_j = float(((at_w[1:] + at_w[:-1]) / 2 * np.diff(at_s)).sum())
        gaps_s = (np.clip(self.gaps(), start_ns, end_ns) - start_ns) / S_NS
        gap_s = float(np.diff(gaps_s, axis=1).sum())
        middle = inside[1:-1]
        bend_w2 = np.square(np.diff(self.power_w, 2))[middle] / 6
        # Half the time between a reading's neighbours is what it stands for; a gap is bounded on its own.
        stands_s = np.minimum((t_s[2:] - t_s[:-2])[middle] / 2, GAP_FACTOR * self.period_s)
        return LogEnergy(
            value_j=value_j,
            duration_s=float(end_s - start_s),
            readings=int(((self.t_ns >= start_ns) & (self.t_ns <= end_ns)).sum()),
            gap_s=gap_s,
            u95_gaps_j=0.5 * float(np.ptp(self.power_w)) * gap_s,
            u95_sampling_j=Z95 * float(np.sqrt((bend_w2 * np.square(stands_s)).sum())),
        )


def bounded_text(path: Path, what: str) -> str:
    """The text of a regular file of at most MAX_FILE_BYTES, as `files.read_text` gives it. Raises NotStartedError."""
    if path.exists() and not path.is_file():
        raise NotStartedError(f"{what} {path} cannot be read: it is no regular file; give the file itself")
    with contextlib.suppress(OSError):  # `read_text` says what is wrong
        if (size := path.stat().st_size) > MAX_FILE_BYTES:
            raise NotStartedError(
                f"{what} {path} has {size >> 20} MiB, more than {MAX_FILE_BYTES >> 20}; cut it into several"
            )
    return read_text(path, what)


def first_line(path: Path) -> str:
    """The first line of a text file that is not empty; nothing where there is none, or no text."""
    if not path.is_file():  # to open a pipe would wait for whoever writes into it
        return ""
    try:
        with path.open("rb") as file:
            head = file.read(FIRST_BYTES)
    except OSError:
        return ""
    wide = head.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
    text = head.decode("utf-16" if wide else "utf-8-sig", "ignore")
    return next((line.strip() for line in text.splitlines() if line.strip()), "")


def make_log(
    path: Path, stamps_ns: list[int], power_w: list[float], missing: int, lines: list[int]
) -> PowerLog:
    """A log from its lines; raises NotStartedError where times do not increase or nothing is left."""
    if len(stamps_ns) < 3:
        raise NotStartedError(f"{path} holds {len(stamps_ns)} power readings; at least 3 are needed")
    t_ns = np.array(stamps_ns, np.int64)
    back = np.flatnonzero(np.diff(t_ns) <= 0)
    if len(back):
        raise broken(
            path,
            lines[int(back[0]) + 1],
            "its time is not later than that of the reading before; "
            "if the log holds several meters or GPUs, give one; if a clock was set back, cut the log there",
        )
    return PowerLog(path, t_ns, np.array(power_w, np.float64), missing)


def stamp_ns(text: str, form: str) -> int | None:
    """Nanoseconds since 1970 of a time without a zone, taken as it is written; None if it is no such time."""
    try:
        moment = datetime.strptime(text, form).replace(tzinfo=UTC)
    except ValueError:
        return None
    return int(moment.replace(microsecond=0).timestamp()) * S_NS + moment.microsecond * 1000


def utc(t_ns: int) -> str:
    return datetime.fromtimestamp(t_ns // S_NS, UTC).strftime("%Y-%m-%d %H:%M:%S")


def broken(path: Path, line: int, what: str) -> NotStartedError:
    return NotStartedError(f"{path}, line {line}: {what}")
