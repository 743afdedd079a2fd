"""What is known of each GPU's sensors, and where it is kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig
from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.gpu.nvml import attach_session, open_session
from wattcount.run import sensors

EMULATED = PowerConfig(backend=PowerBackend.emulated)
FOUND = {"sources": {}, "ring": {"depth": None}, "counter": {}, "loads": []}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path))
    return tmp_path


def test_what_is_kept_is_known_for_that_gpu_and_driver_alone() -> None:
    assert sensors.known("GPU-1", "580.1") is None
    path = sensors.keep("GPU-1", "580.1", FOUND)
    assert path is not None
    assert sensors.known("GPU-1", "580.1") == FOUND
    assert sensors.known("GPU-1", "590.2") is None
    assert sensors.known("GPU-2", "580.1") is None
    assert [file.name for file in path.parent.iterdir()] == [path.name]


@pytest.mark.parametrize(
    "content",
    [
        "",
        "{",
        "[]",
        "{}",
        '{"version": 99, "characterisation": {"sources": {}}}',
        '{"version": 1}',
        '{"version": 1, "characterisation": {"sources": {}}}',
        '{"version": 1, "characterisation": {"sources": {"power_usage": 3}, "ring": {"depth": 120}}}',
    ],
)
def test_a_damaged_file_is_as_good_as_none(content: str) -> None:
    path = sensors.keep("GPU-1", None, FOUND)
    assert path is not None
    path.write_text(content)
    assert sensors.known("GPU-1", None) is None


def test_a_home_that_cannot_be_written_spoils_nothing(home: Path) -> None:
    (home / "sensors").write_text("in the way")
    assert sensors.keep("GPU-1", "580.1", FOUND) is None
    assert sensors.known("GPU-1", "580.1") is None


def test_an_emulated_gpu_is_probed_only_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sensors, "FIRST_PROBE_S", 1.2)
    with open_session(EMULATED, GpuConfig()) as session:
        (gpu,) = session.gpus()
        assert sensors.characterised(session, [gpu.uuid], EMULATED) == {}
        asked = PowerConfig(backend=PowerBackend.emulated, probe=True)
        first = sensors.characterised(session, [gpu.uuid], asked)
        assert first[gpu.uuid]["sources"]["power_samples"]["update_period_ms"] == pytest.approx(
            20.0, rel=0.01
        )
        # The second time it is known, without asking and without a probe.
        monkeypatch.setattr(sensors, "probe", None)
        assert sensors.characterised(session, [gpu.uuid], EMULATED) == first


def test_a_probe_that_fails_spoils_no_run(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("GPU is lost")

    monkeypatch.setattr(sensors, "probe", broken)
    with open_session(EMULATED, GpuConfig()) as session:
        (gpu,) = session.gpus()
        asked = PowerConfig(backend=PowerBackend.emulated, probe=True)
        assert sensors.characterised(session, [gpu.uuid], asked) == {}


def test_get_power_usage_is_probed_beside_field_185(tmp_path: Path) -> None:
    """They are not the same on every GPU, and one that is read once a second shows no period."""
    with EmulatedMachine([EmulatedGpu("a100")], tmp_path / "machine"), attach_session() as session:
        (gpu,) = session.gpus()
        found = sensors.probe(session, [gpu.uuid], 1.5)[gpu.uuid]["sources"]
    for name in ("power_average", "power_usage"):
        assert found[name]["update_period_ms"] == pytest.approx(100.0, rel=0.05)
