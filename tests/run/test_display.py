from __future__ import annotations

import io
import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from synthetic_record import SyntheticRun

from wattcount.clock import now_ns
from wattcount.config.loader import changed
from wattcount.config.schema import BatchConfig, DisplayConfig, RunConfig, Weights
from wattcount.records.schema import Phase
from wattcount.run import display
from wattcount.run.display import LiveDisplay, PlainDisplay
from wattcount.scenario.journal import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture
def cfg(tiny_run: Callable[..., RunConfig]) -> RunConfig:
    made = tiny_run(
        rate_rps=4.0,
        bare_idle_s=10.0,
        loaded_idle_s=10.0,
        warmup_s=20.0,
        window_s=60.0,
        bare_idle_after_s=0.0,
    )
    return changed(made, {"model.name": "llama3_8b", "gpu.found_name": "NVIDIA H200", "evidence": "emulated"})


def at(phase: Phase | None, elapsed_s: float = 0.0, planned_s: float | None = None, **other: Any) -> Progress:
    values = {
        "limit_s": None, "requests_done": 0, "requests_failed": 0, "requests_in_flight": 0,
        "requests_total": None, "output_tokens_per_s": None, "power_w": None,
    }  # fmt: skip
    return Progress(phase=phase, elapsed_s=elapsed_s, planned_s=planned_s, **(values | other))


WINDOW = at(
    Phase.WINDOW, 24.0, 60.0,
    requests_done=120, requests_in_flight=3, requests_total=320, output_tokens_per_s=512.4, power_w=412.3,
)  # fmt: skip


def plain(cfg: RunConfig, interval_s: float = 0.0) -> tuple[PlainDisplay, io.StringIO]:
    out = io.StringIO()
    shown = PlainDisplay(out, interval_s)
    shown.started(cfg)
    return shown, out


def drawn(cfg: RunConfig, *reports: Progress, width: int = 80) -> str:
    """What a terminal shows after these reports, without the escape sequences."""
    from rich.console import Console

    shown = LiveDisplay(Terminal())
    shown.started(cfg)
    for report in reports:
        shown.progress(report)
    console = Console(file=io.StringIO(), width=width, color_system=None)
    console.print(shown._render())
    shown.ended(None)
    text: str = console.file.getvalue()  # type: ignore[attr-defined]
    return text


def test_a_terminal_gets_a_live_display_anything_else_lines() -> None:
    assert isinstance(display.create(DisplayConfig(), Terminal()), LiveDisplay)
    assert isinstance(display.create(DisplayConfig(), io.StringIO()), PlainDisplay)
    assert isinstance(display.create(DisplayConfig(live=True), io.StringIO()), LiveDisplay)
    assert isinstance(display.create(DisplayConfig(live=False), Terminal()), PlainDisplay)


@pytest.mark.parametrize(
    ("evidence", "weights", "words"),
    [
        ("emulated", Weights.random, ["EMULATED", "RANDOM WEIGHTS"]),
        ("emulated", Weights.hub, ["EMULATED"]),
        ("measured", Weights.random, ["RANDOM WEIGHTS"]),
        ("measured", Weights.hub, []),
    ],
)
def test_what_spoils_a_figure_is_said_first(
    cfg: RunConfig, evidence: str, weights: Weights, words: list[str]
) -> None:
    cfg = changed(cfg, {"evidence": evidence, "model.weights": weights})
    _, out = plain(cfg, 0.0)
    for text in (out.getvalue(), drawn(cfg)):
        assert [word for word in ("EMULATED", "RANDOM WEIGHTS") if word in text] == words
        assert "llama3_8b on NVIDIA H200, server 4 requests/s" in text


def test_lines_say_where_the_run_stands(cfg: RunConfig) -> None:
    shown, out = plain(cfg)
    shown.progress(at(Phase.BARE_IDLE, 0.0, 10.0))
    shown.progress(at(Phase.ENGINE_START, 0.0, None))
    shown.progress(WINDOW)
    shown.progress(WINDOW)
    shown.notice("something happened")
    lines = [line.partition("] ")[2] for line in out.getvalue().splitlines() if line.startswith("[")]
    assert lines == [
        "bare idle, 10 s",
        "engine start",
        "window, 60 s",
        "window 24/60 s, 120/320 requests done, 3 in flight, 412 W, 512 output tokens/s",
        "something happened",
    ]


def test_lines_come_at_their_interval(cfg: RunConfig) -> None:
    shown, out = plain(cfg, interval_s=3600.0)
    for _ in range(5):
        shown.progress(WINDOW)
        shown.tick()
    assert out.getvalue().count("] window") == 1


def test_failed_requests_are_shown(cfg: RunConfig) -> None:
    shown, out = plain(cfg)
    for _ in range(2):
        shown.progress(at(Phase.WINDOW, 1.0, 60.0, requests_failed=7, requests_total=320))
    assert "7 failed" in out.getvalue()


def test_a_report_before_anything_started_is_no_error() -> None:
    shown = PlainDisplay(io.StringIO(), 0.0)
    shown.tick()
    shown.progress(WINDOW)
    shown.ended(None)


