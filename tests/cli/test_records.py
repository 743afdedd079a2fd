from pathlib import Path

import pytest
from synthetic_record import SyntheticRun

from wattcount.cli.records import bad_input, find_records
from wattcount.errors import NotStartedError
from wattcount.record import Record


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    for place in ("b/r0-x", "a/r1-y", "a/r0-x", ".tmp-unfinished"):
        SyntheticRun().write(tmp_path / place)
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_a_record_a_folder_above_and_run_json_itself(tree: Path) -> None:
    one = tree / "a" / "r0-x"
    assert find_records([one]) == [one]
    assert find_records([one / "run.json"]) == [one]
    assert find_records([tree / "a"]) == [one, tree / "a" / "r1-y"]
    # Runs in the order of their ids, which begin with the time.
    assert find_records([tree]) == [one, tree / "b" / "r0-x", tree / "a" / "r1-y"]


def test_order_is_that_of_the_command_line_and_each_comes_once(tree: Path) -> None:
    second, first = tree / "a" / "r1-y", tree / "b" / "r0-x"
    assert find_records([first, second, tree])[:2] == [first, second]
    assert len(find_records([first, second, tree])) == 3


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
