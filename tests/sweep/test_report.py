from __future__ import annotations

import fcntl
import io
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path

import pytest
from rich.console import Console
from sweep_ledger import PER_TOKEN, make_sweep, planned
from synthetic_record import SyntheticRun

from wattcount.config.composition import compose
from wattcount.config.loader import changed
from wattcount.config.schema import RunConfig
from wattcount.errors import EXIT_FAILED, EXIT_INTERRUPTED, EXIT_NOT_STARTED
from wattcount.records.schema import Phase
from wattcount.scenario.journal import Progress
from wattcount.sweep import report
from wattcount.sweep.lane import Said
from wattcount.sweep.ledger import PLAN_FILE, Ledger, read_tally
from wattcount.sweep.local import LANE_DIED, Job
from wattcount.sweep.point import Outcome, Plan, Point, State
from wattcount.sweep.report import Block, Lines, Screen, SweepResult, end_lines, plan_lines, result_lines
from wattcount.sweep.state import Tally
from wattcount.text import WIDTH

MODELS = [f"model_of_some_length_{number:02d}" for number in range(50)]


def skipped(models: Sequence[str], gpu: str, reason: str = "does_not_fit") -> list[Point]:
    return [
        planned(
            f"{reason} {model} {gpu} {repeat}",
            model=model,
            gpu=gpu,
            repeat=repeat,
            state=State.skipped,
            reason=reason,
            message=f"weights of {model} 43.9 GiB + KV cache 0.1 GiB (512 tokens x 160 KiB) > {gpu}",
        )
        for model in models
        for repeat in range(2)
    ]


def shown(points: Sequence[Point], records_dir: Path | None = None) -> list[str]:
    return list(plan_lines(Plan("s", tuple(points), "", ()), at_once=1, records_dir=records_dir))


def groups(lines: Sequence[str]) -> Mapping[str, tuple[int, int, int]]:
    """By GPUs: points, models, and models that are named or counted as more."""
    text = re.sub(r"\n      +", " ", "\n".join(lines))
    found = re.findall(r"(?m)^    (.+?): ([\d,]+) points? of (\d+) models?: (.+)$", text)
    assert found
    return {
        gpus: (
            int(points.replace(",", "")),
            int(models),
            len(set(re.findall(r"model_\w+", names))) + sum(map(int, re.findall(r"and (\d+) more", names))),
        )
        for gpus, points, models, names in found
    }


@pytest.mark.parametrize(
    ("repeats", "said"),
    [((0, 0, 1, 1), "2, one of every point before the next"), ((0, 1, 0, 1), "2, in the order declared")],
)
def test_the_order_of_repeats_is_told_as_it_is(repeats: tuple[int, ...], said: str) -> None:
    points = [planned(f"{at}", repeat=repeat) for at, repeat in enumerate(repeats)]
    assert f"  repeats   {said}" in shown(points)


def test_an_estimate_is_no_finer_than_it_is_known() -> None:
    points = [planned(str(number), wall_s=100.0, energy_j=51_234.5) for number in range(100)]
    assert "  estimate: 2 h 47 min of runs, 5.1 MJ" in shown(points)


def test_a_plan_of_thousands_of_skips_is_read_at_a_glance() -> None:
    points = [planned(model, model=model, gpu="h200") for model in MODELS]
    for number in range(11):
        points += skipped(MODELS[: 20 + number], f"gpu{number}")
    lines = shown(points)
    assert len(lines) < 40
    assert max(map(len, lines)) <= WIDTH
    assert lines[1].startswith("  models    50: model_of_some_length_00, ")
    assert "  skipped 550: does_not_fit" in lines
    assert groups(lines) == {f"gpu{n}": (2 * (20 + n), 20 + n, 20 + n) for n in range(11)}
    assert sum("e.g." in line for line in lines) == 1
    assert "  each of them, once started: wattcount status s --all-points" in lines


def test_gpus_that_lack_the_same_models_share_their_lines() -> None:
    here = [planned(model, model=model) for model in MODELS]
    lines = shown(here + skipped(MODELS[:3], "l4") + skipped(MODELS[:3], "a30") + skipped(MODELS[:2], "t4"))
    assert groups(lines) == {"a30, l4": (12, 3, 3), "t4": (4, 2, 2)}


def test_what_is_skipped_for_every_model_names_none_of_them() -> None:
    lines = shown(skipped(MODELS, "l4", "no_such_gpu"))
    assert any(line.endswith("power=emulated dry_run=true") for line in lines)
    assert "    l4: 100 points of all 50 models" in lines


