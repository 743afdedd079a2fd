"""Runs that want one GPU: real processes, the emulated library that the environment names."""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from synthetic_record import SyntheticRun, hash_files, rewrite_metrics
from waiting import wait_until
from witness import Program, Witness, kill, worker_pid

from wattcount import metrics, ownership
from wattcount.clock import now_ns
from wattcount.config.loader import changed
from wattcount.config.paths import gpu_lock_dir
from wattcount.config.schema import GpuConfig, PowerBackend, PowerConfig, RunConfig
from wattcount.errors import MeasuredElsewhereError, NotStartedError
from wattcount.gpu.nvml import GpuFacts, open_session
from wattcount.records import Record
from wattcount.records.schema import Phase
from wattcount.run import claims
from wattcount.run.claims import OwnWindow, Wanted, gpus_locked, in_a_window, remove_stale_claims
from wattcount.run.orchestrate import run_point

pytestmark = pytest.mark.timeout(120)


@pytest.fixture
def gpu(emulated: Any) -> GpuFacts:
    emulated()
    with open_session(PowerConfig(), GpuConfig()) as session:
        (found,) = session.gpus()
    return found


def lock_file(gpu: GpuFacts) -> Path:
    return gpu_lock_dir() / f"{gpu.uuid}.lock"


def is_free(gpu: GpuFacts) -> bool:
    lock = ownership.lock(lock_file(gpu), "")
    if lock is not None:
        lock.release()
    return lock is not None


