import io
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from sweep_ledger import make_sweep, planned

from wattcount.config.schema import DisplayConfig
from wattcount.records.schema import Phase
from wattcount.scenario.journal import Progress
from wattcount.sweep import display
from wattcount.sweep.display import LiveSweepDisplay, PlainSweepDisplay
from wattcount.sweep.ledger import Event, EventKind, Ledger, read_state, read_tally
from wattcount.sweep.plan import Plan
from wattcount.sweep.state import Tally


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Ledger]:
    with make_sweep(tmp_path) as made:
        yield made


def progress(phase: Phase | None, elapsed_s: float = 24.0, power_w: float | None = 412.3) -> Progress:
    return Progress(
        phase, elapsed_s, 60.0 if phase is Phase.WINDOW else None, None, 0, 0, 0, None, None, power_w
    )


def point(number: int):
    return planned(f"p{number}", repeat=number)


def tally(number: int = 4) -> Tally:
    return Tally(Plan("big", tuple(point(i) for i in range(number)), "", ()))


@pytest.fixture
def live(monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveSweepDisplay]:
    monkeypatch.setattr(display, "REDRAW_S", 0.0)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "24")
    shown = LiveSweepDisplay(tally(), Terminal())
    yield shown
    shown.close()


def plain(interval_s: float = 1e9, number: int = 4) -> tuple[PlainSweepDisplay, io.StringIO]:
    out = io.StringIO()
    return PlainSweepDisplay(tally(number), out, interval_s), out


def block(shown: LiveSweepDisplay) -> list[str]:
    """The lines of the block as it is now."""
    from rich.console import Console

    out = io.StringIO()
    Console(file=out, width=80, height=24, color_system=None).print(shown._render())
    return out.getvalue().splitlines()


def test_a_terminal_is_drawn_on_and_a_file_is_not(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    on_terminal = display.create(DisplayConfig(), tally(), Terminal())
    on_terminal.close()
    assert isinstance(on_terminal, LiveSweepDisplay)
    assert isinstance(display.create(DisplayConfig(), tally(), io.StringIO()), PlainSweepDisplay)
    assert isinstance(display.create(DisplayConfig(live=False), tally(), Terminal()), PlainSweepDisplay)


def test_the_block_says_what_each_lane_does_and_how_the_sweep_stands(live):
    live.event(Event(EventKind.start))
    for lane in (0, 1):
        live.lane_started(lane, point(lane))
        live.event(Event(EventKind.started, f"p{lane}"))
    live.lane_progress(0, progress(Phase.WINDOW))
    live.event(Event(EventKind.done, "p1", wall_s=60.0, energy_j=5e5, j_per_output_token=0.0813))
    live.lane_started(1, point(2))
    live.event(Event(EventKind.started, "p2"))
    lines = block(live)
    text = "\n".join(lines)
    assert max(len(line) for line in lines) <= 80
    assert "25.0 %" in lines[0]
    assert "4 points: 1 done, 2 running, 1 waiting" in text
    assert "time left: 1:30, from what was measured; energy so far: 500.0 kJ" in text
    latest = "latest: llama3_8b on h200, server 4/s, r1: 81.30 mJ per output token, took 1:00"
    assert latest in " ".join(text.split())
    assert re.search(r"0 llama3_8b on h200, server 4/s, r0 +window 0:24 of 1:00 +412 W", text)
    assert re.search(r"1 llama3_8b on h200, server 4/s, r2 +starting 0:00", text)


def test_a_lane_whose_point_has_ended_is_gone(live):
    live.lane_started(0, point(0))
    live.event(Event(EventKind.lost, "p0", reason="worker_died"))
    live.lane_progress(0, progress(Phase.WINDOW))  # a report that was on its way
    assert not any("window" in line for line in block(live))


def test_more_lanes_than_the_terminal_has_lines(monkeypatch):
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "12")
    shown = LiveSweepDisplay(tally(40), Terminal())
    for lane in range(40):
        shown.lane_started(lane, point(lane))
    lines = block(shown)
    shown.close()
    assert len(lines) <= 12
    assert re.search(r"and 3\d more lanes", lines[-1])