def test_a_plan_of_one_gpu_names_every_model_that_is_skipped() -> None:
    here = [planned(model, model=model) for model in MODELS]
    assert all(name in "\n".join(shown(here + skipped(MODELS[:20], "l4"))) for name in MODELS[:20])


def test_one_name_is_there_however_little_room_there_is() -> None:
    long = "m" * 60
    points = [planned("here", model="a")]
    for number in range(20):
        points += skipped([f"{long}{n:02d}" for n in range(number + 1)], f"gpu{number}")
    lines = shown(points)
    assert lines.count(f"      {long}00") == 1
    assert lines.count(f"      {long}00 and 19 more") == 1
    assert max(map(len, lines)) <= WIDTH


def test_each_reason_has_its_example() -> None:
    lines = shown(skipped(MODELS[:1], "l4") + skipped(MODELS[:1], "t4", "dtype_unsupported"))
    assert [line for line in lines if line.startswith("  skipped")] == [
        "  skipped 2: does_not_fit",
        "  skipped 2: dtype_unsupported",
    ]
    text = " ".join(" ".join(lines).split())
    for gpu in ("l4", "t4"):
        example = f"weights of {MODELS[0]} 43.9 GiB + KV cache 0.1 GiB (512 tokens x 160 KiB) > {gpu}"
        assert f"e.g. {MODELS[0]} on {gpu}: {example}" in text


def test_where_all_are_is_a_command_to_copy() -> None:
    some = skipped(MODELS[:1], "l4")
    assert shown(some, Path("/my records"))[-1].endswith("status s --all-points --records-dir '/my records'")
    assert not any("wattcount status" in line for line in shown([*some[:1], planned("k")]))


def test_the_end_of_a_sweep_that_was_interrupted_says_how_to_go_on() -> None:
    plan = Plan("s", (planned("a"),), "", ())
    again = "the same command again goes on with what is missing"
    assert list(end_lines(SweepResult(plan, interrupted=130)))[-1] == again
    assert again not in list(end_lines(SweepResult(plan)))
    assert shown(plan.points)[0] == "sweep s: 1 point: 1 to run, 0 done before, 0 skipped"


def test_a_sweep_ends_with_its_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    records = [
        SyntheticRun(run_id=f"run{n}", repeat=n, power_w=300.0 + n).write(tmp_path / f"r{n}")
        for n in range(3)
    ]
    plan = Plan("s", (*(planned(f"{n}", repeat=n) for n in range(3)), planned("3"), planned("4")), "", ())
    outcomes = {f"{n}": Outcome(State.done, f"{n}", record=str(path)) for n, path in enumerate(records)}
    outcomes["2"] = Outcome(State.done, "2", before=True, record=str(records[2]))
    outcomes["3"] = Outcome(State.failed, "3", record=str(tmp_path / "gone"))
    lines = list(result_lines(SweepResult(plan, outcomes)))
    assert lines[1] == "results: measured: 1 setting, 3 runs"
    assert "llama3_8b, NVIDIA H200, server 4 requests/s, window 60 s" in lines
    (figures,) = [line for line in lines if line.startswith("  3 of 3")]
    assert "6.84 J" in figures
    assert "301 W" in figures
    assert lines[-1] == "again, or as CSV, JSON, Markdown: wattcount results s"
    assert max(map(len, lines)) <= WIDTH
    (*_, command) = result_lines(SweepResult(plan, outcomes, records_dir=Path("/my records")))
    assert command.endswith("wattcount results s --records-dir '/my records'")
    assert list(result_lines(SweepResult(plan))) == []
    assert list(result_lines(SweepResult(plan, outcomes, dry_run=True))) == []
    # Of a big sweep no record is read.
    monkeypatch.setattr(report, "TABLE_RECORDS", 2)
    assert list(result_lines(SweepResult(plan, outcomes))) == ["results: wattcount results s"]


