"""`wattcount dataset`: what it prints, and its exit codes."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.dataset.conftest import DAY, dataset, measured, submission  # noqa: F401 - fixtures
from wattcount.cli.main import main
from wattcount.dataset import adding
from wattcount.dataset.store import Dataset, Outcome, Submission
from wattcount.errors import NotStartedError

Make = Callable[..., Submission]


@pytest.fixture
def filled(dataset: Dataset, submission: Make) -> Dataset:  # noqa: F811
    dataset.add(submission(0, 3), DAY)
    dataset.add(submission(10, 2), DAY)
    return dataset


def run(*args: str) -> int:
    return main(["dataset", *args])


def test_init(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("init", str(tmp_path / "new"), "--evidence", "emulated", "--date", DAY) == 0
    assert "emulated results, version 1" in capsys.readouterr().out
    version = Dataset.open(tmp_path / "new").latest()
    assert (version.name, version.evidence.value, version.changes[0].date) == ("new", "emulated", DAY)
    assert run("init", str(tmp_path / "new")) == 2
    assert run("init", str(tmp_path / "other"), "--date", "tomorrow") == 2
    assert not (tmp_path / "other").exists()


def test_list(filled: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("list", filled.where) == 0
    out = capsys.readouterr().out
    assert "version 3" in out
    assert "5 results, measured" in out
    assert "000000000000000a" in out
    assert all(len(line.split()) == 7 for line in out.splitlines()[3:])
    assert run("list", filled.where, "--results", "--json", "--version", "2") == 0
    assert len(json.loads(capsys.readouterr().out)) == 3
    assert run("list", filled.where, "--history", "--json") == 0
    assert [item["what"] for item in json.loads(capsys.readouterr().out)] == ["init", "add", "add"]
    assert run("list", filled.where, "--version", "9") == 2


def test_query(filled: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    sql = "SELECT submission, count(*) AS n FROM results GROUP BY 1 ORDER BY 1"
    assert run("query", filled.where, sql, "--format", "csv") == 0
    assert capsys.readouterr().out.splitlines() == [
        "submission,n",
        "0000000000000000,3",
        "000000000000000a,2",
    ]
    assert run("query", filled.where, sql, "--format", "json") == 0
    assert json.loads(capsys.readouterr().out)[0]["n"] == 3
    assert run("query", filled.where, sql) == 0
    assert "000000000000000a" in capsys.readouterr().out
    assert run("query", filled.where, "DROP VIEW results") == 2
    assert run("query", filled.where, "SELECT '=1+1' AS a, chr(27) || '[2J' AS b", "--format", "csv") == 0
    assert capsys.readouterr().out.splitlines()[-1] == "'=1+1,\\x1b[2J"


def test_remove_and_diff(filled: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("remove", filled.where, "000000000000000a", "--reason", "the fan", "--date", DAY) == 0
    assert "withdrew 2 results in version 4" in capsys.readouterr().out
    assert run("remove", filled.where, "000000000000000a", "--reason", "the fan") == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert run("remove", filled.where, "abcdefabcdef", "--reason", "x") == 2
    assert run("diff", f"{filled.where}@3", "@4") == 0
    out = capsys.readouterr().out
    assert "2 only in the first" in out
    assert "0 only in the second" in out
    assert run("diff", f"{filled.where}@1", filled.where) == 0
    assert "3 only in the second" in capsys.readouterr().out


def test_diff_of_two_data_sets(
    filled: Dataset,
    submission: Make,  # noqa: F811
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = Dataset.init(tmp_path / "other", "other", DAY)
    other.add(submission(0, 3, handle="somebody else"), DAY)
    assert run("diff", filled.where, other.where) == 0
    out = capsys.readouterr().out
    assert "2 only in the first" in out
    assert "3 of the same id with other content" in out
    assert "measured_by" in out


def test_export_and_card(filled: Dataset, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for flag in ("--parquet", "--json"):
        assert run("export", filled.where, "-o", str(tmp_path / f"out{flag}"), flag) == 0
        assert "5 results of version 3" in capsys.readouterr().out
    assert run("export", filled.where, "-o", str(tmp_path / "no" / "such" / "folder")) == 2
    assert run("card", filled.where) == 0
    assert (Path(filled.where) / "croissant.json").is_file()


def test_check(filled: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    # These rows name records that were never there.
    assert run("check", filled.where, "--no-records") == 1
    assert "has no record" in capsys.readouterr().err
    file = next((Path(filled.where) / "results").iterdir())
    file.write_bytes(b"")
    assert run("check", filled.where) == 1
    assert "SHA-256 differs" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("fate", "code"),
    [("ok ok", 0), ("no no", 2), ("ok no", 1), ("no ok", 1), ("twice", 0)],
)
def test_add_says_what_became_of_each(
    filled: Dataset, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], fate: str, code: int
) -> None:
    def add_file(dataset: Dataset, path: Path, date: str, **_: object) -> Outcome:  # noqa: F811
        assert date == DAY
        if path.name == "no":
            raise NotStartedError("rejected: physics/power: 900 W")
        return Outcome(dataset.latest(), path.name == "ok", 4)

    monkeypatch.setattr(adding, "add_file", add_file)
    assert run("add", filled.where, *fate.split(), "--date", DAY) == code
    captured = capsys.readouterr()
    assert captured.out.count("added 4 results as version 3") == fate.count("ok")
    assert captured.err.count("not added: rejected: physics/power: 900 W") == fate.count("no")
    assert captured.out.count("nothing was changed") == fate.count("twice")


def test_what_is_no_data_set(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for action in ("list", "check", "card", "tiers"):
        assert run(action, str(tmp_path)) == 2
        assert "is no data set: `wattcount dataset init` makes one" in capsys.readouterr().err
    assert run("query", str(tmp_path), "SELECT 1") == 2
    assert run() == 2


def test_tiers(filled: Dataset, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("tiers", filled.where) == 0
    assert "validated" in capsys.readouterr().out
