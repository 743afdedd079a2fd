from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow.parquet as pq
import pytest
from nobody import as_nobody

from wattcount.energy.rapl import HostReading
from wattcount.errors import NotStartedError, RunFailedError
from wattcount.records import Record, RecordWriter, schema
from wattcount.records.schema import Phase, PhaseSpan, RunInfo, Validity
from wattcount.records.writer import final_folder, new_run_id, temporary_folder


@pytest.fixture
def writer(tmp_path: Path, info: RunInfo) -> Iterator[RecordWriter]:
    made = RecordWriter.create(tmp_path / "records", info.point_id, info.run_id)
    made.save_draft(info)
    yield made
    made.close()


def spool_something(
    writer: RecordWriter,
    events: Callable[..., Any],
    request_row: Callable[..., Any],
    step: Callable[..., Any],
) -> None:
    writer.open_spool([f"GPU-00000000-0000-0000-0000-{0:012d}"])
    writer.append_power(events(20))
    writer.append_requests([request_row(1, 2, status="completed"), request_row(0, 1)], [0, 0])
    writer.append_steps([step(2000), step(1000)])


def test_a_record_is_there_only_when_it_is_whole(
    tmp_path: Path, writer: RecordWriter, info: RunInfo, events: Any, request_row: Any, step: Any
) -> None:
    spool_something(writer, events, request_row, step)
    point = tmp_path / "records" / info.point_id[:12]
    assert [p.name for p in point.iterdir()] == [f".tmp-{info.run_id}"]
    path = writer.finalise(info)
    assert [p.name for p in point.iterdir()] == [f"r0-{info.run_id}"] == [path.name]
    assert sorted(p.name for p in path.iterdir()) == [
        "power.parquet", "requests.parquet", "run.json", "steps.parquet", "tokens.parquet",
    ]  # fmt: skip
    record = Record.open(path)
    record.verify()
    assert len(record.power.events) == 20
    assert record.requests["request_id"].to_pylist() == ["w0", "w1"]  # by planned send
    assert record.steps["logged_ns"].to_pylist() == [1000, 2000]
    assert record.info == info


def test_host_power_has_a_file_only_where_it_was_read(writer: RecordWriter, info: RunInfo) -> None:
    writer.open_spool([info.gpus[0]["uuid"]])
    writer.append_host_power([])
    writer.append_host_power(
        [HostReading("package-0", 5000, 6000, 7), HostReading("package-1", 6000, 7000, None)]
    )
    writer.append_host_power([HostReading("package-1", 8000, 9000, 10)])
    # Its process is gone, and another one makes the record.
    path = RecordWriter.recover(writer.folder, "worker_died", "killed by SIGKILL")
    record = Record.open(path)
    record.verify()
    assert record.info.files["host_power.parquet"].rows == 3
    assert record.host_power_table.to_pylist() == [
        {"domain": "package-0", "t0_ns": 5000, "t1_ns": 6000, "value_uj": 7},
        {"domain": "package-1", "t0_ns": 6000, "t1_ns": 7000, "value_uj": None},
        {"domain": "package-1", "t0_ns": 8000, "t1_ns": 9000, "value_uj": 10},
    ]


def test_what_the_host_did_has_a_file_only_where_it_was_recorded(writer: RecordWriter) -> None:
    writer.open_spool([])
    blank = dict.fromkeys(schema.HOST_SCHEMA.names)
    rows = [
        blank | {"t_ns": 5000, "spin_ns": 700, "steal_ms": 0},
        blank | {"t_ns": 5000, "pid": 12, "process": "python", "involuntary": 2},
        blank | {"t_ns": 9000, "pid": 13, "process": "engine", "cpu_ns": 3},
    ]
    writer.append_host([SimpleNamespace(**row) for row in rows[:2]])
    writer.append_host([])
    writer.append_host([SimpleNamespace(**rows[2])])
    record = Record.open(RecordWriter.recover(writer.folder, "worker_died", "killed by SIGKILL"))
    record.verify()
    assert record.info.files["host.parquet"].rows == 3
    assert record.host.to_pylist() == rows
    assert "host_power.parquet" not in record.info.files