def test_what_is_not_done_is_named_by_what_tells_it_from_others() -> None:
    same = ("model=m", "engine.enforce_eager=true")
    points = [planned(f"{n}", overrides=(*same, f"seed={n}", "sweep.workers=2"), seed=n) for n in (0, 1)]
    failed = Outcome(State.failed, "1", exit_code=1, reason="timeout", message="too slow", attempt=2)
    lines = list(end_lines(SweepResult(Plan("s", tuple(points), "", ()), {"1": failed})))
    assert lines[1:4] == ["  seed=0: not begun", "  seed=1: failed: too slow", "      timeout, 2 tries"]
    alone = list(end_lines(SweepResult(Plan("s", (points[0],), "", ()))))
    assert alone[1] == "  model=m engine.enforce_eager=true seed=0: not begun"


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
    monkeypatch.setattr(report, "REDRAW_S", 0.0)
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
    assert isinstance(report.shown(cfg, PLAN), Lines)


def test_a_block_where_it_is_asked_for(cfg: RunConfig) -> None:
    cfg = changed(cfg, {"display.live": True})
    block = report.shown(cfg, PLAN)
    assert isinstance(block, Block)
    block.close()


@pytest.mark.parametrize(
    ("terminal_is", "asked", "kind"),
    [
        ({}, {}, Screen),
        ({}, {"display.screen": False}, Block),
        ({}, {"display.live": False}, Lines),
        ({"TERM": "dumb"}, {}, Block),
        ({"LINES": "10"}, {}, Block),
        ({"COLUMNS": "40"}, {}, Block),
    ],
)
def test_a_sweep_has_the_screen_where_there_is_one(
    cfg: RunConfig,
    terminal: Terminal,
    monkeypatch: pytest.MonkeyPatch,
    terminal_is: dict[str, str],
    asked: dict[str, bool],
    kind: type,
) -> None:
    for name, value in terminal_is.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdout", terminal)
    made = report.shown(changed(cfg, asked), PLAN)
    made.close()
    assert type(made) is kind


def test_the_screen_is_left_as_it_was_and_all_that_happened_stands_below(terminal: Terminal) -> None:
    screen = Screen(tally(), terminal)
    screen.started(job(0))
    screen.said(job(0), progress(Phase.WINDOW))
    screen.ended(job(0), Outcome(State.done, record="/records/0", **FIGURES), again=False)
    for number in range(40):
        screen.notice(f"notice {number}")
    lines = drawn(screen)
    assert len(lines) <= 24
    assert max(len(line) for line in lines) <= 80
    assert lines[-2:] == ["notice 39", "Ctrl-C ends it, and the same command goes on with what is missing"]
    assert "record: /records/0" not in terminal.getvalue()
    screen.close()
    screen.close()
    shown = terminal.getvalue()
    assert shown.count("\x1b[?1049h") == shown.count("\x1b[?1049l") == 1
    assert shown.rindex("\x1b[?25h") > shown.rindex("\x1b[?25l")
    after = shown.rpartition("\x1b[?1049l")[2]
    assert "record: /records/0\n" in after
    assert "81.30 mJ per output token" in after
    assert after.index("notice 0\n") < after.index("notice 39\n") < after.index("4 points: 1 done, 3 waiting")


def test_what_is_said_after_the_screen_is_seen(terminal: Terminal) -> None:
    screen = Screen(tally(), terminal)
    screen.close()
    screen.notice("not logged")
    assert terminal.getvalue().endswith("not logged\n")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("key", "codes"), [(b"", {0, 1}), (b"\x03", {EXIT_INTERRUPTED})], ids=["to its end", "Ctrl-C"]
)
def test_a_real_terminal_is_given_back(tmp_path: Path, key: bytes, codes: set[int]) -> None:
    """Through resizing, Ctrl-Z and going on, whether the sweep goes to its end or not; a busy machine may make its runs invalid (1)."""
    short = [f"scenario.{name}=0.05" for name in ("bare_idle_s", "loaded_idle_s", "bare_idle_after_s")]
    command = [
        sys.executable, "-m", "wattcount", "-m", "engine=tiny", "model=tiny", "power=emulated", "gpu=h200", "tracking=none",
        "scenario=server_short", "scenario.rate_rps=20,30", "scenario.window_s=1.5", "scenario.warmup_s=0", *short, "sweep.name=s",
        "scenario.lengths.output_tokens=4", f"records_dir={tmp_path / 'records'}",
    ]  # fmt: skip
    terminal, its = pty.openpty()
    environment = {key: value for key, value in os.environ.items() if key not in ("COLUMNS", "LINES")}
    run = subprocess.Popen(
        ["setsid", "--ctty", *command],  # the terminal's keys are its signals
        stdin=its,
        stdout=its,
        stderr=its,
        env=environment | {"TERM": "xterm", "WATTCOUNT_HOME": str(tmp_path / "home")},
    )
    os.close(its)

    def resize(lines: int, columns: int) -> None:
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    resize(24, 80)
    shown = b""
    steps = iter(
        [lambda: resize(40, 120), lambda: os.write(terminal, b"\x1a"), lambda: os.write(terminal, key)]
    )
    waits_for = iter([b"\x1b[?1049h", b"window", b"window"])
    wanted = next(waits_for)
    at = 0
    while True:
        try:
            part = os.read(terminal, 65536)
        except OSError:  # its other end is closed
            break
        if not part:
            break
        shown += part
        if shown.count(b"\x1b[?1049l") > shown.count(b"\x1b[?1049h") - 1 and at == 2:
            run.send_signal(signal.SIGCONT)
        if wanted in shown[-len(part) - 20 :] and (step := next(steps, None)) is not None:
            step()
            at += 1
            wanted = next(waits_for, b"nothing")
    os.close(terminal)
    code = run.wait()
    assert code in codes
    assert at == 3
    assert shown.count(b"\x1b[?1049h") == shown.count(b"\x1b[?1049l") == 2
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")
    after = shown.rpartition(b"\x1b[?1049l")[2].decode()
    assert "2 points: " in after
    assert ("again, or as CSV" in after) == (code != EXIT_INTERRUPTED)


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
    assert re.search(r"and 3\d more that run", lines[-1])


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


