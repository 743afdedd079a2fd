"""`wattcount doctor --sensors` on emulated GPUs."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from wattcount.cli import sensors
from wattcount.cli.main import main

pytest.importorskip("wattcount.emulation.machine", reason="needs the native module")


@pytest.fixture(autouse=True)
def _short(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.setattr(sensors, "IDLE_S", 1.2)


def test_to_a_file_and_a_table_of_80_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "sensors.json"
    assert main(["doctor", "--sensors", "--emulated", "v100", "--json", str(place)]) == 0
    out = capsys.readouterr().out
    assert "energy counter" in out
    assert "sampled every: counter" in out
    # The first line names the GPU by its UUID and is not broken.
    assert max(len(line) for line in out.splitlines()[1:]) <= 80
    (found,) = json.loads(place.read_text()).values()
    assert found["evidence"] == "emulated"
    assert found["characterisation"]["sources"]["power_samples"]["update_period_ms"] == pytest.approx(
        20.0, rel=0.01
    )
    assert json.loads(Path(found["kept"]).read_text())["characterisation"] == found["characterisation"]


def test_json_alone_prints_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--sensors", "--emulated", "v100", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)) == 1


def test_a_file_that_cannot_be_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    place = tmp_path / "no" / "sensors.json"
    assert main(["doctor", "--sensors", "--emulated", "v100", "--json", str(place)]) == 2
    assert "--json" in capsys.readouterr().err
