from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_record import SyntheticRun

from wattcount.config.identity import levers, point_id
from wattcount.config.loader import changed, from_json
from wattcount.config.schema import RunConfig
from wattcount.energy.rapl import HostReading
from wattcount.engines import defaults, registry
from wattcount.engines.vllm.defaults import BARE_ENGINE
from wattcount.errors import WattcountError
from wattcount.masking import conceal, reveal
from wattcount.records import Record, RecordWriter
from wattcount.records.reader import upgraded
from wattcount.records.schema import STEPS_SCHEMA, RunInfo


@pytest.fixture
def path(tmp_path: Path, info: RunInfo, events: Any, request_row: Any, step: Any) -> Path:
    writer = RecordWriter.create(tmp_path, info.point_id, info.run_id)
    writer.save_draft(info)
    writer.open_spool([info.gpus[0]["uuid"]])
    writer.append_power(events(500))
    writer.append_requests([request_row(i, 5) for i in range(50)], [0] * 50)
    writer.append_steps([step(i) for i in range(50)])
    return writer.finalise(info)


def edit_run_json(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    data = json.loads((path / "run.json").read_text())
    change(data)
    (path / "run.json").write_text(json.dumps(data))


def test_reads_what_others_wrote(tmp_path: Path) -> None:
    run = SyntheticRun(gpus=2)
    record = Record.open(run.write(tmp_path / "record"))
    assert record.power.gpu_uuids == (run.uuid(0), run.uuid(1))
    assert len(record.requests) == len(run.requests)
    assert record.metrics is None
    record.verify()  # without `files` there is nothing to compare with


def test_host_power_may_be_missing_only_where_it_was_never_written(
    tmp_path: Path, info: RunInfo, path: Path
) -> None:
    assert Record.open(path).host_power.energy(0, 1, "package").reason == "not_recorded"
    assert len(Record.open(path).host) == 0
    writer = RecordWriter.create(tmp_path, info.point_id, "another")
    writer.open_spool([])
    writer.append_host_power([HostReading("package-0", 5, 6, 7)])
    info.run_id = "another"
    other = writer.finalise(info)
    (other / "host_power.parquet").unlink()
    with pytest.raises(WattcountError, match=r"host_power\.parquet"):
        Record.open(other).verify()
    with pytest.raises(WattcountError, match=r"damaged: host_power\.parquet is missing"):
        _ = Record.open(other).host_power


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "is no run record"),
        ("", "is damaged"),
        ('{"schema_version": 1', "is damaged"),
        ("[]", "no schema_version"),
        ('{"schema_version": "1"}', "no schema_version"),
        ('{"schema_version": true}', "no schema_version"),
        (
            '{"schema_version": 99}',
            r"schema version 99, this wattcount reads versions 1 to 3: pip install -U",
        ),
        ('{"schema_version": 0}', "measure again"),
        ('{"schema_version": 1}', "the key 'evidence' is missing"),
    ],
)
def test_refuses_what_is_no_record(tmp_path: Path, content: str | None, message: str) -> None:
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    with pytest.raises(WattcountError, match=message):
        Record.open(tmp_path)


def test_refuses_a_file_and_a_missing_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(WattcountError, match="a run record is a folder"):
        Record.open(tmp_path / "file")
    with pytest.raises(WattcountError, match="does not exist"):
        Record.open(tmp_path / "nowhere")


@pytest.mark.parametrize(
    "change",
    [
        lambda d: d.pop("config"),
        lambda d: d.update(evidence="guessed"),
        lambda d: d.update(phases=[{"phase": "lunch", "start_ns": 1, "end_ns": 2}]),
        lambda d: d.update(phases=[{"phase": "window"}]),
        lambda d: d.update(phases=None),
        lambda d: d.update(validity=[True]),
        lambda d: d.update(files={"power.parquet": {"bytes": 1}}),
    ],
)
def test_a_run_json_of_another_shape_is_damaged(
    path: Path, change: Callable[[dict[str, Any]], object]
) -> None:
    edit_run_json(path, change)
    with pytest.raises(WattcountError, match=r"run\.json is damaged"):
        Record.open(path)


def test_keys_of_later_versions_are_passed_over(path: Path) -> None:
    edit_run_json(path, lambda d: d.update(something_new=1))
    assert Record.open(path).info.seed == 0