def test_failures_stay_above_the_block(live):
    live.lane_started(0, point(0))
    live.event(Event(EventKind.failed, "p0", reason="out_of_memory", message="CUDA [out] of\nmemory"))
    assert "r0: failed, out_of_memory, CUDA [out] of memory" in live._console.file.getvalue()


def test_plain_lines_of_begun_and_ended_points():
    shown, out = plain()
    shown.event(Event(EventKind.start))
    shown.lane_started(0, point(0))
    shown.lane_progress(0, progress(Phase.WINDOW))
    shown.event(Event(EventKind.done, "p0", wall_s=60.0, j_per_output_token=0.0813))
    shown.event(Event(EventKind.invalid, "p1", reason="not_steady"))
    shown.event(Event(EventKind.measured_before, "p2"))
    shown.event(Event(EventKind.done, "not planned"))
    shown.notice("cooling down")
    shown.close()
    shown.close()
    lines = [line.split("] ")[1] for line in out.getvalue().splitlines()]
    assert lines == [
        "lane 0: llama3_8b on h200, server 4/s, r0",
        "llama3_8b on h200, server 4/s, r0: 81.30 mJ per output token, took 1:00",
        "1 of 4 done, 0 failed; time left: 3:00, from what was measured",
        "llama3_8b on h200, server 4/s, r1: invalid, not_steady",
        "1 of 4 done, 1 failed; time left: 2:00, from what was measured",
        "llama3_8b on h200, server 4/s, r2: measured before",
        "2 of 4 done, 1 failed; time left: 1:00, from what was measured",
        "cooling down",
        "4 points: 2 done, 1 invalid, 1 waiting",
        "time left: 1:00, from what was measured; energy so far: not known yet",
        "latest: llama3_8b on h200, server 4/s, r0: 81.30 mJ per output token, took 1:00",
    ]
    assert "\x1b" not in out.getvalue()


def test_plain_lines_of_long_runs():
    shown, out = plain(interval_s=0.0)
    shown.tick()
    assert out.getvalue() == ""
    shown.lane_started(3, point(0))
    shown.lane_progress(3, progress(Phase.ENGINE_START, power_w=None))
    assert "lane 3: llama3_8b on h200, server 4/s, r0, engine start 0:24" in out.getvalue()


@pytest.mark.usefixtures("sweep")
def test_evidence_is_said_with_the_first_result(tmp_path):
    out = io.StringIO()
    shown = PlainSweepDisplay(read_tally(tmp_path, "big"), out, 1e9)
    record = read_state(tmp_path, "big").points[0].record
    shown.event(Event(EventKind.done, "running", record=record, wall_s=1.0))
    shown.event(Event(EventKind.done, "waiting", record=record, wall_s=1.0))
    assert out.getvalue().count("figures are: emulated") == 1


def test_a_sweep_that_is_gone_on_with_counts_what_was_before(sweep, tmp_path):
    sweep.close()
    out = io.StringIO()
    shown = PlainSweepDisplay(read_tally(tmp_path, "big"), out, 1e9)
    shown.event(Event(EventKind.start))
    shown.event(Event(EventKind.done, "failed", wall_s=100.0, energy_j=1.0))
    assert "3 of 5 done, 0 failed" in out.getvalue()
    shown.close()
    assert "energy so far: 10.00 kJ" in out.getvalue()


@pytest.mark.usefixtures("sweep")
def test_a_sweep_on_other_hosts_is_shown_from_its_ledger(live, tmp_path):
    live.sweep(read_state(tmp_path, "big"))
    assert any("2 done, 1 failed, 1 skipped, 1 running, 1 waiting" in line for line in block(live))
