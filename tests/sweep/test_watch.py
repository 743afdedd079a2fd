"""What is printed while a sweep is measured: a block on a terminal, lines elsewhere."""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console
from sweep_ledger import PER_TOKEN, make_sweep, planned
from synthetic_record import SyntheticRun

from wattcount.config.composition import compose
from wattcount.config.loader import changed
from wattcount.config.schema import RunConfig
from wattcount.errors import EXIT_FAILED, EXIT_NOT_STARTED
from wattcount.records.schema import Phase
from wattcount.scenario.journal import Progress
from wattcount.sweep import watch
from wattcount.sweep.lane import Said
from wattcount.sweep.ledger import Ledger, read_tally
from wattcount.sweep.local import LANE_DIED
from wattcount.sweep.outcome import Outcome, State
from wattcount.sweep.plan import Plan
from wattcount.sweep.state import Tally
from wattcount.sweep.tries import Job
from wattcount.sweep.watch import Block, Lines

PLAN = Plan("s", (planned("a"), planned("b", repeat=1)), "2026-01-01T00:00:00Z", ())
CFG = RunConfig()
FIGURES = {"wall_s": 60.0, "energy_j": 5e5, "figures": {PER_TOKEN: 0.0813}}


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def cfg(tmp_path: Path) -> RunConfig:
    made = compose(["model=tiny", "engine=tiny"])
    made = changed(made, {"records_dir": str(tmp_path)})
    with Ledger.open(tmp_path, "s") as ledger:
        ledger.write_plan(PLAN)
    return made


def job(number: int) -> Job:
    return Job(planned(f"p{number}", repeat=number), CFG)


def tally(number: int = 4) -> Tally:
    return Tally(Plan("big", tuple(job(i).point for i in range(number)), "", ()))


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch) -> Terminal:
    """Of 80 columns and 24 lines."""
    monkeypatch.setattr(watch, "REDRAW_S", 0.0)
    for name, value in {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}.items():
        monkeypatch.setenv(name, value)
    return Terminal()


@pytest.fixture
def block(terminal: Terminal) -> Iterator[Block]:
    made = Block(tally(), terminal)
    yield made
    made.close()


def progress(phase: Phase | None, power_w: float | None = 412.3) -> Said:
    planned_s = 60.0 if phase is Phase.WINDOW else None
    return Said(progress=Progress(phase, 24.0, planned_s, None, 0, 0, 0, None, None, power_w))


def drawn(block: Block) -> list[str]:
    """The lines of the block as it is now."""
    out = io.StringIO()
    Console(file=out, width=80, height=24, color_system=None).print(block.render())
    return out.getvalue().splitlines()


def test_lines_where_nobody_looks(cfg: RunConfig) -> None:
    assert isinstance(watch.shown(cfg, PLAN), Lines)


def test_a_block_where_it_is_asked_for(cfg: RunConfig) -> None:
    cfg = changed(cfg, {"display.live": True})
    block = watch.shown(cfg, PLAN)
    assert isinstance(block, Block)
    block.close()


def test_a_line_has_the_figures_of_a_run_and_what_they_rest_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    record = SyntheticRun().write(tmp_path / "records")
    Lines(2).ended(job(0), Outcome(State.done, record=str(record), **FIGURES), again=False)
    shown = capsys.readouterr().out.splitlines()
    assert (
        shown[0] == "[1/2] llama3_8b on h200, server 4/s, r0: 81.30 mJ per output token, took 1:00; measured"
    )
    assert shown[1] == f"record: {record}"


def test_lines_say_what_went_wrong_and_whether_it_is_tried_again(capsys: pytest.CaptureFixture[str]) -> None:
    lines = Lines(2)
    wrong = Outcome(State.failed, exit_code=EXIT_FAILED, reason="timeout", message="too slow")
    lines.ended(job(0), wrong, again=True)
    lines.ended(job(1), Outcome(State.done, record="/r", before=True), again=False)
    captured = capsys.readouterr()
    assert captured.err == (
        "wattcount: llama3_8b on h200, server 4/s, r0: too slow (try 1, to be tried again)\n"
    )
    assert captured.out == "already measured (resume=false measures again):\nrecord: /r\n"


