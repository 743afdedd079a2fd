"""When requests come, as offsets from the start of the load: arrival processes, and traces of recorded requests.

Every process is drawn at unit rate and then stretched by 1 / rate, so another rate is the same workload played faster or
slower: request i comes at `unit_time[i] / rate` and stays request i.

A trace file has one of three formats, told apart by its first line:

    Azure      of the LLM inference traces of 2023 and 2024: a header `TIMESTAMP,ContextTokens,GeneratedTokens`, then one row a request with a
               wall-clock stamp of up to nine fractional digits. Stamps are parsed as integers: floating point would lose the last digits
    BurstGPT   a header that begins with `Timestamp,` and names `Request tokens` and `Response tokens`; stamps are seconds. Rows without an answer
               (0 tokens) are left out
    Mooncake   JSON Lines with `timestamp` [ms], `input_length`, `output_length` and, where known, `hash_ids`: the blocks of 512 tokens that the
               prompt consists of. Prompts whose first blocks are the same begin alike
"""

from __future__ import annotations

import json
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from math import ceil, sqrt
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wattcount.config.schema import MAX_REQUESTS, ArrivalConfig, ArrivalKind
from wattcount.errors import NotStartedError
from wattcount.files import read_text
from wattcount.load.plan import Stream, stream

HEADER = "TIMESTAMP,ContextTokens,GeneratedTokens"
"""First line of a trace file."""

BLOCK_TOKENS = 512
"""Tokens of a block of a Mooncake trace."""

_STAMP = re.compile(r"(\d{4}-\d{2}-\d{2})[ T](\d{2}:\d{2}:\d{2})(?:\.(\d{1,9}))?(Z|[+-]00:?00)?")
"""A stamp: date, time, up to nine digits of its fraction, and UTC as the zone, or no zone."""
_COUNT = re.compile(r"\d{1,9}")
"""A number of tokens."""


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
    blocks: tuple[tuple[int, ...], ...] | None = None
    """Names of each request's blocks of BLOCK_TOKENS; None: the trace does not tell."""

    def __len__(self) -> int:
        return len(self.offset_ns)

    @property
    def duration_s(self) -> float:
        """Time from the first to the last arrival [s]."""
        return float(self.offset_ns[-1]) / 1e9

    @property
    def rate_rps(self) -> float:
        """Gaps per second, (n - 1) / duration. 0: the trace takes no time."""
        return (len(self) - 1) / self.duration_s if self.duration_s > 0 else 0.0


def read_trace(path: str | Path) -> Trace:
    """Reads a trace file. Raises `NotStartedError` that names the file, the line and what is wrong."""
    path = Path(path).expanduser()
    stamps: list[int] = []
    inputs: list[int] = []
    outputs: list[int] = []
    lines = read_text(path, "trace file").splitlines()
    if lines and lines[0].lstrip().startswith("{"):
        return _mooncake(path, lines)
    if lines and lines[0].lower().startswith("timestamp,") and "request tokens" in lines[0].lower():
        return _burst_gpt(path, lines)
    if not lines or lines[0].strip() != HEADER:
        found = lines[0].strip()[:60] if lines else ""
        raise _broken(
            path,
            1,
            f"expected the header {HEADER!r} (or that of BurstGPT, or JSON Lines as of Mooncake), found {found!r}",
        )
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


def _mooncake(path: Path, lines: Sequence[str]) -> Trace:
    rows: list[tuple[int, int, int]] = []
    blocks: list[tuple[int, ...]] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            stamp, given, made = row["timestamp"], row["input_length"], row["output_length"]
            hashes = row.get("hash_ids", [])
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
            raise _broken(
                path, number, "expected JSON with timestamp, input_length and output_length"
            ) from None
        counts = (given, made, *(hashes if isinstance(hashes, list) else [None]))
        if not isinstance(stamp, int | float) or not all(
            type(count) is int and 0 <= count < 10**9 for count in counts
        ):
            raise _broken(path, number, "timestamp, lengths and hash_ids must be numbers, none negative")
        rows.append((round(stamp * 1e6), max(1, given), max(1, made)))
        blocks.append(tuple(hashes))
    known = all(len(block) * BLOCK_TOKENS >= row[1] for block, row in zip(blocks, rows, strict=True))
    return _trace(path, rows, tuple(blocks) if known else None)


def _burst_gpt(path: Path, lines: Sequence[str]) -> Trace:
    head = [cell.strip().lower() for cell in lines[0].split(",")]
    places = [
        head.index(name) if name in head else -1
        for name in ("timestamp", "request tokens", "response tokens")
    ]
    rows: list[tuple[int, int, int]] = []
    for number, line in enumerate(lines[1:], start=2):
        cells = line.split(",")
        if not line.strip():
            continue
        try:
            stamp, given, made = (float(cells[place]) for place in places)
            if not all(math.isfinite(value) and 0 <= value < 1e9 for value in (stamp, given, made)):
                raise ValueError
        except (ValueError, IndexError):
            raise _broken(
                path, number, "expected numbers in Timestamp, Request tokens and Response tokens"
            ) from None
        if given > 0 and made > 0:
            rows.append((round(stamp * 1e9), int(given), int(made)))
    return _trace(path, rows)


