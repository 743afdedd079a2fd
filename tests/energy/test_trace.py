"""Traces as tables and curves."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from wattcount.energy import PowerTrace
from wattcount.energy.events import EVENT_DTYPE, SOURCE_UNITS, Source
from wattcount.records.schema import POWER_SCHEMA

S = 1_000_000_000


def events(*rows: tuple[int, ...]) -> np.ndarray:
    return np.array(list(rows), EVENT_DTYPE)


TRACE = PowerTrace(
    ("GPU-a", "GPU-b"),
    events(
        (-1, 0, 10, -1, 5_000_000_000_123, 0, Source.ENERGY_COUNTER, 1),
        (0, 20, 30, 1_700_000_000_000_000, 250_000, 0, Source.POWER_SAMPLES, 0),
        (-1, 40, 50, -1, 0, 15, Source.POWER_INSTANT, 0),
    ),
)


def test_every_source_has_a_unit() -> None:
    assert set(SOURCE_UNITS) == set(Source)


def test_arrow_round_trip_keeps_everything() -> None:
    table = TRACE.to_arrow().cast(POWER_SCHEMA)
    assert table["prev_t0_ns"].to_pylist() == [None, 0, None]
    assert table["source_ts_us"].null_count == 2
    back = PowerTrace.from_arrow(table, TRACE.gpu_uuids)
    assert back.gpu_uuids == TRACE.gpu_uuids
    np.testing.assert_array_equal(back.events, TRACE.events)


def test_an_empty_trace_goes_there_and_back() -> None:
    empty = PowerTrace(("GPU-a",), np.empty(0, EVENT_DTYPE))
    assert len(PowerTrace.from_arrow(empty.to_arrow(), ["GPU-a"])) == 0
    estimate = empty.energy(0, S, "GPU-a")
    assert estimate.value_j is None
    assert "no_power_data" in estimate.reasons
    assert len(empty.curve("GPU-a", 100)[0]) == 0


def test_what_this_version_does_not_know_is_refused() -> None:
    table = TRACE.to_arrow()
    strange = table.set_column(1, "source", pa.array(["energy_counter", "power_samples", "tachyons"]))
    with pytest.raises(ValueError, match="tachyons"):
        PowerTrace.from_arrow(strange)
    with pytest.raises(ValueError, match="GPU-b"):
        PowerTrace.from_arrow(table, ["GPU-a"])
    with pytest.raises(TypeError, match="EVENT_DTYPE"):
        PowerTrace(("GPU-a",), np.zeros(3))


def test_pandas_shows_names_and_missing_stamps() -> None:
    frame = TRACE.to_pandas()
    assert frame["source"].tolist() == ["energy_counter", "power_samples", "power_instant"]
    assert frame["gpu"].tolist() == ["GPU-b", "GPU-a", "GPU-a"]
    assert frame["source_ts_us"].isna().tolist() == [True, False, True]


def test_a_gpu_that_is_not_in_the_trace() -> None:
    with pytest.raises(KeyError, match="GPU-c"):
        TRACE.energy(0, S, "GPU-c")


def test_the_curve_keeps_the_energy_whatever_its_points() -> None:
    stamps = np.arange(0, 10 * S, 20_000_000)
    power_mw = np.where(stamps % S < S // 3, 600_000, 100_000)
    rows = [(-1, int(t), int(t), int(t // 1000), int(p), 0, Source.POWER_SAMPLES, 0) for t, p in zip(stamps + S, power_mw, strict=True)]  # fmt: skip
    rows += [(-1, t, t, -1, t, 0, Source.REALTIME, 0) for t in (S, 11 * S)]
    trace = PowerTrace(("GPU-a",), events(*rows))
    whole = trace.energy(S + 1, 11 * S - 20_000_001, "GPU-a").value_j
    assert whole is not None
    for points in (1, 7, 100, 1000):
        t_ns, power_w = trace.curve("GPU-a", points)
        assert len(t_ns) == min(points, len(stamps) - 1)
        assert (np.diff(t_ns) > 0).all()
        assert power_w.mean() * (len(stamps) - 1) * 0.02 == pytest.approx(whole, rel=1e-3)
