"""The Hydra entry: one point, sweeps, exit codes, signals; the run itself is replaced, its contract is not."""

from __future__ import annotations

import dataclasses
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from in_process_lane import InProcessLane

from wattcount.cli.main import main
from wattcount.config import RunConfig
from wattcount.errors import MeasuredElsewhereError, NotStartedError, RunFailedError
from wattcount.masking import reveal
from wattcount.run.orchestrate import Display, RunOptions
from wattcount.run.session import Rest
from wattcount.sweep import local, task
from wattcount.sweep.point import Outcome, Plan, Point, State
from wattcount.sweep.report import SweepResult
from wattcount.sweep.sweeper import exit_code


@dataclasses.dataclass
class Calls:
    """Stands in for `task._measure`: notes what it was asked for and answers what the test wants."""

    answer: Callable[[RunConfig], int | BaseException]
    runs: list[RunConfig] = dataclasses.field(default_factory=list)

    waits: list[bool] = dataclasses.field(default_factory=list)
    rests: list[Rest | None] = dataclasses.field(default_factory=list)

    def __call__(
        self, run: RunConfig, display: Display | None, sweep: str | None, options: RunOptions
    ) -> Outcome:
        del display, sweep
        self.runs.append(run)
        self.waits.append(options.get("wait_for_others", True))
        self.rests.append(options.get("rest"))
        answer = self.answer(run)
        if isinstance(answer, BaseException):
            raise answer
        message = None if answer == 0 else "what went wrong"
        state = State.done if answer == 0 else State.failed
        return Outcome(state, exit_code=answer, record=f"/records/{len(self.runs)}", message=message)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    monkeypatch.setenv("WATTCOUNT_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "home"


@pytest.fixture
def calls(home: Path, monkeypatch: pytest.MonkeyPatch) -> Calls:
    assert home
    calls = Calls(lambda _run: 0)
    monkeypatch.setattr(task, "_measure", calls)
    monkeypatch.setattr(local, "ChildLane", InProcessLane)
    return calls


def test_one_point(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["model=tiny", "scenario=batch", "scenario.num_requests=3"]) == 0
    captured = capsys.readouterr()
    assert captured.out == "record: /records/1\n"
    assert captured.err == ""
    (run,) = calls.runs
    assert (run.model.name, run.scenario.num_requests) == ("tiny", 3)


def test_no_arguments_is_a_run(calls: Calls) -> None:
    assert main([]) == 0
    (run,) = calls.runs
    assert run.model.name == "auto"


def test_nothing_is_left_in_the_working_directory(calls: Calls, home: Path) -> None:
    assert main(["-m", "seed=1,2", "model=tiny", "tracking=none"]) == 0
    assert len(calls.runs) == 2
    assert list(Path.cwd().iterdir()) == []
    files = [file for file in home.rglob("*") if file.is_file() and ".sweeps" not in file.parts]
    assert [file.name for file in files] == ["multirun.yaml"]


@pytest.mark.parametrize("answer", [1, 2])
def test_what_went_wrong_is_said_and_the_record_printed(
    answer: int, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answer = lambda _run: answer
    assert main(["model=tiny"]) == answer
    captured = capsys.readouterr()
    assert captured.err == "wattcount: what went wrong\n"
    assert captured.out == "record: /records/1\n"


@pytest.mark.parametrize(
    ("error", "code"),
    [(NotStartedError("wrong GPU"), 2), (RunFailedError("engine_died", "the engine died"), 1)],
)
def test_an_error_is_one_line(
    error: Exception, code: int, calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answer = lambda _run: error
    assert main(["model=tiny"]) == code
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err == f"wattcount: {error}\n"


def test_a_sweep_runs_every_point(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(["-m", "tracking=none", "model=tiny,qwen2_5_0_5b", "scenario=batch,server", "seed=0,1,2"]) == 0
    )
    points = {(run.model.name, run.scenario.name, run.seed) for run in calls.runs}
    assert len(points) == len(calls.runs) == 12
    assert capsys.readouterr().out.count("record: ") == 12


def test_a_bad_point_is_found_before_the_first_one_starts(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", "model=tiny", "scenario.rate_rps=1,2,-4", "scenario.window_s=30,0"]) == 2
    assert calls.runs == []
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "scenario.rate_rps: must be above 0 requests/s, not -4" in captured.err
    assert "scenario.window_s: must be above 0 s" in captured.err
    assert "Traceback" not in captured.err


@pytest.mark.parametrize("bad", ["model=tiny,tinyy", "scenario.arrivals.kind=poisson,posson", "seed=0,1.5"])
def test_a_typo_in_one_point_is_found_too(bad: str, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["-m", bad]) == 2
    assert calls.runs == []
    assert capsys.readouterr().err.count("\n") == 1


def test_one_failure_does_not_end_a_sweep(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    answers: dict[int, Any] = {
        0: 0,
        1: RunFailedError("oom", "out of memory"),
        2: 1,
        3: NotStartedError("no"),
        4: 0,
    }
    calls.answer = lambda run: answers[run.seed]
    assert main(["-m", "tracking=none", "model=tiny", "seed=0,1,2,3,4", "sweep.attempts=1"]) == 1
    assert len(calls.runs) == 5
    captured = capsys.readouterr()
    assert captured.out.count("record: ") == 3
    assert "3 of 5 points not done:" in captured.err
    assert "\n  seed=1: failed: out of memory" in captured.err
    assert "\n  seed=3: not started: no" in captured.err


@pytest.mark.parametrize("code", [130, 143])
def test_an_interrupt_ends_a_sweep(code: int, calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    calls.answer = lambda run: code if run.seed == 1 else 0
    assert main(["-m", "tracking=none", "model=tiny", "seed=0,1,2", "sweep.order=given"]) == code
    assert [run.seed for run in calls.runs] == [0, 1]
    assert capsys.readouterr().out.count("record: ") == 2


@pytest.mark.parametrize("arguments", [["-m", "seed=0,1"], ["seed=0"]])
def test_sigterm_ends_with_its_own_code(arguments: list[str], calls: Calls) -> None:
    def kill(_run: RunConfig) -> int:
        os.kill(os.getpid(), signal.SIGTERM)
        return 0

    calls.answer = kill
    before = signal.getsignal(signal.SIGTERM)
    assert main([*arguments, "model=tiny"]) == 143
    assert len(calls.runs) == 1
    assert signal.getsignal(signal.SIGTERM) is before


def test_ctrl_c(calls: Calls) -> None:
    calls.answer = lambda _run: KeyboardInterrupt()
    assert main(["-m", "tracking=none", "model=tiny", "seed=0,1"]) == 130
    assert len(calls.runs) == 1


def test_an_experiment_is_a_sweep_of_its_own(calls: Calls) -> None:
    assert main(["experiment=paper", "model=tiny", "repeat=0", "tracking=none"]) == 0
    # In an order drawn by their keys.
    assert {run.scenario.name for run in calls.runs} == {
        "batch_paper",
        "server_paper_low",
        "server_paper_high",
    }
    assert len(calls.runs) == 3


def test_groups_of_ones_own(calls: Calls, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "mine"
    (folder / "model").mkdir(parents=True)
    (folder / "model" / "my.yaml").write_text(
        "defaults: [model_schema, _self_]\nname: my\nhf_id: me/my\nweights: random\n"
    )
    assert main(["--config-dir", str(folder), "model=my"]) == 0
    assert main(["-m", "--config-dir", str(folder), "model=my,tiny", "tracking=none"]) == 0
    first, *swept = [run.model.name for run in calls.runs]
    assert (first, sorted(swept)) == ("my", ["my", "tiny"])  # in an order drawn by their keys
    assert main(["--config-dir", str(tmp_path / "nope"), "model=my"]) == 2
    assert capsys.readouterr().err == f"wattcount: --config-dir: no folder at {tmp_path / 'nope'}\n"


def test_flags_of_hydra(calls: Calls, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--cfg", "job", "model=tiny", "scenario=batch"]) == 0
    assert "num_requests: 512" in capsys.readouterr().out
    assert main(["--info", "searchpath"]) == 0
    assert "structured://" in capsys.readouterr().out
    assert main(["--cfg", "nonsense"]) == 2
    assert main(["--config-path", "/tmp"]) == 2
    assert calls.runs == []


def test_exit_codes_of_a_sweep() -> None:
    def of(*codes: int) -> int:
        points = [
            Point(str(n), (), "tiny", "h200", "batch", "batch of 8", 0, n) for n in range(len(codes))
        ] or [Point("0", (), "tiny", "h200", "batch", "batch of 8", 0, 0, State.done)]
        results = {
            str(n): Outcome(State.failed if code else State.done, exit_code=code)
            for n, code in enumerate(codes)
        }
        return exit_code(SweepResult(Plan("s", tuple(points), "", ()), results))

    assert of() == 0
    assert of(0, 0) == 0
    assert of(2, 2) == 2
    assert of(0, 2) == 1
    assert of(0, 1) == 1
    assert of(1, 2) == 1


def test_a_sweep_leaves_out_what_is_finished_and_a_single_run_does_not(calls: Calls) -> None:
    assert main(["-m", "tracking=none", "model=tiny", "seed=0,1"]) == 0
    assert main(["model=tiny"]) == 0
    assert main(["-m", "tracking=none", "model=tiny", "seed=0,1", "resume=false"]) == 0
    assert main(["model=tiny", "resume=true"]) == 0
    assert [run.resume for run in calls.runs] == [True, True, False, False, False, True]
    assert calls.waits == [False, False, True, False, False, True]


def test_a_record_that_was_there_is_marked(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert home
    monkeypatch.setattr(local, "ChildLane", InProcessLane)
    monkeypatch.setattr(task, "_measure", lambda *_: Outcome(State.done, record="/records/1", before=True))
    assert main(["-m", "tracking=none", "model=tiny", "seed=0,1"]) == 0
    line = "already measured (resume=false measures again):\nrecord: /records/1\n"
    assert capsys.readouterr().out.endswith(2 * line)


def test_points_that_another_sweep_measures_come_last(
    calls: Calls, capsys: pytest.CaptureFixture[str]
) -> None:
    calls.answer = lambda run: (
        MeasuredElsewhereError("measured by another run")
        if run.seed in (0, 2) and not calls.waits[-1]
        else int(run.seed == 2)
    )
    assert (
        main(["-m", "tracking=none", "model=tiny", "seed=0,1,2,3", "sweep.order=given", "sweep.attempts=1"])
        == 1
    )
    assert [(run.seed, wait) for run, wait in zip(calls.runs, calls.waits, strict=True)] == [
        (0, False), (1, False), (2, False), (3, False), (0, True), (2, True),
    ]  # fmt: skip
    captured = capsys.readouterr()
    assert captured.out.count("record: ") == 4
    assert "1 of 4 points not done:\n  seed=2: failed: what went wrong" in captured.err


def test_the_runs_of_a_sweep_have_one_rest_between_them(calls: Calls) -> None:
    def cool_down(_run: RunConfig) -> int:
        if calls.rests[-1] is not None:
            calls.rests[-1].before.setdefault("GPU-1", {"power_w": 80.0 + 10 * len(calls.runs) - 10})
        return 0

    calls.answer = cool_down
    assert main(["-m", "tracking=none", "model=tiny", "seed=0,1"]) == 0
    assert main(["model=tiny"]) == 0
    first, second, single = calls.rests
    assert first is not None
    assert second is not None
    assert second.before == {"GPU-1": {"power_w": 80.0}}
    assert single is None


def files_with(text: str, folder: Path) -> list[Path]:
    return [file for file in folder.rglob("*") if file.is_file() and text.encode() in file.read_bytes()]


def test_no_file_or_text_of_a_run_holds_the_password_of_its_store(
    calls: Calls, home: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    experiment = tmp_path / "conf" / "experiment"
    experiment.mkdir(parents=True)
    (experiment / "mine.yaml").write_text(
        "# @package _global_\ntracking: {enabled: false, uri: 'http://bob:hunter2@127.0.0.1:9', tags: {at: 'http://a:hunter2@h'}}\n"
        "hydra: {sweeper: {params: {seed: '1,2'}}}\n"
    )
    own = ["--config-dir", str(tmp_path / "conf"), "experiment=mine"]
    typed = ["model=tiny", "tracking.uri=http://eve:hunter2@127.0.0.1:9", "tracking.enabled=false"]
    for arguments in (
        ["-m", *own, "model=tiny"],
        ["-m", "seed=3,4", *typed],
        [*own, "model=tiny", "hydra.output_subdir=.hydra", "hydra.job.chdir=false"],
        [*typed, "hydra.output_subdir=.hydra"],
        [*own, "--cfg", "job"],
        [*typed, "engine.args.x=http://a:hunter2@h"],
    ):
        main(arguments)
    assert len(calls.runs) == 6
    assert {reveal(run.tracking.uri or "") for run in calls.runs} == {
        "http://bob:hunter2@127.0.0.1:9",
        "http://eve:hunter2@127.0.0.1:9",
    }
    assert not any("hunter2" in repr(run) for run in calls.runs)
    assert files_with("bob:***@127.0.0.1", home)
    assert files_with("hunter2", home) == []
    captured = capfd.readouterr()
    assert "bob:***@127.0.0.1" in captured.out
    assert "hunter2" not in captured.out + captured.err
