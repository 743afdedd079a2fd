from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.config import paths


def test_the_variable_wins_and_is_made_absolute(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WATTCOUNT_HOME", "here")
    monkeypatch.setenv("XDG_DATA_HOME", "/elsewhere")
    assert paths.data_home() == tmp_path / "here"
    assert paths.default_records_dir() == str(tmp_path / "here" / "records")


def test_a_user_without_a_home_has_one_where_nobody_can_write(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("WATTCOUNT_HOME", "XDG_DATA_HOME", "HOME", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)

    def none(uid: int) -> object:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr("pwd.getpwuid", none)
    with pytest.raises(RuntimeError):
        Path.home()
    assert paths.data_home() == paths.NO_HOME / ".local" / "share" / "wattcount"
    assert paths.hub_home() == paths.NO_HOME / ".cache" / "huggingface"
    with pytest.raises(OSError, match="No such file"):
        paths.data_home().mkdir(parents=True)


def test_the_folder_of_the_gpu_locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("TMPDIR", "/of/this/job")
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path))
    assert paths.gpu_lock_dir() == tmp_path
    monkeypatch.delenv("WATTCOUNT_LOCK_DIR")
    assert paths.gpu_lock_dir() == Path("/tmp/wattcount-gpus")


def test_xdg_data_home_unless_it_is_relative(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WATTCOUNT_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_DATA_HOME", "/data")
    assert paths.data_home() == Path("/data/wattcount")
    monkeypatch.setenv("XDG_DATA_HOME", "data")
    assert paths.data_home() == tmp_path / ".local" / "share" / "wattcount"
    monkeypatch.delenv("XDG_DATA_HOME")
    assert paths.data_home() == tmp_path / ".local" / "share" / "wattcount"
