"""MLPerf Inference with power: the wall meter's log and LoadGen's, and joules per token from the two.

    spl.txt                 one line a second from the power analyser (SPEC PTDaemon), made on the meter's machine
    mlperf_log_detail.txt   LoadGen's events, made on the measured machine

The two machines have clocks of their own, and neither log names a time zone. `power_begin` and `power_end` are in
the format and the zone of `spl.txt`, UTC in the workflow's own scripts. `test_datetime` ends in `Z` but is local
time in some versions, hours away: it is not used.

How LoadGen (results.cc) reckons its rates, which the joules per token depend on:

    Offline  tokens per second = all tokens / longest latency; that is from first send to last completion
    Server   completed tokens per second = all tokens / time at which the query that was sent *last* completed;
             queries sent earlier may still be running then, and power is measured until the last of them ends

GPT-J's logs have `result_inferred_...` instead: no token was counted, and tokens are samples times a fixed mean length
(`token_latency_scaling_factor`); of a Server run the rate leaves out one sample.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wattcount.errors import NotStartedError
from wattcount.importers.power_log import (
    S_NS,
    LogEnergy,
    PowerLog,
    bounded_text,
    broken,
    make_log,
    stamp_ns,
    utc,
)
from wattcount.importers.source import Source
from wattcount.metrics.metrics_json import Status
from wattcount.metrics.sheet import Finding
from wattcount.records.schema import Evidence
from wattcount.result import Result

SOURCE = Source(
    name="mlperf",
    title="MLCommons: MLPerf Inference with power",
    url="https://github.com/mlcommons/inference_results_v4.1",
    licence="Apache-2.0",
    gives="J and W of the whole machine at the wall between power_begin and power_end, tokens/s; give the folder of a scenario",
)

STAMP = "%m-%d-%Y %H:%M:%S.%f"
"""Form of the stamps in both logs: month first."""
PREFIX = ":::MLLOG "
"""Begin of each event's line in LoadGen's log."""
QUARTER_NS = 900 * S_NS
"""A quarter of an hour [ns]: time zones differ by whole quarters."""
MAX_ZONE_QUARTERS = 26 * 4
"""The most that two time zones differ by [quarters of an hour]: from UTC-12 to UTC+14."""
LOADGEN, SPL = "mlperf_log_detail.txt", "spl.txt"
"""Names of LoadGen's log and of the power analyser's in the folder of a run."""


@dataclass(frozen=True)
class LoadgenLog:
    """What a LoadGen log says of a performance run."""

    path: Path
    scenario: str
    """`Offline` or `Server`."""
    valid: bool
    begin_ns: int
    """`power_begin`, nanoseconds since 1970 in the log's own zone: the first query is sent."""
    end_ns: int
    """`power_end`: the last query completes."""
    log_end_ns: int
    """The log's last event, on the same scale."""
    tokens_per_second: float
    """As reported; over `rate_s`."""
    rate_s: float
    """The time that the reported rate divides by."""
    counted: bool = True
    """False: the tokens are samples times a mean length that LoadGen was told, not counted ones."""
    samples_left_out: int = 0
    """Samples of the run that the reported rate does not count."""
    samples: int | None = None
    """Samples of the run; None: not read, and none are left out."""

    @property
    def tokens(self) -> float:
        """Output tokens of the whole run."""
        tokens = self.tokens_per_second * self.rate_s
        if self.samples is not None and self.samples_left_out:
            tokens *= self.samples / (self.samples - self.samples_left_out)
        return tokens

    @property
    def duration_s(self) -> float:
        """From power_begin to power_end."""
        return (self.end_ns - self.begin_ns) / S_NS


@dataclass(frozen=True)
class MlperfRun:
    """A LoadGen log and the wall meter's log of the same run.

    `meter_ahead_s`: what the meter's clock shows more than LoadGen's, time zone included.
    """

    loadgen: LoadgenLog
    meter: PowerLog
    meter_ahead_s: float = 0.0

    @property
    def window_ns(self) -> tuple[int, int]:
        """power_begin and power_end by the meter's clock."""
        ahead_ns = round(self.meter_ahead_s * S_NS)
        return self.loadgen.begin_ns + ahead_ns, self.loadgen.end_ns + ahead_ns

    def mean_w(self) -> float:
        """Wall power as MLPerf publishes it: the mean of the readings stamped within the window."""
        return self.meter.mean_of_readings_w(*self.window_ns)

    def energy(self) -> LogEnergy:
        """Energy at the wall between power_begin and power_end."""
        return self.meter.energy(*self.window_ns)

    def j_per_token_published(self) -> float:
        """Published mean power over published rate, joule."""
        return self.mean_w() / self.loadgen.tokens_per_second

    def j_per_token(self) -> float:
        """Energy of the window over all tokens in it, joule."""
        return self.energy().value_j / self.loadgen.tokens

    def u95_placement_j(self, off_by_s: float) -> float:
        """The greatest change of the window's energy where the clocks differ by up to `off_by_s` either way."""
        start_ns, end_ns = self.window_ns
        by_ns = round(off_by_s * S_NS)
        here_j = self.energy().value_j
        return max(
            abs(self.meter.energy(start_ns + shift_ns, end_ns + shift_ns).value_j - here_j)
            for shift_ns in (-by_ns, by_ns)
        )