def test_an_empty_run_makes_an_empty_record(writer: RecordWriter, info: RunInfo) -> None:
    record = Record.open(writer.finalise(info))
    assert len(record.power.events) == len(record.requests) == len(record.steps) == 0
    assert record.requests.schema == schema.REQUESTS_SCHEMA
    assert record.power.gpu_uuids == (info.gpus[0]["uuid"],)


def test_large_traces_are_written_in_row_groups(
    writer: RecordWriter, info: RunInfo, events: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.records.packing.ROW_GROUP", 1000)
    writer.open_spool([info.gpus[0]["uuid"]])
    for i in range(7):
        writer.append_power(events(500, start=500 * i))
    path = writer.finalise(info)
    assert pq.ParquetFile(path / "power.parquet").metadata.num_row_groups == 4
    assert Record.open(path).power.events["t0_ns"].tolist() == [i * 1_000_000 for i in range(3500)]


def test_a_folder_that_cannot_be_made_is_told_before_the_run(tmp_path: Path, info: RunInfo) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotStartedError, match=r"records_dir: cannot write to .*file.*: Not a directory"):
        RecordWriter.create(tmp_path / "file", info.point_id, info.run_id)


def test_two_runs_never_share_a_folder(tmp_path: Path, writer: RecordWriter, info: RunInfo) -> None:
    assert writer.folder.is_relative_to(tmp_path / "records")
    with pytest.raises(NotStartedError, match="File exists"):
        RecordWriter.create(tmp_path / "records", info.point_id, info.run_id)


def test_a_full_disk_while_spooling_keeps_what_was_spooled(
    writer: RecordWriter, info: RunInfo, events: Any, limit_file_size: Any
) -> None:
    writer.open_spool([info.gpus[0]["uuid"]])
    writer.append_power(events(100))
    with (
        limit_file_size(10_000),
        pytest.raises(RunFailedError, match="the disk is full; free some space") as caught,
    ):
        writer.append_power(events(1000, start=100))
    assert caught.value.reason == "record_unwritable"
    path = RecordWriter.recover(writer.folder, "record_unwritable", str(caught.value))
    record = Record.open(path)
    assert len(record.power.events) == 100
    assert record.info.validity == Validity(False, ["record_unwritable"], [str(caught.value)])


def test_a_full_disk_while_closing_leaves_no_record_and_no_loss(
    tmp_path: Path, writer: RecordWriter, info: RunInfo, events: Any, limit_file_size: Any
) -> None:
    writer.open_spool([info.gpus[0]["uuid"]])
    writer.append_power(events(2000))
    with limit_file_size(2_000), pytest.raises(RunFailedError, match="the disk is full"):
        writer.finalise(info)
    assert list(tmp_path.glob("records/*/r*")) == []
    record = Record.open(RecordWriter.recover(writer.folder, "record_unwritable", "it was full"))
    assert len(record.power.events) == 2000


def test_a_killed_run_is_closed_as_invalid(
    writer: RecordWriter, info: RunInfo, events: Any, request_row: Any, step: Any
) -> None:
    info.phases = [PhaseSpan(Phase.BARE_IDLE, 1000, 2000), PhaseSpan(Phase.ENGINE_START, 2000, None)]
    spool_something(writer, events, request_row, step)
    writer.save_draft(info)
    # The process is gone; another one has only the folder.
    path = RecordWriter.recover(writer.folder, "worker_died", "killed by SIGKILL")
    record = Record.open(path)
    record.verify()
    assert record.info.validity == Validity(False, ["worker_died"], ["killed by SIGKILL"])
    assert record.info.phases == info.phases
    assert len(record.info.clock_pairs) == len(info.clock_pairs) + 1
    assert len(record.power.events) == 20
    assert not writer.folder.exists()


def test_the_reason_a_run_gave_itself_comes_first(writer: RecordWriter, info: RunInfo) -> None:
    writer.save_draft(replace(info, validity=Validity(False, ["engine_died"], ["vLLM died"])))
    found = Record.open(RecordWriter.recover(writer.folder, "worker_died", "killed")).info.validity
    assert found.reasons == ["engine_died", "worker_died"]
    assert found.messages == ["vLLM died", "killed"]


def test_a_run_that_had_measured_everything_stays_valid(
    writer: RecordWriter, info: RunInfo, events: Any
) -> None:
    writer.open_spool([info.gpus[0]["uuid"]])
    writer.append_power(events(3))
    writer.save_draft(replace(info, complete=True))
    found = Record.open(RecordWriter.recover(writer.folder, "worker_died", "killed by SIGKILL")).info
    assert found.validity.valid
    assert "killed by SIGKILL" in found.notes[-1]