def test_the_block_says_what_each_lane_does_and_how_the_sweep_stands(block: Block) -> None:
    for number in (0, 1):
        block.started(job(number))
    block.said(job(0), progress(Phase.WINDOW))
    block.ended(job(1), Outcome(State.done, **FIGURES), again=False)
    block.started(job(2))
    lines = drawn(block)
    text = "\n".join(lines)
    assert max(len(line) for line in lines) <= 80
    assert "25.0 %" in lines[0]
    assert "4 points: 1 done, 2 running, 1 waiting" in text
    assert "energy so far: 500.0 kJ" in text
    latest = "latest: llama3_8b on h200, server 4/s, r1: 81.30 mJ per output token, took 1:00"
    assert latest in " ".join(text.split())
    assert re.search(r"1 llama3_8b on h200, server 4/s, r0 +window 0:24 of 1:00 +412 W", text)
    assert re.search(
        r"2 llama3_8b on h200, server 4/s, r2 +starting 0:0\d", text
    )  # a lane that is free again


def test_a_lane_whose_point_has_ended_is_gone(block: Block) -> None:
    block.started(job(0))
    block.ended(job(0), Outcome(State.lost, reason="worker_died"), again=False)
    block.said(job(0), progress(Phase.WINDOW))  # a report that was on its way
    assert not any("window" in line for line in drawn(block))


def test_more_lanes_than_the_terminal_has_lines(terminal: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LINES", "12")
    block = Block(tally(40), terminal)
    for number in range(40):
        block.started(job(number))
    lines = drawn(block)
    block.close()
    assert len(lines) <= 12
    assert re.search(r"and 3\d more lanes", lines[-1])


def test_failures_records_and_notices_stay_above_the_block(block: Block, terminal: Terminal) -> None:
    block.started(job(0))
    wrong = Outcome(
        State.failed, record="/" + 90 * "r", reason="out_of_memory", message="CUDA [out] of\nmemory"
    )
    block.ended(job(0), wrong, again=False)
    block.said(job(0), Said("cooling down"))
    shown = terminal.getvalue()
    assert "r0: failed, out_of_memory, CUDA [out] of memory" in shown
    assert f"record: /{90 * 'r'}\n" in shown  # whole, to be copied
    assert "r0: cooling down" in shown


@pytest.mark.parametrize("again", [True, False])
def test_a_point_that_another_process_refused_runs_no_more(block: Block, again: bool) -> None:
    block.started(job(0))
    refused = Outcome(
        State.failed, "p0", exit_code=EXIT_NOT_STARTED, reason="not_started", message="busy", pid=1, host="n"
    )
    block.ended(job(0), refused, again=again)
    assert "4 points: 1 failed, 3 waiting" in "\n".join(drawn(block))


def test_the_block_ends_with_what_became_of_every_point(terminal: Terminal, tmp_path: Path) -> None:
    block = Block(tally(2), terminal)
    for number in (0, 1):
        block.started(job(number))
    record = SyntheticRun().write(tmp_path / "records")
    block.ended(job(0), Outcome(State.done, record=str(record), **FIGURES), again=False)
    block.ended(job(1), Outcome(State.lost, exit_code=EXIT_FAILED, reason=LANE_DIED), again=True)
    assert any("figures are: measured" in line for line in drawn(block))
    block.close()
    block.close()
    shown = terminal.getvalue()
    assert "lost, lane_died" in shown
    assert shown.count("2 points: 1 done, 1 lost\n") == 1


def test_a_sweep_that_is_gone_on_with_counts_what_was_before(terminal: Terminal, tmp_path: Path) -> None:
    make_sweep(tmp_path).close()
    block = Block(read_tally(tmp_path, "big"), terminal)
    assert "2 done, 1 failed, 1 lost, 1 skipped, 1 waiting" in "\n".join(drawn(block))
    block.ended(Job(planned("failed", repeat=1), CFG), Outcome(State.done, energy_j=1.0), again=False)
    assert "3 done, 1 lost, 1 skipped, 1 waiting" in "\n".join(drawn(block))
    block.close()
    assert "energy so far: 10.00 kJ" in terminal.getvalue()
