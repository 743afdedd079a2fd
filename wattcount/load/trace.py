"""Request traces: arrival times and token counts, one request a line.

The format is that of the Azure LLM inference traces of 2023: a header
`TIMESTAMP,ContextTokens,GeneratedTokens`, then one row a request with a wall-clock stamp of up to
nine fractional digits. Stamps are parsed as integers: floating point would lose the last digits.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wattcount.errors import NotStartedError

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"

_STAMP = re.compile(r"(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]00:?00)?")
_COUNT = re.compile(r"\d{1,9}")


@dataclass(frozen=True)
class Trace:
    """A request trace as recorded.

    offset_ns      int64[n], arrivals since the first one, not decreasing
    input_tokens   int32[n], `ContextTokens`
    output_tokens  int32[n], `GeneratedTokens`
    """

    path: Path
    offset_ns: NDArray[np.int64]
    input_tokens: NDArray[np.int32]
    output_tokens: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offset_ns)

    @property
    def duration_s(self) -> float:
        """From the first to the last arrival."""
        return float(self.offset_ns[-1]) / 1e9

    @property
    def rate_rps(self) -> float:
        """Gaps per second: (n - 1) / duration. 0 where that is undefined."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else 0.0

    @property
    def gap_cv(self) -> float:
        """Coefficient of variation of the gaps between arrivals (1 for a Poisson process)."""
        gaps = np.diff(self.offset_ns)
        return float(gaps.std() / gaps.mean()) if len(gaps) and gaps.mean() > 0 else 0.0


def read_trace(path: str | Path) -> Trace:
    """Reads a trace file. Raises `NotStartedError` that names the file, the line and what is wrong."""
    path = Path(path).expanduser()
    stamps: list[int] = []
    inputs: list[int] = []
    outputs: list[int] = []
    lines = _lines(path)
    if not lines or lines[0].strip().lstrip("\ufeff") != HEADER:
        found = lines[0].strip()[:60] if lines else ""
        raise _broken(path, 1, f"expected the header {HEADER!r}, found {found!r}")
    for number, line in enumerate(lines[1:], start=2):
        if not line.strip():
            if any(rest.strip() for rest in lines[number:]):
                raise _broken(path, number, "empty line")
            break
        cells = line.strip().split(",")
        if len(cells) != 3:
            raise _broken(path, number, f"expected 3 columns, found {len(cells)}")
        stamp_ns = _stamp_ns(cells[0].strip())
        if stamp_ns is None:
            raise _broken(path, number, f"{cells[0]!r} is no time like 2023-11-16 18:17:03.9799600")
        if stamps and stamp_ns < stamps[-1]:
            raise _broken(path, number, f"{cells[0]} is earlier than the line before; sort the trace by time")
        for name, cell in (("ContextTokens", cells[1]), ("GeneratedTokens", cells[2])):
            if not _COUNT.fullmatch(cell.strip()):
                raise _broken(path, number, f"{name} {cell!r} is not a whole number of tokens")
        stamps.append(stamp_ns)
        inputs.append(int(cells[1]))
        outputs.append(int(cells[2]))
    if not stamps:
        raise _broken(path, 2, "the trace has a header but no requests")
    offsets = np.array([stamp - stamps[0] for stamp in stamps], dtype=np.int64)
    return Trace(path, offsets, np.array(inputs, dtype=np.int32), np.array(outputs, dtype=np.int32))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise NotStartedError(f"trace file {path} does not exist") from None
    except UnicodeDecodeError as error:
        raise NotStartedError(f"trace file {path} is not UTF-8 text (byte {error.start})") from None
    except OSError as error:
        raise NotStartedError(f"trace file {path} cannot be read: {error.strerror}") from None


def _stamp_ns(text: str) -> int | None:
    match = _STAMP.fullmatch(text)
    if match is None:
        return None
    date, time, fraction, _ = match.groups()
    try:
        moment = datetime.fromisoformat(f"{date}T{time}+00:00")
    except ValueError:
        return None
    return int(moment.timestamp()) * 1_000_000_000 + int((fraction or "0").ljust(9, "0"))


def _broken(path: Path, line: int, what: str) -> NotStartedError:
    return NotStartedError(f"trace file {path}, line {line}: {what}")
