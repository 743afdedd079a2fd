"""What lanes, jobs and batch scripts have in common: one point, and what the ledger is told of it."""

from __future__ import annotations

import errno
import os
import time
from pathlib import Path
from typing import Any

import pytest
from sweep_ledger import planned
from synthetic_record import SyntheticRun, observation

from wattcount import ownership
from wattcount.config.composition import compose
from wattcount.config.schema import RunConfig
from wattcount.errors import EXIT_FAILED, EXIT_OK
from wattcount.run import orchestrate
from wattcount.scenario.journal import Progress
from wattcount.sweep.ledger import SILENT_S, Ledger, read_state
from wattcount.sweep.point import Plan, State
from wattcount.sweep.task import measure, measure_planned

SHORT = [
    "model=tiny", "engine=tiny", "power=emulated", "gpu=l4", "tracking=none", "scenario=batch",
    "scenario.num_requests=4", "scenario.warmup_requests=0", "scenario.lengths.input_tokens=8",
    "scenario.lengths.output_tokens=50", "scenario.bare_idle_s=0.2", "scenario.loaded_idle_s=0.2",
    "scenario.bare_idle_after_s=0.2", "power.probe=false",
]  # fmt: skip


class FromAnotherHost:
    """Sees the process that measures as one of another host, not heard of for long when its run begins."""

    def __init__(self, records_dir: Path) -> None:
        self._records_dir = records_dir
        self.state: State | None = None

    def started(self, cfg: RunConfig) -> None:
        del cfg
        (file,) = self._records_dir.glob(".sweeps/s/events/*.jsonl")
        first, rest = file.read_bytes().split(b"\n", 1)
        for name in ("boot_id", "machine_id", "hostname"):
            first = first.replace(str(ownership.mark()[name]).encode(), b"elsewhere")
        file.write_bytes(first + b"\n" + rest)
        os.utime(file, (time.time() - 2 * SILENT_S,) * 2)

    def progress(self, progress: Progress) -> None: ...
    def notice(self, text: str) -> None: ...
    def tick(self) -> None: ...

    def ended(self, record_path: Path | None) -> None:
        del record_path
        self.state = read_state(self._records_dir, "s").outcomes["k"].state


def test_a_process_that_measures_lives_for_other_hosts_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("wattcount.sweep.ledger.BEAT_S", 0.1)
    cfg = compose([*SHORT, f"records_dir={tmp_path}"])
    seen = FromAnotherHost(tmp_path)
    with Ledger.open(tmp_path, "s") as ledger:
        ledger.write_plan(Plan("s", (planned("k"),), "", ()))
        result = measure_planned(cfg, key="k", ledger=ledger, display=seen)
    # A busy machine may make it invalid, which is not the question here.
    assert result.state in (State.done, State.invalid), result.message
    assert seen.state is State.running


@pytest.mark.parametrize(
    ("spoilt", "state", "code"),
    [([], State.done, EXIT_OK), ([observation("compute_processes", 1, 2)], State.invalid, EXIT_FAILED)],
)
def test_a_run_that_its_own_checks_find_invalid_has_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoilt: list[dict[str, Any]], state: State, code: int
) -> None:
    record = SyntheticRun(observations=spoilt).write(tmp_path / "r")
    ran = orchestrate.Outcome(EXIT_OK, record, None, None)
    monkeypatch.setattr(orchestrate, "run_point", lambda *_, **__: ran)
    result = measure(compose(["model=tiny", "engine=tiny", "tracking=none"]))
    assert (result.state, result.exit_code) == (state, code)
    assert result.reason == ("foreign_process" if spoilt else None)


def test_what_the_system_refuses_is_a_result_and_no_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), "/tmp/x")

    monkeypatch.setattr("wattcount.run.orchestrate.run_point", refused)
    result = measure(RunConfig())
    assert (result.exit_code, result.reason) == (EXIT_FAILED, "setup_failed")
    assert "Too many open files: '/tmp/x'" in (result.message or "")
