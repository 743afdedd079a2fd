from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from wattcount.records.schema import REQUESTS_SCHEMA, STEPS_SCHEMA
from wattcount.records.spool import Spool, Stream, power_events, read_stream, requests_table, steps_table


def all_events(folder: Path) -> Any:
    _, batches = power_events(folder)
    parts = list(batches)
    return np.concatenate(parts) if parts else None


def test_events_come_back_as_they_were(tmp_path: Path, events: Callable[..., Any]) -> None:
    spool = Spool(tmp_path, ["GPU-a", "GPU-b"])
    first, second = events(5), events(7, start=5, gpu=1)
    spool.append_power(first)
    spool.append_power(second)
    spool.close()
    uuids, _ = power_events(tmp_path)
    assert uuids == ("GPU-a", "GPU-b")
    np.testing.assert_array_equal(all_events(tmp_path), np.concatenate([first, second]))


def test_what_was_appended_can_be_read_without_closing(tmp_path: Path, events: Callable[..., Any]) -> None:
    spool = Spool(tmp_path, ["GPU-a"])
    spool.append_power(events(5))
    spool.append_power(events(3, start=5))
    assert len(all_events(tmp_path)) == 8
    spool.close()


@pytest.mark.parametrize("cut", [1, 7, 40, 200])
def test_a_torn_last_batch_is_passed_over(tmp_path: Path, events: Callable[..., Any], cut: int) -> None:
    path = tmp_path / "power.arrows"
    spool = Spool(tmp_path, ["GPU-a"])
    spool.append_power(events(50))
    whole = path.stat().st_size
    spool.append_power(events(50, start=50))
    torn = path.read_bytes()
    spool.close()
    assert len(torn) - cut > whole
    path.write_bytes(torn[:-cut])
    assert len(all_events(tmp_path)) == 50


def test_every_truncation_yields_a_prefix(tmp_path: Path, events: Callable[..., Any]) -> None:
    path = tmp_path / "power.arrows"
    spool = Spool(tmp_path, ["GPU-a"])
    for i in range(3):
        spool.append_power(events(4, start=4 * i))
    content = path.read_bytes()
    spool.close()
    seen = set()
    for length in range(0, len(content) + 1, 3):
        path.write_bytes(content[:length])
        found = all_events(tmp_path)
        seen.add(0 if found is None else len(found))
        if found is not None:
            assert found["value"].tolist() == [100_000 + i % 4 for i in range(len(found))]
    assert seen == {0, 4, 8, 12}


def test_missing_and_empty_streams_hold_nothing(tmp_path: Path) -> None:
    assert power_events(tmp_path)[0] == ()
    assert len(requests_table(tmp_path)) == 0
    (tmp_path / "steps.arrows").write_bytes(b"")
    assert len(steps_table(tmp_path)) == 0
    assert steps_table(tmp_path).schema == STEPS_SCHEMA


def test_a_full_disk_leaves_what_was_written(
    tmp_path: Path, events: Callable[..., Any], limit_file_size: Any
) -> None:
    spool = Spool(tmp_path, ["GPU-a"])
    spool.append_power(events(100))
    with limit_file_size(10_000), pytest.raises(OSError, match=r"."):
        spool.append_power(events(1000, start=100))
    with pytest.raises(OSError, match="earlier error"):
        spool.append_power(events(1, start=100))
    spool.close()
    assert len(all_events(tmp_path)) == 100


def test_a_stream_does_not_overwrite(tmp_path: Path) -> None:
    Stream(tmp_path / "a.arrows", STEPS_SCHEMA).close()
    with pytest.raises(FileExistsError):
        Stream(tmp_path / "a.arrows", STEPS_SCHEMA)


def test_closing_twice_is_fine(tmp_path: Path, events: Callable[..., Any]) -> None:
    spool = Spool(tmp_path, [])
    spool.close()
    spool.close()
    with pytest.raises(OSError, match="closed"):
        spool.append_power(events(1))


def test_pieces_of_a_request_are_put_together(tmp_path: Path, request_row: Callable[..., Any]) -> None:
    spool = Spool(tmp_path, [])
    one, two = request_row(0), request_row(1)
    spool.append_requests([one, two], [0, 0])
    one.actual_send_ns, one.status = 10, "cancelled"
    one.token_ts_ns, one.token_count = [11, 12], [1, 2]
    spool.append_requests([one], [0])
    two.actual_send_ns, two.status, two.token_ts_ns, two.token_count = 20, "cancelled", [21], [1]
    one.token_ts_ns, one.token_count = [11, 12, 13], [1, 2, 1]
    spool.append_requests([two, one], [0, 2])
    one.status = "completed"
    spool.append_requests([one], [3])
    spool.close()
    table = requests_table(tmp_path)
    assert table.schema == REQUESTS_SCHEMA
    rows = {row["request_id"]: row for row in table.to_pylist()}
    assert rows["w0"]["token_ts_ns"] == [11, 12, 13]
    assert rows["w0"]["token_count"] == [1, 2, 1]
    assert (rows["w0"]["status"], rows["w0"]["actual_send_ns"]) == ("completed", 10)
    assert rows["w1"]["token_ts_ns"] == [21]
    assert rows["w1"]["status"] == "cancelled"
    assert len(table) == 2


def test_a_torn_stream_keeps_the_earlier_state_of_a_request(
    tmp_path: Path, request_row: Callable[..., Any]
) -> None:
    spool = Spool(tmp_path, [])
    row = request_row(0)
    spool.append_requests([row], [0])
    row.actual_send_ns, row.token_ts_ns, row.token_count, row.status = 5, [6, 7], [1, 1], "completed"
    spool.append_requests([row], [0])
    path = tmp_path / "requests.arrows"
    content = path.read_bytes()
    spool.close()
    path.write_bytes(content[:-10])
    (found,) = requests_table(tmp_path).to_pylist()
    assert (found["status"], found["token_ts_ns"]) == ("not_sent", [])


def test_many_requests_in_many_pieces(tmp_path: Path, request_row: Callable[..., Any]) -> None:
    rng = np.random.default_rng(1)
    rows = [request_row(i) for i in range(200)]
    spooled = [0] * len(rows)
    spool = Spool(tmp_path, [])
    spool.append_requests(rows, spooled)
    for _ in range(30):
        chosen = sorted(rng.choice(len(rows), 50, replace=False).tolist())
        for i in chosen:
            fresh = int(rng.integers(0, 5))
            rows[i].token_ts_ns += rng.integers(1, 1 << 60, fresh).tolist()
            rows[i].token_count += rng.integers(1, 9, fresh).tolist()
        spool.append_requests([rows[i] for i in chosen], [spooled[i] for i in chosen])
        for i in chosen:
            spooled[i] = len(rows[i].token_ts_ns)
    spool.close()
    table = requests_table(tmp_path)
    assert table["token_ts_ns"].to_pylist() == [row.token_ts_ns for row in rows]
    assert table["token_count"].to_pylist() == [row.token_count for row in rows]


def test_steps_come_back(tmp_path: Path, step: Callable[[int], Any]) -> None:
    spool = Spool(tmp_path, [])
    spool.append_steps([step(1), step(2)])
    spool.append_steps([])
    spool.append_steps([step(3)])
    spool.close()
    table = steps_table(tmp_path)
    assert table["logged_ns"].to_pylist() == [1, 2, 3]
    assert table["decode_tokens"].to_pylist() == [None] * 3
    assert list(read_stream(tmp_path / "nothing.arrows")) == []
