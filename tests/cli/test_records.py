import os
from pathlib import Path

import pytest
from sweep_ledger import make_sweep, planned
from synthetic_record import SyntheticRun

from wattcount.cli.records import bad_input, find_records
from wattcount.errors import NotStartedError
from wattcount.records import Record
from wattcount.sweep.ledger import Ledger
from wattcount.sweep.point import Plan


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for place in ("b/r0-x", "a/r1-y", "a/r0-x", ".tmp-unfinished"):
        SyntheticRun().write(tmp_path / place)
    (tmp_path / "empty").mkdir()
    return tmp_path


def paths(given: list[Path]) -> list[Path]:
    return list(find_records(given).paths)


def test_a_record_a_folder_above_and_run_json_itself(tree: Path) -> None:
    one = tree / "a" / "r0-x"
    assert paths([one]) == [one]
    assert paths([one / "run.json"]) == [one]
    assert paths([tree / "a"]) == [one, tree / "a" / "r1-y"]
    # Runs in the order of their ids, which begin with the time.
    assert paths([tree]) == [one, tree / "b" / "r0-x", tree / "a" / "r1-y"]


def test_order_is_that_of_the_command_line_and_each_comes_once(tree: Path) -> None:
    second, first = tree / "a" / "r1-y", tree / "b" / "r0-x"
    assert paths([first, second, tree])[:2] == [first, second]
    assert len(paths([first, second, tree])) == 3


@pytest.mark.parametrize(
    ("name", "said"),
    [("none", "does not exist"), ("empty", "no run record"), ("a/r0-x/power.parquet", "is not a folder")],
)
def test_what_is_no_record(tree: Path, name: str, said: str) -> None:
    with pytest.raises(NotStartedError, match=said):
        find_records([tree / name])


def test_a_damaged_record_is_bad_input(tree: Path) -> None:
    (tree / "b" / "r0-x" / "run.json").write_text("{")
    with pytest.raises(NotStartedError, match="damaged"), bad_input():
        Record.open(tree / "b" / "r0-x")


def test_a_damaged_record_below_a_folder_is_set_aside_with_one_line(
    tree: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tree / "b" / "r0-x" / "run.json").write_text("{")
    found = find_records([tree])
    assert [record.path for record in found.each(Record.open)] == [tree / "a" / "r0-x", tree / "a" / "r1-y"]
    assert found.set_aside == 1
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "b/r0-x/run.json is damaged" in err


def test_a_damaged_record_that_was_named_is_an_error(tree: Path) -> None:
    (tree / "b" / "r0-x" / "run.json").write_text("{")
    with pytest.raises(NotStartedError, match="damaged"):
        find_records([tree, tree / "b" / "r0-x"]).each(Record.open)


def test_where_nothing_is_left_that_is_an_error(tree: Path) -> None:
    for file in tree.glob("*/*/run.json"):
        file.write_text("{")
    with pytest.raises(NotStartedError, match="no record that can be read"):
        find_records([tree]).each(Record.open)


def test_odd_kinds_of_run_json_are_found_and_not_waited_for(tree: Path) -> None:
    fifo, link = tree / "a" / "r0-x" / "run.json", tree / "a" / "r1-y" / "run.json"
    fifo.unlink()
    os.mkfifo(fifo)
    link.unlink()
    link.symlink_to("/dev/zero")
    found = find_records([tree])
    assert len(found.paths) == 3
    assert len(found.each(Record.open)) == 1
    for path, said in ((fifo, "no regular file"), (link, "a link")):
        with pytest.raises(NotStartedError, match=said):
            find_records([path.parent]).each(Record.open)


def test_links_to_folders_are_not_followed(tree: Path) -> None:
    (tree / "again").symlink_to(tree)
    assert len(find_records([tree]).paths) == 3


@pytest.fixture
def kept(tmp_path: Path) -> Path:
    """A folder of records as runs make it: two points, of which the first was run twice."""
    for place, run_id in (
        ("aaaa00000001/r0-20260901-120000-000-0a1b2c", "20260901-120000-000-0a1b2c"),
        ("aaaa00000001/r1-20260901-130000-000-3d4e5f", "20260901-130000-000-3d4e5f"),
        ("bbbb00000002/r0-20260901-110000-000-6a7b8c", "20260901-110000-000-6a7b8c"),
    ):
        SyntheticRun(run_id=run_id).write(tmp_path / place)
    return tmp_path


@pytest.mark.parametrize(
    ("name", "found"),
    [
        ("0a1b2c", ["r0-20260901-120000-000-0a1b2c"]),
        ("0A1B2C", ["r0-20260901-120000-000-0a1b2c"]),
        ("20260901-110000-000-6a7b8c", ["r0-20260901-110000-000-6a7b8c"]),
        ("aaaa00000001", ["r0-20260901-120000-000-0a1b2c", "r1-20260901-130000-000-3d4e5f"]),
        ("aaaa", ["r0-20260901-120000-000-0a1b2c", "r1-20260901-130000-000-3d4e5f"]),
        ("bbbb00000002" + "0" * 52, ["r0-20260901-110000-000-6a7b8c"]),
    ],
)
def test_ids_of_runs_and_points(kept: Path, name: str, found: list[str]) -> None:
    assert [path.name for path in find_records([name], records_dir=kept).paths] == found


@pytest.mark.parametrize("name", ["1b2c", "aaa", "cccc", "r0-20260901-120000-000-0a1b2c", "*"])
def test_what_is_the_id_of_nothing(kept: Path, name: str) -> None:
    with pytest.raises(NotStartedError, match=r"does not exist; give .* the id of a run or point"):
        find_records([name], records_dir=kept)


def test_an_id_that_two_runs_share_is_refused(kept: Path) -> None:
    SyntheticRun().write(kept / "bbbb00000002" / "r1-20260902-110000-000-0a1b2c")
    with pytest.raises(NotStartedError, match=r"0a1b2c is the id of several runs: 20260901-.*20260902-"):
        find_records(["0a1b2c"], records_dir=kept)


def test_a_path_is_taken_before_an_id(kept: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    SyntheticRun().write(kept / "elsewhere" / "0a1b2c")
    monkeypatch.chdir(kept / "elsewhere")
    assert paths_of("0a1b2c", kept) == [(kept / "elsewhere" / "0a1b2c").resolve()]


def paths_of(name: str, records_dir: Path) -> list[Path]:
    return list(find_records([name], records_dir=records_dir).paths)


def test_a_sweep_has_the_latest_record_of_each_of_its_points(tmp_path: Path) -> None:
    with make_sweep(tmp_path):
        found = paths_of("big", tmp_path)
        assert paths_of(str(tmp_path / ".sweeps" / "big"), tmp_path / "elsewhere") == found
    assert [path.name for path in found] == ["done", "done_too"]


def test_a_sweep_without_a_record_says_so(tmp_path: Path) -> None:
    with Ledger.open(tmp_path, "new") as ledger:
        ledger.write_plan(Plan("new", (planned("a"),), "", ()))
    with pytest.raises(NotStartedError, match="sweep new has no record yet: wattcount status new"):
        find_records(["new"], records_dir=tmp_path)
