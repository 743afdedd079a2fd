"""`wattcount submit`."""

from __future__ import annotations

import hashlib
import io
from pathlib import Path

import pytest

from tests.dataset.edited_record import BATCH, SERVER
from wattcount.cli.main import main

WHO = ("--handle", "alice", "--contact", "alice@example.org")


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


def test_from_records_to_a_bundle_that_is_accepted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "mine"
    assert main(["submit", str(BATCH), str(SERVER), "-o", str(out), *WHO, "--yes"]) == 0
    said = capsys.readouterr().out
    assert "2 records for" in said
    assert "hidden:" in said
    assert max(map(len, said.splitlines()[3:-2])) <= 80
    bundle = tmp_path / "mine.wattcount"
    assert main(["validate", str(bundle)]) == 0
    # The same records, key and options: the same bytes. Who submits is known now.
    again = tmp_path / "again.wattcount"
    assert main(["submit", str(SERVER), str(BATCH), "-o", str(again), "--yes"]) == 0
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(bundle.read_bytes()).digest()


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (("--yes",), "who submits? give --handle"),
        ((*WHO,), "nobody can be asked here"),
        (("--handle", "-", "--contact", "a", "--yes"), "the handle"),
        ((*WHO, "--licence", "none", "--yes"), "the licence"),
    ],
)
def test_nothing_is_written(
    arguments: tuple[str, ...],
    what: str,
    tmp_path: Path,
    home: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(""))
    out = tmp_path / "mine.wattcount"
    assert main(["submit", str(SERVER), "-o", str(out), *arguments]) == 2
    assert what in capsys.readouterr().err
    assert not out.exists()
    assert not home.exists()


def test_a_file_that_is_there_is_kept(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.wattcount"
    out.write_text("mine")
    assert main(["submit", str(SERVER), "-o", str(out), *WHO, "--yes"]) == 2
    assert "is there already" in capsys.readouterr().err
    assert out.read_text() == "mine"
    assert main(["submit", str(SERVER), "-o", str(out), *WHO, "--yes", "--force"]) == 0
    assert out.read_bytes()[:4] == b"\x28\xb5\x2f\xfd"


class Terminal(io.StringIO):
    """Standard input where somebody answers."""

    def isatty(self) -> bool:
        return True


def test_it_asks_who_submits_and_whether(
    tmp_path: Path, home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "mine.wattcount"
    for answers in ("alice\nalice@example.org\nno\n", "alice\nalice@example.org\n"):  # the second: Ctrl-D
        monkeypatch.setattr("sys.stdin", Terminal(answers))
        assert main(["submit", str(SERVER), "-o", str(out)]) == 2
        assert "nothing was written" in capsys.readouterr().out
    assert not out.exists()
    assert not (home / "submitter.json").exists()
    monkeypatch.setattr("sys.stdin", Terminal("alice\nalice@example.org\nyes\n"))
    assert main(["submit", str(SERVER), "-o", str(out)]) == 0
    assert "names that get pseudonyms" in capsys.readouterr().out
    assert out.exists()
    assert (home / "submitter.json").exists()


def test_details_name_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "mine.wattcount"
    assert main(["submit", str(SERVER), "-o", str(out), *WHO, "--yes", "--details"]) == 0
    said = capsys.readouterr().out
    assert "  gpus.serial  1" in said
    assert "NVIDIA H200" in said
    assert main(["submit", str(SERVER), "-o", str(tmp_path / "b"), "--yes", "--cohort", "2026_q4"]) == 2
    assert "not all records were measured for the cohort" in capsys.readouterr().err
    assert main(["submit", str(SERVER), "-o", str(tmp_path / "none" / "b"), "--yes"]) == 2
    assert "no folder that you may write to" in capsys.readouterr().err
