"""Runs that were killed together with their parents, and what the next run makes of that."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
from witness import Program, worker_pid

from wattcount import ownership
from wattcount.config.loader import changed
from wattcount.config.schema import PowerBackend, RunConfig
from wattcount.records import Record
from wattcount.run import leftovers
from wattcount.run.orchestrate import run_point

pytestmark = pytest.mark.timeout(120)


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
    leftovers.clear_up(Path(long_run.records_dir), notices.append)
    assert notices == []
    assert len(list(temporary.glob("wattcount-*/owner.lock"))) == 2
    os.kill(worker.pid, signal.SIGCONT)
    worker.wait()
    (record,) = Path(long_run.records_dir).glob("*/r0-*")
    assert Record.open(record).info.validity.reasons == ["interrupted"]
    leftovers.clear_up(Path(long_run.records_dir), notices.append)
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
    leftovers.remove_temporary(temporary)
    assert sorted(temporary.iterdir()) == sorted([unclaimed, held, other])
    claim.release()
    leftovers.remove_temporary(temporary)
    assert sorted(temporary.iterdir()) == sorted([unclaimed, other])


def test_a_link_to_a_folder_elsewhere_is_not_followed(temporary: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.mkdir()
    claim = ownership.claim(victim / ownership.CLAIM_NAME)
    assert claim is not None
    claim.release()
    (temporary / "wattcount-link").symlink_to(victim)
    leftovers.remove_temporary(temporary)
    assert (victim / ownership.CLAIM_NAME).exists()


def test_a_folder_that_cannot_be_read_is_a_notice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(_folder: Path) -> None:
        raise PermissionError(13, "Permission denied", "/records")

    monkeypatch.setattr(leftovers, "close_orphans", refuse)
    notices: list[str] = []
    leftovers.clear_up(tmp_path, notices.append)
    (notice,) = notices
    assert "Permission denied" in notice