def test_recovery_can_be_tried_again(
    writer: RecordWriter, info: RunInfo, events: Any, limit_file_size: Any
) -> None:
    writer.open_spool([info.gpus[0]["uuid"]])
    writer.append_power(events(2000))
    for _ in range(2):
        with limit_file_size(2_000), pytest.raises(RunFailedError):
            RecordWriter.recover(writer.folder, "worker_died", "killed")
    assert len(Record.open(RecordWriter.recover(writer.folder, "worker_died", "killed")).power.events) == 2000


def test_a_folder_without_a_draft_cannot_be_recovered(tmp_path: Path) -> None:
    folder = tmp_path / ".tmp-x"
    folder.mkdir()
    with pytest.raises(RunFailedError, match="no draft"):
        RecordWriter.recover(folder, "worker_died", "killed")


def test_a_draft_is_replaced_in_one_step(writer: RecordWriter, info: RunInfo, limit_file_size: Any) -> None:
    before = writer.draft()
    with limit_file_size(100), pytest.raises(RunFailedError):
        writer.save_draft(replace(info, notes=["x" * 1000]))
    assert writer.draft() == before


def test_a_checkpoint_is_taken_when_it_is_asked_for(writer: RecordWriter, info: RunInfo) -> None:
    info.notes = ["one"]
    save = writer.checkpoint(info)
    info.notes.append("two")
    save()
    assert writer.draft().notes == ["one"]


def test_a_read_only_folder(tmp_path: Path, info: RunInfo) -> None:
    tmp_path.chmod(0o500)
    with as_nobody(), pytest.raises(NotStartedError, match="Permission denied; set records_dir=FOLDER"):
        RecordWriter.create(tmp_path / "records", info.point_id, info.run_id)


def test_run_ids_sort_by_time_and_never_repeat() -> None:
    start = datetime(2026, 2, 28, 23, 59, 59, 998_000, tzinfo=UTC)
    ids = [new_run_id(start + timedelta(milliseconds=i)) for i in range(5)]
    assert ids == sorted(ids)
    assert ids[0].startswith("20260228-235959-998-")
    assert ids[2].startswith("20260301-000000-000-")
    assert len({new_run_id(start) for _ in range(200)}) == 200


def test_run_ids_are_utc() -> None:
    local = datetime(2026, 1, 1, 1, 0, tzinfo=timezone(timedelta(hours=2)))
    assert new_run_id(local).startswith("20251231-230000-000-")


def test_the_temporary_folder_lies_beside_the_final_one() -> None:
    point = "ab" * 32
    final = final_folder(Path("/records"), point, 3, "20260101-000000-000-abcdef")
    temporary = temporary_folder(Path("/records"), point, "20260101-000000-000-abcdef")
    assert final == Path("/records/abababababab/r3-20260101-000000-000-abcdef")
    assert temporary.parent == final.parent
    assert temporary.name == ".tmp-20260101-000000-000-abcdef"


def test_of_a_log_that_runs_share_each_record_has_its_own_part(
    tmp_path: Path, writer: RecordWriter, info: RunInfo, events: Any, request_row: Any, step: Any
) -> None:
    log = tmp_path / "engine.log"
    log.write_text("of the run before\n")
    writer.link_log(log)
    log.write_text("of the run before\nof this run\n")
    assert "of this run" in (writer.folder / schema.ENGINE_LOG).read_text()
    spool_something(writer, events, request_row, step)
    path = writer.finalise(replace(info, validity=Validity(False, ["engine_died"], ["it died"])))
    with log.open("a") as stream:
        stream.write("of the next run\n")
    assert not (path / schema.ENGINE_LOG).is_symlink()
    assert (path / schema.ENGINE_LOG).read_text() == "of this run\n"
    assert Record.open(path).info.log_tail == ["of this run"]
    Record.open(path).files()


def test_a_shared_log_that_is_gone_leaves_an_empty_one(tmp_path: Path, writer: RecordWriter) -> None:
    writer.link_log(tmp_path / "engine.log")
    path = RecordWriter.recover(writer.folder, "worker_died", "killed")
    assert (path / schema.ENGINE_LOG).read_bytes() == b""
