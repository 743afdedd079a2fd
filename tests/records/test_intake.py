"""Files of a record are taken in as what they are: data of anybody, regular, bounded, typed."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from synthetic_record import SyntheticRun

from wattcount.records import Record, intake
from wattcount.records.intake import DamagedError

SCHEMA = pa.schema(
    [("a", pa.int64()), ("b", pa.string()), ("c", pa.list_(pa.int64())), ("later", pa.int32())]
)
LATER = frozenset({"later"})


def odd(path: Path, kind: str) -> None:
    """Puts something in the place of a file that is none."""
    path.unlink(missing_ok=True)
    if kind == "fifo":
        os.mkfifo(path)
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(str(path))
    elif kind == "folder":
        path.mkdir()
    elif kind == "loop":
        path.symlink_to(path)
    else:
        path.symlink_to(kind)


@pytest.fixture
def short(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder whose path is short enough for a socket."""
    return tmp_path_factory.mktemp("s")


@pytest.mark.parametrize("kind", ["fifo", "socket", "folder", "loop", "/dev/zero", "/etc/passwd"])
@pytest.mark.parametrize("name", ["run.json", "power.parquet", "steps.parquet", "host_power.parquet"])
def test_odd_files_are_refused_and_not_waited_for(short: Path, name: str, kind: str) -> None:
    SyntheticRun().write(short)
    odd(short / name, kind)
    with pytest.raises(DamagedError) as caught:
        Record.open(short)
    assert name in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "root:" not in str(caught.value)  # nothing of what a link leads to


def test_files_of_a_record_are_its_regular_files(tmp_path: Path) -> None:
    record = Record.open(SyntheticRun().write(tmp_path / "r"))
    names = [file.name for file in record.files()]
    assert names == ["power.parquet", "requests.parquet", "run.json", "steps.parquet", "tokens.parquet"]
    (record.path / "notes.txt").symlink_to("/etc/passwd")
    with pytest.raises(DamagedError, match=r"notes\.txt is a link"):
        record.files()


def test_a_json_file_is_read_up_to_a_limit(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    with file.open("wb") as stream:
        stream.truncate(1 << 40)  # a hole of a terabyte
    with pytest.raises(DamagedError, match="more than 16 MiB"):
        intake.read_bytes(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * 200_000 + "]" * 200_000, "nested too deeply"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "nested too deeply"),
        ('{"a":' * 65 + "1" + "}" * 65, "nested too deeply"),
        ("[" + "1," * 500_000 + "1]", "more than 500,000 values"),
        ('{"a": NaN}', "NaN"),
        ('{"a": -Infinity}', "Infinity"),
        ('{"a": 1e999}', "beyond all bounds"),
        (f'{{"a": {2**63}}}', "more than 64 bits"),
        ('{"a": ' + "9" * 100_000 + "}", "digits"),
        ("\xff\xfe", "damaged"),
        ('{"a": 1', "damaged"),
    ],
)
def test_json_beyond_bounds_is_damaged(text: str, said: str) -> None:
    with pytest.raises(DamagedError, match=said) as caught:
        intake.parse_json(text.encode("latin-1"), Path("x.json"))
    assert str(caught.value).startswith("x.json is damaged")


def test_json_within_bounds_is_read() -> None:
    assert intake.parse_json(b'{"a": [1, 2.5, null, true, "x"]}', Path("x")) == {
        "a": [1, 2.5, None, True, "x"]
    }
    assert intake.parse_json(str(-(2**63)).encode(), Path("x")) == -(2**63)


def table(**columns: Any) -> pa.Table:
    values = {"a": [1, 2], "b": ["x", None], "c": [[1], [2, 3]], "later": [1, None]} | columns
    return pa.table({name: column for name, column in values.items() if column is not None})


def test_a_table_has_exactly_the_columns_that_are_wanted(tmp_path: Path) -> None:
    pq.write_table(table(more=[1, 2]), tmp_path / "t")
    assert intake.read_table(tmp_path / "t", SCHEMA, LATER).schema == SCHEMA
    pq.write_table(table(later=None), tmp_path / "t")
    assert intake.read_table(tmp_path / "t", SCHEMA, LATER)["later"].null_count == 2


@pytest.mark.parametrize(
    ("made", "said"),
    [
        (lambda: table(a=None), "it has no column a"),
        (lambda: table(a=["x", "y"]), "damaged"),
        (lambda: table(a=[{"x": 1}, None]), "damaged"),
        (lambda: table(**{f"c{i}": [1, 2] for i in range(300)}), "too many columns"),
        (lambda: table().append_column("a", pa.array([3, 4])), "two of one name"),
        (lambda: table(c=[[2**62] * 200_000] * 2), "values"),
        (lambda: table(b=["x" * 3_000_000] * 2), "text in its column b"),
    ],
)
def test_other_tables_are_damaged_before_they_take_memory(
    tmp_path: Path, made: Callable[[], pa.Table], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "TABLE_VALUES", 100_000)
    monkeypatch.setattr(intake, "TEXT_BYTES", 5_000_000)
    pq.write_table(made(), tmp_path / "t")
    assert (tmp_path / "t").stat().st_size < 200_000  # compressed: only what it would become is large
    with pytest.raises(DamagedError, match=said):
        intake.read_table(tmp_path / "t", SCHEMA, LATER)


