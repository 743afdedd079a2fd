"""Runs that set clock and power limit: real processes, emulated GPUs whose settings outlive them as real ones' do."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from waiting import commands, has_ended, wait_until
from witness import Program, Witness, kill, worker_pid

from wattcount import ownership
from wattcount.config.loader import changed
from wattcount.config.paths import gpu_lock_dir
from wattcount.config.schema import GpuConfig, PowerBackend, RunConfig
from wattcount.emulation.machine import EmulatedGpu, EmulatedMachine
from wattcount.energy.events import Source
from wattcount.errors import NotStartedError
from wattcount.gpu.nvml import NvmlSession, attach_session
from wattcount.gpu.settings import Setting, put_in_force
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.run.gpu_settings import (
    Journal,
    gpu_settings,
    journal_file,
    left_behind,
    restore_before,
    restore_left,
)
from wattcount.run.orchestrate import run_point
from wattcount.run.session import Session

pytestmark = pytest.mark.timeout(120)

ASKED_W, ASKED_MHZ = 400.0, 1410


@pytest.fixture
def session(emulated: Callable[..., Any]) -> Iterator[NvmlSession]:
    emulated()
    with attach_session() as session:
        yield session


@pytest.fixture
def setting_run(tiny_run: Callable[..., RunConfig]) -> Callable[..., RunConfig]:
    def make(**scenario: object) -> RunConfig:
        cfg = tiny_run(**scenario)
        return changed(cfg, {"gpu.power_limit_w": ASKED_W, "gpu.sm_clock_mhz": ASKED_MHZ})

    return make


def limit_w(session: NvmlSession) -> float:
    (gpu,) = session.gpus()
    return (gpu.power_limit_mw or 0) / 1e3


def guards() -> list[psutil.Process]:
    found = commands(psutil.process_iter())
    return [process for process, command in found.items() if "wattcount.run.gpu_settings" in command]


def uuid_of(session: NvmlSession) -> str:
    (gpu,) = session.gpus()
    return gpu.uuid


def test_a_run_has_them_and_leaves_nothing(
    session: NvmlSession, setting_run: Callable[..., RunConfig], witness: Witness
) -> None:
    seen: list[float] = []
    witness.when(Phase.WINDOW, lambda _: seen.append(limit_w(session)))
    outcome = run_point(setting_run(), witness)
    assert (outcome.exit_code, seen) == (0, [ASKED_W])
    assert limit_w(session) == 700
    assert left_behind() == []
    assert outcome.record_path is not None
    record = Record.open(outcome.record_path)
    assert record.info.gpu_settings == {
        uuid_of(session): {
            "power_limit_mw": {
                "before": 700_000, "asked": 400_000, "read_back": 400_000, "enforced": 400_000, "restored": 700_000,
            },
            "sm_clock_mhz": {"before": None, "asked": ASKED_MHZ, "restored": "unlocked"},
        }
    }  # fmt: skip
    events = record.power.events
    assert set(events["value"][events["source"] == Source.POWER_LIMIT]) >= {400_000}
    findings = json.loads((outcome.record_path / "metrics.json").read_text())["validity"]["findings"]
    assert not [found for found in findings if found["code"].endswith("_not_held")]


def test_they_last_as_long_as_the_engine_that_runs_share(
    session: NvmlSession, setting_run: Callable[..., RunConfig]
) -> None:
    found, seen = [], []
    with Session() as engine:
        for last in (False, True):
            witness = Witness()
            witness.when(Phase.WINDOW, lambda _: seen.append(limit_w(session)))
            outcome = run_point(setting_run(), witness, session=engine, last=last)
            assert outcome.record_path is not None
            found.append(Record.open(outcome.record_path).info.gpu_settings[uuid_of(session)])
    assert seen == [ASKED_W, ASKED_W]
    assert [facts["power_limit_mw"]["restored"] for facts in found] == [None, 700_000]
    assert [facts["power_limit_mw"]["before"] for facts in found] == [700_000, 700_000]
    assert limit_w(session) == 700
    assert left_behind() == []


def test_on_a_machine_of_its_own(tiny_run: Callable[..., RunConfig], witness: Witness) -> None:
    cfg = tiny_run()
    cfg = changed(cfg, {"power.backend": PowerBackend.emulated, "gpu.power_limit_w": 300.0})
    outcome = run_point(cfg, witness)
    assert outcome.exit_code == 0
    assert outcome.record_path is not None
    record = Record.open(outcome.record_path)
    (found,) = record.info.gpu_settings.values()
    assert found["power_limit_mw"]["restored"] == 700_000
    truth = (outcome.record_path / "truth.csv").read_text().splitlines()[1:]
    assert max(int(line.split(",")[1]) for line in truth) <= 300_000
    assert left_behind() == []


def test_without_permission_nothing_starts(
    emulated: Callable[..., Any], setting_run: Callable[..., RunConfig], witness: Witness
) -> None:
    emulated(faults=[{"kind": "error", "function": "nvmlDeviceSetGpuLockedClocks", "code": 4}])
    cfg = setting_run()
    with pytest.raises(NotStartedError, match=r"gpu.sm_clock_mhz: no permission .* run as root"):
        run_point(cfg, witness)
    with attach_session() as session:
        assert limit_w(session) == 700  # set before, and put back
    assert left_behind() == []
    assert not list(Path(cfg.records_dir).glob("*/r*"))


def test_where_one_gpu_of_two_refuses_both_are_as_before(tmp_path: Path) -> None:
    second_refuses = [{"kind": "error", "function": "nvmlDeviceSetGpuLockedClocks", "code": 4, "gpu": 1}]
    gpu = GpuConfig(count=2, sm_clock_mhz=ASKED_MHZ, power_limit_w=ASKED_W)
    gpu_lock_dir().mkdir()
    with (
        EmulatedMachine([EmulatedGpu("h200")] * 2, tmp_path / "machine", faults=second_refuses),
        attach_session() as session,
    ):
        told: list[str] = []
        with (
            pytest.raises(NotStartedError, match="no permission"),
            gpu_settings(gpu, session.gpus(), session, told.append),
        ):
            pass
        assert [found.power_limit_mw for found in session.gpus()] == [700_000, 700_000]
        assert (told, left_behind()) == ([], [])


@pytest.mark.parametrize("victim", ["worker", "parent", "both"])
def test_killed(
    victim: str, session: NvmlSession, setting_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    program = Program(setting_run(window_s=30.0), tmp_path)
    program.read_until("bare idle")
    assert limit_w(session) == ASKED_W
    assert left_behind() == [uuid_of(session)]
    worker = worker_pid(program.process.pid)
    guard = [found for found in guards() if found.ppid() == program.process.pid]
    assert len(guard) == 1
    assert os.getsid(guard[0].pid) == guard[0].pid
    if victim == "both":
        os.kill(worker, signal.SIGSTOP)
        kill(program.process.pid)
        program.process.wait()
        # The run's process may still compute: as long as it lives, nothing changes under it.
        time.sleep(0.3)
        assert limit_w(session) == ASKED_W
        kill(worker)
    else:
        kill(worker if victim == "worker" else program.process.pid)
    program.end()
    wait_until(lambda: limit_w(session) == 700 and left_behind() == [])
    wait_until(lambda: has_ended(guard[0].pid))
    if victim == "worker":
        (path,) = Path(json.loads((tmp_path / "cfg.json").read_text())["records_dir"]).glob("*/r0-*")
        (found,) = Record.open(path).info.gpu_settings.values()
        assert found["power_limit_mw"]["restored"] == 700_000
        assert found["sm_clock_mhz"]["restored"] == "unlocked"


def test_when_all_three_are_killed_the_next_run_restores(
    session: NvmlSession, setting_run: Callable[..., RunConfig], tiny_run: Callable[..., RunConfig],
    tmp_path: Path, witness: Witness,
) -> None:  # fmt: skip
    program = Program(setting_run(window_s=30.0), tmp_path)
    program.read_until("bare idle")
    worker = worker_pid(program.process.pid)
    (guard,) = (found for found in guards() if found.ppid() == program.process.pid)
    for pid in (guard.pid, worker):
        os.kill(pid, signal.SIGSTOP)
    for pid in (guard.pid, program.process.pid, worker):
        kill(pid)
    program.end()
    assert limit_w(session) == ASKED_W
    outcome = run_point(tiny_run(), witness)
    assert outcome.exit_code == 0
    (told,) = [text for text in witness.notices if "restored" in text]
    assert "SM clock locked to 1410 MHz, power limit 400 W instead of 700 W, by pid" in told
    assert limit_w(session) == 700
    assert left_behind() == []
    assert outcome.record_path is not None
    (gpu,) = Record.open(outcome.record_path).info.gpus
    assert gpu["power_limit_mw"] == 700_000


def left(session: NvmlSession, *, boot_id: str | None = None) -> Journal:
    """As a dead run leaves it."""
    setting = Setting(uuid_of(session), ASKED_MHZ, 400_000, 700_000)
    journal = Journal(setting, 1, ownership.boot_id() if boot_id is None else boot_id)
    journal_file(setting.uuid).parent.mkdir(exist_ok=True)
    journal.write()
    put_in_force(session.native, setting)
    return journal


def test_a_journal_comes_back_as_it_was_written(session: NvmlSession) -> None:
    journal = left(session)
    assert Journal.read(uuid_of(session)) == journal
    assert [file.name for file in journal_file(uuid_of(session)).parent.iterdir()] == [
        f"{uuid_of(session)}.settings.json"
    ]


def test_after_a_restart_of_the_host_clocks_are_left_alone(
    session: NvmlSession, emulated: Callable[..., Any]
) -> None:
    left(session, boot_id="an earlier one")
    # Whoever unlocks here fails.
    emulated(faults=[{"kind": "error", "function": "nvmlDeviceResetGpuLockedClocks", "code": 15}])
    session.close()
    with attach_session() as after:
        assert restore_left(after, uuid_of(after)) is not None
    assert left_behind() == []


@pytest.mark.parametrize(
    "content", [b"", b"{", b"[]", b'{"setting": {}}', b'{"setting": {"uuid": "GPU-x"}, "pid": 1}']
)
def test_a_damaged_journal_is_none(session: NvmlSession, content: bytes) -> None:
    file = journal_file(uuid_of(session))
    file.parent.mkdir(exist_ok=True)
    file.write_bytes(content)
    assert Journal.read(uuid_of(session)) is None
    assert restore_left(session, uuid_of(session)) is None


def test_a_journal_of_another_user_or_gpu_or_place_is_not_believed(
    session: NvmlSession, tmp_path: Path
) -> None:
    left(session)
    uuid = uuid_of(session)
    file = journal_file(uuid)
    journal_file("GPU-other").write_bytes(file.read_bytes())
    assert Journal.read("GPU-other") is None
    if os.geteuid() == 0:
        os.chown(file, 12345, -1)
        assert Journal.read(uuid) is None
        os.chown(file, 0, -1)
    assert Journal.read(uuid) is not None
    aside = tmp_path / "aside"
    file.rename(aside)
    file.symlink_to(aside)
    assert Journal.read(uuid) is None


def test_what_cannot_be_restored_stops_the_next_run(
    session: NvmlSession, emulated: Callable[..., Any]
) -> None:
    left(session)
    emulated(faults=[{"kind": "error", "function": "nvmlDeviceResetGpuLockedClocks", "code": 4}])
    session.close()
    with attach_session() as after:
        after_gpus = after.gpus()
        with pytest.raises(NotStartedError, match="run wattcount doctor as root"):
            restore_before(after, after_gpus, print)
    assert len(left_behind()) == 1


def test_a_journal_that_cannot_be_written_starts_nothing(
    session: NvmlSession,
    setting_run: Callable[..., RunConfig],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def full(_: Journal) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Journal, "write", full)
    with pytest.raises(NotStartedError, match=r"cannot be kept in .*No space left on device"):
        run_point(setting_run(), witness)
    assert limit_w(session) == 700
    assert not [found for found in guards() if found.ppid() == os.getpid()]


def test_a_guard_that_does_not_start_is_not_waited_for(
    session: NvmlSession,
    setting_run: Callable[..., RunConfig],
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    stuck = tmp_path / "python"
    stuck.write_text(f"#!/bin/sh\necho $$ > {tmp_path / 'pid'}\nexec sleep 600\n")
    stuck.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(stuck))
    monkeypatch.setattr("wattcount.run.gpu_settings.GUARD_LIMIT_S", 1.0)
    with pytest.raises(NotStartedError, match=r"guards them did not start within 1 s"):
        run_point(setting_run(), witness)
    assert limit_w(session) == 700
    assert not psutil.pid_exists(int((tmp_path / "pid").read_text()))
