import os
from pathlib import Path

import pytest
from synthetic_record import SyntheticRun

from wattcount.cli.records import bad_input, find_records
from wattcount.errors import NotStartedError
from wattcount.records import Record


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