class Clock:
    """Seconds that pass only when they are told to."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


def test_the_block_of_a_clusters_sweep_shows_what_its_jobs_write(terminal: Terminal, tmp_path: Path) -> None:
    clock, read = Clock(), partial(read_tally, tmp_path, "big")
    with make_sweep(tmp_path), Ledger.open(tmp_path, "big") as job_ledger:
        block = Block(read(), terminal, clock, read)
        assert "1 running, 1 waiting" in "\n".join(drawn(block))
        job_ledger.append(Outcome(State.running, "waiting", host="node7"))
        block.tick()
        assert "1 running, 1 waiting" in "\n".join(drawn(block)), "read again too early"
        clock.now_s = report.REREAD_S
        block.tick()
        text = "\n".join(drawn(block))
        assert "2 done, 1 failed, 1 skipped, 2 running" in text
        assert re.search(r"r3 +0:0\d on node7", text)
        job_ledger.append(Outcome(State.done, "waiting", host="node7", **FIGURES))
        block.close()
    assert "3 done, 1 failed, 1 skipped, 1 running" in terminal.getvalue()


def test_a_job_that_has_ended_stays_so_though_the_ledger_shows_it_late(
    terminal: Terminal, tmp_path: Path
) -> None:
    clock, read = Clock(), partial(read_tally, tmp_path, "big")
    with make_sweep(tmp_path):
        block = Block(read(), terminal, clock, read)
        block.ended(Job(planned("waiting", repeat=3), CFG), Outcome(State.done, **FIGURES), again=False)
        clock.now_s = report.REREAD_S
        block.tick()
        assert "3 done" in "\n".join(drawn(block))
        block.close()


def test_a_ledger_that_cannot_be_read_leaves_what_is_known(terminal: Terminal, tmp_path: Path) -> None:
    clock, read = Clock(), partial(read_tally, tmp_path, "big")
    with make_sweep(tmp_path):
        block = Block(read(), terminal, clock, read)
        (tmp_path / ".sweeps" / "big" / PLAN_FILE).unlink()
        clock.now_s = report.REREAD_S
        block.tick()
        assert "2 done" in "\n".join(drawn(block))
        block.close()


def test_lines_of_a_clusters_sweep_say_how_many_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    clock, read = Clock(), partial(read_tally, tmp_path, "big")
    with make_sweep(tmp_path), Ledger.open(tmp_path, "big") as job_ledger:
        lines = Lines(5, read, clock)
        lines.tick()
        assert capsys.readouterr().out == ""
        clock.now_s = report.REREAD_S
        lines.tick()
        assert capsys.readouterr().out == "2 done, 1 failed, 1 skipped, 1 running, 1 waiting\n"
        job_ledger.append(Outcome(State.running, "waiting"))
        clock.now_s += report.REREAD_S
        lines.tick()
        assert capsys.readouterr().out == "", "no more than a line a minute"
        clock.now_s += report.COUNTS_S
        lines.tick()
        assert capsys.readouterr().out == "2 done, 1 failed, 1 skipped, 2 running\n"
