"""Clock and power limit of emulated GPUs: what is refused, what is set, and what is put back."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from wattcount.config.schema import GpuConfig
from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import NvmlSession, attach_session
from wattcount.gpu.settings import Setting, UndoError, plan, put_in_force, undo

Open = Callable[..., NvmlSession]


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Open]:
    """A session on an emulated H200: 700 W at most, 210 W at least, SM clocks from 345 to 1980 MHz."""
    opened: list[Any] = []

    def make(**options: Any) -> NvmlSession:
        there = EmulatedMachine([EmulatedGpu("h200")], tmp_path / f"machine-{len(opened)}", **options)
        opened.append(there.open())
        session = attach_session()
        assert session.evidence == "emulated"
        opened.append(session)
        return session

    yield make
    for thing in reversed(opened):
        thing.close()


def asked(session: NvmlSession, **settings: Any) -> Setting:
    (setting,) = plan(GpuConfig(**settings), session.gpus(), session.native)
    return setting


def power_limit_w(session: NvmlSession) -> float:
    (gpu,) = session.gpus()
    assert gpu.power_limit_mw is not None
    assert gpu.power_limit_mw == gpu.power_limit_enforced_mw
    return gpu.power_limit_mw / 1e3


def test_nothing_asked_for_is_nothing_to_set(machine: Open) -> None:
    session = machine()
    assert plan(GpuConfig(), session.gpus(), session.native) == []


def test_set_read_back_undone(machine: Open) -> None:
    session = machine()
    setting = asked(session, sm_clock_mhz=1410, power_limit_w=400)
    assert put_in_force(session.native, setting) == {
        "power_limit_mw": {
            "before": 700_000, "asked": 400_000, "read_back": 400_000, "enforced": 400_000, "restored": None,
        },
        "sm_clock_mhz": {"before": None, "asked": 1410, "restored": None},
    }  # fmt: skip
    assert power_limit_w(session) == 400
    for _ in range(2):
        assert undo(session.native, setting) == {"power_limit_mw": 700_000, "sm_clock_mhz": "unlocked"}
        assert power_limit_w(session) == 700


def test_other_processes_see_it_and_it_outlives_them(machine: Open) -> None:
    import subprocess
    import sys

    session = machine()
    (gpu,) = session.gpus()
    program = (
        "from wattcount.gpu.nvml import attach_session\n"
        "with attach_session() as session:\n"
        f"    session.native.set_power_limit_mw({gpu.uuid!r}, 300_000)\n"
    )
    subprocess.run([sys.executable, "-c", program], check=True, timeout=60)
    assert power_limit_w(session) == 300


def test_a_limit_that_someone_else_changed_since_stays(machine: Open) -> None:
    session = machine()
    setting = asked(session, power_limit_w=400)
    put_in_force(session.native, setting)
    session.native.set_power_limit_mw(setting.uuid, 500_000)
    assert undo(session.native, setting) == {"power_limit_mw": 500_000}
    assert power_limit_w(session) == 500


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"power_limit_w": 701},
            "gpu.power_limit_w: 701 W is outside of what NVIDIA H200 allows, 210 to 700 W",
        ),
        (
            {"power_limit_w": 100},
            "gpu.power_limit_w: 100 W is outside of what NVIDIA H200 allows, 210 to 700 W",
        ),
        (
            {"sm_clock_mhz": 1412},
            "gpu.sm_clock_mhz: NVIDIA H200 has no SM clock of 1412 MHz; it has 345 to 1980 MHz in steps, the nearest is "
            "1410 MHz",
        ),
        ({"sm_clock_mhz": 9999}, "gpu.sm_clock_mhz: NVIDIA H200 has no SM clock of 9999 MHz"),
    ],
)
def test_out_of_range(machine: Open, settings: dict[str, Any], message: str) -> None:
    session = machine()
    with pytest.raises(NotStartedError) as caught:
        asked(session, **settings)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_without_a_list_of_clocks_the_highest_is_the_limit(machine: Open) -> None:
    session = machine(missing_symbols=["nvmlDeviceGetSupportedGraphicsClocks"])
    assert asked(session, sm_clock_mhz=1412).sm_clock_mhz == 1412
    with pytest.raises(
        NotStartedError, match="9999 MHz is above the highest SM clock of NVIDIA H200, 1980 MHz"
    ):
        asked(session, sm_clock_mhz=9999)


def test_a_limit_that_cannot_be_read_cannot_be_set(machine: Open) -> None:
    session = machine()
    (gpu,) = session.gpus()
    with pytest.raises(NotStartedError, match="does not tell the power limit"):
        plan(GpuConfig(power_limit_w=400), [dataclasses.replace(gpu, power_limit_mw=None)], session.native)


def test_a_shared_gpu_is_left_alone(machine: Open) -> None:
    session = machine()
    (gpu,) = session.gpus()
    with pytest.raises(NotStartedError, match=r"gpu.sm_clock_mhz: .* is shared with others \(MIG or vGPU\)"):
        plan(GpuConfig(sm_clock_mhz=1410), [dataclasses.replace(gpu, mig_mode=1)], session.native)


def refusing(function: str, code: int = 4) -> dict[str, Any]:
    return {"faults": [{"kind": "error", "function": function, "code": code}]}


@pytest.mark.parametrize(
    ("function", "settings", "code", "message"),
    [
        ("nvmlDeviceSetPowerManagementLimit", {"power_limit_w": 400}, 4, "no permission to set it on GPU-.*: run as root, or set it by hand .sudo nvidia-smi -i GPU-.* -pl 400."),
        ("nvmlDeviceSetGpuLockedClocks", {"sm_clock_mhz": 1410}, 4, "no permission to set it on GPU-.*: run as root, or leave it out"),
        ("nvmlDeviceSetGpuLockedClocks", {"sm_clock_mhz": 1410}, 3, "its driver does not support it"),
        ("nvmlDeviceSetPowerManagementLimit", {"power_limit_w": 400}, 999, "Unknown Error"),
    ],
)  # fmt: skip
def test_refused(machine: Open, function: str, settings: dict[str, Any], code: int, message: str) -> None:
    session = machine(**refusing(function, code))
    setting = asked(session, **settings)
    with pytest.raises(NotStartedError, match=f"{next(iter(settings))}: .*{message}"):
        put_in_force(session.native, setting)
    assert power_limit_w(session) == 700


def test_an_old_driver_without_the_function(machine: Open) -> None:
    session = machine(missing_symbols=["nvmlDeviceSetGpuLockedClocks"])
    with pytest.raises(NotStartedError, match="does not support it"):
        put_in_force(session.native, asked(session, sm_clock_mhz=1410))


def test_a_limit_that_is_there_already_needs_no_permission(machine: Open) -> None:
    session = machine(**refusing("nvmlDeviceSetPowerManagementLimit"))
    setting = asked(session, power_limit_w=700)
    assert put_in_force(session.native, setting)["power_limit_mw"]["read_back"] == 700_000
    assert undo(session.native, setting) == {"power_limit_mw": 700_000}


def test_what_cannot_be_undone_says_how_to_do_it_by_hand(machine: Open) -> None:
    session = machine(faults=[{"kind": "error", "function": "nvmlDeviceResetGpuLockedClocks", "code": 15}])
    setting = asked(session, sm_clock_mhz=1410)
    put_in_force(session.native, setting)
    with pytest.raises(
        UndoError, match=r"SM clock locked to 1410 MHz: .*GPU is lost.*sudo nvidia-smi -i GPU-.* -rgc"
    ):
        undo(session.native, setting)
