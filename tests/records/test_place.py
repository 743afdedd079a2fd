from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

from wattcount.records.place import final_folder, new_run_id, temporary_folder


def test_run_ids_sort_by_time_and_never_repeat() -> None:
    start = datetime(2026, 2, 28, 23, 59, 59, 998_000, tzinfo=UTC)
    ids = [new_run_id(start + timedelta(milliseconds=i)) for i in range(5)]
    assert ids == sorted(ids)
    assert ids[0].startswith("20260228-235959-998-")
    assert ids[2].startswith("20260301-000000-000-")
    assert len({new_run_id(start) for _ in range(200)}) == 200


def test_run_ids_are_utc() -> None:
    from datetime import timezone

    local = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert new_run_id(local).startswith("20251231-230000-000-")


def test_the_temporary_folder_lies_beside_the_final_one() -> None:
    point = "ab" * 32
    final = final_folder(Path("/records"), point, 3, "20260101-000000-000-abcdef")
    temporary = temporary_folder(Path("/records"), point, "20260101-000000-000-abcdef")
    assert final == Path("/records/abababababab/r3-20260101-000000-000-abcdef")
    assert temporary.parent == final.parent
    assert temporary.name == ".tmp-20260101-000000-000-abcdef"