@pytest.mark.parametrize("name", ["power.parquet", "requests.parquet", "steps.parquet"])
@pytest.mark.parametrize("damage", ["missing", "empty", "cut", "flipped", "text", "other_columns"])
def test_damaged_tables_are_found(path: Path, name: str, damage: str) -> None:
    file = path / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-100])
    elif damage == "flipped":
        # In the first data page, where only its checksum can tell.
        file.write_bytes(content[:60] + bytes([content[60] ^ 0xFF]) + content[61:])
    elif damage == "other_columns":
        pq.write_table(pa.table({"a": [1]}), file)
    else:
        file.write_bytes(b"" if damage == "empty" else b"no parquet at all")
    with pytest.raises(WattcountError, match=r"damaged|not what was measured") as caught:
        Record.open(path).verify()
    assert name in str(caught.value)


def test_older_records_lack_columns_that_came_later(path: Path) -> None:
    file = path / "steps.parquet"
    pq.write_table(pq.read_table(file).drop_columns(["draft_tokens", "accepted_tokens"]), file)
    edit_run_json(path, lambda d: d.pop("files"))
    steps = Record.open(path).steps
    assert steps.schema == STEPS_SCHEMA
    assert steps["draft_tokens"].null_count == len(steps) == 50


def test_damage_is_found_without_sizes_too(path: Path) -> None:
    edit_run_json(path, lambda d: d.pop("files"))
    content = (path / "requests.parquet").read_bytes()
    (path / "requests.parquet").write_bytes(content[: len(content) // 2])
    with pytest.raises(WattcountError, match=r"requests\.parquet is damaged"):
        _ = Record.open(path).requests


def test_a_flipped_bit_is_found_when_the_table_is_read(path: Path) -> None:
    file = path / "requests.parquet"
    content = bytearray(file.read_bytes())
    columns = pq.ParquetFile(file).metadata.row_group(0)
    column = next(
        columns.column(i)
        for i in range(columns.num_columns)
        if columns.column(i).path_in_schema == "request_id"
    )
    content[column.data_page_offset + column.total_compressed_size - 3] ^= 0x10
    file.write_bytes(bytes(content))
    with pytest.raises(WattcountError, match=r"requests\.parquet is damaged"):
        _ = Record.open(path).requests


def test_exchanged_content_is_found(path: Path) -> None:
    """Another valid file of the same length in place of the measured one."""
    edit_run_json(path, lambda d: d["files"]["steps.parquet"].update(sha256="0" * 64))
    record = Record.open(path)
    _ = record.steps
    with pytest.raises(WattcountError, match=r"steps\.parquet is not what was measured"):
        record.verify()


def test_unknown_sources_and_gpus_are_refused(path: Path) -> None:
    edit_run_json(path, lambda d: d["gpus"][0].update(uuid="GPU-other"))
    with pytest.raises(WattcountError, match=r"GPUs that run\.json does not"):
        _ = Record.open(path).power


def test_metrics_as_they_are_now(path: Path) -> None:
    record = Record.open(path)
    assert record.metrics is None
    (path / "metrics.json").write_text('{"metrics": {}}')
    assert record.metrics == {"metrics": {}}
    for broken in ("{", "[]"):
        (path / "metrics.json").write_text(broken)
        with pytest.raises(WattcountError, match=r"wattcount metrics .* makes it afresh"):
            _ = record.metrics


def test_reading_needs_neither_pandas_nor_the_native_module(path: Path) -> None:
    code = f"""
import sys

class Without:
    def find_spec(name, *_):
        if name in ("pandas", "wattcount.gpu._native", "vllm", "torch"):
            raise ImportError(name)

sys.meta_path.insert(0, Without)
from wattcount.records import Record
record = Record.open({str(path)!r})
print(len(record.power.events), len(record.requests), len(record.steps), "mlflow" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["500", "50", "50", "False"]


def test_a_password_in_a_record_does_not_take_the_place_of_this_process_s_own(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "environ", os.environ.copy())
    hidden = conceal("https://me:new@host")
    edit_run_json(path, lambda data: data["config"].update(tracking={"uri": "https://me:old@host"}))
    assert Record.open(path).info.config["tracking"]["uri"] == "https://me:old@host"
    assert reveal(hidden) == "https://me:new@host"


RECORDS = sorted((Path(__file__).resolve().parents[2] / "data").glob("h*/records/*/*/run.json"))


def config_of(file: Path) -> RunConfig:
    return from_json(Record.open(file.parent).info.config)


def test_every_old_record_says_what_it_ran_with() -> None:
    assert len(RECORDS) == 118
    for file in RECORDS:
        before = json.loads(file.read_bytes())
        info = Record.open(file.parent).info
        asked, now, told = before["config"]["engine"], info.config["engine"], info.engine["details"]
        for name in ("max_num_seqs", "max_num_batched_tokens"):
            assert now[name] == told[name] == (asked[name] or BARE_ENGINE[name])
            assert (name in now["unset"]) == (asked[name] is None)
        assert now["gpu_memory_utilization"] == 0.9
        assert now["enable_prefix_caching"] is False
        assert info.point_id == before["point_id"]
        assert info.session == {"id": before["run_id"], "number": 1}


def test_an_old_record_keeps_its_label() -> None:
    """What was left to the engine then is no lever now that its value is written out."""
    labels = Counter(", ".join(levers(Record.open(file.parent).info.resolved)) for file in RECORDS)
    assert labels == {
        "": 17, "eager": 82, "float16, eager": 2, "fp8": 4, "fp8 KV cache": 1, "TP 2": 2, "PP 2": 2, "DP 2": 2,
        "2048 tokens a step": 2, "64 at once": 1, "256 at once": 1, "normal weights": 1, "fan_in weights": 1,
    }  # fmt: skip


def test_an_old_record_is_not_the_point_that_null_means_now() -> None:
    for file in RECORDS[:10]:
        old = config_of(file)
        new = config_of(file)
        new = changed(new, {"engine": defaults.asked(new.engine)})
        new = changed(new, {"engine": registry.plugin(new.engine.name).resolved(new)})
        assert new.engine.max_num_seqs == 1024 or "max_num_seqs" not in old.engine.unset
        assert point_id(new) != point_id(old)


def test_an_old_record_is_the_point_that_asks_for_what_it_ran_with() -> None:
    for file in RECORDS[:10]:
        old = config_of(file)
        explicit = config_of(file)
        explicit = changed(explicit, {"engine.unset": []})
        assert point_id(engine_defaults_filled(explicit)) == point_id(old)


def engine_defaults_filled(cfg: RunConfig) -> RunConfig:
    return changed(cfg, {"engine": registry.plugin(cfg.engine.name).resolved(cfg)})


def test_an_engine_that_never_came_up_would_have_run_with_the_values_of_its_version() -> None:
    info = {
        "config": {"engine": {"name": "vllm", "max_num_seqs": None, "max_num_batched_tokens": 512}},
        "engine": {},
    }
    engine = upgraded(info)["config"]["engine"]
    assert (engine["max_num_seqs"], engine["max_num_batched_tokens"]) == (128, 512)
    assert "max_num_batched_tokens" not in engine["unset"]
    assert info["config"]["engine"]["max_num_seqs"] is None


def test_what_says_so_itself_and_what_is_no_record_of_vllm_stay_as_they_are() -> None:
    for engine in ({"name": "vllm", "unset": [], "max_num_seqs": None}, {"name": "tiny", "unset": []}, None):
        info = {"config": {"engine": engine}, "engine": {}}
        assert upgraded(info) == info
    assert upgraded({}) == {}


def test_the_kind_of_rehearsal_that_could_be_chosen_for_a_while_is_passed_over() -> None:
    info = {
        "config": {"engine": {"name": "vllm", "unset": []}, "scenario": {"name": "x", "rehearsal": "dress"}}
    }
    assert upgraded(info)["config"]["scenario"] == {"name": "x"}
    assert info["config"]["scenario"]["rehearsal"] == "dress"


def test_a_warm_up_that_had_no_limit_was_of_fixed_length() -> None:
    for scenario, limit_s in (({"warmup_s": 8.0}, 8.0), ({"warmup_s": 8.0, "warmup_limit_s": 60.0}, 60.0)):
        found = upgraded({"config": {"scenario": {"kind": "server", **scenario}}})["config"]["scenario"]
        assert found["warmup_limit_s"] == limit_s
    assert "warmup_limit_s" not in upgraded({"config": {"scenario": {"kind": "batch"}}})["config"]["scenario"]


def test_no_prefix_caching_was_what_nobody_asked_for() -> None:
    engine = {"name": "tiny", "enable_prefix_caching": False}
    config = upgraded({"config": {"engine": engine, "scenario": {"kind": "batch"}}})["config"]
    assert config["engine"]["unset"] == ["enable_prefix_caching"]
    assert levers(from_json(config)) == []
