"""A display that remembers what a run told, ways to find and kill a run's process, and a parent of its own."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
from waiting import commands

from wattcount.config.loader import to_json
from wattcount.config.schema import RunConfig
from wattcount.records.schema import Phase
from wattcount.run.orchestrate import Display
from wattcount.scenario.journal import Progress


class Witness(Display):
    """A display that remembers, and does something once when a phase is reached."""

    def __init__(self) -> None:
        self.cfg: RunConfig | None = None
        self.reports: list[Progress] = []
        self.notices: list[str] = []
        self.ticks = 0
        self.record: Path | None = None
        self.ended_calls = 0
        self.at: Phase | None = None
        self.action: Callable[[int], None] = lambda _: None
        self.worker: int | None = None

    def when(self, phase: Phase, action: Callable[[int], None]) -> None:
        """`action` gets the number of the run's process."""
        self.at, self.action = phase, action

    def started(self, cfg: RunConfig) -> None:
        self.cfg = cfg

    def progress(self, progress: Progress) -> None:
        self.reports.append(progress)
        self.worker = self.worker or worker_pid()
        if progress.phase is self.at and self.at is not None:
            self.at = None
            self.action(self.worker)

    def notice(self, text: str) -> None:
        self.notices.append(text)

    def tick(self) -> None:
        self.ticks += 1

    def ended(self, record_path: Path | None) -> None:
        self.record, self.ended_calls = record_path, self.ended_calls + 1

    @property
    def phases(self) -> list[Phase]:
        return [report.phase for report in self.reports if report.phase is not None]


def worker_pid(parent: int | None = None) -> int:
    for child, command in commands(psutil.Process(parent).children(recursive=True)).items():
        with contextlib.suppress(ProcessLookupError):
            if "wattcount.run.worker" in command and os.getsid(child.pid) == child.pid:
                return child.pid
    raise AssertionError("the run's process is not there")


def kill(pid: int) -> None:
    os.kill(pid, signal.SIGKILL)


PROGRAM = """
import sys, json
from pathlib import Path
from wattcount.config.loader import from_json
from wattcount.run.orchestrate import run_point
from wattcount.run.display import PlainDisplay
outcome = run_point(from_json(json.loads(Path(sys.argv[1]).read_text())), PlainDisplay(sys.stdout, 0.2))
print("outcome", outcome.reason, outcome.record_path)
sys.exit(outcome.exit_code)
"""


class Program:
    """A parent of its own, to be interrupted and killed."""

    def __init__(self, cfg: RunConfig, tmp_path: Path, before: str = "") -> None:
        """`before`: Python that the parent runs first."""
        file = tmp_path / "cfg.json"
        file.write_text(json.dumps(to_json(cfg)))
        self.process = subprocess.Popen(
            [sys.executable, "-c", before + PROGRAM, str(file)],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.lines: list[str] = []

    def read_until(self, word: str) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            self.lines.append(line)
            # The headline may say how long the window is: `..., window 30 s`. A phase is told as `window, 30 s`.
            # What the run will take names every phase: `takes 0:40: bare idle 0:10, ...`, wrapped with a margin.
            told_before = line.startswith(("takes ", "  "))
            if word in line and f", {word} " not in line and not told_before:
                return
        raise AssertionError(f"{word!r} never came: {''.join(self.lines)}")

    def end(self) -> int:
        assert self.process.stdout is not None
        self.lines += self.process.stdout.readlines()
        self.process.stdout.close()
        return self.process.wait()