# -- the keys of run.json


def set_at(data: Any, path: tuple[Any, ...], value: Any) -> None:
    for name in path[:-1]:
        data = data[name]
    data[path[-1]] = value


WRONG = (None, "x", [1], {"a": 1}, -5, 1.5, True, 2**62)
USED = {
    ("seed",): (-5, 2**62),
    ("repeat",): (2**62,),
    ("complete",): (True,),
    ("validity",): (),
    ("validity", "valid"): (True,),
    ("phases",): (),
    ("phases", 0, "start_ns"): (),
    ("config",): (),
    ("config", "scenario"): (),
    ("config", "scenario", "kind"): (),
    ("config", "model", "name"): ("x",),
    ("config", "engine", "max_num_seqs"): (None, -5, 2**62),
    ("config", "scenario", "lengths"): ({"a": 1},),
    ("gpus",): (),
    ("gpus", 0): ({"a": 1},),
    ("gpus", 0, "uuid"): (None, "x"),
    ("sampler",): (),
    ("timing",): ({"a": 1},),
    ("warmup",): ({"a": 1},),
    ("host", "rapl"): (None, {"a": 1}),
    ("versions",): (),
    ("clock_pairs",): (),
    ("files",): (),
    ("notes",): (),
    ("evidence",): (),
    ("point_id",): ("x",),
    ("run_id",): ("x",),
}
"""Keys, and which of WRONG are right there."""


@pytest.mark.parametrize(("path", "right"), USED.items(), ids=lambda p: ".".join(map(str, p)))
def test_keys_of_other_types_are_damaged(
    tmp_path: Path, path: tuple[Any, ...], right: tuple[Any, ...]
) -> None:
    record = SyntheticRun().write(tmp_path)
    good = json.loads((record / "run.json").read_text())
    for value in WRONG:
        data = json.loads(json.dumps(good))
        set_at(data, path, value)
        (record / "run.json").write_text(json.dumps(data))
        if any(value is item or (value == item and type(value) is type(item)) for item in right):
            Record.open(record)
            continue
        with pytest.raises(DamagedError) as caught:
            Record.open(record)
        assert "\n" not in str(caught.value), value


@pytest.mark.parametrize("name", ["../../../etc/passwd", "/etc/passwd", "..", ".hidden", "a/b", "", "a b"])
def test_nothing_in_a_record_names_a_place(tmp_path: Path, name: str) -> None:
    record = SyntheticRun().write(tmp_path)
    good = json.loads((record / "run.json").read_text())
    for change in (
        {"point_id": name},
        {"run_id": name},
        {"files": {name: {"bytes": 1, "rows": 1, "sha256": "x"}}},
    ):
        (record / "run.json").write_text(json.dumps(good | change))
        with pytest.raises(DamagedError, match="letters, digits"):
            Record.open(record)


@pytest.mark.parametrize(("start_ns", "end_ns"), [(10, 5), (0, 4 * 10**18), (-5, 5)])
def test_phases_that_cannot_be_are_damaged(tmp_path: Path, start_ns: int, end_ns: int) -> None:
    record = SyntheticRun().write(tmp_path)
    data = json.loads((record / "run.json").read_text())
    data["phases"][4] |= {"start_ns": start_ns, "end_ns": end_ns}
    (record / "run.json").write_text(json.dumps(data))
    with pytest.raises(DamagedError, match=r"phases\[4\]"):
        Record.open(record)


def test_keys_of_a_later_configuration_are_passed_over(tmp_path: Path) -> None:
    record = SyntheticRun().write(tmp_path)
    data = json.loads((record / "run.json").read_text())
    data["config"]["engine"]["of_tomorrow"] = data["config"]["of_tomorrow"] = {"x": 1}
    (record / "run.json").write_text(json.dumps(data))
    assert Record.open(record).info.config["of_tomorrow"] == {"x": 1}


def test_a_long_run_s_table_is_read_as_it_is_as_large_on_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(intake, "TABLE_VALUES", 1000)
    stamps = np.random.default_rng(0).integers(0, 2**60, 100_000)
    pq.write_table(table(c=[stamps[:50_000], stamps[50_000:]]), tmp_path / "t")
    assert len(intake.read_table(tmp_path / "t", SCHEMA, LATER)) == 2
    with (tmp_path / "t").open("rb") as stream:
        content = stream.read()
    # A hole in front of the footer makes a file long, and holds nothing.
    pq.write_table(table(c=[[2**62] * 500_000] * 2), tmp_path / "small")
    small = (tmp_path / "small").read_bytes()
    with (tmp_path / "hole").open("wb") as stream:
        stream.write(small[:4])
        stream.seek(len(content) * 10)
        stream.write(small[4:])
    with pytest.raises(DamagedError, match="values"):
        intake.read_table(tmp_path / "hole", SCHEMA, LATER)