def recognises(path: Path) -> bool:
    return (path / LOADGEN).is_file() and (path / SPL).is_file()


def results(path: Path) -> list[Result]:
    """The run of one scenario's folder. Its log names neither model nor machine, so only its figures can be compared."""
    run = read_run(path)
    log, energy = run.loadgen, run.energy()
    spoilt = Finding("loadgen_invalid", 0.0, 1.0, "1", f"LoadGen calls {log.path} not valid", True)
    return [
        Result(
            run_id=f"mlperf {log.begin_ns}",
            kind="batch" if log.scenario == "Offline" else "server",
            scenario=f"MLPerf {log.scenario}",
            num_requests=log.samples,
            window_s=log.duration_s,
            evidence=Evidence.MEASURED,
            origin=SOURCE.origin,
            instrument="wall",
            source=path,
            status=Status.valid if log.valid else Status.invalid,
            reasons=() if log.valid else (spoilt.code,),
            messages=() if log.valid else (spoilt.message,),
            findings=() if log.valid else (spoilt,),
            notes=()
            if log.counted
            else ("tokens are samples times a fixed mean length: LoadGen counted none",),
            metrics={
                "window/duration_s": log.duration_s,
                "energy/wall_j": energy.value_j,
                "energy/wall_j_u95_method": math.hypot(energy.u95_gaps_j, energy.u95_sampling_j),
                "energy/wall_j_per_output_token": energy.value_j / log.tokens,
                "power/wall_mean_w": energy.value_j / energy.duration_s,
                "throughput/output_tokens_per_s": log.tokens_per_second,
                "tokens/output": log.tokens,
            },
        )
    ]


def read_run(folder: str | Path, meter_ahead_s: float = 0.0) -> MlperfRun:
    """Reads `spl.txt` and `mlperf_log_detail.txt` of one scenario's folder.

    meter_ahead_s   the meter's clock minus LoadGen's; 0: both kept the same time in the same zone
    Raises NotStartedError where the meter's log does not cover power_begin to power_end, naming the time zone
    difference that would explain it if there is just one.
    """
    folder = Path(folder)
    loadgen, meter = read_loadgen(folder / LOADGEN), read_spl(folder / SPL)
    run = MlperfRun(loadgen, meter, meter_ahead_s)
    start_ns, end_ns = run.window_ns
    if not meter.covers(start_ns, end_ns):
        fits = [
            quarters / 4
            for quarters in range(-MAX_ZONE_QUARTERS, MAX_ZONE_QUARTERS + 1)
            if meter.covers(start_ns + quarters * QUARTER_NS, end_ns + quarters * QUARTER_NS)
        ]
        remedy = (
            f"a difference of {fits[0]:+g} h between the time zones would explain it: "
            f"if that is so, give meter_ahead_s={meter_ahead_s + fits[0] * 3600:g}"
            if len(fits) == 1
            else "no single difference between time zones explains it; are the two files of one run?"
        )
        raise NotStartedError(
            f"{meter.path} runs from {utc(int(meter.t_ns[0]))} to {utc(int(meter.t_ns[-1]))}, but the run from "
            f"{utc(start_ns)} to {utc(end_ns)}; {remedy}"
        )
    return run