def _trace(
    path: Path, rows: Sequence[tuple[int, int, int]], blocks: tuple[tuple[int, ...], ...] | None = None
) -> Trace:
    """`rows`: stamp [ns], prompt and output tokens."""
    if not rows:
        raise NotStartedError(f"trace file {path} holds no requests")
    stamps = np.array([row[0] for row in rows], dtype=np.int64)
    if (np.diff(stamps) < 0).any():
        late = int(np.argmax(np.diff(stamps) < 0)) + 2
        raise NotStartedError(
            f"trace file {path}, request {late}: is earlier than the one before; sort the trace by time"
        )
    inputs, outputs = (np.array([row[place] for row in rows], dtype=np.int32) for place in (1, 2))
    return Trace(path, stamps - stamps[0], inputs, outputs, blocks)


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


class Arrivals(ABC):
    """An arrival process of a given mean rate."""

    @abstractmethod
    def offsets_ns(self, duration_s: float) -> NDArray[np.int64]:
        """int64[n]: all arrivals in [0, duration), not decreasing."""


@dataclass(frozen=True)
class RenewalArrivals(Arrivals):
    """Independent gaps of mean 1 / rate: Poisson where they are exponential (cv = 1).

    Gaps are gamma distributed with shape 1 / cv² (cv > 1: bursts, cv < 1: more regular than Poisson).
    """

    rate_rps: float
    cv: float
    seed: int

    def offsets_ns(self, duration_s: float) -> NDArray[np.int64]:
        _check_size(self.rate_rps * duration_s)
        random = stream(self.seed, Stream.ARRIVALS)
        unit_duration = duration_s * self.rate_rps
        # Mean plus four standard deviations of a renewal process' count, then whatever is still missing.
        block = ceil(unit_duration + 4 * self.cv * sqrt(unit_duration) + 16)
        gaps = self._unit_gaps(random, block)
        while gaps.sum() < unit_duration + 1:
            gaps = np.concatenate([gaps, self._unit_gaps(random, block)])
        times = np.cumsum(gaps)
        return _to_ns(times / self.rate_rps, duration_s)

    def _unit_gaps(self, random: np.random.Generator, count: int) -> NDArray[np.float64]:
        if self.cv == 1.0:
            return random.standard_exponential(count)
        shape = 1.0 / self.cv**2
        return random.standard_gamma(shape, count) / shape


@dataclass(frozen=True)
class ConstantArrivals(Arrivals):
    """One request every 1 / rate seconds, the first at 0."""

    rate_rps: float

    def offsets_ns(self, duration_s: float) -> NDArray[np.int64]:
        _check_size(self.rate_rps * duration_s)
        count = ceil(self.rate_rps * duration_s) + 1
        return _to_ns(np.arange(count) / self.rate_rps, duration_s)


class TraceArrivals(Arrivals):
    """Arrivals as recorded, from the trace's first request on. With a rate they are stretched to it."""

    def __init__(self, trace: Trace, rate_rps: float | None) -> None:
        if rate_rps is not None and trace.rate_rps == 0:
            raise NotStartedError(
                f"trace file {trace.path} spans no time, so it has no rate to scale to {rate_rps} requests/s"
            )
        self.trace = trace
        self.stretch = 1.0 if rate_rps is None else trace.rate_rps / rate_rps

    def offsets_ns(self, duration_s: float) -> NDArray[np.int64]:
        available_s = self.trace.duration_s * self.stretch
        if available_s < duration_s:
            raise NotStartedError(
                f"trace file {self.trace.path} lasts {available_s:.1f} s at this rate, shorter than warm-up and window"
                f" ({duration_s:g} s): shorten scenario.window_s or lower scenario.rate_rps"
            )
        return _to_ns(self.trace.offset_ns.astype(np.float64) * (self.stretch / 1e9), duration_s)


def create(config: ArrivalConfig, rate_rps: float | None, seed: int) -> Arrivals:
    """The arrival process of a scenario. Raises `NotStartedError`."""
    if config.kind is ArrivalKind.trace:
        if config.path is None:
            raise NotStartedError("scenario.arrivals.kind=trace needs scenario.arrivals.path, a trace file")
        return TraceArrivals(read_trace(config.path), rate_rps)
    if rate_rps is None:
        raise NotStartedError(
            f"scenario.rate_rps is needed for {config.kind.value} arrivals; only a trace has its own"
        )
    if config.kind is ArrivalKind.constant:
        return ConstantArrivals(rate_rps)
    return RenewalArrivals(rate_rps, config.cv if config.kind is ArrivalKind.gamma else 1.0, seed)


def _to_ns(times_s: NDArray[np.float64], duration_s: float) -> NDArray[np.int64]:
    offsets = np.rint(times_s * 1e9).astype(np.int64)
    return offsets[offsets < round(duration_s * 1e9)]


def _check_size(expected: float) -> None:
    if expected > MAX_REQUESTS:
        raise NotStartedError(
            f"the load would hold {expected:.3g} requests, more than {MAX_REQUESTS}: lower the rate"
        )