def test_a_run_says_what_it_will_take(cfg: RunConfig) -> None:
    _, out = plain(cfg, 0.0)
    text = " ".join(out.getvalue().split())
    assert re.search(r"takes \d+:\d\d\+: bare idle \d:\d\d, engine start, loaded idle", text)
    assert max(map(len, out.getvalue().splitlines())) <= 80


def test_somebody_elses_server_has_no_bare_idle(cfg: RunConfig) -> None:
    longer = changed(cfg, {"scenario.bare_idle_after_s": 5.0})
    assert {Phase.BARE_IDLE, Phase.BARE_IDLE_AFTER} <= display.planned_phases(longer).keys()
    theirs = changed(longer, {"engine.name": "openai", "engine.base_url": "http://localhost:8000"})
    assert not {Phase.BARE_IDLE, Phase.BARE_IDLE_AFTER} & display.planned_phases(theirs).keys()


def test_the_live_display_fits_80_columns(cfg: RunConfig) -> None:
    text = drawn(cfg, at(Phase.BARE_IDLE, 10.0, 10.0), at(Phase.ENGINE_START, 30.0), WINDOW)
    assert max(len(line.rstrip()) for line in text.splitlines()) <= 80
    assert "> window" in text
    assert "0:24 of 1:00" in text
    assert "120/320 requests done, 3 in flight" in text
    assert "412 W, 512 output tokens/s" in text
    done = next(line for line in text.splitlines() if "bare idle" in line)
    assert "done" in done
    assert "0:10" in done
    assert "0:46+ to go" in text  # 36 s of the window, 10 s idle, and a drain of unknown length


def test_nothing_is_promised_before_the_first_report(cfg: RunConfig) -> None:
    text = drawn(cfg)
    assert "1:50+ to go" in text
    assert "- W" in text


def test_a_batch_has_no_planned_window(cfg: RunConfig) -> None:
    cfg = changed(
        cfg,
        {
            "scenario": BatchConfig(
                name="batch", num_requests=512, bare_idle_s=0.0, loaded_idle_s=5.0, bare_idle_after_s=0.0
            )
        },
    )
    text = drawn(cfg, at(Phase.WINDOW, 75.0, None, requests_total=528, requests_done=17))
    assert "batch of 512" in text
    assert "bare idle" not in text
    assert "drain" not in text
    window = next(line for line in text.splitlines() if "> window" in line)
    assert "1:15" in window
    assert " of " not in window
    assert "0:05+ to go" in text


def test_the_live_display_leaves_the_terminal_as_it_was(cfg: RunConfig) -> None:
    out = Terminal()
    shown = LiveDisplay(out)
    shown.started(cfg)
    shown.progress(WINDOW)
    shown.notice("a [bracket] stays")
    shown.ended(None)
    text = out.getvalue()
    assert text.count("\x1b[?25l") == text.count("\x1b[?25h") == 1  # the cursor, hidden and shown again
    assert "a [bracket] stays" in text


@pytest.mark.parametrize("live", [True, False])
def test_the_end_shows_the_figures(
    cfg: RunConfig, tmp_path: Path, live: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    import sys

    path = SyntheticRun().write(tmp_path / "record")
    shown = display.create(DisplayConfig(live=live), sys.stdout)
    shown.started(cfg)
    shown.ended(path)
    text = capsys.readouterr().out
    assert "per output token" in text
    assert "measured" in text


def test_a_record_that_cannot_be_read_says_so(cfg: RunConfig, tmp_path: Path) -> None:
    shown, out = plain(cfg)
    shown.ended(tmp_path)
    assert "no summary" in out.getvalue()


def test_time_goes_on_between_reports(cfg: RunConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    offset = 0
    monkeypatch.setattr(display, "now_ns", lambda: now_ns() + offset)
    shown, out = plain(cfg)
    shown.progress(at(Phase.ENGINE_START, 5.0))
    offset = 60_000_000_000
    shown.tick()
    assert "engine start 65 s" in out.getvalue()


def test_in_the_background_every_phase_is_shown_and_the_latest_report_of_each(
    tiny_run: Callable[..., RunConfig],
) -> None:
    held, go = threading.Event(), threading.Event()
    seen: list[object] = []

    class Slow(display.Display):
        def started(self, _: RunConfig) -> None:
            held.set()
            go.wait(60.0)

        def progress(self, progress: Progress) -> None:
            seen.append((progress.phase, progress.elapsed_s))

        def notice(self, text: str) -> None:
            seen.append(text)

        def tick(self) -> None: ...

        def ended(self, _: Path | None) -> None:
            seen.append("ended")

    shown = display.InBackground(Slow())
    shown.started(tiny_run())
    assert held.wait(60.0)
    for phase in (Phase.BARE_IDLE, None, Phase.WINDOW):
        for elapsed_s in range(5):
            shown.progress(Progress(phase, elapsed_s, 5.0, None, 0, 0, 0, None, None, None))
            shown.tick()
    shown.notice("a notice")
    assert seen == []
    go.set()
    shown.ended(None)
    assert seen == [(Phase.BARE_IDLE, 4), (None, 4), (Phase.WINDOW, 4), "a notice", "ended"]
