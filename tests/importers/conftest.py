"""Small logs in the formats of the real ones, and where the real ones are."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

EVENTS: dict[str, Any] = {
    "test_datetime": "2024-07-17T02:52:23Z",
    "effective_scenario": "Offline",
    "generated_query_duration": 1,
    "power_begin": "07-17-2024 09:52:23.500",
    "power_end": "07-17-2024 09:52:33.500",
    "result_validity": "VALID",
    "result_query_count": 1,
    "result_max_latency_ns": 10_000_000_000,
    "result_tokens_per_second": 50.0,
}


@pytest.fixture
def mlperf_folder(tmp_path: Path) -> Callable[..., Path]:
    """Makes a folder with a meter at 1 Hz, 100 W but for 500 W from 09:52:24 to :33, and LoadGen's log of 10 s.

    `events` are changed (None: left out); `first_s`, `last_s`: the meter's seconds from 09:52:00.
    """

    def make(first_s: int = 0, last_s: int = 59, hour: int = 9, **events: Any) -> Path:
        lines = []
        for second in range(first_s, last_s + 1):
            watts = 500.0 if 24 <= second <= 33 else 100.0
            lines.append(
                f"Time,07-17-2024 {hour:02d}:52:{second:02d}.000,Watts,{watts:.6f},Volts,239.1,Amps,3.4,PF,0.96,"
                f"Mark,2024-07-17_01-39-59_testing,Ch1,Watts,{watts:.6f},Volts,239.1,Amps,3.4,PF,0.96"
            )
        (tmp_path / "spl.txt").write_text("\n".join(lines) + "\n\n")
        log = "not an event\n"
        for number, (key, value) in enumerate((EVENTS | events).items()):
            if value is not None:
                event = {"key": key, "value": value, "time_ms": 100.0 * number, "event_type": "POINT_IN_TIME"}
                log += f":::MLLOG {json.dumps(event)}\n"
        (tmp_path / "mlperf_log_detail.txt").write_text(log)
        return tmp_path

    return make