def read_spl(path: str | Path) -> PowerLog:
    """Reads the analyser's log, `Time,<stamp>,Watts,<sum of the channels>,Volts,...`; raises NotStartedError."""
    path = Path(path).expanduser()
    lines = bounded_text(path, "power log").splitlines()
    columns = 0
    stamps: list[int] = []
    power_w: list[float] = []
    numbers: list[int] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        cells = line.split(",")
        if len(cells) < 4 or cells[0] != "Time" or cells[2] != "Watts":
            raise broken(
                path,
                number,
                f"expected 'Time,<time>,Watts,<power>,...', found {line[:60]!r}; remove the line",
            )
        columns = columns or len(cells)
        at_ns = stamp_ns(cells[1], STAMP)
        if at_ns is None:
            raise broken(path, number, f"{cells[1]!r} is no time like 07-17-2024 09:44:23.305")
        value = _number(cells[3])
        if value is None or value < 0:
            raise broken(
                path,
                number,
                f"{cells[3]!r} is no power in watts: the meter had an error; repeat the measurement",
            )
        if len(cells) != columns:
            what = "cut off" if number == len(lines) else "damaged"
            raise broken(path, number, f"{len(cells)} columns instead of {columns}: {what}; remove the line")
        stamps.append(at_ns)
        power_w.append(value)
        numbers.append(number)
    return make_log(path, stamps, power_w, 0, numbers)


def read_loadgen(path: str | Path) -> LoadgenLog:
    """Reads `mlperf_log_detail.txt` of an Offline or Server run with token rates; raises NotStartedError."""
    path = Path(path).expanduser()
    lines = bounded_text(path, "LoadGen log").splitlines()
    events: dict[str, Any] = {}
    last_ms = begun_ms = 0.0
    for number, line in enumerate(lines, start=1):
        if not line.startswith(PREFIX):
            continue
        try:
            event = json.loads(line[len(PREFIX) :])
            key, value, at_ms = event["key"], event["value"], float(event["time_ms"])
        except (ValueError, TypeError, KeyError):
            raise broken(
                path, number, "damaged or cut off: no JSON event with key, value and time_ms"
            ) from None
        events[key] = value
        last_ms = at_ms
        if key == "generated_query_duration":
            begun_ms = at_ms
    found = _Events(path, events)
    scenario = str(found.get("effective_scenario"))
    samples, left_out = None, 0
    if scenario == "Offline":
        tokens_per_second, counted = found.token_rate("tokens_per_second")
        rate_s = found.number("result_max_latency_ns") / 1e9
    elif scenario == "Server":
        tokens_per_second, counted = found.token_rate("completed_tokens_per_second")
        samples = round(found.number("result_query_count"))
        if samples < 2:
            raise NotStartedError(
                f"{path}: a Server run of {samples} query has no rate; at least 2 are needed"
            )
        # The time is not logged; the rate of samples over it is, of all samples but the last one sent.
        rate_s = (samples - 1) / found.number("result_completed_samples_per_sec")
        left_out = 0 if counted else 1
    else:
        raise NotStartedError(
            f"{path} is of the scenario {scenario!r}; only Offline and Server have a token rate"
        )
    begin_ns, end_ns = found.time("power_begin"), found.time("power_end")
    if end_ns <= begin_ns:
        raise NotStartedError(f"{path}: power_end is not after power_begin; the log is damaged")
    return LoadgenLog(
        path=path,
        scenario=scenario,
        valid=found.get("result_validity") == "VALID",
        begin_ns=begin_ns,
        end_ns=end_ns,
        # Queries are sent as soon as they are generated.
        log_end_ns=begin_ns + round((last_ms - begun_ms) * 1e6),
        tokens_per_second=tokens_per_second,
        rate_s=rate_s,
        counted=counted,
        samples_left_out=left_out,
        samples=samples,
    )


@dataclass(frozen=True)
class _Events:
    path: Path
    values: dict[str, Any]

    def get(self, key: str) -> Any:
        if key not in self.values:
            raise NotStartedError(
                f"{self.path} has no event {key!r}: not a finished performance run with tokens and power, "
                "or not LoadGen's mlperf_log_detail.txt"
            )
        return self.values[key]

    def number(self, key: str) -> float:
        value = _number(self.get(key))
        if value is None or value <= 0:
            raise NotStartedError(f"{self.path}: {key} is {self.get(key)!r}, not a positive number")
        return value

    def token_rate(self, name: str) -> tuple[float, bool]:
        """(tokens per second, whether they were counted) from `result_NAME`, else from `result_inferred_NAME`."""
        inferred = f"result_inferred_{name}"
        if f"result_{name}" not in self.values and inferred in self.values:
            return self.number(inferred), False
        return self.number(f"result_{name}"), True

    def time(self, key: str) -> int:
        at_ns = stamp_ns(str(self.get(key)), STAMP)
        if at_ns is None:
            raise NotStartedError(
                f"{self.path}: {key} is {self.get(key)!r}, not a time like 07-17-2024 09:52:23.554"
            )
        return at_ns


def _number(value: Any) -> float | None:
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None
