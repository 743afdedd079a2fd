"""The comparison with recordings at full rate, on recordings that are made here."""

from __future__ import annotations

import csv
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "benchmarks"))
import bench_energy_recorded as bench

RECORDS = Path(__file__).resolve().parents[2] / "data" / "h100" / "records"


def write_recording(path: Path, tick_s: float, *, averages: bool = True) -> None:
    """40 s of 300 W with a swing of 100 W each 3 s: the counter read every 10 ms, samples every 20 ms, averages every 100 ms."""
    rng = np.random.default_rng(0)

    def energy_j(t: np.ndarray) -> np.ndarray:
        return 300 * t - 100 * 3 / (2 * np.pi) * (np.cos(2 * np.pi * t / 3) - 1)

    rows: list[tuple[float, str, float, float, int]] = []
    for t in np.arange(0.2, 40.0, 0.01) + rng.uniform(0, 0.002, 3980):
        tick = np.floor(t / tick_s) * tick_s
        rows.append((t, "E", t, t, round(1e3 * float(energy_j(tick)))))
    rows += [
        (t, "R", t, t, round(1e3 * (300 + 100 * np.sin(2 * np.pi * t / 3))))
        for t in np.arange(0.0, 40.0, 0.02)
    ]
    for t in np.arange(1.0, 40.0, 0.1):
        mean_w = float(energy_j(np.array(t)) - energy_j(np.array(t - 1.0)))
        rows.append((t, "I", t, t, round(1e3 * (300 + 100 * np.sin(2 * np.pi * t / 3)))))
        if averages:
            rows.append((t, "A", t, t, round(1e3 * mean_w)))
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(("kind", "t0", "t1", "value"))
        writer.writerows(row[1:] for row in sorted(rows))


def rows_of(text: str) -> dict[str, list[str]]:
    """By length of the window: its cells."""
    lines = [line for line in text.splitlines() if line.startswith("near_trace")]
    return {line.split()[1]: line.split()[2:] for line in lines}


@pytest.mark.parametrize("tick_s", [0.09999, 0.1, 0.10001])
def test_ticks_may_come_just_under_100_ms_apart(
    tick_s: float, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recording(tmp_path / "near_trace.csv", tick_s)
    bench.recordings(tmp_path, 1.009)
    found = rows_of(capsys.readouterr().out)
    assert list(found) == ["1", "5", "10"]
    for cells in found.values():
        assert float(cells[0]) < 1.0  # rms of the estimate, percent
        assert cells[-3:] != ["-"] * 3
        assert float(cells[-1]) < 15.0  # worst of the average over a second: it has a value in most windows


def test_a_source_that_was_not_recorded_has_no_figure(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_recording(tmp_path / "near_trace.csv", 0.1, averages=False)
    bench.recordings(tmp_path, 1.009)
    assert [cells[-1] for cells in rows_of(capsys.readouterr().out).values()] == ["-", "-", "-"]


def test_a_record_of_two_gpus_has_a_row_for_each() -> None:
    (point,) = RECORDS.glob("2bba*")
    two = next(path for path in point.glob("*/") if path.is_dir())
    record = bench.Record.open(two)
    assert len(record.power.gpu_uuids) == 2
    for uuid in record.power.gpu_uuids:
        ticks, *_ = bench.thinned_record(record.power, uuid).split()
        assert int(ticks) > 20