def test_a_second_run_waits_for_the_first(
    gpu: GpuFacts,
    tiny_run: Callable[..., RunConfig],
    tmp_path: Path,
    witness: Witness,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    first = Program(tiny_run(bare_idle_s=0.5), tmp_path)
    first.read_until("bare idle")
    worker = worker_pid(first.process.pid)
    os.kill(worker, signal.SIGSTOP)  # until the second waits for it
    assert not is_free(gpu)
    cfg = tiny_run()

    noticed_ns = []

    def go_on(text: str) -> None:
        noticed_ns.append(now_ns())
        witness.notices.append(text)
        os.kill(worker, signal.SIGCONT)

    monkeypatch.setattr(witness, "notice", go_on)
    began_ns = now_ns()
    outcome = run_point(cfg, witness)
    ended_ns = now_ns()
    assert (outcome.exit_code, first.end()) == (0, 0)
    (told,) = [text for text in witness.notices if "another run" in text]
    assert told.startswith(
        f"NVIDIA H200 ({gpu.uuid}) is measured by another run (pid {first.process.pid} on "
    )
    assert told.endswith(", tiny, server); waiting up to 3600 s for it to end")
    runs = sorted(
        (Record.open(path).info for path in Path(cfg.records_dir).glob("*/r0-*")),
        key=lambda info: info.phases[0].start_ns,
    )
    assert len(runs) == 2
    first_ended_ns = runs[0].phases[-1].end_ns or 0
    assert runs[1].phases[0].start_ns > first_ended_ns
    # Waiting is no part of the run, nor of what wattcount adds to it; the record's seconds are rounded.
    not_waiting_s = (ended_ns - began_ns - (first_ended_ns - noticed_ns[0])) / 1e9
    timing = runs[1].timing
    phases_s = timing["phases_s"] + timing["engine_start_s"]
    assert timing["overhead_s"] + phases_s == pytest.approx(timing["wall_s"], abs=1e-3)
    assert timing["wall_s"] <= not_waiting_s + 1e-3
    assert is_free(gpu)


def test_a_run_that_waits_too_long_is_not_started(
    gpu: GpuFacts, tiny_run: Callable[..., RunConfig], witness: Witness
) -> None:
    gpu_lock_dir().mkdir()
    held = ownership.lock(lock_file(gpu), "llama3_8b, batch")
    assert held is not None
    cfg = tiny_run()
    cfg = changed(cfg, {"gpu_lock_timeout_s": 0.3})
    began = time.monotonic()
    with pytest.raises(NotStartedError) as caught:
        run_point(cfg, witness)
    assert time.monotonic() - began >= 0.3
    assert f"(pid {os.getpid()} on " in str(caught.value)
    assert "llama3_8b, batch); it did not end within gpu_lock_timeout_s=0.3 s" in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not Path(cfg.records_dir).exists() or not list(Path(cfg.records_dir).glob("*/r*"))


@pytest.mark.parametrize("victim", ["parent", "both"])
def test_a_killed_run_frees_the_gpu(
    victim: str, gpu: GpuFacts, tiny_run: Callable[..., RunConfig], tmp_path: Path
) -> None:
    program = Program(tiny_run(window_s=30.0), tmp_path)
    program.read_until("bare idle")
    worker = worker_pid(program.process.pid)
    if victim == "both":
        os.kill(worker, signal.SIGSTOP)
        kill(program.process.pid)
        # The run's process can still compute on the GPU: it is not free.
        program.process.wait()
        assert not is_free(gpu)
        kill(worker)
    else:
        kill(program.process.pid)
    program.end()
    wait_until(lambda: is_free(gpu))


def test_a_machine_of_its_own_needs_no_lock(
    tiny_run: Callable[..., RunConfig], witness: Witness, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", "/proc/nowhere")
    cfg = tiny_run()
    cfg = changed(cfg, {"power.backend": PowerBackend.emulated})
    assert run_point(cfg, witness).exit_code == 0


def test_a_folder_that_cannot_be_written(gpu: GpuFacts, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", "/proc/nowhere")
    with (
        pytest.raises(NotStartedError, match=r"cannot lock GPU-.* in /proc/nowhere: .*WATTCOUNT_LOCK_DIR"),
        gpus_locked([gpu], "", 1.0, print),
    ):
        pass


def test_all_or_none(gpu: GpuFacts) -> None:
    other = dataclasses.replace(gpu, uuid="GPU-zzz")
    with gpus_locked([other], "", 0.0, print):
        with pytest.raises(NotStartedError, match="GPU-zzz"), gpus_locked([other, gpu], "", 0.0, print):
            pass
        assert is_free(gpu)
    with gpus_locked([other, gpu], "", 0.0, print) as descriptors:
        assert len(descriptors) == 2
        assert not is_free(gpu)
        assert not is_free(other)
    assert gpu_lock_dir().stat().st_mode & 0o7777 == 0o1777


def edit(file: Path, **changes: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.fixture
def wanted(tmp_path: Path) -> Wanted:
    info = SyntheticRun().info()
    return Wanted(tmp_path / "records", info.point_id, info.seed, info.repeat)


@pytest.fixture
def record(wanted: Wanted) -> Path:
    """A finished valid record of what is wanted."""
    return a_record(wanted, "20260901-120000-000-aaaaaa")


def a_record(wanted: Wanted, run_id: str) -> Path:
    folder = wanted.records_dir / wanted.point_id[:12] / f"r{wanted.repeat}-{run_id}"
    SyntheticRun().write(folder)
    _pretend(folder, valid=True)
    return folder


def test_nothing_is_finished_where_nothing_is(wanted: Wanted) -> None:
    assert wanted.finished() is None


def test_the_latest_valid_record_counts(wanted: Wanted, record: Path) -> None:
    assert wanted.finished() == record
    later = a_record(wanted, "20260902-120000-000-aaaaaa")
    assert wanted.finished() == later
    edit(later / "run.json", complete=False)
    _pretend(later, valid=True)
    assert wanted.finished() == record


def test_what_is_not_finished(wanted: Wanted, record: Path) -> None:
    assert wanted.finished() == record
    before = (record / "run.json").read_bytes()
    for changes in (
        {"complete": False},
        {"validity": {"valid": False, "reasons": ["timeout"], "messages": ["slow"]}},
        {"seed": wanted.seed + 1},
        {"repeat": wanted.repeat + 1},
        {"point_id": wanted.point_id[:12] + "0" * 52},
        {"notes": ["another content, and it was not checked yet"], "complete": False},
    ):
        edit(record / "run.json", **changes)
        _pretend(record, valid=True)
        assert wanted.finished() is None, changes
        (record / "run.json").write_bytes(before)
        _pretend(record, valid=True)
        assert wanted.finished() == record
    _pretend(record, valid=False)
    assert wanted.finished() is None


@pytest.mark.parametrize("changes", [{"schema_version": 99}, {"phases": None}, {"seed": [1]}, {"config": {}}])
def test_a_run_json_of_another_shape_is_not_finished(
    wanted: Wanted, record: Path, changes: dict[str, Any]
) -> None:
    edit(record / "run.json", **changes)
    assert wanted.finished() is None


@pytest.mark.parametrize("name", ["power.parquet", "requests.parquet", "steps.parquet"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped"])
def test_a_damaged_record_is_measured_again(wanted: Wanted, record: Path, name: str, damage: str) -> None:
    """With its `metrics.json` as it was, which says that it is valid."""
    hash_files(record)
    _pretend(record, valid=True)
    assert wanted.finished() == record
    file = record / name
    content = file.read_bytes()
    if damage == "missing":
        file.unlink()
    elif damage == "cut":
        file.write_bytes(content[:-10])
    else:
        file.write_bytes(content[:60] + bytes([content[60] ^ 0xFF]) + content[61:])
    assert wanted.finished() is None


def test_a_record_in_the_making_is_not_finished(wanted: Wanted, record: Path) -> None:
    record.rename(record.with_name(".tmp-20260901-120000-000-aaaaaa"))
    assert wanted.finished() is None


@pytest.mark.parametrize("damage", ["empty", "missing", "edited", "older"])
def test_metrics_that_cannot_be_believed_are_computed(wanted: Wanted, damage: str) -> None:
    """As after a power cut, an upgrade, or a hand that knew better: the raw files decide."""
    record = a_record(wanted, "20260901-120000-000-aaaaaa")
    file = record / "metrics.json"
    computed = metrics.compute(Record.open(record))["validity"]["valid"]
    _pretend(record, valid=not computed)
    assert (wanted.finished() is not None) is not computed
    if damage == "empty":
        file.write_bytes(b"")
    elif damage == "missing":
        file.unlink()
    elif damage == "edited":
        edit(file, evidence="measured, believe me")
    else:
        edit(file, metrics_version=metrics.METRICS_VERSION - 1)
    before = sorted(path.name for path in record.iterdir())
    assert (wanted.finished() is not None) is computed
    assert sorted(path.name for path in record.iterdir()) == before  # looking writes nothing


def test_only_the_folder_of_its_point_is_looked_at(
    wanted: Wanted, record: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One point after the other as a sweep does, 5 repeats a point."""
    points = []
    for number in range(20):
        point_id = f"{number:012d}".ljust(64, "0")
        for repeat in range(5):
            folder = wanted.records_dir / point_id[:12] / f"r{repeat}-20260901-120000-000-aaaaaa"
            folder.mkdir(parents=True)
            (folder / "metrics.json").hardlink_to(record / "metrics.json")
            shutil.copy(record / "run.json", folder / "run.json")
            points.append(Wanted(wanted.records_dir, point_id, wanted.seed, repeat))
    target = wanted.records_dir / points[-1].point_id[:12] / "r4-20260901-120000-000-aaaaaa"
    shutil.rmtree(target)
    shutil.copytree(record, target)
    edit(target / "run.json", point_id=points[-1].point_id, repeat=4)
    _pretend(target, valid=True)
    opened = []
    real = Record.open

    def counted(path: Path) -> Record:
        opened.append(path)
        return real(path)

    monkeypatch.setattr(Record, "open", counted)
    assert [point.finished() for point in points] == [None] * 99 + [target]
    assert len(set(opened)) == 100


def test_a_finished_point_is_not_measured_again(
    emulated: Any, tiny_run: Callable[..., RunConfig], witness: Witness
) -> None:
    emulated()
    cfg = tiny_run()
    cfg = changed(cfg, {"resume": True})
    first = run_point(cfg, witness)
    assert (first.exit_code, first.measured_before) == (0, False)
    assert first.record_path is not None
    _pretend(first.record_path, valid=True)
    other = Witness()
    again = run_point(cfg, other)
    assert (again.exit_code, again.record_path, again.measured_before) == (0, first.record_path, True)
    assert other.cfg is None

    _pretend(first.record_path, valid=False)
    anew = run_point(cfg, Witness())
    assert anew.record_path not in (None, first.record_path)
    assert not anew.measured_before

    _pretend(first.record_path, valid=True)
    cfg = changed(cfg, {"resume": False})
    assert not run_point(cfg, Witness()).measured_before
    assert len(list(Path(cfg.records_dir).glob("*/r0-*"))) == 3
    assert list((Path(cfg.records_dir) / ".running").iterdir()) == []


def _pretend(record: Path, *, valid: bool) -> None:
    """A run of a second has findings against it, and on a busy machine not always the same ones."""
    rewrite_metrics(record, validity={"valid": valid, "reasons": [], "findings": []})


def test_a_point_has_one_run_at_a_time(
    tiny_run: Callable[..., RunConfig], tmp_path: Path, witness: Witness
) -> None:
    """Each run has an emulated GPU of its own, so no GPU's lock keeps them apart."""
    cfg = tiny_run(bare_idle_s=1.5)
    cfg = changed(cfg, {"resume": True, "power.backend": PowerBackend.emulated})
    first = Program(cfg, tmp_path)
    first.read_until("bare idle")
    with pytest.raises(
        MeasuredElsewhereError, match=rf"^the same point is being .*\(pid {first.process.pid} on"
    ):
        run_point(cfg, witness, wait_for_others=False)
    cfg = changed(cfg, {"repeat": 1})
    assert run_point(cfg, Witness(), wait_for_others=False).exit_code == 0
    assert first.end() == 0
    assert len(list(Path(cfg.records_dir).glob("*/r0-*"))) == 1


def test_a_killed_run_frees_its_point_which_is_then_measured_again(
    tiny_run: Callable[..., RunConfig], tmp_path: Path, witness: Witness
) -> None:
    cfg = tiny_run(bare_idle_s=2.0)
    cfg = changed(cfg, {"resume": True, "power.backend": PowerBackend.emulated})
    first = Program(cfg, tmp_path)
    first.read_until("bare idle")
    kill(first.process.pid)
    first.end()
    outcome = run_point(cfg, witness)
    assert (outcome.exit_code, outcome.measured_before) == (0, False)
    assert outcome.record_path is not None
    infos = [Record.open(path).info for path in Path(cfg.records_dir).glob("*/r0-*")]
    assert sorted(info.validity.valid for info in infos) == [False, True][-len(infos) :]


def test_a_claim_does_not_keep_from_measuring_once_more(wanted: Wanted) -> None:
    def ask(*, alone: bool) -> list[int]:
        with wanted.claimed("", print, alone=alone, wait=False) as descriptors:
            return descriptors

    with wanted.claimed("", print, alone=True, wait=False) as held:
        assert len(held) == 1
        assert ask(alone=False) == []
        with pytest.raises(MeasuredElsewhereError):
            ask(alone=True)
    assert len(ask(alone=True)) == 1
    assert list((wanted.records_dir / ".running").iterdir()) == []


def test_only_claims_that_nobody_holds_are_removed(wanted: Wanted) -> None:
    with wanted.claimed("", print, alone=True, wait=False):
        (held,) = (wanted.records_dir / ".running").iterdir()
        stale = held.with_name("stale.point")
        stale.write_bytes(held.read_bytes())
        elsewhere = held.with_name("elsewhere.point")
        elsewhere.write_text(json.dumps({"hostname": "other", "machine_id": "1", "boot_id": "2"}))
        remove_stale_claims(wanted.records_dir)
        assert sorted((wanted.records_dir / ".running").iterdir()) == sorted([held, elsewhere])


def test_a_folder_without_locks(tmp_path: Path) -> None:
    (tmp_path / "records").write_text("no folder")
    wanted = Wanted(tmp_path / "records", "ab" * 32, 0, 0)
    with wanted.claimed("", print, alone=True, wait=True) as descriptors:
        assert descriptors == []


@pytest.fixture(autouse=True)
def locks(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", str(tmp_path / "locks"))
    return tmp_path / "locks"


@pytest.mark.parametrize(
    ("phase", "loud"),
    [
        (None, False),
        (Phase.BARE_IDLE, False),
        (Phase.ENGINE_START, False),
        (Phase.LOADED_IDLE, True),
        (Phase.WARMUP, True),
        (Phase.WINDOW, True),
        (Phase.DRAIN, True),
        (Phase.IDLE_AFTER, False),
        (Phase.BARE_IDLE_AFTER, False),
    ],
)
def test_which_phases_are_not_to_be_disturbed(phase, loud):
    own = OwnWindow()
    own.follow(phase)
    assert in_a_window() is loud
    own.release()
    own.release()
    assert not in_a_window()


def test_several_runs_at_once():
    first, second = OwnWindow(), OwnWindow()
    first.follow(Phase.WINDOW)
    second.follow(Phase.WARMUP)
    first.follow(Phase.IDLE_AFTER)
    assert in_a_window()
    second.follow(Phase.IDLE_AFTER)
    assert not in_a_window()


def test_a_run_that_is_killed_is_in_no_window():
    code = "from wattcount.run.claims import *; o = OwnWindow(); o.follow(Phase.WINDOW); print(1, flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdout is not None
        child.stdout.readline()
        assert in_a_window()
        child.kill()
        child.wait(10)
    assert not in_a_window()


def test_where_there_are_no_locks_the_run_goes_on(monkeypatch):
    def none(*_args: object) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(claims.fcntl, "flock", none)
    own = OwnWindow()
    own.follow(Phase.WINDOW)
    assert not in_a_window()


def test_where_nothing_can_be_written_the_run_goes_on(monkeypatch):
    monkeypatch.setenv("WATTCOUNT_LOCK_DIR", "/proc/none")
    own = OwnWindow()
    own.follow(Phase.WINDOW)
    assert not in_a_window()


@pytest.fixture(autouse=True)
def temporary(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """A folder for temporary files of these runs alone; `tmp_path`, which pytest makes with the same module,
    lies elsewhere."""
    assert tmp_path.exists()
    with tempfile.TemporaryDirectory(prefix="w", dir="/tmp") as short:  # a socket's path is at most 107 long
        monkeypatch.setattr(tempfile, "tempdir", short)
        monkeypatch.setenv("TMPDIR", short)
        yield Path(short)


@pytest.fixture
def long_run(tiny_run: Callable[..., RunConfig]) -> RunConfig:
    """Goes on until it is killed."""
    cfg = tiny_run(window_s=60.0)
    return changed(cfg, {"power.backend": PowerBackend.emulated})


def kill_both(program: Program) -> None:
    """The run's process and its parent, neither of which gets to do anything any more."""
    worker = psutil.Process(worker_pid(program.process.pid))
    program.process.send_signal(signal.SIGSTOP)
    worker.kill()
    program.process.kill()
    program.end()
    worker.wait()


def names(cfg: RunConfig) -> list[str]:
    """Every folder and file below the records' folder: point folders hold records, `.running` claims."""
    return sorted(path.name for path in Path(cfg.records_dir).glob("*/*"))


def test_the_next_run_closes_what_a_killed_one_left(
    tiny_run: Callable[..., RunConfig], long_run: RunConfig, witness: Any, tmp_path: Path, temporary: Path
) -> None:
    program = Program(long_run, tmp_path)
    program.read_until("window")
    kill_both(program)
    # Its record, its claim, the emulated machine, and its temporary files.
    (open_record,) = (name for name in names(long_run) if name.startswith(".tmp-"))
    run_id = open_record.removeprefix(".tmp-")
    assert f"{run_id}.lock" in names(long_run)
    assert len(list(temporary.glob("wattcount-*"))) == 2

    cfg = tiny_run(batch=True)
    cfg = changed(cfg, {"power.backend": PowerBackend.emulated})
    outcome = run_point(cfg, witness)
    assert outcome.exit_code == 0
    assert list(temporary.iterdir()) == []
    (closed,) = Path(cfg.records_dir).glob(f"*/r0-{run_id}")
    assert outcome.record_path is not None
    assert sorted([closed.name, outcome.record_path.name]) == names(cfg)
    record = Record.open(closed)
    record.verify()
    assert record.info.validity.reasons == ["worker_died"]
    assert len(record.power.events) > 50
    assert record.metrics is not None
    assert not record.metrics["validity"]["valid"]
    assert witness.notices == [f"closed the record of a run that was killed: {closed}"]


def test_a_run_that_goes_on_is_not_disturbed(
    tiny_run: Callable[..., RunConfig], long_run: RunConfig, witness: Any, tmp_path: Path, temporary: Path
) -> None:
    program = Program(long_run, tmp_path)
    program.read_until("window")
    cfg = tiny_run(batch=True)
    cfg = changed(cfg, {"power.backend": PowerBackend.emulated})
    assert run_point(cfg, witness).exit_code == 0
    assert witness.notices == []
    assert len(list(temporary.glob("wattcount-*/owner.lock"))) == 2
    # Still whole: told to end, it closes its record itself.
    program.process.send_signal(signal.SIGINT)
    assert program.end() == 130
    reasons = [Record.open(path).info.validity.reasons for path in Path(cfg.records_dir).glob("*/r0-*")]
    assert sorted(reasons) == [[], ["interrupted"]]
    assert list(temporary.iterdir()) == []


def test_a_run_whose_parent_alone_was_killed_keeps_its_claims(
    long_run: RunConfig, tmp_path: Path, temporary: Path
) -> None:
    program = Program(long_run, tmp_path)
    program.read_until("window")
    worker = psutil.Process(worker_pid(program.process.pid))
    os.kill(worker.pid, signal.SIGSTOP)  # as if it took its time to close the record
    program.process.kill()
    program.end()
    notices: list[str] = []
    claims.clear_up(Path(long_run.records_dir), notices.append)
    assert notices == []
    assert len(list(temporary.glob("wattcount-*/owner.lock"))) == 2
    os.kill(worker.pid, signal.SIGCONT)
    worker.wait()
    (record,) = Path(long_run.records_dir).glob("*/r0-*")
    assert Record.open(record).info.validity.reasons == ["interrupted"]
    claims.clear_up(Path(long_run.records_dir), notices.append)
    assert notices == []
    assert names(long_run) == [record.name]
    assert list(temporary.iterdir()) == []


def test_only_folders_that_are_surely_left_behind_go(temporary: Path) -> None:
    unclaimed = temporary / "wattcount-unclaimed"
    unclaimed.mkdir()
    held = temporary / "wattcount-held"
    held.mkdir()
    claim = ownership.claim(held / ownership.CLAIM_NAME)
    other = temporary / "of-someone-else"
    other.mkdir()
    gone = ownership.claim(other / ownership.CLAIM_NAME)
    assert claim is not None
    assert gone is not None
    gone.release()
    claims.remove_temporary(temporary)
    assert sorted(temporary.iterdir()) == sorted([unclaimed, held, other])
    claim.release()
    claims.remove_temporary(temporary)
    assert sorted(temporary.iterdir()) == sorted([unclaimed, other])


def test_a_link_to_a_folder_elsewhere_is_not_followed(temporary: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    claim = ownership.claim(victim / ownership.CLAIM_NAME)
    assert claim is not None
    claim.release()
    (temporary / "wattcount-link").symlink_to(victim)
    claims.remove_temporary(temporary)
    assert (victim / ownership.CLAIM_NAME).exists()


def test_a_folder_that_cannot_be_read_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied", "/records")

    monkeypatch.setattr(claims, "close_orphans", refuse)
    notices: list[str] = []
    claims.clear_up(tmp_path, notices.append)
    (notice,) = notices
    assert "Permission denied" in notice
